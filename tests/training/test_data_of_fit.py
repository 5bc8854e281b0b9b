"""Data of all kinds reach the pair as the pair takes them."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting import DIGITS, Own, Shown, digits_ssvae, digits_vae, quiet
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import (
    VAE,
    ConditionalVAE,
    data,
    likelihoods,
    nets,
    posteriors,
    priors,
)


def test_a_tensor_is_taken_as_the_pair_takes_data():
    images = torch.rand(20, 1, 8, 8)
    fitted = quiet(digits_vae(), images, steps=1, validation=images)  # flat, and binarised
    assert np.isfinite(fitted.validation["loss"]).all()
    pair = Shown()
    quiet(pair, images, steps=1)
    assert pair.model.seen[-1][0].shape == (20, 1, 8, 8)
    quiet(pair, data.Dataset(images), steps=1)
    assert pair.model.seen[-1][0].shape == (20, 64)


@pytest.mark.parametrize(
    ("given", "context"),
    [
        (lambda x, y: x, False),
        (lambda x, y: data.Dataset(x), False),
        (lambda x, y: data.Dataset(x, y), True),
        (lambda x, y: data.Dataset(x, y).batches(4, binarise="none"), True),
        (lambda x, y: DataLoader(TensorDataset(x, y), 4), True),
        (lambda x, y: [(x[:4], y[:4]), (x[4:], y[4:])], True),
        (lambda x, y: DataLoader(TensorDataset(x), 4), False),
    ],
    ids=["tensor", "dataset", "labelled dataset", "batches", "loader", "list", "loader of x"],
)
def test_data_of_all_kinds(given, context):
    x, y = torch.rand(8, 3), torch.arange(8) % 2
    pair = Shown()
    quiet(pair, given(x, y), steps=4)
    rows = {tuple(row) for batch, _ in pair.model.seen for row in batch.tolist()}
    assert rows == {tuple(row) for row in x.tolist()}
    for batch, c in pair.model.seen:
        if not context:
            assert c is None
        else:
            index = [x.tolist().index(row) for row in batch.tolist()]
            assert torch.equal(c, y[index])


@pytest.mark.parametrize("kind", [torch.Tensor, data.Dataset])
def test_data_are_in_the_dtype_of_the_pair(kind):
    """float32 would round the values, their differences and the context away."""
    x = 1e9 + torch.arange(30, dtype=torch.float64).reshape(10, 3)
    pair = Shown()
    pair.model.double(), pair.guide.double()
    quiet(pair, x if kind is torch.Tensor else data.Dataset(x), steps=1, validation=x[:2])
    assert all(seen.dtype == torch.float64 for seen, _ in pair.model.seen)
    rows = {tuple(row) for seen, _ in pair.model.seen for row in seen.tolist()}
    assert rows == {tuple(row) for row in x.tolist()}
    vae = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(3, 4)),
        likelihood=likelihoods.Normal(nets.MLP(2, 3)),
    ).double()
    given = data.Dataset(x)
    (drawn,) = (batch.x for batch in given.drawn_for(vae, 10))
    assert torch.equal(drawn, x)
    assert next(iter(given.drawn_for(vae.float(), 10))).x.dtype == torch.float32
    vae.double()
    conditional = data.Dataset(x, context=x)
    (batch,) = conditional.drawn_for(vae, 10)
    assert torch.equal(batch.c, x)


def test_relaxed_draws_may_be_in_any_part_of_a_batch():
    class Model(nn.Module):
        def forward(self, x, y=None):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Bernoulli(0.5 * torch.ones(len(x), 2)).to_event(1))
                loc = z.sum(-1, keepdim=True) * torch.ones(3)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.relaxed = posteriors.RelaxedBernoulli(nn.Linear(3, 2))

        def forward(self, x, y=None):
            with pyro.plate("data", len(x)):
                if y is None:
                    pyro.sample("z", self.relaxed(x))
                else:
                    pyro.sample("z", dist.Delta(torch.ones(len(x), 2)).to_event(1))

    x, y = torch.randn(4, 3), torch.zeros(4)
    batch = (data.Part("labelled", (x, y)), data.Part("unlabelled", (x,)))
    quiet(Own(Model(), Guide()), [batch], steps=1, temperature=0.5, estimator=Trace_ELBO())


def test_a_loader_of_data_with_a_context_needs_no_mask():
    x, c = torch.rand(8, 3), torch.rand(8, 2)
    pair = Shown()
    quiet(
        pair, DataLoader(data.Dataset(x, context=c), batch_size=4), steps=2, estimator=Trace_ELBO()
    )
    assert [given.shape for _, given in pair.model.seen[-2:]] == [(4, 2), (4, 2)]


def test_grey_values_are_binarised_for_a_likelihood_of_0_and_1_alone():
    seen = []

    class Seen(nets.MLP):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append(x.detach())
            return super().forward(x)

    def vae(likelihood):
        return VAE(
            prior=priors.StandardNormal(2),
            posterior=posteriors.DiagonalNormal(Seen(64, 4)),
            likelihood=likelihood,
        )

    quiet(vae(likelihoods.Bernoulli(nets.MLP(2, 64))), DIGITS, steps=2)
    assert all(((x == 0) | (x == 1)).all() for x in seen[-2:])
    assert not torch.equal(seen[-2], seen[-1])
    quiet(vae(likelihoods.Normal(nets.MLP(2, 64))), DIGITS, steps=2)
    assert not all(((x == 0) | (x == 1)).all() for x in seen[-2:])


def test_images_stay_images_and_labels_reach_a_conditional_pair():
    pyro.set_rng_seed(0)
    vae = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.ConvEncoder((1, 8, 8), 4)),
        likelihood=likelihoods.Bernoulli(nets.ConvDecoder(2, (1, 8, 8)), event_dim=3),
    )
    assert quiet(vae, DIGITS, steps=2, batch_size=8, validation=DIGITS.subset(range(9))).steps == 2
    cvae = ConditionalVAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(74, 4)),
        likelihood=likelihoods.Bernoulli(nets.MLP(12, 64)),
        num_classes=10,
    )
    fitted = quiet(cvae, DIGITS, steps=3, validation=DIGITS.subset(range(50)))
    assert np.isfinite(fitted.validation["loss"]).all()


def test_semi_supervised_parts_have_columns_and_weights():
    labelled = DIGITS.labelled_subset(2, seed=0)
    parts = data.SemiSupervised(
        DIGITS,
        labelled,
        batch_size=50,
        labelled_batch_size=10,
        labelled_weight=0.5,
        unlabelled_weight=2.0,
    )
    ssvae = digits_ssvae(classification_weight=3.0)
    row = quiet(ssvae, parts, steps=1, log_every=1).history
    assert row["loss"] == pytest.approx(2 * row["unlabelled"] + 0.5 * row["labelled"], rel=1e-6)

    again = digits_ssvae(classification_weight=3.0)
    pyro.set_rng_seed(0)
    drawn = next(iter(data.SemiSupervised(DIGITS, labelled, batch_size=50, labelled_batch_size=10)))
    for part in drawn:  # by Pyro's own estimators
        elbo = Trace_ELBO() if len(part.args) > 1 else TraceEnum_ELBO(max_plate_nesting=1)
        loss = elbo.differentiable_loss(again.model, again.guide, *part.args)
        assert row[part.name][0] == pytest.approx(loss.item() / len(part.args[0]), rel=0.2)
