"""Subsampled plates: N/B outside the logarithm, no scale inside it, one subsample per call."""

import math

import pyro
import pytest
import torch
from evaluated import Programs, within
from pyro import distributions as dist
from torch import nn

from ppl_vae import evaluation
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO

B, N = 3, 6  # data, entries of each

# z ~ N(0, 1), x_i ~ N(z, 1) for i = 1..6: x is normal, with covariance I + 1 1ᵀ.
X = torch.linspace(-2.0, 2.5, B * N).reshape(N, B)


class Entries:
    """Entries in an inner plate, of which the model takes some at random, or given ones."""

    def __init__(self, size=2, subsample=None, loop=False):
        self.size, self.subsample, self.loop = size, subsample, loop
        self.model, self.guide = nn.Module(), nn.Module()
        self.guide.loc = nn.Parameter(torch.tensor(0.2))
        self.model.forward, self.guide.forward = self._model, self._guide
        self.drawn = []

    def _model(self, x):
        x = x.T
        data = pyro.plate("data", x.shape[1], dim=-1)
        with data:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
        dim = None if self.loop else -2
        plate = pyro.plate(
            "entries", N, subsample_size=self.size, subsample=self.subsample, dim=dim
        )
        if self.loop:
            for i in plate:
                with data:
                    pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])
            return
        with data, plate as index:
            self.drawn.append(index)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def _guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.guide.loc, 0.5))


PAIRS = {
    "some": lambda: Entries(),
    "given": lambda: Entries(size=None, subsample=torch.tensor([0, 3])),
    "loop": lambda: Entries(loop=True),
}
TIGHTER = {
    "iwae": {},
    "dreg": {"gradient": "dreg"},
    "stl": {"gradient": "stl"},
    "wake": {"gradient": "wake"},
    "renyi": {"alpha": 0.5},
    "below": {"alpha": -2.0},
    "mixed": {"elbo_weight": 0.5},
    "chunks": {"chunk_size": 1},
    "groups": {"num_groups": 2},
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("arguments", TIGHTER)
def test_a_scale_inside_the_exponent_raises(pair, arguments):
    pair = PAIRS[pair]()
    estimator = ImportanceWeightedELBO(4, **TIGHTER[arguments])
    for run in (estimator.loss, estimator.differentiable_loss, estimator.per_datum):
        with pytest.raises(NotImplementedError, match=r"site 'x.*'entries'.* no bound"):
            run(pair.model, pair.guide, X.T)


def test_pooled_groups_raise():
    pair = Entries()
    ImportanceWeightedELBO(1, num_groups=4).loss(pair.model, pair.guide, X.T)
    with pytest.raises(NotImplementedError, match="'entries'"):
        ImportanceWeightedELBO(1, num_groups=4, pool_model=True).loss(pair.model, pair.guide, X.T)


def exact_elbo(pair, x):
    """E_q [log p(x, z) - log q(z)] of all entries, shape (data,), in closed form."""
    loc, variance = pair.guide.loc.detach(), 0.25
    likelihood = -0.5 * ((x - loc) ** 2 + variance) - 0.5 * math.log(2 * math.pi)
    kl = 0.5 * (variance + loc**2 - 1 - math.log(variance))
    return likelihood.sum(0) - kl


LINEAR = {
    "one particle": lambda: ImportanceWeightedELBO(1),
    "one of each group": lambda: ImportanceWeightedELBO(1, num_groups=5),
    "elbo": lambda: ImportanceWeightedELBO(5, elbo_weight=1),
    "alpha of 1": lambda: ImportanceWeightedELBO(5, alpha=1),
    "in chunks": lambda: ImportanceWeightedELBO(5, alpha=1, chunk_size=2),
    "analytic": lambda: AnalyticKLELBO(3),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("estimator", LINEAR)
@pytest.mark.parametrize("pair", ["some", "loop"])
def test_the_elbo_is_unbiased(float64, estimator, pair):
    x = X.double()
    pair, estimator = PAIRS[pair](), LINEAR[estimator]()
    draws = torch.stack([estimator.per_datum(pair.model, pair.guide, x.T) for _ in range(60)], -1)
    assert within(draws, exact_elbo(pair, x))


def test_chunks_share_one_subsample(float64):
    pair, x = Entries(), X.double()
    # The first step of a pair runs it more often, to see that it keeps particles apart.
    ImportanceWeightedELBO(5, elbo_weight=1, max_plate_nesting=2).loss(pair.model, pair.guide, x.T)
    for chunk_size in (1, 2, 5, None):
        estimator = ImportanceWeightedELBO(
            5, elbo_weight=1, chunk_size=chunk_size, max_plate_nesting=2
        )
        pair.drawn.clear()
        estimator.differentiable_loss(pair.model, pair.guide, x.T).backward()
        assert len({tuple(index.tolist()) for index in pair.drawn}) == 1
        assert len(pair.drawn) >= 5 / (chunk_size or 5)


def test_chunks_change_neither_value_nor_gradient(float64):
    pair, x = Entries(), X.double()
    found = []
    for chunk_size in (None, 1, 2, 4):
        torch.manual_seed(0)
        estimator = ImportanceWeightedELBO(
            5, elbo_weight=1, chunk_size=chunk_size, max_plate_nesting=2
        )
        loss = estimator.differentiable_loss(pair.model, pair.guide, x.T)
        found.append((loss.detach(), *torch.autograd.grad(loss, [pair.guide.loc])))
    for values in found[1:]:
        torch.testing.assert_close(values, found[0])


class Data:
    """The batch itself is subsampled by the programs: B of all rows of x."""

    def __init__(self, guide_has_plate=True):
        self.guide_has_plate = guide_has_plate
        self.model, self.guide = nn.Module(), nn.Module()
        self.model.forward, self.guide.forward = self._model, self._guide
        self.guide.loc = nn.Parameter(torch.tensor(0.3))
        self.indices = []

    def plate(self, x):
        return pyro.plate("data", len(x), subsample_size=2)

    def _model(self, x):
        mark = {} if self.guide_has_plate else {"enumerate": "parallel"}
        with self.plate(x) as index:
            self.indices.append(index)
            y = pyro.sample("y", dist.Bernoulli(0.3), infer=mark)
            if self.guide_has_plate:
                z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
                y = y + z
            pyro.sample("x", dist.Normal(y, 1.0), obs=x[index])

    def _guide(self, x):
        if not self.guide_has_plate:
            return
        with self.plate(x) as index:
            self.indices.append(index)
            pyro.sample("y", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(self.guide.loc, 1.0))


@pytest.mark.parametrize("gradient", ["iwae", "dreg"])
@pytest.mark.parametrize("chunk_size", [1, 2, None])
@pytest.mark.parametrize("in_guide", [True, False])
def test_the_batch_is_drawn_once(in_guide, gradient, chunk_size):
    pair = Data(in_guide)
    estimator = ImportanceWeightedELBO(4, gradient, chunk_size=chunk_size, max_plate_nesting=1)
    estimator.loss(pair.model, pair.guide, X[0])  # the first step runs a pair more often
    pair.indices.clear()
    loss = estimator.differentiable_loss(pair.model, pair.guide, X[0])
    if loss.requires_grad:
        loss.backward()
    assert len({tuple(index.tolist()) for index in pair.indices}) == 1


@pytest.mark.parametrize("chunk_size", [1, None])
def test_the_scale_of_the_batch_is_outside(float64, chunk_size):
    """y is summed out exactly: N/B Σ_b log p(x_b) has the mean Σ_n log p(x_n), a finite sum."""
    pair, x = Data(guide_has_plate=False), torch.tensor([0.1, -1.0, 2.0, 0.7]).double()
    mixture = [
        dist.Normal(float(y), 1.0).log_prob(x) + math.log(p) for y, p in ((0, 0.7), (1, 0.3))
    ]
    exact = torch.stack(mixture).logsumexp(0).sum()
    estimator = ImportanceWeightedELBO(3, chunk_size=chunk_size)
    draws = torch.tensor([-estimator.loss(pair.model, pair.guide, x) for _ in range(60)])
    assert within(draws, exact)


def test_summing_out_over_a_subsampled_plate_raises():
    """log Σ_y p(y) Π_i p(x_i | y)^3 is no bound even for one particle."""

    def model(x):
        with pyro.plate("data", B, dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            with pyro.plate("entries", N, subsample_size=2, dim=-2) as index:
                pyro.sample("x", dist.Normal(y, 1.0), obs=x[index])

    for estimator in (ImportanceWeightedELBO(1), AnalyticKLELBO()):
        with pytest.raises(NotImplementedError, match=r"site 'x'.*'entries'.*summed out"):
            estimator.loss(model, lambda x: None, X)


def batch_of(size, full=None, dim=None, name="data"):
    def program(x, observed=False):
        with pyro.plate(name, full or size, subsample_size=size, dim=dim):
            pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

    return program


@pytest.mark.parametrize(
    ("model", "guide"),
    [
        (batch_of(3, 30), batch_of(3)),
        (batch_of(3), batch_of(3, 30)),
        (batch_of(3, 30), batch_of(3, 60)),
        (batch_of(3, dim=-2), batch_of(3, dim=-1)),
    ],
)
def test_model_and_guide_need_the_same_batch(model, guide):
    with pytest.raises(ValueError, match=r"at site 'z'|site 'z' is in a batch plate 'data' of 3"):
        ImportanceWeightedELBO(2, max_plate_nesting=2).loss(model, guide, X)


def test_model_and_guide_need_the_same_rows():
    def program(rows):
        def run(x):
            with pyro.plate("data", 10, subsample=rows):
                pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))

        return run

    one, same, other = ([0, 4, 7], torch.tensor([0, 4, 7]), torch.tensor([1, 4, 7]))
    estimator = ImportanceWeightedELBO(2, max_plate_nesting=1)
    assert estimator.loss(program(same), program(one), X) == 0
    with pytest.raises(ValueError, match="plate 'data' has another subsample="):
        estimator.loss(program(other), program(one), X)


EVALUATIONS = {
    "bounds": lambda p, x: evaluation.importance_bounds(p, x, num_particles=(1,)),
    "terms": evaluation.elbo_terms,
    "likelihood": lambda p, x: evaluation.log_likelihood(p, x, num_samples=30),
    "annealing": lambda p, x: evaluation.annealed_importance_sampling(p, x, num_temperatures=2),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_evaluation_needs_programs_that_use_all_data(name):
    """Each run would take other rows of x, and the numbers would be of unknown data."""
    pair = Data()
    with pytest.raises(ValueError, match="batch plate must hold all 3 data, got 2"):
        EVALUATIONS[name](pair, X[0])


@pytest.mark.parametrize("k", [2, 10])
def test_evaluation_raises_for_a_scale_inside_the_exponent(k):
    pair = Programs(*(Entries().model, Entries().guide))
    with pytest.raises(NotImplementedError, match="'entries'"):
        evaluation.importance_bounds(pair, X.T, num_particles=(k,))
    with pytest.raises(ValueError, match="subsampled inner plate"):
        evaluation.log_likelihood(pair, X.T, num_samples=k)
    evaluation.importance_bounds(pair, X.T, num_particles=(1,))  # the ELBO is one
