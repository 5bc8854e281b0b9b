"""What a site's ``infer`` asks of enumeration is done in full, or refused by the site's name."""

import itertools
import math

import pyro
import pytest
import torch
from evaluated import Programs
from pyro import distributions as dist
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn

from ppl_vae import evaluation
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO

X = torch.tensor([0.3, -1.2])
PRIOR = torch.tensor([0.2, 0.5, 0.3])
GUIDE = torch.tensor([0.6, 0.3, 0.1])
MEANS = torch.tensor([-1.0, 0.0, 2.0])


def programs(in_guide, infer):
    """Return y of three values and x ~ N(mean_y, 1): y in the guide, or in the model alone."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(PRIOR), infer={} if in_guide else infer)
            pyro.sample("x", dist.Normal(MEANS[y], 1.0), obs=x)

    def guide(x):
        if in_guide:
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.Categorical(GUIDE), infer=infer)

    return Programs(model, guide)


def log_joint(x):
    """log p(x, y), shape (data, 3), without Pyro."""
    log_likelihood = -0.5 * (x[:, None] - MEANS) ** 2 - 0.5 * math.log(2 * math.pi)
    return log_likelihood + PRIOR.log()


ESTIMATORS = {
    "importance": lambda p: ImportanceWeightedELBO(1)(p.model, p.guide)(X),
    "several": lambda p: ImportanceWeightedELBO(5)(p.model, p.guide)(X),
    "wake": lambda p: ImportanceWeightedELBO(5, "wake")(p.model, p.guide)(X),
    "analytic": lambda p: AnalyticKLELBO(monte_carlo=True)(p.model, p.guide)(X),
    "per datum": lambda p: ImportanceWeightedELBO(3).per_datum(p.model, p.guide, X),
    "log_likelihood": lambda p: evaluation.log_likelihood(p, X, num_samples=30),
    "bounds": lambda p: evaluation.importance_bounds(p, X, num_particles=(1, 2)),
    "terms": lambda p: evaluation.elbo_terms(p, X),
    "annealing": lambda p: evaluation.annealed_importance_sampling(p, X, num_temperatures=2),
}
REFUSED = {
    "draws": {"enumerate": "parallel", "num_samples": 7},
    "one draw": {"enumerate": "parallel", "num_samples": 1},
    "expanded draws": {"enumerate": "parallel", "num_samples": 7, "expand": True},
    "mixture draws": {"enumerate": "parallel", "num_samples": 7, "tmc": "mixture"},
    "sequential": {"enumerate": "sequential"},
    "flat": {"enumerate": "flat"},
    "misspelt": {"enumerate": "Parallel"},
}


@pytest.mark.parametrize("infer", REFUSED)
@pytest.mark.parametrize("in_guide", [True, False])
@pytest.mark.parametrize("run", ESTIMATORS)
def test_only_full_parallel_enumeration_is_supported(run, in_guide, infer):
    pair = programs(in_guide, REFUSED[infer])
    with pytest.raises(NotImplementedError, match="site 'y' has infer="):
        ESTIMATORS[run](pair)


def test_sampling_by_enumeration_raises():
    pair = programs(True, {})
    guide = config_enumerate(pair.guide, num_samples=4, expand=True)
    with pytest.raises(NotImplementedError, match="4 draws, not all values"):
        ImportanceWeightedELBO(2)(pair.model, guide)(X)


@pytest.mark.parametrize("fn", [dist.Poisson(2.0), dist.Normal(0.0, 1.0), dist.Geometric(0.3)])
@pytest.mark.parametrize("in_guide", [True, False])
def test_an_infinite_support_raises(fn, in_guide):
    mark = {"enumerate": "parallel"}

    def model(x):
        with pyro.plate("data", len(x)):
            n = pyro.sample("n", fn, infer={} if in_guide else mark)
            pyro.sample("x", dist.Normal(n, 1.0), obs=x)

    def guide(x):
        if in_guide:
            with pyro.plate("data", len(x)):
                pyro.sample("n", fn, infer=mark)

    with pytest.raises(NotImplementedError, match=r"site 'n' is marked .* cannot be enumerated"):
        ImportanceWeightedELBO(2).per_datum(model, guide, X)


@pytest.mark.parametrize("expand", [True, False])
@pytest.mark.parametrize("k", [1, 4])
def test_expanded_enumeration_is_exact(float64, expand, k):
    infer = {"enumerate": "parallel", "expand": expand}
    x = X.double()
    # Finite sums: the ELBO over y, and log p(x).
    elbo = (GUIDE * (log_joint(x) - GUIDE.log())).sum(-1)
    for in_guide, exact in ((True, elbo), (False, log_joint(x).logsumexp(-1))):
        pair = programs(in_guide, infer)
        value = ImportanceWeightedELBO(k).per_datum(pair.model, pair.guide, x)
        torch.testing.assert_close(value, exact, rtol=1e-6, atol=1e-6)


class AfterZ(nn.Module):
    """z, then y given z: enumerated in the guide after a site that is sampled."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(2))
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc[0], self.loc[1].exp()))
            logits = self.logits * z.unsqueeze(-1)
            pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


class GivenZ(nn.Module):
    """The model of it: p(y | z) depends on z, so that each run makes a new distribution."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(logits=self.weight * z.unsqueeze(-1)))
            pyro.sample("x", dist.Normal(MEANS[y] + z, 1.0), obs=x)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("gradient", ["iwae", "dreg", pytest.param("stl", marks=pytest.mark.slow)])
def test_a_freed_distribution_does_not_hand_on_its_enumeration(gradient):
    """Pyro tags an enumerated value by the ``id`` of its distribution, and takes a short cut where
    a distribution's id is the tag's: which a new one may have once the old one is freed."""
    from pyro.poutine import Trace

    from ppl_vae.estimators import traces

    seen = []
    run_model = traces.Runner.run_model

    def watched(program, trace: Trace, *args, **kwargs):
        seen.append(trace.nodes["y"]["value"])
        found = run_model(program, trace, *args, **kwargs)
        tag = seen[-1]._pyro_categorical_support
        assert tag != id(found.nodes["y"]["fn"])
        assert tag == id(seen[-1].enumerated_from)
        return found

    model, guide = GivenZ(), AfterZ()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(traces.Runner, "run_model", watched)
        elbo = ImportanceWeightedELBO(6, gradient, chunk_size=2, max_plate_nesting=1)
        for _ in range(20):
            elbo(model, guide)(X).backward()
    assert len(seen) >= 60


def test_markov_chains_are_summed_in_the_model_and_not_in_the_guide(float64):
    """``pyro.markov`` gives the dimension of a step that is out of reach to another one."""
    transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]])

    def chain(x, observe):
        with pyro.plate("data", len(x)):
            state = torch.zeros((), dtype=torch.long)
            for t in pyro.markov(range(4)):
                state = pyro.sample(
                    f"s{t}",
                    dist.Categorical(transition[state]),
                    infer={"enumerate": "parallel"},
                )
                if observe:
                    pyro.sample(f"x{t}", dist.Normal(state.to(x), 1.0), obs=x[:, t])

    def model(x):
        chain(x, observe=True)

    def guide(x):
        chain(x, observe=False)

    x = torch.randn(3, 4)
    terms = []
    for states in itertools.product((0, 1), repeat=4):
        log_p = sum(transition[i, j].log() for i, j in itertools.pairwise((0, *states)))
        terms.append(log_p + dist.Normal(torch.tensor(states).to(x), 1.0).log_prob(x).sum(-1))
    exact = torch.stack(terms).logsumexp(0)
    for k in (1, 2):
        bound = ImportanceWeightedELBO(k).per_datum(model, lambda x: None, x)
        torch.testing.assert_close(bound, exact)
    with pytest.raises(NotImplementedError, match=r"'s2' of the guide .* 's0'"):
        ImportanceWeightedELBO(2).loss(model, guide, x)
    elbo = TraceEnum_ELBO(max_plate_nesting=1).loss(model, guide, x)
    assert ImportanceWeightedELBO(1).loss(model, guide, x) == pytest.approx(elbo)
