"""Particles whose weight is 0: values are what they are, and no gradient is NaN.

The right gradient is that of the other particles, written by hand: a term of weight 0 adds nothing
to Σ_k w_k, nor to its derivative.
"""

import math

import pyro
import pytest
import torch
from evaluated import unchecked
from pyro import distributions as dist
from torch import nn

from ppl_vae import evaluation
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO, KLWeighted, linear_warm_up

pytestmark = unchecked
B = 3
X = torch.tensor([0.3, -0.4, 0.6])

# A prior that a Normal guide leaves, its density by hand, and a decoder that needs its support.
PRIORS = {
    "uniform": lambda: dist.Uniform(-1.0, 1.0),
    "lognormal": lambda: dist.LogNormal(0.0, 1.0),
    "beta": lambda: dist.Beta(2.0, 3.0),
    "gamma": lambda: dist.Gamma(2.0, 1.5),
    "halfnormal": lambda: dist.HalfNormal(1.0),
    "exponential": lambda: dist.Exponential(1.0),
    "pareto": lambda: dist.Pareto(0.2, 2.0),
    "moved": lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [dist.transforms.SigmoidTransform()]
    ),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(torch.ones(2)), dist.Beta(torch.tensor([1.5, 3.0]), 2.0)
    ),
}


class Bounded:
    """z of two dimensions under a bounded prior, x ~ N(decoder, 1), and a Normal guide."""

    def __init__(self, prior, decoder="line", loc=0.4, beta=None):
        self.prior, self.decoder = prior, decoder
        self.model, self.guide = nn.Module(), nn.Module()
        self.model.slope = nn.Parameter(torch.tensor(0.7))
        self.guide.loc = nn.Parameter(torch.full((B, 2), float(loc)))
        self.guide.log_scale = nn.Parameter(torch.zeros(B, 2))
        self.model.forward, self.guide.forward = self._model, self._guide
        self.parameters = [self.model.slope, self.guide.loc, self.guide.log_scale]

    def mean(self, z):
        if self.decoder == "line":
            return self.model.slope * z.sum(-1)
        return (self.model.slope * z.log() + z.sqrt()).sum(-1)  # NaN where z is negative

    @property
    def q(self):
        return dist.Normal(self.guide.loc, self.guide.log_scale.exp())

    def _model(self, x):
        with pyro.plate("data", B):
            z = pyro.sample("z", PRIORS[self.prior]().expand((B, 2)).to_event(1))
            pyro.sample("x", dist.Normal(self.mean(z), 1.0), obs=x)

    def _guide(self, x):
        with pyro.plate("data", B):
            pyro.sample("z", self.q.to_event(1))

    def inside(self, z):
        return PRIORS[self.prior]().support.check(z).all(-1)

    def log_w(self, z, inside, q=None):
        """Log weights of particles that are inside."""
        z = torch.where(inside.unsqueeze(-1), z, z.new_tensor(0.5))
        prior = PRIORS[self.prior]().log_prob(z).sum(-1)
        likelihood = dist.Normal(self.mean(z), 1.0).log_prob(X.to(z.dtype))
        log_w = prior + likelihood - (self.q if q is None else q).log_prob(z).sum(-1)
        return log_w.masked_fill(~inside, -math.inf)


@pytest.fixture(autouse=True)
def without_validation(float64):
    pyro.enable_validation(False)
    yield
    pyro.enable_validation(True)


def gradients(value, parameters):
    return torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("decoder", ["line", "logarithm"])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl", "wake"])
def test_particles_of_weight_zero_contribute_nothing(prior, gradient, decoder):
    if prior == "uniform" and decoder == "logarithm":
        return  # its support has negative values
    case, k = Bounded(prior, decoder), 50
    torch.manual_seed(0)
    estimator = ImportanceWeightedELBO(k, gradient, max_plate_nesting=1)
    loss = estimator(case.model, case.guide)(X)
    found = gradients(loss, case.parameters)
    torch.manual_seed(0)
    q = case.q
    z = q.loc + q.scale * torch.randn(k, B, 2)
    inside = case.inside(z)
    assert inside.any(0).all()
    assert (~inside).any()
    # By hand, over the particles inside alone.
    exact = [torch.zeros_like(p) for p in case.parameters]
    total = 0.0
    for b in range(B):
        rows = inside[:, b]
        fixed = dist.Normal(q.loc.detach(), q.scale.detach())
        log_w = case.log_w(z, inside)[rows, b]
        path = case.log_w(z, inside, fixed)[rows, b]
        log_q = q.log_prob(z.detach()).sum(-1)[rows, b]
        nu = log_w.softmax(0).detach()
        bound = log_w.logsumexp(0) - math.log(k)
        total = total + bound.detach()
        terms = {"iwae": bound, "dreg": nu**2 @ path, "stl": nu @ path, "wake": nu @ log_q}
        of_guide = gradients(-terms[gradient], case.parameters)
        exact = [e + g for e, g in zip(exact, of_guide, strict=True)]
        exact[0] = exact[0] - of_guide[0] + gradients(-bound, case.parameters)[0]
    torch.testing.assert_close(loss.detach(), -total)
    for ours, right in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, right)


FAMILY = {
    "one": (1, {}),
    "importance": (8, {}),
    "groups": (4, {"num_groups": 3}),
    "pooled": (2, {"num_groups": 4, "pool_model": True}),
    "mixed": (8, {"elbo_weight": 0.7}),
    "renyi": (8, {"alpha": 0.5}),
    "near one": (8, {"alpha": 1 - 1e-9}),
    "elbo": (8, {"alpha": 1}),
    "below": (8, {"alpha": -3.0}),
    "chunks": (8, {"chunk_size": 3}),
    "all": (4, {"num_groups": 2, "alpha": 0.3, "elbo_weight": 0.4, "pool_model": True}),
}


@pytest.mark.parametrize("loc", [0.4, 60.0])  # some particles of weight zero; all of them
@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl", "wake"])
@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("prior", ["uniform", "lognormal"])
def test_no_bound_of_the_family_has_a_nan_gradient(prior, name, gradient, loc):
    k, arguments = FAMILY[name]
    if gradient == "wake" and ("alpha" in arguments or "elbo_weight" in arguments):
        return
    case = Bounded(prior, loc=loc if prior == "uniform" else -loc)
    loss = ImportanceWeightedELBO(k, gradient, **arguments)(case.model, case.guide)(X)
    assert not loss.isnan()
    if loc == 60.0:
        assert loss == math.inf  # p(x, z) is 0 at all draws: log 0 is what was found
    for gradient in gradients(loss, case.parameters):
        assert gradient.isfinite().all()


def test_a_datum_of_weight_zero_does_not_affect_the_others():
    """With K > 1 its own ν are 0/0: it has no gradient, and the others have theirs."""
    for gradient in ("iwae", "dreg", "stl", "wake"):
        found = []
        for far in (60.0, 0.1):
            case = Bounded("uniform")
            case.guide.loc.data[1] = far
            torch.manual_seed(0)
            estimator = ImportanceWeightedELBO(50, gradient, max_plate_nesting=1)
            loss = estimator(case.model, case.guide)(X)
            found.append(gradients(loss, case.parameters[1:]))
        for lost, kept in zip(*found, strict=True):
            torch.testing.assert_close(lost[[0, 2]], kept[[0, 2]])
            assert (lost[1] == 0).all()


@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl", "wake"])
def test_a_warm_up_from_zero(gradient):
    """0 · log 0 at β = 0: outside the support the weight is 0 for every β."""
    case = Bounded("uniform")
    elbo = KLWeighted(ImportanceWeightedELBO(50, gradient), linear_warm_up(2))
    for _ in range(3):
        loss = elbo(case.model, case.guide)(X)
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in gradients(loss, case.parameters))


@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl"])
@pytest.mark.parametrize("order", ["y before z", "y after z"])
def test_an_impossible_label(gradient, order):
    """p(y = 2) is 0 and q(y = 2) is not: Σ_y q(y) log p(y) is -∞, and no gradient is NaN."""
    weight = torch.tensor([0.2, 0.1, 0.3], requires_grad=True)
    loc = torch.tensor(0.1, requires_grad=True)
    mark = {"enumerate": "parallel"}

    def model(x):
        with pyro.plate("data", B):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.5, 0.5, 0.5])))
            pyro.factor("never", torch.where(y == 2, -math.inf, 0.0) + 0 * z)

    def guide(x):
        with pyro.plate("data", B):
            if order == "y before z":
                pyro.sample("y", dist.Categorical(logits=weight), infer=mark)
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            if order == "y after z":
                pyro.sample("y", dist.Categorical(logits=weight * z[..., None]), infer=mark)

    loss = ImportanceWeightedELBO(4, gradient)(model, guide)(X)
    assert loss == math.inf
    for found in torch.autograd.grad(loss, [weight, loc], materialize_grads=True):
        assert found.isfinite().all()


def test_labels_that_the_model_sums_out_may_all_be_impossible():
    """w = Σ_y p(x, y, z) is 0 for particles z < 0, and these add nothing."""
    logits = torch.zeros(2, requires_grad=True)
    loc = torch.tensor(0.1, requires_grad=True)

    def model(x):
        with pyro.plate("data", B):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.factor("positive", torch.where(z < 0, -math.inf, 0.0) + 0.3 * y)

    def guide(x):
        with pyro.plate("data", B):
            pyro.sample("z", dist.Normal(loc, 1.0))

    torch.manual_seed(0)
    loss = ImportanceWeightedELBO(200, max_plate_nesting=1)(model, guide)(X)
    found = torch.autograd.grad(loss, [logits, loc])
    torch.manual_seed(0)
    z = loc + torch.randn(200, B)
    w = torch.where(
        z < 0, 0.0, (dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(loc, 1.0).log_prob(z)).exp()
    )
    y = (logits.log_softmax(0) + 0.3 * torch.arange(2)).logsumexp(0)
    exact = -(w.mean(0).log() + y).sum()
    torch.testing.assert_close(loss, exact)
    for ours, right in zip(found, torch.autograd.grad(exact, [logits, loc]), strict=True):
        torch.testing.assert_close(ours, right)


def test_the_closed_form_is_infinite():
    """KL(N ‖ U(-1, 1)) is infinite, as the Normal leaves the support."""
    case = Bounded("uniform")
    loss = AnalyticKLELBO()(case.model, case.guide)(X)
    assert loss == math.inf
    assert all(g.isfinite().all() for g in gradients(loss, case.parameters))


def test_a_nan_is_not_hidden():
    case = Bounded("uniform")
    case.guide.loc.data[0] = math.nan
    for gradient in ("iwae", "dreg", "stl", "wake"):
        loss = ImportanceWeightedELBO(8, gradient)(case.model, case.guide)(X)
        assert loss.isnan()


def test_values_outside_the_support_raise_under_validation():
    pyro.enable_validation(True)
    case = Bounded("uniform")
    with pytest.raises(ValueError, match="support"):
        ImportanceWeightedELBO(50)(case.model, case.guide)(X)


@pytest.mark.parametrize("prior", ["lognormal", "beta", "exponential", "uniform"])
def test_log_likelihood_counts_them_as_zero(prior):
    """log p(x) on a grid of z: p(x, z) is integrated over the support by the trapezoidal rule."""
    case = Bounded(prior)
    fn = PRIORS[prior]()
    ends = {"lognormal": (1e-6, 40.0), "exponential": (0.0, 30.0), "beta": (0.0, 1.0)}
    grid = torch.linspace(*ends.get(prior, (-1.0, 1.0)), 1501)
    density = fn.log_prob(grid.clamp(1e-9, None) if prior != "uniform" else grid).exp()
    if prior == "uniform":
        density[-1] = density[0]
    z = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    prior_z = density[:, None] * density
    for b in range(B):
        joint = prior_z * dist.Normal(case.mean(z), 1.0).log_prob(X[b]).exp()
        exact = torch.trapezoid(torch.trapezoid(joint, grid), grid).log()
        found = evaluation.log_likelihood(case, X, num_samples=20_000)
        assert (found.log_px[b] - exact).abs() < 5 * found.standard_error[b] + 1e-3
        break


def test_gradients_of_higher_order_and_func():
    """The value with another gradient goes through torch's transforms as sums and products do."""
    case = Bounded("uniform")
    loss = ImportanceWeightedELBO(8, "dreg")(case.model, case.guide)(X)
    (first,) = torch.autograd.grad(loss, case.guide.log_scale, create_graph=True)
    assert first.requires_grad

    def of_slope(slope):
        with torch.nn.utils.stateless._reparametrize_module(case.model, {"slope": slope}):
            return ImportanceWeightedELBO(8, "dreg")(case.model, case.guide)(X)

    torch.manual_seed(0)
    found = torch.func.grad(of_slope)(torch.tensor(0.7))
    torch.manual_seed(0)
    loss = ImportanceWeightedELBO(8, "dreg")(case.model, case.guide)(X)
    torch.testing.assert_close(found, gradients(loss, case.parameters)[0])


def weights(k, *given):
    """Weights of a guide's categories against a prior's."""
    return torch.tensor((*given, *[0.0] * (k - len(given))))


# A prior of discrete values that its guide leaves, the guide, and their common values.
DISCRETE = {
    "categorical": (
        lambda: dist.Categorical(logits=weights(3, 0.2)),
        lambda w: dist.Categorical(logits=w * weights(5, 1.0, 0.3, -0.4, 0.5)),
        range(3),
    ),
    "bernoulli": (
        lambda: dist.Bernoulli(0.3),
        lambda w: dist.Categorical(logits=w * weights(3, 1.0, 0.4)),
        range(2),
    ),
    "binomial": (lambda: dist.Binomial(3, torch.tensor(0.4)), lambda w: dist.Poisson(w), range(4)),
    "uniform": (
        lambda: dist.Uniform(-1.0, 1.5),
        lambda w: dist.Categorical(logits=w * weights(4, 1.0)),
        range(2),
    ),
}


class Counted:
    """A discrete z that its prior does not reach, x ~ N(slope z, 1)."""

    def __init__(self, prior, guide, dims=0, infer=None):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", self.wide(prior(), len(x)))
                z = z.to(x.dtype)
                z = z.sum(-1) if dims else z
                pyro.sample("x", dist.Normal(self.model.slope * z, 1.0), obs=x)

        def guide_(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", self.wide(guide(self.guide.w), len(x)), infer=dict(infer or {}))

        self.dims = dims
        self.model, self.guide = nn.Module(), nn.Module()
        self.model.slope = nn.Parameter(torch.tensor(0.7))
        self.guide.w = nn.Parameter(torch.tensor(1.3))
        self.model.forward, self.guide.forward = model, guide_
        self.parameters = [self.model.slope, self.guide.w]

    def wide(self, d, size):
        return d.expand((size, 2)).to_event(1) if self.dims else d.expand((size,))


@pytest.mark.parametrize("dims", [0, 1])
@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_values_outside_the_support_of_the_prior(name, dims):
    prior, guide, common = DISCRETE[name]
    case, k = Counted(prior, guide, dims), 40
    torch.manual_seed(0)
    loss = ImportanceWeightedELBO(k, "wake", max_plate_nesting=1)(case.model, case.guide)(X)
    found = gradients(loss, case.parameters)
    torch.manual_seed(0)
    q = guide(case.guide.w).expand((k, B, 2) if dims else (k, B))
    z = q.sample()
    inside = torch.isin(z, torch.tensor(list(common), dtype=z.dtype))
    one = torch.where(inside, z, z.new_zeros(())).double()
    log_p, log_q = prior().log_prob(one), q.log_prob(z)
    if dims:
        inside, one, log_p, log_q = inside.all(-1), one.sum(-1), log_p.sum(-1), log_q.sum(-1)
    assert inside.any(0).all()
    assert (~inside).any()
    log_p = log_p + dist.Normal(case.model.slope * one, 1.0).log_prob(X)
    log_w = (log_p - log_q).masked_fill(~inside, -math.inf)
    nu = log_w.softmax(0).detach()
    bound = (log_w.detach().logsumexp(0) - math.log(k)).sum()
    torch.testing.assert_close(loss.detach(), -bound)
    torch.testing.assert_close(found[0], gradients(-(nu * log_p).sum(), case.parameters)[0])
    torch.testing.assert_close(found[1], gradients(-(nu * log_q).sum(), case.parameters)[1])


@pytest.mark.parametrize("name", ["categorical", "bernoulli"])
def test_enumerated_values_outside_the_support_of_the_prior(name):
    """KL(q ‖ p) is infinite; log p(x) is finite, a sum over what the prior has."""
    prior, guide, common = DISCRETE[name]
    case = Counted(prior, guide, infer={"enumerate": "parallel"})
    loss = ImportanceWeightedELBO(3)(case.model, case.guide)(X)
    assert loss == math.inf
    assert not any(g.isnan() for g in gradients(loss, case.parameters))
    values = torch.tensor(list(common)).double()
    likelihood = dist.Normal(case.model.slope * values, 1.0).log_prob(X[:, None])
    exact = (likelihood + prior().log_prob(values)).logsumexp(-1).detach()
    found = evaluation.log_likelihood(case, X, num_samples=25)
    torch.testing.assert_close(found.log_px, exact)
