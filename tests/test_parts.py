"""The contract of every prior, posterior and likelihood: one suite over the names in ``pairs``."""

import copy
import functools
import inspect
import math
import pickle
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import (
    ALIKE,
    CODE_POSTERIORS,
    CODE_PRIORS,
    CONDITIONAL_PRIORS,
    LEVELS,
    LIKELIHOODS,
    POSTERIORS,
    PRIORS,
    C,
    D,
    W,
    Z,
    code_vae,
    net,
    observations,
    ssvae,
    vae,
    values_of,
)
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ppl_vae import conditional, likelihoods, nets, posteriors, priors

LEADING = [(), (1,), (4,), (3, 4), (2, 1, 4)]
# Context features and event size of each axis.
AXES = {
    **dict.fromkeys(PRIORS, (0, Z)),
    **dict.fromkeys(CONDITIONAL_PRIORS, (C, Z)),
    **dict.fromkeys(POSTERIORS, (D, Z)),
    **dict.fromkeys(LIKELIHOODS, (Z, D)),
    **dict.fromkeys(CODE_PRIORS, (0, W)),
    **dict.fromkeys(CODE_POSTERIORS, (D, W)),
}
OVER_LATENTS = [*PRIORS, *CONDITIONAL_PRIORS, *POSTERIORS]
OVER_CODES = [*CODE_PRIORS, *CODE_POSTERIORS]
GIVEN_CONTEXT = [*CONDITIONAL_PRIORS, *POSTERIORS, *CODE_POSTERIORS, *LIKELIHOODS]


ONE_SPLINE = [
    pytest.param(n, marks=pytest.mark.slow if n in ("spline", "spline given y") else ())
    for n in OVER_LATENTS
]

# A part, a context for it, and the quadrature of its density.


diagonal = POSTERIORS["diagonal"]


def make(name):
    """Return a part with all that it is made of: a prior may hold the pair's posterior."""
    alone = POSTERIORS | LIKELIHOODS | CODE_POSTERIORS
    if name in alone:
        return nn.ModuleDict({"part": alone[name]()})
    posterior = (CODE_POSTERIORS["vectors posterior"] if name in CODE_PRIORS else diagonal)()
    part = (PRIORS | CONDITIONAL_PRIORS | CODE_PRIORS)[name](posterior)
    return nn.ModuleDict({"part": part, "posterior": posterior})


def context_of(name, *leading, **options):
    """Return the arguments of the part's forward."""
    features = AXES[name][0]
    return (torch.randn(*leading, features, **options),) if features else ()


def distribution_of(name, *leading):
    """Return a part's distribution, its parameters some way from where they start."""
    return randomise(make(name))["part"](*context_of(name, *leading))


def randomise(module):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return module


def trapezoid(low, high, points):
    nodes = torch.linspace(float(low), float(high), points)
    weights = (nodes[1] - nodes[0]).repeat(points)
    weights[[0, -1]] /= 2
    return nodes, weights


def grid(half_width, points, dim):
    axis = torch.linspace(-half_width, half_width, points)
    mesh = torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1)
    return mesh.reshape(-1, dim), (axis[1] - axis[0]) ** dim


def latent_quadrature(p, half_points, radius=12.0):
    """Return nodes and weights over R², and the weights of a rule with a quarter of the nodes.

    The nodes are a lattice around the distribution's samples, as wide as they are, out to so many
    standard deviations (at 12 no tail holds 1e-6, at 9 none holds 1e-5), and turned: the kinks of
    autoregressive flows follow the axes, and then no row of nodes follows a kink.
    """
    draws = p.sample((5_000,))
    factor = torch.linalg.cholesky(draws.T.cov())
    index = torch.arange(-half_points, half_points + 1)
    index = torch.cartesian_prod(index, index)
    index = index[index.square().sum(-1) <= half_points**2]
    step = radius / half_points
    turn = torch.tensor([[math.cos(1), math.sin(1)], [-math.sin(1), math.cos(1)]])
    nodes = draws.mean(0) + step * index.to(draws.dtype) @ turn @ factor.T
    weights = (step**2 * factor.diagonal().prod()).repeat(len(nodes))
    return nodes, weights, 4 * weights * (index % 2 == 0).all(-1)


def element_quadrature(support):
    """Return nodes and weights over the support of one element of x."""
    if support.is_discrete:
        candidates = torch.arange(4_000) / (LEVELS - 1.0)
        nodes = candidates[support.check(candidates)]
        return nodes, torch.ones_like(nodes)
    ends = [p for p in (0.0, 1.0, -30.0, 30.0) if support.check(torch.tensor(p))]
    return trapezoid(min(ends), max(ends), 200_001)


def expectation(f, log_prob, nodes, weights):
    return torch.einsum("n...,n->...", f(nodes) * log_prob(nodes).exp(), weights)


def elements_of(p):
    """Return the distribution of the elements of x; likelihoods factorise over them."""
    assert isinstance(p, dist.Independent)
    assert (p.base_dist.event_shape, p.base_dist.batch_shape) == ((), (D,))
    return p.base_dist


def bounded(z):
    return torch.sin(z[..., 0] + 0.3) * torch.cos(0.7 * z[..., 1]) + torch.tanh(z[..., 1])


def assert_mean(draws, exact, exact_to=1e-12):
    """Compare means over the first dimension with exact values, within 5 standard errors."""
    error = 5 * draws.std(0) / math.sqrt(len(draws)) + exact_to
    off = draws.mean(0) - exact
    assert (off.abs() <= error).all(), f"off by {off}, where {error} is 5 standard errors"


def tensors_of(thing):
    """Return every tensor that an object reaches: registered, hidden in a list or a closure."""
    found, seen, left = [], set(), [thing]
    while left:
        thing = left.pop()
        if id(thing) in seen or inspect.isclass(thing) or inspect.ismodule(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            found.append(thing)
        elif isinstance(thing, Mapping):
            left += thing.values()
        elif isinstance(thing, (list, tuple, set)):
            left += thing
        elif inspect.isfunction(thing):
            left += [cell.cell_contents for cell in thing.__closure__ or ()]
        elif isinstance(thing, functools.partial):
            left += [thing.func, thing.args, thing.keywords]
        elif inspect.ismethod(thing):
            left += [thing.__self__, thing.__func__]
        else:
            left += getattr(thing, "__dict__", {}).values()
    return found


# Densities, samples, shapes.


@pytest.mark.parametrize("name", ONE_SPLINE)
def test_density_over_latents_integrates_to_one_and_samples_match_it(name, float64):
    p = distribution_of(name)
    nodes, weights, coarse = latent_quadrature(p, 200)
    with torch.no_grad():
        density, draws = p.log_prob(nodes).exp(), bounded(p.sample((50_000,)))
    # Exact to rounding for smooth densities; for those with kinks the two rules tell how far off.
    total, error = density @ weights, (density @ (weights - coarse)).abs()
    assert error < 2e-3
    assert (total - 1).abs() < 1e-6 + 10 * error
    assert_mean(draws, (bounded(nodes) * density) @ weights)


def all_codes(name, part):
    """Return all values of a discrete latent, in rows."""
    if values_of(name) == "binary":
        return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * W).to(torch.get_default_dtype())
    codebook = torch.eye(3)
    if values_of(name) == "vectors":
        codebook = getattr(part, "posterior", part).codebook.detach()
    index = torch.cartesian_prod(*[torch.arange(len(codebook))] * 2)
    return codebook[index].flatten(1)


@pytest.mark.parametrize("name", OVER_CODES)
def test_masses_over_codes_sum_to_one_and_samples_match_them(name, float64):
    whole = randomise(make(name))
    p, codes = whole["part"](*context_of(name)), all_codes(name, whole["part"])
    with torch.no_grad():
        mass, draws = p.log_prob(codes).exp(), p.sample((20_000,))
    torch.testing.assert_close(mass.sum(), torch.ones(()))
    which = (draws.unsqueeze(1) == codes).all(-1).to(mass.dtype)
    assert (which.sum(1) == 1).all()
    # A frequency has the standard deviation of a Bernoulli variable; 5 of them for 64 values.
    error = 5 * (mass * (1 - mass) / len(draws)).sqrt() + 1e-12
    assert ((which.mean(0) - mass).abs() <= error).all()
    try:
        torch.testing.assert_close(p.mean, mass @ codes)
        torch.testing.assert_close(p.variance, mass @ codes.square() - (mass @ codes).square())
        torch.testing.assert_close(p.entropy(), -torch.xlogy(mass, mass).sum())
    except NotImplementedError:
        return


@pytest.mark.parametrize("name", ALIKE)
def test_density_of_each_element_integrates_to_one(name, float64):
    p = elements_of(distribution_of(name))
    nodes, weights = element_quadrature(p.support)
    total = expectation(torch.ones_like, p.log_prob, nodes.unsqueeze(-1), weights)
    torch.testing.assert_close(total, torch.ones(D), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ALIKE)
def test_samples_of_each_element_match_the_density(name, float64):
    p = elements_of(distribution_of(name))
    nodes, weights = element_quadrature(p.support)
    with torch.no_grad():
        exact = expectation(torch.sin, p.log_prob, nodes.unsqueeze(-1), weights)
    assert_mean(torch.sin(p.sample((50_000,))), exact)


@pytest.mark.parametrize("name", AXES)
def test_mean_is_that_of_samples(name, float64):
    p = distribution_of(name, 3)
    try:
        mean = p.mean
    except NotImplementedError:  # flows have none in closed form
        return
    assert mean.shape == p.shape()
    assert_mean(p.sample((20_000,)), mean)


@pytest.mark.parametrize("name", AXES)
def test_samples_lie_in_the_declared_support(name):
    p = distribution_of(name, 3)
    value = p.sample((1_000,))
    assert p.support.event_dim == 1
    assert p.support.check(value).shape == (1_000, *p.batch_shape)
    assert p.support.check(value).all()
    assert torch.isfinite(p.log_prob(value)).all()


@pytest.mark.parametrize("name", GIVEN_CONTEXT)
def test_any_leading_dimensions_and_one_at_a_time_equals_batched(name, float64):
    part, event = randomise(make(name))["part"], AXES[name][1]
    for leading in LEADING:
        (context,) = context_of(name, *leading)
        p = part(context)
        assert (p.batch_shape, p.event_shape) == (leading, (event,))
        value = p.sample()
        assert value.shape == (*leading, event)
        flat = zip(context.reshape(-1, context.shape[-1]), value.reshape(-1, event), strict=True)
        singly = torch.stack([part(c).log_prob(v) for c, v in flat])
        torch.testing.assert_close(p.log_prob(value), singly.reshape(leading))


@pytest.mark.parametrize("name", AXES)
def test_draws_and_expanded_distributions(name, float64):
    part, event = randomise(make(name))["part"], (AXES[name][1],)
    for leading in LEADING:
        p = part(*context_of(name, *leading))
        wide = p.expand((5, *leading))
        value = wide.sample()
        assert (wide.batch_shape, wide.event_shape) == ((5, *leading), event)
        assert value.shape == wide.shape()
        torch.testing.assert_close(wide.log_prob(value), p.log_prob(value))
        assert p.sample((5, 2)).shape == (5, 2, *p.shape())


# Splines are the slowest; those of a posterior are the same transforms of a context.
@pytest.mark.parametrize("name", ONE_SPLINE)
def test_gradients_through_rsample_are_those_of_the_density(name, float64):
    # The derivative of E[f(z)] along a random direction of all parameters: by rsample and autograd,
    # and as a difference quotient of integrals.
    part, context = randomise(make(name))["part"], context_of(name)
    p = part(*context)
    if not p.has_rsample:
        assert name not in POSTERIORS, "estimators differentiate through the posterior's draws"
        with pytest.raises(NotImplementedError):
            p.rsample()
        return
    parameters = list(part.parameters())
    assert p.rsample().requires_grad == bool(parameters)
    if not parameters:
        return
    direction = [torch.randn_like(t) for t in parameters]
    nodes, *rules = latent_quadrature(p, 98, radius=9.0)

    @torch.no_grad()
    def integrals(step):
        for t, d in zip(parameters, direction, strict=True):
            t.add_(step * d)
        terms = bounded(nodes) * part(*context).log_prob(nodes).exp()
        for t, d in zip(parameters, direction, strict=True):
            t.sub_(step * d)
        return torch.stack([terms @ weights for weights in rules])

    def quotient(h=0.01):
        one, two = (integrals(k * h) - integrals(-k * h) for k in (1, 2))
        return (8 * one - two) / (12 * h)

    def slope(value):
        gradients = torch.autograd.grad(value, parameters)
        return sum((g * d).sum() for g, d in zip(gradients, direction, strict=True))

    fine, coarse = quotient()
    draws = [slope(bounded(part(*context).rsample((2_000,))).mean()) for _ in range(50)]
    assert_mean(torch.stack(draws), fine, (fine - coarse).abs() + 1e-5)


@pytest.mark.parametrize("name", AXES)
def test_gradients_of_the_density_are_its_derivatives(name, float64):
    # Along a random direction of each parameter, and of z, by autograd and difference quotients.
    part, context = randomise(make(name))["part"], context_of(name, 3)
    value = part(*context).sample().requires_grad_(name in OVER_LATENTS)
    variables = [v for v in (*part.parameters(), value) if v.requires_grad]
    if values_of(name) == "vectors":  # whose mass is that of the codes
        variables = [v for n, v in part.named_parameters() if n.startswith("codes_prior.")]
    if not variables:
        return

    def log_prob():
        return part(*context).log_prob(value).sum()

    @torch.no_grad()
    def difference(variable, change):
        variable.add_(change)
        after = log_prob()
        variable.sub_(2 * change)
        before = log_prob()
        variable.add_(change)
        return after - before

    h = 1e-5
    for variable, gradient in zip(
        variables, torch.autograd.grad(log_prob(), variables), strict=True
    ):
        direction = torch.randn_like(variable)
        quotient = difference(variable, h * direction) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum(), quotient, rtol=1e-5, atol=1e-6)


def through(p):
    return p()


def held_fixed(p):
    return p().detach()


@torch.no_grad()
def without_gradients(p):
    return p()


@pytest.mark.parametrize("draw", [through, held_fixed, without_gradients])
@pytest.mark.parametrize("name", AXES)
def test_what_was_just_drawn_has_the_density_of_any_value(name, draw, float64):
    # Pyro draws by calling the distribution, and a flow may then remember the density: value and
    # gradient are to be those of a fresh distribution.
    part, context = randomise(make(name))["part"], context_of(name, 3)
    p = part(*context)
    value = draw(p)
    log_prob, expected = p.log_prob(value), part(*context).log_prob(value)
    torch.testing.assert_close(log_prob, expected)
    parameters = list(part.parameters())
    if parameters and log_prob.requires_grad:
        options = {"retain_graph": True, "materialize_grads": True}
        gradients = torch.autograd.grad(log_prob.sum(), parameters, **options)
        right = torch.autograd.grad(expected.sum(), parameters, **options)
        torch.testing.assert_close(gradients, right)


# Modules: parameters, constants, copies, devices, dtypes.


def test_no_class_is_left_out():
    rooms = (priors, posteriors, likelihoods)
    public = {getattr(room, name) for room in rooms for name in room.__all__}
    tested = {type(make(name)["part"]) for name in AXES}
    # One is of a label and one of two layers: they are tested with the pairs they belong to.
    assert public - tested == {posteriors.Categorical, posteriors.PrecisionWeighted}


def pair_with(name):
    """Return a pair with the part, data for it, and the plain ELBO."""
    if name in CONDITIONAL_PRIORS:
        return ssvae(name), observations("bernoulli"), enumerating_elbo()
    if name in LIKELIHOODS:
        return vae(likelihood=name), observations(name), Trace_ELBO()
    if name in OVER_CODES:
        pair = code_vae(**{"prior" if name in CODE_PRIORS else "posterior": name})
        return pair, observations("bernoulli"), Trace_ELBO()
    pair = vae(posterior=name) if name in POSTERIORS else vae(name)
    return pair, observations("bernoulli"), Trace_ELBO()


def enumerating_elbo():
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


@pytest.mark.parametrize("route", ["svi", "module"])
@pytest.mark.parametrize("name", AXES)
def test_every_parameter_gets_a_gradient_at_the_start_and_moves(name, route):
    pair, x, elbo = pair_with(name)
    before = {n: p.detach().clone() for n, p in pair.named_parameters()}
    if route == "svi":
        svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        svi.loss_and_grads(pair.model, pair.guide, x)
    else:
        loss = elbo(pair.model, pair.guide)
        loss(x).backward()
    gradients = {n: p.grad for n, p in pair.named_parameters()}
    assert not [n for n, g in gradients.items() if g is None or not torch.isfinite(g).all()]
    assert not [n for n, g in gradients.items() if not g.any()]
    if route == "svi":
        svi.step(x)
    else:
        torch.optim.Adam(loss.parameters(), lr=0.01).step()
    assert not [n for n, p in pair.named_parameters() if torch.equal(p, before[n])]


@pytest.mark.parametrize("name", AXES)
def test_what_is_constant_is_a_buffer(name):
    part = make(name)["part"]
    assert all(p.requires_grad for p in part.parameters())
    assert not any(b.requires_grad for b in part.buffers())
    registered = {id(t) for t in (*part.parameters(), *part.buffers())}
    assert all(id(t) in registered for t in tensors_of(part))


@pytest.mark.parametrize("name", AXES)
def test_forward_draws_nothing_and_keeps_nothing(name):
    whole, context = make(name), context_of(name, 3)
    random, state = torch.get_rng_state(), copy.deepcopy(whole.state_dict())
    held = [id(t) for t in tensors_of(whole)]
    value = whole["part"](*context).sample()
    torch.set_rng_state(random)
    first = whole["part"](*context)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(first.log_prob(value), whole["part"](*context).log_prob(value))
    assert [id(t) for t in tensors_of(whole)] == held
    assert all(torch.equal(t, state[k]) for k, t in whole.state_dict().items())


@pytest.mark.parametrize("name", AXES)
def test_save_and_load_round_trip(name, tmp_path):
    first, second, context = randomise(make(name)), randomise(make(name)), context_of(name, 3)
    value = first["part"](*context).sample((2,))
    exact = first["part"](*context).log_prob(value)
    pyro.enable_validation(False)  # other codebooks have other vectors
    if list(first["part"].parameters()) and name != "vectors":
        assert not torch.equal(second["part"](*context).log_prob(value), exact)
    torch.save(first.state_dict(), tmp_path / "part.pt")
    second.load_state_dict(torch.load(tmp_path / "part.pt", weights_only=True))
    assert torch.equal(second["part"](*context).log_prob(value), exact)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda part: pickle.loads(pickle.dumps(part))],
    ids=["deepcopy", "pickle"],
)
@pytest.mark.parametrize("name", AXES)
def test_copies_are_equal_and_independent(name, duplicate):
    whole, context = randomise(make(name)), context_of(name, 3)
    value = whole["part"](*context).sample((2,))  # a part that has been used can be copied
    exact = whole["part"](*context).log_prob(value).detach()
    twin = duplicate(whole)
    assert torch.equal(twin["part"](*context).log_prob(value), exact)
    assert not {t.data_ptr() for t in tensors_of(twin)} & {t.data_ptr() for t in tensors_of(whole)}
    with torch.no_grad():
        for t in (*twin.parameters(), *twin.buffers()):
            t.fill_(0.123)
    assert torch.equal(whole["part"](*context).log_prob(value), exact)


@pytest.mark.parametrize("name", AXES)
def test_float32_agrees_with_float64(name):
    single, context = randomise(make(name)), context_of(name, 20)
    p = single["part"](*context)
    value = p.sample((5,))
    assert {value.dtype, p.log_prob(value).dtype} == {torch.float32}
    double = copy.deepcopy(single).double()
    q = double["part"](*(c.double() for c in context))
    assert {t.dtype for t in tensors_of((double, q)) if t.is_floating_point()} <= {torch.float64}
    assert {q.sample().dtype, q.log_prob(value.double()).dtype} == {torch.float64}
    exact = q.log_prob(value.double())
    torch.testing.assert_close(p.log_prob(value).double(), exact, rtol=1e-5, atol=1e-4)
    back = double.float()["part"](*context)
    assert {t.dtype for t in tensors_of((double, back)) if t.is_floating_point()} <= {torch.float32}
    assert torch.equal(back.log_prob(value), p.log_prob(value))


@pytest.mark.parametrize("name", AXES)
def test_parts_built_in_float64_are_float64(name, float64):
    whole = make(name)
    p = whole["part"](*context_of(name, 3))
    assert {t.dtype for t in tensors_of((whole, p)) if t.is_floating_point()} <= {torch.float64}
    assert p.sample().dtype == torch.float64


@pytest.mark.parametrize("name", AXES)
def test_moving_to_another_device_leaves_nothing_behind(name):
    # The meta device stands in for an accelerator: it has shapes and no values.
    whole = make(name)
    whole["part"](*context_of(name, 3)).sample()  # what a part may keep, it has by now
    whole = whole.to("meta")
    assert not [t for t in tensors_of(whole) if not t.is_meta]
    pyro.enable_validation(False)  # looks at values
    p = whole["part"](*context_of(name, 3, device="meta"))
    assert not [t for t in tensors_of(p) if not t.is_meta]
    value = torch.empty(3, AXES[name][1], device="meta")
    assert p.log_prob(value).is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", AXES)
def test_on_cuda(name, float64):
    whole, context = randomise(make(name)), context_of(name, 3)
    value = whole["part"](*context).sample((2,))
    exact = whole["part"](*context).log_prob(value)
    p = whole.to("cuda")["part"](*(c.to("cuda") for c in context))
    torch.testing.assert_close(p.log_prob(value.to("cuda")).cpu(), exact)
    assert p.sample().is_cuda


# Arguments.


def arguments_of(part):
    return {n: getattr(part, n) for n in inspect.signature(type(part)).parameters}


def is_plain(value):
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    kinds = (bool, int, float, str, type, type(None), nn.Module, torch.Tensor)
    return isinstance(value, kinds) or (inspect.isroutine(value) and "<" not in value.__qualname__)


def same(a, b):
    if isinstance(a, nn.ModuleList):
        return all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a is b or a == b


def structure_of(part):
    tensors = {**part.state_dict(), **dict(part.named_buffers())}
    return [(n, t.shape, t.dtype) for n, t in tensors.items()], [type(m) for m in part.modules()]


@pytest.mark.parametrize("name", AXES)
def test_arguments_read_back_rebuild_the_part(name):
    whole, context = randomise(make(name)), context_of(name, 3)
    part = whole["part"]
    arguments = arguments_of(part)
    assert all(map(is_plain, arguments.values())), arguments
    rebuilt = type(part)(**arguments)
    assert structure_of(rebuilt) == structure_of(part)
    again = arguments_of(rebuilt)
    assert not [n for n, value in arguments.items() if not same(value, again[n])]
    rebuilt.load_state_dict(part.state_dict())
    value = part(*context).sample()
    assert torch.equal(rebuilt(*context).log_prob(value), part(*context).log_prob(value))


def with_network(part, width_out, width_in=D, **changes):
    return type(part)(**{**arguments_of(part), "net": net(width_in, width_out), **changes})


def options_of(part, function, first):
    return {n: getattr(part, n) for n in inspect.signature(function).parameters if n != first}


@pytest.mark.parametrize("name", [*POSTERIORS, *CONDITIONAL_PRIORS])
def test_net_features_is_what_forward_asks_for(name):
    whole = make(name)
    part, (context,) = whole["part"], context_of(name, 3)
    if not isinstance(part, conditional.NeuralConditional):
        assert name not in POSTERIORS
        return
    options = options_of(part, part.net_features, "latent_dim")
    assert part.net(context).shape == (3, part.net_features(Z, **options))
    for latent_dim in (1, 2, 5):
        change = {"latent_dim": latent_dim} if "latent_dim" in arguments_of(part) else {}
        features = part.net_features(latent_dim, **options)
        width = context.shape[-1]
        p = with_network(part, features, width, **change)(context)
        assert (p.batch_shape, p.event_shape) == ((3,), (latent_dim,))
        with pytest.raises(ValueError, match=type(part).__name__):
            with_network(part, features + 1, width, **change)(context)


@pytest.mark.parametrize("name", CODE_POSTERIORS)
def test_net_features_of_codes_is_what_forward_asks_for(name):
    part, (context,) = make(name)["part"], context_of(name, 3)
    options = options_of(part, part.net_features, "latent_dim")
    for latent_dim in (1, 2, 5):
        change = {"latent_dim": latent_dim} if "latent_dim" in arguments_of(part) else {}
        features = part.net_features(latent_dim, **options)
        p = with_network(part, features, **change)(context)
        width = getattr(part, "latent_features", part.net_features)(latent_dim, **options)
        assert (p.batch_shape, p.event_shape) == ((3,), (width,))
        if options:
            with pytest.raises(ValueError, match=type(part).__name__):
                with_network(part, features + 1, **change)(context)


class Unflattened(nn.Module):
    def __init__(self, net, shape):
        super().__init__()
        self.net, self.shape = net, shape

    def forward(self, z):
        return self.net(z).unflatten(-1, self.shape)


@pytest.mark.parametrize("event_shape", [(D,), (D, 1, 1), (1, 2, 3), (3, 2, 1)], ids=str)
@pytest.mark.parametrize("name", ALIKE)
def test_net_shape_is_what_forward_asks_for(name, event_shape, float64):
    part, (z,) = randomise(make(name))["part"], context_of(name, 3)
    options = options_of(part, part.net_shape, "event_shape")
    row, shape = part.net_shape((D,), **options), part.net_shape(event_shape, **options)
    assert part.net(z).shape == (3, *row)
    as_row = math.prod(shape) == math.prod(row)  # channels may share parameters
    decoder = part.net if as_row else net(Z, math.prod(shape))
    changes = {"net": Unflattened(decoder, shape), "event_dim": len(event_shape)}
    image = type(part)(**{**arguments_of(part), **changes})
    with torch.no_grad():
        for n, p in part.named_parameters():
            if not n.startswith("net."):
                image.get_parameter(n).copy_(p)
    p = image(z)
    assert (p.batch_shape, p.event_shape) == ((3,), event_shape)
    x = p.sample()
    assert p.log_prob(x).shape == (3,)
    if as_row:
        # Several parameters of an element are split on the first event dimension: an image and
        # the same numbers in a row have the same density.
        torch.testing.assert_close(p.log_prob(x), part(z).log_prob(x.flatten(1)))


# What is particular to a class.


@pytest.mark.parametrize("components", [1, 3, 500])
def test_mixture_is_a_log_mean_exp_of_component_densities(components, float64):
    prior = randomise(priors.GaussianMixture(Z, components))
    z = 3 * torch.randn(50, Z)
    scale = torch.nn.functional.softplus(prior.unconstrained_scale) + 1e-4
    by_hand = torch.zeros(50)
    for mu, sigma in zip(prior.loc, scale, strict=True):
        quadratic = (((z - mu) / sigma) ** 2).sum(-1)
        by_hand += torch.exp(-0.5 * quadratic) / (2 * math.pi * sigma.prod()) / components
    torch.testing.assert_close(prior().log_prob(z), by_hand.log(), rtol=1e-11, atol=1e-11)


def test_mixture_weights_are_used(float64):
    prior = priors.GaussianMixture(Z, 3, learn_weights=True)
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.0, 1.0, 2.0]))
    weights = torch.softmax(torch.tensor([0.0, 1.0, 2.0]), 0)
    z = torch.randn(9, Z)
    densities = prior().component_distribution.log_prob(z.unsqueeze(-2)).exp()
    torch.testing.assert_close(prior().log_prob(z), (densities * weights).sum(-1).log())
    torch.testing.assert_close(
        prior.responsibilities(z),
        densities * weights / (densities * weights).sum(-1, keepdim=True),
    )


def test_mixture_matches_numerical_integration_in_one_dimension(float64):
    # P(z < t) by the normal cdf of each component, against the integral of the density.
    prior = randomise(priors.GaussianMixture(1, 5))
    z, step = grid(15.0, 60_001, 1)
    density = prior().log_prob(z).exp()
    p = prior().component_distribution.base_dist
    for t in (-1.0, 0.2, 1.5):
        exact = p.cdf(torch.tensor(t)).mean()
        # the grid has a point at t; the trapezoid rule halves it
        numeric = (
            density[z[:, 0] < t - 1e-9].sum() * step
            + 0.5 * step * prior().log_prob(torch.tensor([t])).exp()
        )
        assert numeric.item() == pytest.approx(exact.item(), abs=1e-6)


def test_mixture_is_safe_in_float32_with_500_components():
    prior = priors.GaussianMixture(10, components=500)
    with torch.no_grad():
        prior.loc.mul_(5)
        prior.unconstrained_scale.fill_(-3.0)  # narrow components far apart: exp() underflows
    z = torch.cat([prior.loc.detach()[:20], 100 * torch.randn(20, 10)]).requires_grad_()
    log_prob = prior().log_prob(z)
    log_prob.sum().backward()
    exact = copy.deepcopy(prior).double()().log_prob(z.double())
    assert torch.isfinite(log_prob).all()
    assert all(torch.isfinite(t.grad).all() for t in (z, prior.loc, prior.unconstrained_scale))
    torch.testing.assert_close(log_prob.double(), exact, rtol=2e-6, atol=2e-4)


def test_normal_likelihood_is_the_squared_error(float64):
    decoder = net(Z, D)
    z, x = torch.randn(7, Z), torch.randn(7, D)
    squared_error = ((x - decoder(z)) ** 2).sum(-1)
    for scale in (1.0, 0.3, math.sqrt(0.5)):
        expected = -squared_error / (2 * scale**2) - D * math.log(scale * math.sqrt(2 * math.pi))
        log_prob = likelihoods.Normal(decoder, scale)(z).log_prob(x)
        # the fixed scale is stored in float32
        torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-6)


def test_likelihoods_of_images_sum_over_the_event():
    class Decoder(nn.Module):
        def forward(self, z):
            return z.sum(-1)[..., None, None, None].expand(*z.shape[:-1], 1, 4, 4)

    p = likelihoods.Bernoulli(Decoder(), event_dim=3)(torch.randn(5, 7, Z))
    assert (p.batch_shape, p.event_shape) == ((5, 7), (1, 4, 4))


def test_diagonal_normal_is_location_then_scale(float64):
    encoder = net(D, 2 * Z)
    x = torch.randn(7, D)
    q = posteriors.DiagonalNormal(encoder)(x)
    loc, raw = encoder(x)[:, :Z], encoder(x)[:, Z:]
    expected = dist.Normal(loc, torch.log1p(raw.exp()) + 1e-4).to_event(1)
    z = torch.randn(7, Z)
    torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))


def test_contexts_are_broadcast_and_concatenated():
    x, y = torch.randn(7, 3), torch.randn(5, 1, 2)
    joined = conditional.concatenate(x, y)
    assert joined.shape == (5, 7, 5)
    torch.testing.assert_close(joined[4, 6], torch.cat([x[6], y[4, 0]]))


def test_a_network_may_take_contexts_apart():
    class Apart(nn.Module):
        def forward(self, x, y):
            return torch.cat([x + y.sum(-1, keepdim=True), x], -1)

    x, y = torch.randn(7, Z), torch.randn(7, 3)
    q = posteriors.DiagonalNormal(Apart())(x, y)
    torch.testing.assert_close(q.mean, x + y.sum(-1, keepdim=True))


@pytest.mark.parametrize(
    "net",
    [
        lambda: nets.MLP(5, 4),
        lambda: nets.MLP(5, 4, hidden=()),
        lambda: nets.GatedMLP(5, 4, hidden=(6,)),
        lambda: nets.ConvDecoder(5, (1, 4, 4), channels=(2,)),
    ],
)
@pytest.mark.usefixtures("float64")
def test_networks_take_several_inputs_as_concatenated(net):
    net, a, b, c = net().double(), torch.randn(7, 3), torch.randn(5, 1, 1), torch.randn(1)
    joined = torch.cat([a.expand(5, 7, 3), b.expand(5, 7, 1), c.expand(5, 7, 1)], -1)
    torch.testing.assert_close(net(a, b, c), net(joined))
    with pytest.raises(ValueError, match=r"expected 5 features.*\(7, 3\) and \(5, 1, 1\)"):
        net(a, b)


def test_a_wide_input_is_multiplied_once_and_not_for_each_label():
    q, x = posteriors.DiagonalNormal(nets.MLP(300 + 10, 2, hidden=(5,))), torch.zeros(20, 300)
    with FlopCounterMode(display=False) as together:
        q(x, torch.eye(10).unsqueeze(1))
    with FlopCounterMode(display=False) as once:
        q(x, torch.eye(10)[0])
    assert together.get_total_flops() < 2 * once.get_total_flops()


def test_mlp_is_what_it_says():
    mlp = nets.MLP(4, 3, hidden=(8, 9), activation=nn.Tanh)
    kinds = [type(layer).__name__ for layer in mlp.layers]
    assert kinds == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert [p.shape[0] for p in mlp.parameters()] == [8, 8, 9, 9, 3, 3]
    assert [type(m) for m in nets.MLP(4, 3, hidden=()).layers] == [nn.Linear]
