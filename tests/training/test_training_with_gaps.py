"""Training sees what is observed, and nothing else of the data.

The right values are those of closed forms (x_observed of a linear-Gaussian model is normal), or of
a loop by hand that calls ``model(x, mask=mask)``.
"""

import math
from functools import partial
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaps import NAN, SIGMA, by_hand, conditional, log_px, made, masked, same, weights
from pairs import C, ssvae, vae
from torch import nn
from torch.utils.data import DataLoader

from ppl_vae import estimators, evaluation
from ppl_vae.data import Dataset, MaskedBatch, Part, SemiSupervised
from ppl_vae.training import compile_step, fit
from ppl_vae.training.distributed import shard

quiet = partial(fit, progress=False)


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


@pytest.mark.slow  # another training recovers what it should in tests/models/test_masks.py
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
    decay = partial(torch.optim.lr_scheduler.LinearLR, end_factor=0.01, total_iters=200)
    quiet(
        pair,
        Dataset(x, mask=mask),
        steps=200,
        batch_size=400,
        optimizer=partial(torch.optim.Adam, lr=0.2),
        lr_schedule=decay,
        estimator=estimators.ImportanceWeightedELBO(1, "stl", num_groups=4),
    )
    reached = -log_px(pair.model.w.detach(), pair.model.b.detach(), x, mask).mean().item()
    assert optimum <= reached < optimum + 1e-3
    terms = evaluation.elbo_terms(pair, x.nan_to_num(), mask=mask, num_samples=200)
    assert terms.nelbo.mean == pytest.approx(reached, abs=5e-3), "the guide is the posterior"
    zeros = Told().to(torch.float64)
    quiet(zeros, [{"x": x.nan_to_num(), "mask": torch.ones_like(mask)}], steps=100)
    assert (zeros.model.w - pair.model.w).abs().max() > 0.1


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    "by", ["trace", pytest.param("Inductor", marks=[pytest.mark.inductor, pytest.mark.slow])]
)
def test_compiled_steps_have_the_mask(by, monkeypatch):
    if by == "trace":
        monkeypatch.setattr(
            "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
        )
    x, mask = masked()
    dataset = Dataset(x, mask=mask)
    plain, compiled = made(), made()
    quiet(plain, dataset, steps=5, batch_size=20, seed=2)
    quiet(compiled, dataset, steps=5, batch_size=20, seed=2, compile=True)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.filterwarnings("error")
def test_a_compiled_step_takes_inputs_by_name(monkeypatch):
    """The weights are those of the loop by hand, in whatever order the names come."""
    # The graph as it is traced.
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
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
    before = weights(pair)
    ours, theirs = made(conditional), made(conditional)
    prepared = step_of(
        ours, prepare=lambda x, c, mask: (Part("data", (x, c), kwargs={"mask": mask}),)
    )
    pyro.set_rng_seed(3)
    losses = [prepared(x, mask=mask, c=labels).item() for _ in range(2)]
    assert losses[0] == pytest.approx(first.item(), rel=1e-5)
    assert math.isfinite(losses[1])
    by_hand(theirs, [(x, labels, mask)], 2, 3)
    for name, value in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-4, atol=1e-6)
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
    shares = [shard([part], rank, number) for rank in range(number)]
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
