"""Missing entries from a user's file to the trained pair: they are given by name, or refused.

The right values are those of closed forms (x_observed of a linear-Gaussian model is normal), or of
a loop by hand that calls ``model(x, mask=mask)``.
"""

import json
import math
import re
from functools import partial
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import C, D, Z, net, ssvae, vae
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import (
    VAE,
    ConditionalVAE,
    data,
    estimators,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.cli.main import main
from ppl_vae.data import Dataset, MaskedBatch, Part, SemiSupervised
from ppl_vae.report import report
from ppl_vae.training import compile_step, fit
from ppl_vae.training.distributed import Processes

quiet = partial(fit, progress=False)
NAN = math.nan
SIGMA = 0.5


def masked(count=40, seed=0, share=0.4):
    """Values of 0 and 1 with NaN in the place of some, and what is observed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(count, D, generator=generator).round()
    mask = torch.rand(count, D, generator=generator) >= share
    return x.masked_fill(~mask, NAN), mask


def weights(pair):
    return {name: value.clone() for name, value in pair.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def made(build=vae, *args, **options):
    pyro.set_rng_seed(0)
    return build(*args, **options)


# A data set with a mask.


def test_what_is_missing_may_hold_anything_and_is_nan_in_what_is_drawn():
    x, mask = masked()
    for filling in (NAN, math.inf, 1e30, 0.0):
        dataset = Dataset(x.masked_fill(~mask, filling), mask=mask)
        for mode in ("dynamic", "static", "threshold", "none"):
            drawn = dataset.draw(torch.arange(40), binarise=mode)
            assert torch.equal(drawn.isnan(), ~mask)
            assert torch.equal(drawn[mask], x[mask]), "0 and 1 stay what they are"
    grey = torch.full((4, D), 255, dtype=torch.uint8)
    grey[:, 0] = 4
    seen = torch.ones(4, D, dtype=torch.bool).index_fill_(1, torch.arange(1, D), False)
    assert Dataset(grey, scale=16, mask=seen).levels == 17, "255 is not looked at"
    with pytest.raises(ValueError, match="at most scale=16, got 255"):
        Dataset(grey, scale=16, mask=~seen)


def test_all_that_a_data_set_does_carries_its_mask():
    x, mask = masked()
    labels = torch.arange(40) % 4
    dataset = Dataset(x, labels, "mine", mask=mask)
    assert repr(dataset) == (
        f"Dataset('mine', 40 x ({D},), torch.float32 / 1, 4 classes, "
        f"{100 * (~mask).double().mean():.3g} % missing)"
    )
    index = torch.tensor([3, 0, 39])
    assert torch.equal(dataset.subset(index).mask, mask[index])
    assert torch.equal(dataset.subset(mask[:, 0]).mask, mask[mask[:, 0]])
    one, other = dataset.split(0.25, seed=2)
    for part in (one, other):
        assert torch.equal(part.values.isnan(), ~part.mask)
    assert len(one) + len(other) == 40
    for once in (dataset.binarised(3), dataset.dequantised(3), dataset.to("cpu")):
        assert torch.equal(once.mask, mask)
        assert torch.equal(once.draw(torch.arange(40), binarise="none").isnan(), ~mask)
    assert torch.equal(torch.cat(list(dataset.in_parts())).isnan(), ~mask)
    assert torch.equal(dataset.mask_at(torch.tensor([-1])), mask[-1:])
    images = Dataset(x.reshape(40, 1, 2, 3), mask=mask.reshape(40, 1, 2, 3))
    assert torch.equal(images.mask_at(index), mask[index])
    assert torch.equal(images.mask_at(index, flat=False), mask[index].reshape(3, 1, 2, 3))
    assert Dataset(torch.zeros(2, 2)).mask_at(torch.arange(2)) is None


def test_the_draws_are_those_of_whole_data():
    """The random numbers do not depend on what is missing."""
    _, mask = masked()
    grey = torch.rand(40, D)
    whole, some = Dataset(grey), Dataset(grey.masked_fill(~mask, NAN), mask=mask)
    for (x, y), batch in zip(whole.batches(7, seed=3), some.batches(7, seed=3), strict=True):
        assert y is None
        assert torch.equal(batch.x.isnan(), ~batch.mask)
        assert torch.equal(batch.x[batch.mask], x[batch.mask])


def test_batches_give_the_mask_by_name_and_are_gone_on_with():
    x, mask = masked()
    dataset = Dataset(x, torch.arange(40), mask=mask)
    batches = dataset.batches(9, seed=1)
    for batch in batches:
        assert isinstance(batch, MaskedBatch)
        assert torch.equal(batch.mask, mask[batch.y])
    with pytest.raises(ValueError, match="unpack"):
        for _x, _y in batches:
            pass  # a loop that would leave the mask out
    iterator = iter(batches)
    for _ in range(2):
        next(iterator)
    state, rest = batches.state_dict(), list(iterator)
    again = dataset.batches(9, seed=5)
    again.load_state_dict(state)
    for ours, theirs in zip(again, rest, strict=True):
        assert all(
            torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, theirs, strict=True)
        )
    other = Dataset(x.nan_to_num(), torch.arange(40), mask=mask.flip(0)).batches(9)
    with pytest.raises(ValueError, match=r"missing='\d+ entries"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="missing="):
        Dataset(x.nan_to_num(), torch.arange(40)).batches(9).load_state_dict(state)


def test_both_streams_carry_the_mask():
    x, mask = masked()
    labels = torch.arange(40) % C
    dataset = Dataset(x, labels, mask=mask)
    chosen = torch.tensor([1, 5, 9])
    for part in next(iter(SemiSupervised(dataset, chosen, batch_size=11, binarise="static"))):
        assert torch.equal(part.args[0].isnan(), ~part.kwargs["mask"])
    whole = Dataset(x.nan_to_num(), labels)
    unlabelled, labelled = next(iter(SemiSupervised(whole, chosen, unlabelled=dataset)))
    assert "mask" in unlabelled.kwargs
    assert not labelled.kwargs


# NaN where a user says so.


def test_nan_is_missing_where_that_is_said_and_an_error_where_not(tmp_path):
    x, mask = masked()
    np.save(tmp_path / "x.npy", x.numpy())
    np.savez(tmp_path / "x.npz", x=x.nan_to_num().numpy(), mask=mask.numpy())
    np.savez(tmp_path / "both.npz", x=x.numpy(), y=np.arange(40), mask=mask.roll(1, 0).numpy())
    given = {
        "from_tensor": data.from_tensor(x, missing="nan"),
        "from_numpy": data.from_numpy(x.numpy(), missing="nan"),
        "from_file": data.from_file(tmp_path / "x.npy", missing="nan"),
        "mask in a file": data.from_file(tmp_path / "x.npz"),
        "mask": data.from_numpy(x.numpy(), mask=mask.numpy()),
    }
    for name, dataset in given.items():
        assert torch.equal(dataset.mask, mask), name
    both = data.from_file(tmp_path / "both.npz", missing="nan")
    assert torch.equal(both.mask, mask & mask.roll(1, 0))
    train, test = (
        data.load(tmp_path / "x.npy", missing="nan", split=split) for split in data.SPLITS
    )
    for part in (train, test):
        assert torch.equal(part.mask, ~part.values.isnan())
    for call in (
        lambda: data.from_tensor(x),
        lambda: data.from_numpy(x.numpy()),
        lambda: data.load(tmp_path / "x.npy"),
        lambda: data.from_file(tmp_path / "both.npz"),
        lambda: Dataset(x),
        lambda: quiet(made(), x, steps=1),
    ):
        with pytest.raises(ValueError, match=r'got nan at index .* missing="nan"'):
            call()


MASK = torch.ones(3, D, dtype=torch.bool)
REFUSED = {
    "word": (ValueError, lambda: data.from_tensor(MASK.float(), missing="0"), 'be "nan" or None'),
    "whole numbers": (
        TypeError,
        lambda: data.from_tensor(MASK.byte() * 9, missing="nan"),
        "hold no NaN",
    ),
    "named": (ValueError, lambda: data.load("digits", missing="nan"), "missing does not apply"),
    "numbers": (TypeError, lambda: Dataset(MASK.float(), mask=MASK.float()), "mask must be bool"),
    "shape": (ValueError, lambda: Dataset(MASK.float(), mask=MASK[0]), rf"shape \(3, {D}\), got"),
    "one for all": (
        ValueError,
        lambda: data.from_tensor(MASK.float(), mask=MASK[0], missing="nan"),
        rf"shape \(3, {D}\), got",
    ),
    "nothing": (ValueError, lambda: Dataset(MASK.float(), mask=~MASK), "True somewhere"),
    "infinite": (
        ValueError,
        lambda: data.from_tensor(torch.full((2, 2), math.inf), missing="nan"),
        "must be finite, got inf",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_mask_is_refused(case):
    exception, call, message = REFUSED[case]
    with pytest.raises(exception, match=message):
        call()


# Training.


def by_hand(pair, batches, steps, seed):
    """Train by a loop that one writes oneself, on ``(args, mask)``."""
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
    estimator = estimators.ImportanceWeightedELBO(1)
    pyro.set_rng_seed(seed)
    for step in range(steps):
        *args, mask = batches[step % len(batches)]
        with pyro.validation_enabled(step == 0):
            loss = estimator.differentiable_loss(pair.model, pair.guide, *args, mask=mask)
        (loss * (1 / len(mask))).backward()
        optimizer.step()
        optimizer.zero_grad()


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )


@pytest.mark.parametrize("build", [vae, conditional], ids=["vae", "labels given"])
def test_it_is_the_loop_by_hand(build):
    """The same weights, bit for bit; others than those of data with zeros in the gaps."""
    x, mask = masked()
    labels = torch.arange(40) % C
    ours, theirs, zeros = made(build), made(build), made(build)
    dataset = Dataset(x, labels, mask=mask)
    quiet(ours, dataset, steps=8, batch_size=10, seed=7)
    batches = [
        (b.x, b.mask) if build is vae else (b.x, b.y, b.mask)
        for epoch in [dataset.batches(10, seed=7, binarise="none")]
        for _ in range(2)
        for b in epoch
    ]
    by_hand(theirs, batches, 8, 7)
    assert same(weights(ours), weights(theirs))
    assert all(p.isfinite().all() for p in ours.parameters())
    quiet(zeros, Dataset(x.nan_to_num(), labels), steps=8, batch_size=10, seed=7)
    assert not same(weights(ours), weights(zeros))


class Named(NamedTuple):
    x: torch.Tensor
    mask: torch.Tensor


class ByName(torch.utils.data.Dataset):
    def __init__(self, x, mask):
        self.x, self.mask = x, mask

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "mask": self.mask[i]}


BY_NAME = {
    "mappings": lambda x, m: [{"x": x[:20], "mask": m[:20]}, {"mask": m[20:], "x": x[20:]}],
    "named tuples": lambda x, m: [Named(x[:20], m[:20]), Named(x[20:], m[20:])],
    "parts": lambda x, m: [
        Part("data", (x[i : i + 20],), kwargs={"mask": m[i : i + 20]}) for i in (0, 20)
    ],
    "a DataLoader": lambda x, m: DataLoader(ByName(x, m), 20),
    "batches": lambda x, m: Dataset(x, mask=m).batches(20, shuffle=False),
    "a list of batches": lambda x, m: list(Dataset(x, mask=m).batches(20, shuffle=False)),
}


@pytest.mark.parametrize("kind", BY_NAME)
def test_batches_by_name(kind):
    x, mask = masked()
    ours, theirs = made(), made()
    quiet(ours, BY_NAME[kind](x, mask), steps=1, seed=3, validation={"x": x, "mask": mask})
    by_hand(theirs, [(x[:20], mask[:20])], 1, 3)
    assert same(weights(ours), weights(theirs))


def test_validation_is_of_what_is_observed():
    x, mask = masked()
    frozen = partial(torch.optim.SGD, lr=0.0)
    found = {}
    for kind, validation in {
        "data set": Dataset(x, torch.arange(40) % C, mask=mask),
        "by name": {"x": x, "mask": mask},
        "a part": Part("data", (x,), kwargs={"mask": mask}),
        "a batch": MaskedBatch(x, torch.arange(40) % C, mask),
        "garbage in the gaps": {"x": x.masked_fill(~mask, 1.0), "mask": mask},
        "zeros": x.nan_to_num(),
    }.items():
        fitted = quiet(made(), x.nan_to_num(), steps=1, optimizer=frozen, validation=validation)
        found[kind] = fitted.validation["loss"].item()
    assert len(set(found.values())) == 2
    assert found["by name"] < found["zeros"] - 0.5, "fewer entries are less surprising"
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        pair = made().eval()
        torch.manual_seed(0)
        elbo = estimators.ImportanceWeightedELBO(1)
        expected = elbo.per_datum(pair.model, pair.guide, x, mask=mask)
    assert found["by name"] == pytest.approx(-expected.double().mean().item(), rel=1e-6)


def test_streams_with_missing_entries_train_on_both():
    x, mask = masked()
    labels = torch.arange(40) % C
    dataset = Dataset(x, labels, mask=mask)
    streams = SemiSupervised(dataset, torch.arange(6), batch_size=10, labelled_batch_size=6)
    ours, theirs = made(ssvae, alpha=2.0), made(ssvae, alpha=2.0)
    quiet(ours, streams, steps=1, seed=4)
    unlabelled, labelled = next(
        iter(SemiSupervised(dataset, torch.arange(6), batch_size=10, labelled_batch_size=6))
    )
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=True)
    estimator = estimators.ImportanceWeightedELBO(1)
    pyro.set_rng_seed(4)
    loss = sum(
        estimator.differentiable_loss(theirs.model, theirs.guide, *p.args, **p.kwargs) / len(p)
        for p in (unlabelled, labelled)
    )
    loss.backward()
    optimizer.step()
    for name, value in weights(ours).items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-6, atol=1e-7)


class Told(nn.Module):
    """The pair of a linear-Gaussian model whose guide knows what is missing: it is exact."""

    def __init__(self):
        super().__init__()
        pyro.set_rng_seed(0)
        self.model, self.guide = ToldModel(), ToldGuide()


class ToldModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, 0.4, 0.5]))
        self.b = nn.Parameter(torch.zeros(3))

    def forward(self, x, mask=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            loc = z.unsqueeze(-1) * self.w + self.b
            pyro.sample("x", dist.Normal(loc, SIGMA).mask(mask).to_event(1), obs=x)


class ToldGuide(nn.Module):
    """q(z | x_observed) = the posterior under weights of its own, for any pattern of gaps."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.2, 0.2, 0.2]))
        self.b = nn.Parameter(torch.zeros(3))

    def forward(self, x, mask=None):
        precision = 1 + (mask * self.w**2).sum(-1) / SIGMA**2
        mean = (mask * self.w * (x - self.b)).sum(-1) / SIGMA**2 / precision
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, precision.rsqrt()))


def log_px(w, b, x, mask):
    """log p(x_observed) of x ~ N(b, w wᵀ + σ²), datum by datum."""
    cov = torch.outer(w, w) + SIGMA**2 * torch.eye(len(w))
    values = torch.zeros(len(x))
    for seen in mask.unique(dim=0):  # data with the same gaps at once
        rows = (mask == seen).all(1)
        if seen.any():
            p = torch.distributions.MultivariateNormal(b[seen], cov[seen][:, seen])
            values = values.masked_scatter(rows, p.log_prob(x[rows][:, seen]))
    return values


@pytest.mark.usefixtures("as_users_see_it")
def test_training_with_gaps_reaches_the_optimum_of_the_closed_form(float64):
    """At random gaps, the greatest mean of log p(x_observed), which torch finds by itself."""
    generator = torch.Generator().manual_seed(1)
    w, b = torch.tensor([1.5, -1.0, 0.7]), torch.tensor([0.5, 0.0, -1.0])
    z, noise = (torch.randn(400, n, generator=generator) for n in (1, 3))
    x = z * w + b + SIGMA * noise
    mask = torch.rand(400, 3, generator=generator) < 0.7
    x[~mask] = NAN
    best = [torch.tensor([0.3, 0.4, 0.5]).requires_grad_(), torch.zeros(3).requires_grad_()]
    search = torch.optim.LBFGS(best, max_iter=100)

    def loss():
        search.zero_grad()
        value = -log_px(*best, x, mask).mean()
        value.backward()
        return value

    search.step(loss)
    optimum = loss().item()
    pair = Told().to(torch.float64)
    decay = partial(torch.optim.lr_scheduler.LinearLR, end_factor=0.01, total_iters=500)
    quiet(
        pair,
        Dataset(x, mask=mask),
        steps=500,
        batch_size=400,
        optimizer=partial(torch.optim.Adam, lr=0.05),
        lr_schedule=decay,
        estimator=estimators.ImportanceWeightedELBO(1, "stl", num_groups=4),
    )
    reached = -log_px(pair.model.w.detach(), pair.model.b.detach(), x, mask).mean().item()
    assert optimum <= reached < optimum + 2e-3
    terms = evaluation.elbo_terms(pair, x.nan_to_num(), mask=mask, num_samples=200)
    assert terms.nelbo.mean == pytest.approx(reached, abs=5e-3), "the guide is the posterior"
    zeros = Told().to(torch.float64)
    quiet(zeros, [{"x": x.nan_to_num(), "mask": torch.ones_like(mask)}], steps=100)
    assert (zeros.model.w - pair.model.w).abs().max() > 0.1


def test_compiled_steps_have_the_mask():
    x, mask = masked()
    dataset = Dataset(x, mask=mask)
    plain, compiled = made(), made()
    quiet(plain, dataset, steps=5, batch_size=20, seed=2)
    quiet(compiled, dataset, steps=5, batch_size=20, seed=2, compile=True)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-4, atol=1e-6)
    pair, theirs = made(), made()
    step = compile_step(
        pair,
        estimators.ImportanceWeightedELBO(1),
        torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True),
        prepare=lambda x, mask: (Part("data", (x,), kwargs={"mask": mask}),),
    )
    pyro.set_rng_seed(3)
    losses = [step(x[:20], mask[:20]).item() for _ in range(2)]
    by_hand(theirs, [(x[:20], mask[:20])], 2, 3)
    assert all(map(math.isfinite, losses))
    for name, value in weights(theirs).items():
        torch.testing.assert_close(weights(pair)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.filterwarnings("error")
def test_a_compiled_step_takes_inputs_by_name():
    """The weights are those of the loop by hand, in whatever order the names come."""
    x, mask = masked(20)
    labels = torch.arange(20) % C
    pair, theirs = made(conditional), made(conditional)

    def step_of(pair, **options):
        adam = torch.optim.Adam(pair.parameters(), lr=1e-3, fused=True)
        return compile_step(pair, estimators.ImportanceWeightedELBO(1), adam, **options)

    step = step_of(pair)
    pyro.set_rng_seed(3)
    first = step(x, labels, mask=mask)
    step(x, mask=mask, c=labels)
    step(x, c=labels, mask=mask)
    step(x.nan_to_num(), labels)  # all is observed
    whole = torch.ones_like(mask)
    by_hand(theirs, [(x.nan_to_num(), labels, m) for m in (mask, mask, mask, whole)], 4, 3)
    for name, value in weights(theirs).items():
        torch.testing.assert_close(weights(pair)[name], value, rtol=1e-4, atol=1e-6)
    prepared = step_of(
        made(conditional),
        prepare=lambda x, c, mask: (Part("data", (x, c), kwargs={"mask": mask}),),
    )
    pyro.set_rng_seed(3)
    assert prepared(x, mask=mask, c=labels).item() == pytest.approx(first.item(), rel=1e-5)
    before = weights(pair)
    for given, named, error, message in (
        ((x, labels), {"seen": mask}, ValueError, "'seen', which the model does not take"),
        ((x, labels, mask), {}, ValueError, "takes 2 by position .x, c.*torch.bool.* mask=mask"),
        ((x,), {"x": x}, ValueError, "'x', which the model does not take"),
        ((x, labels), {"mask": None}, TypeError, "inputs must be tensors, got None"),
        ((), {}, TypeError, "needs a tensor"),
    ):
        with pytest.raises(error, match=message):
            step(*given, **named)
    with pytest.raises(ValueError, match="'seen', which the model"):
        step_of(pair, prepare=lambda x: (Part("a", (x,), kwargs={"seen": x}),))(x)
    with pytest.raises(TypeError, match="prepare must return a tuple of tensors"):
        step_of(pair, prepare=lambda x: (x, None))(x)
    assert same(before, weights(pair))


@pytest.mark.parametrize("number", [2, 3, 7])
def test_processes_divide_masks_as_they_divide_data(number):
    x, mask = masked(5)
    part = Part("data", (x,), 2.0, {"mask": mask})
    shares = [Processes(rank, number).shard([part]) for rank in range(number)]
    mine = [share.parts[0] for share in shares if share.fractions[0]]
    assert sum(map(len, mine)) == 5
    assert all(torch.equal(p.args[0].isnan(), ~p.kwargs["mask"]) for p in mine)
    assert all(len(share.parts[0]) and share.parts[0].weight == 2 for share in shares)


def test_a_nan_that_is_observed_is_not_taken_for_a_missing_one():
    """The error is that of the data, and not of the training."""
    x, mask = masked()
    x[0, 0], mask[0, 0] = NAN, True
    with pytest.raises(ValueError, match="non-finite"):
        quiet(made(), [{"x": x, "mask": mask}], steps=1)
    assert not Part("data", (x,), kwargs={"mask": mask}).finite
    mask[0, 0] = False
    assert Part("data", (x,), kwargs={"mask": mask}).finite


# What no program takes.


class Programs(nn.Module):
    """Programs of a user's own that note how they are called."""

    def __init__(self, model, guide):
        super().__init__()
        self.model, self.guide = model, guide


class Takes(nn.Module):
    def __init__(self, is_model):
        super().__init__()
        self.is_model, self.loc, self.calls = is_model, nn.Parameter(torch.zeros(D)), []

    def run(self, x, mask, **further):
        self.calls.append((x, mask, further))
        with pyro.plate("data", len(x)):
            if not self.is_model:
                pyro.sample("z", dist.Normal(self.loc.mean().expand(len(x)), 1.0))
                return
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            d = dist.Normal(z.unsqueeze(-1) + self.loc, 1.0)
            pyro.sample("x", (d if mask is None else d.mask(mask)).to_event(1), obs=x)


class X(Takes):
    def forward(self, x):
        self.run(x, None)


class XMask(Takes):
    def forward(self, x, mask=None):
        self.run(x, mask)


class XMaskY(Takes):
    def forward(self, x, mask=None, y=None):
        self.run(x, mask, y=y)


class NeedsLabels(Takes):
    def forward(self, x, y, mask=None):
        self.run(x, mask, y=y)


class OnlyNames(Takes):
    def forward(self, *, x, mask=None):
        self.run(x, mask)


class Anything(Takes):
    def forward(self, *args, **kwargs):
        self.run(args[0], kwargs.get("mask"), args=args[1:])


def programs(model, guide=None):
    return Programs(model(True), (guide or model)(False))


@pytest.mark.parametrize("kind", [XMask, XMaskY, Anything, OnlyNames])
def test_programs_of_ones_own_get_the_mask_by_name_and_zeros_in_the_gaps(kind):
    """Zeros: 0 times NaN would be in their gradients."""
    x, mask = masked()
    labels = torch.arange(40)
    pair = programs(kind)
    given = Dataset(x, labels, mask=mask)
    if kind is OnlyNames:
        given = [{"x": x.nan_to_num(), "mask": mask}]
    quiet(pair, given, steps=3)
    assert pair.model.loc.isfinite().all()
    assert (pair.model.loc != 0).all()
    for seen, its_mask, further in pair.model.calls:
        assert (seen[~its_mask] == 0).all()
        if kind is XMaskY:
            assert torch.equal(its_mask, mask[further["y"]])
        if kind is Anything:
            assert torch.equal(its_mask, mask[further["args"][0]])
    guided = Programs(XMask(True), AutoNormal(XMask(True)))
    quiet(guided, Dataset(x, labels, mask=mask), steps=2, batch_size=40)
    assert guided.model.calls[-1][1] is not None


X8, M8, Y8 = torch.zeros(8, D), torch.ones(8, D, dtype=torch.bool), torch.arange(8) % C
NOT_TAKEN = {
    "mask in a tuple": (vae, [(X8, M8)], r"2 tensors, .* takes 1 by position \(x\): .*torch.bool"),
    "labels in a tuple": (vae, [(X8, Y8)], r"\(8,\) and dtype torch.int64.*Leave it out"),
    "a DataLoader": (vae, DataLoader(TensorDataset(X8, Y8), 4), "give batches by name"),
    "a name": (vae, [{"x": X8, "labels": Y8}], "'labels', which the model does not take"),
    "a name of a part": (vae, [Part("a", (X8,), kwargs={"seen": M8})], "'seen', which the model"),
    "a part's labels": (vae, [(Part("a", (X8,)), Part("b", (X8, Y8)))], "has 2 tensors"),
    "streams": (
        vae,
        SemiSupervised(Dataset(X8, Y8), [0, 1], batch_size=4),
        r"has 2 tensors, .*dtype torch.int64",
    ),
    "no x": (vae, [{"mask": M8}], "the guide needs 'x'"),
    "no label": (conditional, [{"x": X8, "mask": M8}], "a label for each datum"),
    "twice": (vae, [Part("a", (X8,), kwargs={"x": X8})], "'x', which the model does not take"),
    "no mask taken": (partial(programs, X), Dataset(X8, mask=M8), "'mask', which the model does"),
    "nor by the guide": (
        partial(programs, XMask, X),
        Dataset(X8, mask=M8),
        "'mask', which the guide does not take .by name: x.; add the argument mask=",
    ),
    "nor by position": (partial(programs, XMask, X), [(X8, M8)], "the guide takes 1 by position"),
}


@pytest.mark.parametrize("case", NOT_TAKEN)
@pytest.mark.filterwarnings("error")
def test_what_no_program_takes_is_an_error(case):
    build, given, message = NOT_TAKEN[case]
    pair = made(build)
    before = weights(pair)
    with pytest.raises((TypeError, ValueError)) as caught:
        quiet(pair, given, steps=2)
    assert re.search(message, str(caught.value)), caught.value
    assert len(str(caught.value)) < 420
    assert same(before, weights(pair)), "nothing has changed"


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ((X8, M8), "has 2 tensors"),
        ((X8, Y8), "has 2 tensors"),
        ({"x": X8, "y": Y8}, "'y', which the model does not take"),
        ({"x": X8, "mask": M8[:4]}, "as many entries each"),
        ({"x": X8, "mask": None, "z": "a"}, "validation must be a Dataset"),
        ({}, "validation must be a Dataset"),
    ],
)
def test_what_no_program_takes_is_an_error_in_a_validation(validation, message):
    with pytest.raises((TypeError, ValueError), match=message):
        quiet(made(), X8, steps=1, validation=validation)


def test_labels_of_a_data_set_are_left_out_where_none_are_taken():
    """It says which are labels; nothing else may go missing."""
    ours, theirs = made(), made()
    quiet(ours, Dataset(X8, Y8), steps=2, validation=Dataset(X8, Y8))
    quiet(theirs, Dataset(X8), steps=2)
    assert same(weights(ours), weights(theirs))
    given = list(Dataset(X8, Y8).batches(8))
    quiet(made(), given, steps=2)
    pair = programs(XMask)
    quiet(pair, Dataset(X8, Y8), steps=1)
    assert all(mask is None for _, mask, _ in pair.model.calls), "labels are no mask"


# Evaluation.


def test_units_and_the_split_of_the_kl_see_what_is_observed():
    x, mask = masked(60)
    pair = made()
    kl = evaluation.elbo_terms(pair, x, mask=mask, num_samples=2000).kl
    units = evaluation.latent_units(pair, x, mask=mask, threshold=0.0)
    q = pair.posterior(torch.where(mask, x, 0.0)).base_dist
    by_hand = (q.loc**2 + q.scale**2 - 1 - 2 * q.scale.log()).sum(-1) / 2
    assert units.kl.sum().item() == pytest.approx(by_hand.mean().item(), rel=1e-5)
    activity = q.loc.detach().double().var(0)
    torch.testing.assert_close(units.activity, activity, rtol=1e-5, atol=1e-8)
    split = evaluation.kl_decomposition(pair, x, mask=mask, num_samples=50)
    assert split.kl.mean == pytest.approx(kl.mean, abs=5 * split.kl.standard_error)
    again = evaluation.kl_decomposition(pair, x.nan_to_num(3.0), mask=mask, num_samples=50)
    assert again.mutual_information == split.mutual_information
    with pytest.raises(ValueError, match="x has 60 data, but mask is"):
        evaluation.kl_decomposition(pair, x, mask=mask[:5])


@pytest.mark.usefixtures("as_users_see_it")
def test_the_gap_of_a_posterior_that_has_seen_less(float64):
    """log p(x_observed) from a linear-Gaussian model; the family holds the posterior of z."""
    pyro.set_rng_seed(0)
    pair = VAE(
        prior=priors.StandardNormal(1),
        posterior=posteriors.DiagonalNormal(nets.MLP(3, 2, hidden=())),
        likelihood=likelihoods.Normal(nets.MLP(1, 3, hidden=()), SIGMA),
    )
    affine = pair.likelihood.net.layers[0]
    x, mask = torch.randn(4, 3), torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 1]]).bool()
    exact = log_px(affine.weight[:, 0].detach(), affine.bias.detach(), x, mask)
    x[~mask] = NAN
    gap = evaluation.inference_gap(
        pair, x, mask=mask, steps=300, num_samples=200, importance_samples=200
    )
    torch.testing.assert_close(gap.log_px, exact, rtol=0, atol=2e-3)
    torch.testing.assert_close(gap.best_elbo, exact, rtol=0, atol=2e-3)
    assert (gap.amortisation.mean) > 0.01


PAIRS = {"vae": (vae, ()), "conditional": (conditional, (Y8[:7],)), "labels": (ssvae, ())}


@pytest.mark.parametrize("kind", PAIRS)
def test_what_is_missing_changes_no_encoding(kind):
    build, context = PAIRS[kind]
    pair = made(build).eval()
    x, mask = masked(7)
    found = []
    for filling in (NAN, 0.0, 1e9):
        given = x.masked_fill(~mask, filling)
        pyro.set_rng_seed(1)
        results = [
            pair.encode(given, *context, mask=mask),
            pair.reconstruct(given, *context, mask=mask),
        ]
        if kind == "labels":
            results.append(pair.classify(given, mask=mask))
            results.append(
                evaluation.responsibilities(made(ssvae, "mixture"), given, mask=mask, num_samples=2)
            )
            y = Y8[:7]
            results.append(torch.tensor(evaluation.accuracy(pair, given, y, mask=mask).mean))
        found.append(results)
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)
    with pytest.raises(ValueError, match="non-finite"):
        pair.encode(x, *context)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.filterwarnings("ignore")
def test_the_report_is_of_what_is_observed(tmp_path):
    mask = masked(30)[1].reshape(30, 1, 2, 3)
    x = torch.rand(30, 1, 2, 3).masked_fill(~mask, NAN)
    labels = torch.arange(30) % C
    dataset = Dataset(x, labels, mask=mask)
    pair = made(ssvae, "mixture").eval()
    results = report(
        pair,
        dataset,
        tmp_path,
        train=dataset,
        num_samples=50,
        num_particles=(5,),
        gap_data=2,
        gap_steps=5,
        annealed_data=2,
        annealed_chains=2,
        annealed_temperatures=1,
    ).results
    (prepared,), (table,) = results["data"]["prepared"].values(), results["pairs"].values()
    assert prepared.endswith(f"{100 * (~mask).double().mean():.3g} % are missing")
    found = {label: quantity["value"] for label, quantity in table["quantities"].items()}
    assert "IS-50, bits per dimension" not in found
    assert "bits per dimension" in table["missing"]
    values = dataset.binarised(0).draw(torch.arange(30), binarise="none").nan_to_num()
    seen = mask.flatten(1)
    direct = evaluation.log_likelihood(pair, values, mask=seen, num_samples=50)
    assert found["IS-50"] == pytest.approx(direct.nll.mean, rel=1e-6)
    assert found["active units"] == evaluation.latent_units(pair, values, mask=seen).num_active
    split = evaluation.kl_decomposition(pair, values, mask=seen)
    assert found["mutual information"] == pytest.approx(split.mutual_information.mean, rel=1e-5)
    likeliest = pair.classify(x.nan_to_num().flatten(1), mask=seen).argmax(-1)
    right = (likeliest == labels).float().mean().item()
    assert found["accuracy of q(y|x)"] == pytest.approx(right)
    assert {"clustering NMI", "approximation gap on the first 2 data"} <= found.keys()


@pytest.mark.parametrize(
    ("given", "mask", "message"),
    [
        (X8, M8.float(), "mask must be boolean"),
        (X8, M8[:4], "mask must be boolean and of the shape of data"),
        (Dataset(X8), M8, "a Dataset brings its own"),
    ],
)
def test_a_report_refuses_masks_that_do_not_suit(tmp_path, given, mask, message):
    with pytest.raises(ValueError, match=message):
        report(made(), given, tmp_path, mask=mask)


def test_accuracy_refuses_values_that_are_not_there():
    x, mask = masked()
    for given in ({}, {"mask": torch.ones_like(mask)}):
        with pytest.raises(ValueError, match="x has values that are not finite"):
            evaluation.accuracy(made(ssvae), x, torch.arange(40) % C, **given)


EVALUATED = {
    "elbo_terms": {},
    "importance_bounds": {},
    "log_likelihood": {"num_samples": 2},
    "annealed_importance_sampling": {},
    "kl_decomposition": {},
    "latent_units": {},
    "inference_gap": {},
    "responsibilities": {},
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", EVALUATED)
def test_an_evaluation_gives_programs_what_they_take(name):
    """Nothing is cut off, and the message says who would not take what."""
    evaluate = partial(getattr(evaluation, name), **EVALUATED[name])
    with pytest.raises(ValueError, match=f"{name}: the data have 'mask', which the model does not"):
        evaluate(programs(X), X8, mask=M8)
    with pytest.raises(ValueError, match=f"{name}: .* the guide takes 1 by position"):
        evaluate(programs(XMask, X), X8, M8)
    with pytest.raises(ValueError, match=f"{name}: the model needs 'y'"):
        evaluate(programs(NeedsLabels), X8)
    with pytest.raises(TypeError, match=f"{name}: x must be a Dataset, .*, got None"):
        evaluate(made(), None)


def test_a_report_on_programs_that_take_no_mask_is_refused(tmp_path):
    with pytest.raises(ValueError, match="report: the data have 'mask', which the model does not"):
        report(programs(X), Dataset(X8, mask=M8), tmp_path)


# From the command line.


@pytest.fixture
def file(tmp_path):
    x = torch.rand(60, D, generator=torch.Generator().manual_seed(0)).numpy()
    x[::2, 0] = NAN
    path = tmp_path / "x.npy"
    np.save(path, x)
    return path


SMALL = ("--model.latent_dim", "2", "--fit.steps", "3", "--fit.batch_size", "20", "--quiet")


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.filterwarnings("ignore")
def test_the_command_line_passes_it_on(file, tmp_path, capsys):
    run = tmp_path / "run"
    given = ("fit", "vae", "--data", str(file), "--out", str(run), *SMALL)
    assert main(given) != 0
    assert "--data.missing nan" in capsys.readouterr().err
    assert not run.exists()
    assert main((*given, "--data.missing", "nan")) == 0
    assert "missing: nan" in (run / "config.yaml").read_text()
    assert main(("evaluate", str(run), "--num-samples", "20", "--quiet")) == 0
    results = json.loads((run / "evaluation.json").read_text())
    (prepared,) = results["data"]["prepared"].values()
    assert "are missing" in prepared
    assert main(("report", str(run), "--num-samples", "20", "--quiet")) == 0
    out = tmp_path / "r.npy"
    assert main(("reconstruct", str(run), "-n", "6", "--file", str(out))) == 0
    before, after = np.load(out)
    assert np.isnan(before).any()
    assert not np.isnan(after).any()
    capsys.readouterr()
    assert main(("fit", str(run), "--resume", "--data.missing", "null", "--quiet")) != 0


@pytest.mark.parametrize("binarise", ["static", "threshold"])
def test_data_drawn_once_keep_their_gaps(file, tmp_path, binarise):
    from ppl_vae.cli.datasets import loaded
    from ppl_vae.spec import DataSpec

    settings = DataSpec(name=str(file), missing="nan", binarise=binarise)
    dataset = loaded(settings, "train")
    assert torch.equal(dataset.mask[:, 1:], torch.ones(54, D - 1, dtype=torch.bool))
    assert 0 < (~dataset.mask).sum() <= 30
