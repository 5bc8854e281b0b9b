"""Normalising flows: the density, the draws, and what is remembered of a draw."""

import copy
import functools
import gc
import math
import pickle
import weakref

import pyro
import pytest
import torch
import zuko
from pairs import C, D, Z, binary, net
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from ppl_vae import VAE, likelihoods
from ppl_vae.distributions import flow
from ppl_vae.distributions.flow import FlowDistribution
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.posteriors.flow import Flow as FlowPosterior
from ppl_vae.priors.flow import ConditionalFlow
from ppl_vae.priors.flow import Flow as FlowPrior
from tests.estimators.test_no_synchronisation import Forbid

KINDS = [*flow.KINDS, zuko.flows.NAF]
SMALL = {"transforms": 2, "hidden": (8,)}
# A posterior is sampled in one or two passes; "maf" is its own, slow, direction.
PARTS = {
    **{f"prior, {k}": functools.partial(FlowPrior, Z, k, **SMALL) for k in flow.KINDS},
    "prior, NAF": functools.partial(FlowPrior, Z, zuko.flows.NAF, **SMALL),
    "conditional": functools.partial(ConditionalFlow, Z, C, **SMALL),
    "conditional, maf": functools.partial(ConditionalFlow, Z, C, "maf", **SMALL),
    "posterior, iaf": lambda: posterior("iaf"),
    "posterior, spline": lambda: posterior("spline"),
    "posterior, NAF": lambda: posterior(zuko.flows.NAF),
}
NAMED = [name for name in PARTS if "NAF" not in name]


def posterior(kind, latent_dim=Z, context_features=3):
    width = FlowPosterior.net_features(latent_dim, context_features=context_features)
    options = {"context_features": context_features, **SMALL}
    return FlowPosterior(net(D, width), latent_dim, kind, **options)


def context_of(part, *leading):
    if isinstance(part, FlowPrior):
        return ()
    features = C if isinstance(part, ConditionalFlow) else D
    return (torch.randn(*leading, features),)


def randomise(module, by=0.3):
    with torch.no_grad():
        for p in module.parameters():
            p.add_(by * torch.randn_like(p))
    return module


def pair(prior="spline", guide="iaf"):
    likelihood = likelihoods.Bernoulli(net(Z, D))
    return VAE(
        prior=FlowPrior(Z, prior, **SMALL), posterior=posterior(guide), likelihood=likelihood
    )


def assert_mean(draws, exact):
    """Compare means over the first dimension with exact values, within 5 standard errors."""
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - exact).abs() <= 5 * error).all()


# The density.


@pytest.mark.parametrize("name", NAMED)
def test_density_integrates_to_one_and_draws_have_it(name, float64):
    part = randomise(PARTS[name](), by=0.2)
    p = part(*context_of(part))
    draws = p.sample((20_000,))
    mean, std = draws.mean(0), draws.std(0)
    axes = [torch.linspace(m - 9 * s, m + 9 * s, 201) for m, s in zip(mean, std, strict=True)]
    nodes = torch.cartesian_prod(*axes)
    with torch.no_grad():
        mass = p.log_prob(nodes).exp() * math.prod((a[1] - a[0]).item() for a in axes)
    # A spline's density has a kink at every knot, where the rule is of second order only.
    assert mass.sum().item() == pytest.approx(1.0, abs=2e-3)

    def f(z):
        return torch.stack([torch.sin(z[:, 0]), torch.cos(z[:, 1] - z[:, 0]), z[:, 1].tanh()], -1)

    assert_mean(f(draws), (mass[:, None] * f(nodes)).sum(0) / mass.sum())


@pytest.mark.parametrize("name", NAMED)
def test_density_is_the_base_times_the_jacobian(name, float64):
    part = randomise(PARTS[name]())
    context = context_of(part)
    p = part(*context)
    loc, scale = torch.zeros(Z), torch.ones(Z)
    if isinstance(part, FlowPosterior):
        outputs = part.net(*context)
        loc, scale = outputs[:Z], torch.log1p(outputs[Z : 2 * Z].exp()) + 1e-4
        f = part.transform(outputs[2 * Z :])
    else:
        f = part.flow(*context).transform
    for z in p.sample((5,)):
        jacobian = torch.autograd.functional.jacobian(f, z)
        standard = (f(z) - loc) / scale
        log_base = -0.5 * standard.square().sum() - (scale * math.sqrt(2 * math.pi)).log().sum()
        exact = log_base + torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(p.log_prob(z), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in PARTS if not n.startswith("prior")])
def test_any_leading_dimensions_equal_one_at_a_time(name, float64):
    part = randomise(PARTS[name]())
    (context,) = context_of(part, 2, 1, 7)
    p = part(context)
    assert (p.batch_shape, p.event_shape) == ((2, 1, 7), (Z,))
    z = p.sample()
    flat = zip(context.reshape(14, -1), z.reshape(14, Z), strict=True)
    one = torch.stack([part(c).log_prob(v) for c, v in flat])
    torch.testing.assert_close(p.log_prob(z), one.reshape(2, 1, 7))
    # A value of fewer dimensions, and a batch of more by the plates around it.
    torch.testing.assert_close(p.log_prob(z[0, 0, 0])[0, 0, 0], one[0])
    wide = p.expand((2, 4, 7))
    assert wide.sample().shape == (2, 4, 7, Z)
    torch.testing.assert_close(wide.log_prob(z), one.reshape(2, 1, 7).expand(2, 4, 7))


def test_contexts_are_broadcast_and_concatenated(float64):
    prior = randomise(ConditionalFlow(Z, C + 2, **SMALL))
    y, c, z = torch.randn(5, 1, C), torch.randn(7, 2), torch.randn(5, 7, Z)
    joined = torch.cat([y.expand(5, 7, C), c.expand(5, 7, 2)], -1)
    assert prior(y, c).batch_shape == (5, 7)
    torch.testing.assert_close(prior(y, c).log_prob(z), prior(joined).log_prob(z))


def test_the_context_matters(float64):
    for part in (randomise(PARTS["conditional"]()), randomise(posterior("iaf"))):
        (context,) = context_of(part, 2)
        first, second = part(context).log_prob(torch.zeros(Z))
        assert (first - second).abs() > 1e-3


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_one_dimension(kind, float64):
    prior = randomise(FlowPrior(1, kind, **SMALL), by=0.2)
    z = torch.linspace(-12, 12, 4001)[:, None]
    with torch.no_grad():
        total = prior().log_prob(z).exp().sum() * (z[1] - z[0])
    assert total.item() == pytest.approx(1.0, abs=1e-3)
    assert prior().sample((3,)).shape == (3, 1)
    q = posterior(kind, latent_dim=1)(torch.randn(7, D))
    assert q.log_prob(q.rsample()).shape == (7,)


def test_splines_are_the_identity_outside_their_box(float64):
    wider = functools.partial(flow.spline, bound=8.0)
    for kind, inside, outside in (("spline", 4.0, 5.1), (wider, 7.0, 8.1)):
        transform = randomise(FlowPrior(Z, kind, **SMALL)).flow().transform
        z = torch.tensor([[outside, -outside]])
        torch.testing.assert_close(transform(z), z)
        assert (transform(torch.tensor([[inside, -inside]])).abs() - inside).abs().min() > 1e-3


# The start.


@pytest.mark.parametrize("kind", flow.KINDS)
def test_near_the_identity_at_the_start_and_finite_far_away(kind):
    prior = FlowPrior(10, kind)
    near, far = torch.randn(200, 10), 60 * torch.rand(200, 10) - 30
    far[:2] = torch.tensor([30.0, -30.0])[:, None]
    normal = torch.distributions.Normal(0.0, 1.0)
    start = prior().log_prob(near) - normal.log_prob(near).sum(-1)
    assert 1e-6 < start.abs().max() < 0.5
    for by in (0.0, 0.1, 0.2):
        randomise(prior, by).zero_grad()
        z = torch.cat([near, far]).requires_grad_()
        log_prob = prior().log_prob(z)
        log_prob.sum().backward()
        assert torch.isfinite(log_prob).all()
        assert torch.isfinite(z.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in prior.parameters())
        draw = prior()()
        assert torch.isfinite(draw).all()


@pytest.mark.parametrize("kind", ["realnvp", "maf", "iaf"])
def test_affine_flows_stretch_by_a_bounded_factor_and_have_no_kinks(kind, float64):
    transforms, latent_dim = 3, 4
    prior = randomise(FlowPrior(latent_dim, kind, transforms=transforms), by=3.0)
    z = 10 * torch.randn(500, latent_dim)
    log_det = prior.flow().transform.call_and_ladj(z)[1]
    assert log_det.abs().max() < 3.0 * transforms * latent_dim

    def jump(points):
        # The largest step of the slope of log p(z) along a line: it shrinks with the step in z.
        t = torch.linspace(-1, 1, points, requires_grad=True)
        line = t[:, None] * torch.tensor([0.3, -1.0, 0.7, 0.5])
        (slope,) = torch.autograd.grad(smooth().log_prob(line).sum(), t)
        return slope.diff().abs().max()

    smooth = randomise(FlowPrior(latent_dim, kind))
    assert jump(8_001) < jump(501) / 8


@pytest.mark.parametrize("kind", flow.KINDS)
def test_the_posterior_starts_near_its_base(kind):
    part = posterior(kind)
    x = torch.randn(50, D)
    loc, raw = part.net(x)[:, :Z], part.net(x)[:, Z : 2 * Z]
    base = torch.distributions.Normal(loc, nn.functional.softplus(raw) + 1e-4)
    z = base.sample()
    torch.testing.assert_close(part(x).log_prob(z), base.log_prob(z).sum(-1), rtol=0, atol=0.1)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_parameter_moves_at_the_first_step(kind, float64):
    vae = pair(kind, kind)
    before = {n: p.detach().clone() for n, p in vae.named_parameters()}
    loss = Trace_ELBO()(vae.model, vae.guide)
    loss(binary()).backward()
    assert all(torch.isfinite(p.grad).all() for p in vae.parameters())
    torch.optim.Adam(loss.parameters(), lr=0.01).step()
    still = [n for n, p in vae.named_parameters() if torch.equal(p, before[n])]
    assert not still


# What is remembered of a draw.


@pytest.mark.parametrize("name", PARTS)
def test_the_density_of_a_draw_is_the_one_computed_anew(name, float64):
    part = randomise(PARTS[name](), by=0.1)
    q = part(*context_of(part, 7)).expand((3, 7))
    z = q()
    known = q.log_prob(z)
    assert known is q.cache[z]
    torch.testing.assert_close(known, q.log_prob(z.detach()), rtol=1e-4, atol=1e-4)
    assert known.shape == (3, 7)


def test_drawing_from_an_inverse_autoregressive_posterior_takes_one_pass():
    vae, calls = pair("maf", "iaf"), []
    for module in vae.posterior.transform.modules():
        if hasattr(module, "hyper"):
            module.hyper.register_forward_hook(lambda *_: calls.append(1))
    Trace_ELBO()(vae.model, vae.guide)(binary()).backward()
    assert len(calls) == SMALL["transforms"]
    q = vae.posterior(binary())
    with torch.no_grad():
        q.log_prob(q())
    assert len(calls) == 2 * SMALL["transforms"]
    q.log_prob(torch.zeros(7, Z))
    assert len(calls) > 3 * SMALL["transforms"]


@pytest.mark.parametrize(("kind", "passes"), [("realnvp", 2), ("spline", 2), ("maf", 5)])
def test_couplings_are_drawn_from_in_two_passes_whatever_the_dimensions(kind, passes):
    prior, calls = FlowPrior(5, kind, **SMALL), []
    for module in prior.modules():
        if hasattr(module, "hyper"):
            module.hyper.register_forward_hook(lambda *_: calls.append(1))
    prior().sample()
    assert len(calls) == passes * SMALL["transforms"]


def gradients(value, part):
    parameters = list(part.parameters())
    return torch.autograd.grad(value.sum(), parameters, retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("kind", ["iaf", "spline"])
def test_a_remembered_density_never_lacks_its_graph(kind, float64):
    part = randomise(posterior(kind), by=0.1)
    x = torch.randn(7, D)
    q = part(x)

    def score(z):
        return gradients(part(x).log_prob(z.detach().clone()), part)

    # Drawn without gradients, as in wake phases, and scored with them.
    with torch.no_grad():
        z = q()
        assert not q.log_prob(z).requires_grad
    torch.testing.assert_close(gradients(q.log_prob(z), part), score(z))
    # Detached in place: the path is gone, and the density is a function of the parameters alone.
    z = q().detach_()
    torch.testing.assert_close(gradients(q.log_prob(z), part), score(z))
    # A leaf in the place of the draw, as the estimators' detached replays have.
    leaf = q().detach().requires_grad_()
    (slope,) = torch.autograd.grad(q.log_prob(leaf).sum(), leaf)
    assert slope.any()
    # Scored without gradients after a draw with them: no graph is handed out.
    z = q()
    with torch.no_grad():
        assert not q.log_prob(z).requires_grad
    # Along the path, as Trace_ELBO takes it: the total derivative of log q(z(φ); φ).
    z = q()
    leaf = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(part(x).log_prob(leaf).sum(), leaf)
    total = [a + b for a, b in zip(score(z), gradients(slope * z, part), strict=True)]
    torch.testing.assert_close(list(gradients(q.log_prob(z), part)), total)


def test_values_of_rsample_can_be_differentiated_by(float64):
    q = randomise(posterior("iaf"))(torch.randn(7, D))
    z = q.rsample()
    (slope,) = torch.autograd.grad(q.log_prob(z).sum(), z, retain_graph=True)
    leaf = z.detach().requires_grad_()
    (exact,) = torch.autograd.grad(q.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(slope, exact)
    assert not q.sample().requires_grad


def test_one_draw_is_remembered():
    q = posterior("iaf")(torch.randn(7, D))
    first = q()
    assert len(q.cache) == 1
    gone = weakref.ref(first)
    del first
    q()
    gc.collect()
    assert gone() is None
    assert len(q.cache) == 1


def test_copies_of_distributions_and_modules(float64):
    part = randomise(posterior("iaf"))
    x, z = torch.randn(7, D), torch.randn(7, Z)
    q = part(x)
    q()
    with torch.no_grad():
        exact = q.log_prob(z)
    twin = pickle.loads(pickle.dumps(q))
    assert isinstance(twin, FlowDistribution)
    assert not twin.cache
    assert q.cache
    for other in (twin, copy.deepcopy(part)(x), pickle.loads(pickle.dumps(part))(x)):
        assert torch.equal(other.log_prob(z), exact)
    fresh = posterior("iaf")
    fresh.load_state_dict(part.state_dict())
    assert torch.equal(fresh(x).log_prob(z), exact)
    prior = FlowPrior(Z)
    assert torch.equal(copy.deepcopy(prior()).log_prob(z), prior().log_prob(z))


# Gradients of the bounds.


def bound_and_gradients(elbo, vae, x, seed=1):
    torch.manual_seed(seed)
    loss = elbo(vae.model, vae.guide)(x)
    return loss, dict(
        zip(
            (n for n, _ in vae.named_parameters()),
            torch.autograd.grad(loss, list(vae.parameters())),
            strict=True,
        )
    )


@pytest.mark.parametrize("guide", ["iaf", "spline"])
@pytest.mark.parametrize(
    "elbo", [Trace_ELBO, lambda: ImportanceWeightedELBO(3)], ids=["elbo", "iwae"]
)
def test_gradients_are_finite_differences_at_common_random_numbers(elbo, guide, float64):
    vae, x = randomise(pair("spline", guide), by=0.1), binary()
    _, exact = bound_and_gradients(elbo(), vae, x)
    for part in ("model.prior", "model.likelihood", "guide.posterior"):
        directions = {
            n: torch.randn_like(p) for n, p in vae.named_parameters() if n.startswith(part)
        }
        values = []
        for step in (1e-6, -2e-6, 1e-6):  # there, across and back
            with torch.no_grad():
                for n, direction in directions.items():
                    vae.get_parameter(n).add_(step * direction)
                torch.manual_seed(1)
                values.append(elbo()(vae.model, vae.guide)(x).item())
        difference = (values[0] - values[1]) / 2e-6
        slope = sum((exact[n] * direction).sum().item() for n, direction in directions.items())
        assert slope == pytest.approx(difference, rel=1e-4, abs=1e-5), part


@pytest.mark.parametrize("guide", ["iaf", "spline"])
@pytest.mark.parametrize("gradient", ["dreg", "stl", "wake"])
def test_detached_parameters_are_seen_detached(gradient, guide, float64):
    # By hand: the draws with their graph, scored by a frozen copy of the posterior.
    vae, x, K = randomise(pair("maf", guide), by=0.2), binary(), 4
    elbo = ImportanceWeightedELBO(K, gradient)
    elbo(vae.model, vae.guide)(x)  # finds the plates
    loss, found = bound_and_gradients(elbo, vae, x)
    frozen = copy.deepcopy(vae.posterior).requires_grad_(False)
    torch.manual_seed(1)
    z = vae.posterior(x).expand((K, len(x))).rsample()

    def log_p(at):
        return vae.prior().log_prob(at) + vae.likelihood(at).log_prob(x)

    log_w = log_p(z) - frozen(x).log_prob(z)
    assert loss.item() == pytest.approx(-(log_w.logsumexp(0) - math.log(K)).sum().item())
    weight = log_w.softmax(0).detach()
    theta = (weight * log_p(z.detach())).sum()
    phi = {
        "dreg": (weight.square() * log_w).sum(),
        "stl": (weight * log_w).sum(),
        "wake": (weight * vae.posterior(x).log_prob(z.detach())).sum(),
    }[gradient]
    for part, value in (("model", theta), ("guide", phi)):
        names, parameters = zip(*vae.get_submodule(part).named_parameters(), strict=True)
        by_hand = torch.autograd.grad(-value, parameters, retain_graph=True)
        for name, exact in zip(names, by_hand, strict=True):
            torch.testing.assert_close(found[f"{part}.{name}"], exact, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("guide", ["iaf", "spline"])
def test_doubly_reparameterised_gradients_have_the_same_mean(guide, float64):
    vae, x = randomise(pair("realnvp", guide), by=0.2), binary(1).expand(50, D)
    guides = [n for n, _ in vae.named_parameters() if n.startswith("guide")]
    directions = {n: torch.randn_like(vae.get_parameter(n)) for n in guides}
    slopes = {}
    for gradient in ("iwae", "dreg"):
        elbo = ImportanceWeightedELBO(3, gradient)
        runs = [bound_and_gradients(elbo, vae, x, seed)[1] for seed in range(2, 18)]
        slopes[gradient] = torch.stack(
            [torch.stack([(run[n] * directions[n]).sum() for n in guides]) for run in runs]
        )
    assert not torch.allclose(slopes["iwae"], slopes["dreg"])
    # Draws are shared within a seed, so that the differences are what has to vanish.
    assert_mean(slopes["iwae"] - slopes["dreg"], 0.0)
    mean, error = slopes["dreg"].mean(0), slopes["dreg"].std(0) / 4
    assert (mean.abs() > 5 * error).any(), "the test could not see a gradient that is missing"


# As a Pyro distribution.


def test_what_a_distribution_answers(float64):
    prior = FlowPrior(3, "maf")
    p = prior()
    assert (p.batch_shape, p.event_shape, p.has_rsample) == ((), (3,), True)
    assert p.sample((5,)).shape == (5, 3)
    assert p.rsample((5, 2)).shape == (5, 2, 3)
    assert p.support.check(p.sample((5,))).shape == (5,)
    assert isinstance(p.expand((4,)), FlowDistribution)
    with torch.no_grad():
        assert not p.log_prob(torch.zeros(3)).requires_grad
    for moment, advice in (("mean", "mean"), ("variance", "var")):
        message = rf"the {moment} of .* no closed form; .* dist.sample\(\(1000,\)\).{advice}\(0\)"
        with pytest.raises(NotImplementedError, match=message):
            getattr(p, moment)


def test_in_plates_and_under_masks(float64):
    prior = FlowPrior(Z)

    def program():
        some = poutine.mask(mask=torch.arange(7) < 3)
        with pyro.plate("outer", 4, dim=-2), pyro.plate("inner", 7, dim=-1), some:
            return pyro.sample("z", prior())

    trace = poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == (4, 7, Z)
    kept = prior().log_prob(site["value"].detach())[:, :3].sum()
    torch.testing.assert_close(site["log_prob_sum"], kept)


def test_no_number_is_read_back():
    pyro.enable_validation(False)
    for kind in flow.KINDS:
        vae, x = pair(kind, kind), binary()
        elbo = ImportanceWeightedELBO(2, "dreg")
        with Forbid():
            elbo.loss_and_grads(vae.model, vae.guide, x)
            vae.generate(3)


@pytest.mark.parametrize("name", PARTS)
def test_precision_follows_the_module(name):
    part = randomise(PARTS[name](), by=0.1)
    context = context_of(part, 7)
    z = part(*context).sample()
    single = part(*context).log_prob(z)
    part.double()
    p = part(*(c.double() for c in context))
    assert {t.dtype for t in (p.sample(), p(), p.log_prob(z.double()))} == {torch.float64}
    torch.testing.assert_close(single.double(), p.log_prob(z.double()), rtol=1e-4, atol=1e-3)


# Arguments.


def test_arguments_are_kept():
    part = FlowPosterior(nn.Identity(), 4, zuko.flows.NAF, context_features=5, hidden=[8, 9])
    kept = (part.latent_dim, part.kind, part.context_features, part.transforms, part.hidden)
    assert kept == (4, zuko.flows.NAF, 5, 2, (8, 9))
    prior = ConditionalFlow(4, 5, "maf", transforms=1, hidden=())
    kept = (prior.latent_dim, prior.context_features, prior.kind, prior.transforms, prior.hidden)
    assert kept == (4, 5, "maf", 1, ())
    assert FlowPosterior.net_features(10) == 2 * 10 + 32
    assert FlowPosterior(nn.Identity(), 10)(torch.zeros(7, 52)).shape() == (7, 10)


ERRORS = [
    (lambda: FlowPrior(0), ValueError, "Flow: latent_dim must be 1 or more, got 0"),
    (lambda: FlowPrior(Z, transforms=0), ValueError, "transforms must be 1 or more"),
    (lambda: FlowPrior(Z, hidden=(8, 0)), ValueError, "hidden must be 1 or more"),
    (lambda: FlowPrior(Z, "glow"), ValueError, "kind must be one of 'realnvp', .*, got 'glow'"),
    (lambda: FlowPrior(Z, zuko.flows.CNF), TypeError, r"must take \(features, context, \*"),
    (
        lambda: FlowPrior(Z, lambda *a, **o: nn.Identity()),
        TypeError,
        "must return a zuko.lazy.Flow, got Identity",
    ),
    (lambda: ConditionalFlow(Z, 0), ValueError, "priors.Flow takes no context"),
    (
        lambda: ConditionalFlow(Z, 3)(torch.zeros(7, 2), torch.zeros(2)),
        ValueError,
        r"context_features=3 features, got 4 in contexts of shape \(7, 2\), \(2,\)",
    ),
    (lambda: posterior("iaf", context_features=0), ValueError, "context_features must be 1 or"),
    (
        lambda: FlowPosterior(net(D, 2 * Z), Z, context_features=3)(torch.zeros(7, D)),
        ValueError,
        r"= 7 features for latent_dim=2 and context_features=3, got an output of shape \(7, 4\)",
    ),
    (
        lambda: FlowPrior(Z, functools.partial(flow.spline, bound=0.0)),
        ValueError,
        "bound must be finite and above 0",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS, ids=[m for _, _, m in ERRORS])
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
