"""A program may have an inner plate for some arguments only, whatever it was first called with."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO
from ppl_vae.estimators.log_weights import weighted_particles

pytestmark = pytest.mark.usefixtures("float64", "as_users_see_it")
X = torch.linspace(-1, 2, 4, dtype=torch.float64)
E = torch.linspace(-2, 1, 12, dtype=torch.float64).reshape(3, 4)
DIMS = {"automatic": None, "explicit": -2}


def programs(dim, *, outside=False):
    """Return a pair whose guide is exact, so that all weights are p(x, e)."""

    def model(x, e=None):
        if outside:
            pyro.sample("t", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            if e is not None:
                with pyro.plate("extra", len(e), dim=dim):
                    u = pyro.sample("u", dist.Normal(0.0, 1.0))
                    pyro.sample("e", dist.Normal(u, 1.0), obs=e)

    def guide(x, e=None):
        if outside:
            pyro.sample("t", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
            if e is not None:
                with pyro.plate("extra", len(e), dim=dim):
                    pyro.sample("u", dist.Normal(e / 2, 0.5**0.5))

    return model, guide


def log_p(*values):
    return sum(dist.Normal(0.0, 2**0.5).log_prob(v).sum().item() for v in values)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("outside", [False, True])
def test_a_plate_that_comes_later(outside, k, dim, validation):
    pair = programs(DIMS[dim], outside=outside)
    estimator = ImportanceWeightedELBO(k, plate=None if outside and k > 1 else "data")
    with pyro.validation_enabled(validation):
        for args in ((X,), (X, E), (X,), (X, E[:1])):
            assert estimator.loss(*pair, *args) == pytest.approx(-log_p(*args), rel=1e-9)
        if not outside:
            assert estimator.per_datum(*pair, X, E).sum().item() == pytest.approx(log_p(X, E))


@pytest.mark.parametrize("dim", DIMS)
def test_a_plate_that_comes_later_with_closed_forms(dim):
    pair = programs(DIMS[dim])
    estimator = AnalyticKLELBO(20_000)
    for args in ((X,), (X, E)):
        loss = torch.tensor([estimator.loss(*pair, *args) for _ in range(10)])
        assert abs(loss.mean() + log_p(*args)) < 5 * loss.std() / 10**0.5


def test_enumeration_in_a_plate_that_comes_later():
    def model(x, e=None):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)
            if e is not None:
                with pyro.plate("extra", len(e), dim=-2):
                    c = pyro.sample("c", dist.Bernoulli(0.6), infer={"enumerate": "parallel"})
                    pyro.sample("e", dist.Normal(y + c, 1.0), obs=e)

    def guide(x, e=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("y", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
            if e is not None:
                with pyro.plate("extra", len(e), dim=-2):
                    pyro.sample("c", dist.Bernoulli(0.7), infer={"enumerate": "parallel"})

    theirs = TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False)
    ours = ImportanceWeightedELBO(1)
    with pyro.validation_enabled(False):
        for args in ((X,), (X, E)):
            expected = theirs.loss(model, guide, *args)
            assert ours.loss(model, guide, *args) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("outside", [False, True])
def test_a_given_number_that_is_too_small(outside, dim, validation):
    pair = programs(DIMS[dim], outside=outside)
    message = "take 2 dimensions, got max_plate_nesting=1; give 2"
    with pyro.validation_enabled(validation):
        for estimator in (ImportanceWeightedELBO, AnalyticKLELBO):
            if outside and estimator is AnalyticKLELBO:
                continue
            with pytest.raises(ValueError, match=f"{estimator.__name__}: .*{message}"):
                estimator(1, max_plate_nesting=1).loss(*pair, X, E)
    with pyro.validation_enabled(False), pytest.raises(ValueError, match="plate"):
        weighted_particles(*programs(None), X, E, num_particles=3, max_plate_nesting=1)


def test_other_errors_of_programs_are_their_own():
    def model(x, wrong):
        if wrong:
            raise RuntimeError("mine")
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x, wrong):
        pass

    for number in (None, 1):
        estimator = ImportanceWeightedELBO(1, max_plate_nesting=number)
        estimator.loss(model, guide, X, False)
        with pytest.raises(RuntimeError, match="mine"):
            estimator.loss(model, guide, X, True)
