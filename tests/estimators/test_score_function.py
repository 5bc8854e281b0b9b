"""Gradients at discrete sites against the derivative of the sum over all draws, in float64.

Each datum of a batch stands for one outcome of all draws and has parameters of its own, so that one
call gives the estimator's gradient at every outcome. Weighted by the outcomes' probabilities, it
must equal the derivative of the expected bound.
"""

import itertools
import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.poutine.messenger import Messenger

from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO, KLWeight
from ppl_vae.estimators.handlers import Particles
from ppl_vae.estimators.objective import Objective
from ppl_vae.estimators.score_function import _PAIRS, with_pairs
from ppl_vae.estimators.traces import Runner
from ppl_vae.registration import IgnoresParameters

X = 2
ENUMERATED = {"enumerate": "parallel"}
BERNOULLI, CODES = (0.0, 1.0), (0, 1, 2)


class Outcomes(IgnoresParameters, Messenger):
    """Draw given values, ``(*labels, particles, batch, *event)``; normals from given noise."""

    def __init__(self, values, noise, pairs=()):
        super().__init__()
        self.values, self.noise, self.pairs = values, noise, pairs

    def _pyro_sample(self, msg):
        fn, name = msg["fn"], msg["name"]
        if name in self.values:
            msg["value"], msg["done"] = self.values[name], True
        elif name == "u":
            msg["value"], msg["done"] = fn.mean + fn.stddev * self.noise, True
        if msg["done"] and name in ("u", *self.values):
            shape = msg["value"].shape[: msg["value"].dim() - fn.event_dim]
            msg["fn"] = fn.expand(torch.broadcast_shapes(fn.batch_shape, shape))
        if name in self.pairs:
            msg["infer"] = {**msg["infer"], _PAIRS: fn}


def observe(z, p, x):
    mean = (z.unsqueeze(-1) * p["weight"]).sum(-2) + p["bias"]
    pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x)


def bernoulli(logits):
    return dist.Bernoulli(logits=logits).to_event(1)


class Bits:
    """z of two bits."""

    sites: ClassVar = {"z": (BERNOULLI, 2)}
    paired = ("z",)
    parameters: ClassVar = {"prior": (2,), "weight": (2, X), "bias": (X,), "posterior": (2,)}

    def model(self, x, p):
        observe(pyro.sample("z", bernoulli(p["prior"])), p, x)

    def guide(self, x, p):
        pyro.sample("z", bernoulli(p["posterior"]))


class Code:
    """z of three values."""

    sites: ClassVar = {"z": (CODES, None)}
    paired = ()
    parameters: ClassVar = {"prior": (3,), "weight": (3, X), "bias": (X,), "posterior": (3,)}

    def model(self, x, p):
        z = pyro.sample("z", dist.Categorical(logits=p["prior"]))
        observe(torch.nn.functional.one_hot(z, 3).to(x), p, x)

    def guide(self, x, p):
        pyro.sample("z", dist.Categorical(logits=p["posterior"]))


class Layers:
    """A sigmoid belief network of two layers of one bit: z2 depends on z1 in the guide."""

    sites: ClassVar = {"z1": (BERNOULLI, 1), "z2": (BERNOULLI, 1)}
    paired = ("z1",)
    parameters: ClassVar = {
        "prior": (1,),
        "down": (1,),
        "weight": (1, X),
        "bias": (X,),
        "posterior": (1,),
        "up": (1,),
    }

    def model(self, x, p):
        z2 = pyro.sample("z2", bernoulli(p["prior"]))
        observe(pyro.sample("z1", bernoulli(p["down"] * (z2 - 0.3))), p, x)

    def guide(self, x, p):
        z1 = pyro.sample("z1", bernoulli(p["posterior"]))
        pyro.sample("z2", bernoulli(p["up"] * (z1 + 0.4)))


class Label:
    """z given a label that is summed over: one draw for each of its three values."""

    sites: ClassVar = {"z": (BERNOULLI, 1)}
    labels = 3
    paired = ("z",)
    parameters: ClassVar = {
        "prior": (1,),
        "label": (3,),
        "weight": (3, X),
        "bias": (X,),
        "posterior": (1,),
        "classifier": (3,),
        "shift": (3,),
    }

    def model(self, x, p):
        y = pyro.sample("y", dist.Categorical(logits=p["label"]))
        z = pyro.sample("z", bernoulli(p["prior"]))
        observe(torch.nn.functional.one_hot(y, 3).to(x) * (z + 0.5), p, x)

    def guide(self, x, p):
        y = pyro.sample("y", dist.Categorical(logits=p["classifier"]), infer=ENUMERATED)
        shift = (torch.nn.functional.one_hot(y, 3).to(x) * p["shift"]).sum(-1, keepdim=True)
        pyro.sample("z", bernoulli(p["posterior"] + shift))


class InnerLabel(Label):
    """A label that is summed over given z."""

    labels = 1

    def guide(self, x, p):
        z = pyro.sample("z", bernoulli(p["posterior"]))
        logits = p["classifier"] + p["shift"] * z
        pyro.sample("y", dist.Categorical(logits=logits), infer=ENUMERATED)


class ThenContinuous:
    """A bit, and a reparameterised u that depends on it."""

    sites: ClassVar = {"z": (BERNOULLI, 1)}
    paired = ("z",)
    parameters: ClassVar = {
        "prior": (1,),
        "weight": (1, X),
        "bias": (X,),
        "posterior": (1,),
        "loc": (1,),
        "shift": (1,),
    }

    def model(self, x, p):
        z = pyro.sample("z", bernoulli(p["prior"]))
        u = pyro.sample("u", dist.Normal(z, 1.0).to_event(1))
        observe(u + z * u.cos(), p, x)

    def guide(self, x, p):
        z = pyro.sample("z", bernoulli(p["posterior"]))
        pyro.sample("u", dist.Normal(p["loc"] + p["shift"] * z, 0.5).to_event(1))


class ContinuousThen(ThenContinuous):
    """A reparameterised u, and a bit that depends on it."""

    paired = ()

    def guide(self, x, p):
        u = pyro.sample("u", dist.Normal(p["loc"], 0.5).to_event(1))
        pyro.sample("z", bernoulli(p["posterior"] + p["shift"] * u))


PROGRAMS = (Bits, Code, Layers, Label, InnerLabel, ThenContinuous, ContinuousThen)


def outcomes(program, particles):
    """Return all values of the sites, ``(*labels, particles, outcomes, *event)``."""
    labels = getattr(program, "labels", 1)
    entries = [(name, v) for name, (v, size) in program.sites.items() for _ in range(size or 1)]
    grids = [values for _ in range(labels * particles) for _, values in entries]
    table = torch.tensor(list(itertools.product(*grids)))
    table = table.reshape(-1, labels, particles, len(entries)).movedim(0, 2)
    found = {}
    for name, (_, size) in program.sites.items():
        value = table[..., [i for i, (other, _) in enumerate(entries) if other == name]]
        value = value.squeeze(-1) if size is None else value
        found[name] = value if labels > 1 else value.squeeze(0)
    return found


def log_probability(weights, values, pairs):
    """Return the log-probability of each outcome, differentiable."""
    total = 0.0
    for site in weights.sampled:
        if site["name"] not in values:
            continue
        value = site["value"]
        if site["name"] not in pairs:
            log_q = site["fn"].log_prob(value)
        else:  # a pair from u and 1 - u is (1, 1) with probability max(2p - 1, 0), and so on
            p = site["infer"][_PAIRS].base_dist.probs
            one, other = value.chunk(2, -3)
            same = torch.where(one == 1, 2 * p - 1, 1 - 2 * p).clamp(min=0)
            log_q = torch.where(one == other, same, p.minimum(1 - p)).log().sum(-1)
        total = total + log_q.flatten(0, -2).sum(0)
    return total


SETTINGS = {"plain": {}, "N/B": {"size": 3}, "beta": {"beta": 0.4}}
OPTIONS = {
    "K 1": (1, {}),
    "K 2": (2, {}),
    "ELBO of 2": (2, {"alpha": 1.0}),
    "2 groups of 1": (1, {"num_groups": 2}),
    "2 groups of 2": (2, {"num_groups": 2}),
    "pooled": (1, {"num_groups": 2, "pool_model": True}),
    "ciwae": (2, {"elbo_weight": 0.3}),
    "renyi": (2, {"alpha": 0.5}),
    "chunks": (2, {"chunk_size": 1}),
    "K 5": (5, {}),
}
GRADIENTS = ("vimco", "loo", "disarm")
IN_GUIDE = ("posterior", "up", "classifier", "shift", "loc")


def number_of_draws(options, gradient):
    k, others = OPTIONS[options]
    return k * others.get("num_groups", 1) * (2 if gradient == "disarm" else 1)


def number_of_outcomes(program, options, gradient):
    values = math.prod(len(v) ** (size or 1) for v, size in program.sites.values())
    return values ** (number_of_draws(options, gradient) * getattr(program, "labels", 1))


CELLS = [
    pytest.param(program, options, gradient, settings, marks=marks)
    for i, program in enumerate(PROGRAMS)
    for j, options in enumerate(OPTIONS)
    for k, gradient in enumerate(GRADIENTS)
    for settings in SETTINGS
    if number_of_outcomes(program, options, gradient) <= 5000
    and (settings == "plain" or options in ("K 2", "pooled"))
    for marks in [() if program is Bits or (i + j + k) % 3 == 0 else pytest.mark.slow]
]


@pytest.mark.parametrize(("program", "options", "gradient", "settings"), CELLS)
def test_the_mean_gradient_is_that_of_the_mean_bound(program, options, gradient, settings, float64):
    (k, others), settings = OPTIONS[options], SETTINGS[settings]
    particles, paired = number_of_draws(options, gradient), gradient == "disarm"
    program = program()
    values, pairs = outcomes(program, particles), program.paired if paired else ()
    batch = next(iter(values.values())).shape[
        -2 if "z" not in values or program.sites["z"][1] else -1
    ]
    p = {
        name: torch.randn(shape).expand(batch, *shape).clone().requires_grad_()
        for name, shape in program.parameters.items()
    }
    x = torch.randn(X).expand(batch, X)
    # The noise of u is the same for each outcome, and for both of a pair, or their difference would
    # be one of noise too.
    noise = torch.randn(particles // (2 if paired else 1), 1, 1)
    noise = noise.repeat(2 if paired else 1, batch, 1)
    scale = settings.get("size", 1)

    def run(part):
        def programme():
            plate = pyro.plate("data", scale * batch, subsample_size=batch)
            with plate, KLWeight(settings.get("beta", 1.0)):
                part(x, p)

        return programme

    model, guide = run(program.model), Outcomes(values, noise, pairs)(run(program.guide))
    estimator = ImportanceWeightedELBO(k, gradient, max_plate_nesting=1, **others)
    loss = estimator.differentiable_loss(model, guide)
    got = torch.autograd.grad(-loss, list(p.values()), materialize_grads=True)

    # The bound of each outcome, differentiated in the densities and in the outcome's probability.
    everything = ImportanceWeightedELBO(particles, max_plate_nesting=1)
    weights = everything.log_weights(model, guide)
    probability = log_probability(weights, values, pairs).exp()
    halves = 2 if paired else 1
    for name, gradients in zip(p, got, strict=True):
        # An outer q(y|x) is differentiated in the bound that is returned.
        outer = name == "classifier" and bool(weights.outer.dims)
        pooled = others.get("pool_model") and (outer or name not in IN_GUIDE)
        groups = halves * (1 if pooled else others.get("num_groups", 1))
        objective = Objective(groups, others.get("alpha", 0.0), others.get("elbo_weight", 0.0))
        bound = objective.bound(weights.log_w, weights.plate.particle_dim)
        bound = weights.plate.per_datum(weights.outer.expectation(bound, entropy=True))
        (wanted,) = torch.autograd.grad(
            scale * (probability * bound).sum(), p[name], retain_graph=True, materialize_grads=True
        )
        mean = torch.einsum("b,b...->...", probability.detach(), gradients)
        torch.testing.assert_close(mean, wanted.sum(0), rtol=1e-9, atol=1e-9, msg=name)


BITS = torch.tensor(list(itertools.product(BERNOULLI, repeat=2)), dtype=torch.float64)


def exact_gradients(p, x, k):
    """The derivative of L_K of `Bits` at one datum, by hand: a sum over all draws."""
    q, prior = bernoulli(p["posterior"]), bernoulli(p["prior"])
    log_q = q.log_prob(BITS)
    likelihood = dist.Normal(BITS @ p["weight"] + p["bias"], 0.7).to_event(1)
    log_w = prior.log_prob(BITS) + likelihood.log_prob(x) - log_q
    value = 0.0
    for drawn in itertools.product(range(len(BITS)), repeat=k):
        drawn = list(drawn)
        bound = log_w[drawn].logsumexp(0) - math.log(k)
        value = value + log_q[drawn].sum().exp() * bound
    return value, torch.autograd.grad(value, list(p.values()))


def one_datum(program):
    p = {name: torch.randn(shape, requires_grad=True) for name, shape in program.parameters.items()}
    return p, torch.randn(X)


def sampled_gradients(program, estimator, p, x, repeats):
    """Minus the loss and its gradients at independent draws, ``(repeats, ...)`` each."""
    rows = {
        name: value.detach().expand(repeats, *value.shape).clone().requires_grad_()
        for name, value in p.items()
    }
    data = x.expand(repeats, X)

    def run(part):
        def programme():
            with pyro.plate("data", repeats):
                part(data, rows)

        return programme

    model, guide = run(program.model), run(program.guide)
    values = estimator.per_datum(model, guide)
    loss = estimator.differentiable_loss(model, guide)
    return values, torch.autograd.grad(-loss, list(rows.values()))


def assert_mean(draws, wanted, errors=4.5):
    draws = draws.reshape(len(draws), -1)
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - wanted.reshape(-1)).abs() <= errors * error + 1e-12).all()


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_random_draws_have_the_exact_value_and_gradients_in_the_mean(gradient, k, float64):
    p, x = one_datum(Bits)
    value, wanted = exact_gradients(p, x, k)
    estimator = ImportanceWeightedELBO(k, gradient, max_plate_nesting=1)
    values, found = sampled_gradients(Bits(), estimator, p, x, 10_000)
    assert_mean(values, value.detach())
    for draws, exact in zip(found, wanted, strict=True):
        assert_mean(draws, exact)


@pytest.mark.parametrize("gradient", ["loo", "disarm"])
@pytest.mark.parametrize("k", [1, 4])
def test_the_elbo_with_its_kl_in_closed_form(gradient, k, float64):
    p, x = one_datum(Bits)
    _, wanted = exact_gradients(p, x, 1)
    estimator = AnalyticKLELBO(k, gradient=gradient, max_plate_nesting=1)
    _, found = sampled_gradients(Bits(), estimator, p, x, 10_000)
    for draws, exact in zip(found, wanted, strict=True):
        assert_mean(draws, exact)


def test_the_kl_in_closed_form_of_two_layers(float64):
    p, x = one_datum(Layers)
    draws = {}
    for name, estimator in {
        "closed": AnalyticKLELBO(3, gradient="loo", monte_carlo=True, max_plate_nesting=1),
        "drawn": ImportanceWeightedELBO(3, "loo", alpha=1, max_plate_nesting=1),
    }.items():
        draws[name] = torch.cat(
            [
                g.reshape(20_000, -1)
                for g in sampled_gradients(Layers(), estimator, p, x, 20_000)[1]
            ],
            1,
        )
    difference = draws["closed"].mean(0) - draws["drawn"].mean(0)
    error = ((draws["closed"].var(0) + draws["drawn"].var(0)) / 20_000).sqrt()
    assert (difference.abs() <= 4.5 * error + 1e-12).all()


class NotReparameterised:
    """A continuous z without a path."""

    parameters: ClassVar = {"weight": (1, X), "bias": (X,), "posterior": (1,), "scale": (1,)}

    def model(self, x, p):
        observe(pyro.sample("z", dist.Normal(0 * p["posterior"].detach(), 1.0).to_event(1)), p, x)

    def guide(self, x, p):
        q = self.family(p["posterior"], p["scale"].exp()).to_event(1)
        pyro.sample("z", q)

    family = NonreparameterizedNormal


class Reparameterised(NotReparameterised):
    family = dist.Normal


@pytest.mark.parametrize("gradient", ["vimco", "loo"])
def test_continuous_sites_without_a_path(gradient, float64):
    p, x = one_datum(NotReparameterised)
    by_path = ImportanceWeightedELBO(3, max_plate_nesting=1)
    by_score = ImportanceWeightedELBO(3, gradient, max_plate_nesting=1)
    _, one = sampled_gradients(Reparameterised(), by_path, p, x, 40_000)
    _, other = sampled_gradients(NotReparameterised(), by_score, p, x, 40_000)
    for a, b in zip(one, other, strict=True):
        error = ((a.var(0) + b.var(0)) / 40_000).sqrt()
        assert ((a.mean(0) - b.mean(0)).abs() <= 4.5 * error).all()
    with pytest.raises(NotImplementedError, match=r"'z'.*neither[^\n]*\n?.*'vimco'"):
        sampled_gradients(NotReparameterised(), by_path, p, x, 3)


@pytest.mark.parametrize("wrapped", [lambda q: q.to_event(1), lambda q: q.mask(True).to_event(1)])
def test_a_normal_that_is_said_to_have_no_path_has_none_for_particles(wrapped):
    with poutine.trace() as tr, Particles(3, -1):
        pyro.sample("z", wrapped(dist.Normal(torch.zeros(2), 1.0).has_rsample_(False)))
    site = tr.trace.nodes["z"]
    assert site["value"].shape == (3, 2)
    assert not site["fn"].has_rsample


def test_the_variances_are_ordered_as_published(float64):
    torch.manual_seed(1)
    p, x = one_datum(Bits)

    def variance(gradient, **options):
        estimator = ImportanceWeightedELBO(gradient=gradient, max_plate_nesting=1, **options)
        return sampled_gradients(Bits(), estimator, p, x, 10_000)[1][-1].var(0).sum()

    # Two evaluations each; REINFORCE without a baseline is the mean of two.
    reinforce = variance("loo", num_particles=1) / 2
    loo, disarm = variance("loo", num_particles=2, alpha=1), variance("disarm", num_particles=1)
    assert disarm < loo < reinforce
    assert variance("vimco", num_particles=5) < reinforce


def test_pairs_are_antithetic_and_have_the_right_frequencies(float64):
    logits = torch.tensor([-3.0, -0.5, 0.0, 2.0])

    def guide():
        with pyro.plate("data", 50_000):
            pyro.sample("z", bernoulli(logits))

    drawn = with_pairs(Runner(guide, guide, (), {}, -2), 2).run_guide(2).nodes["z"]["value"]
    p = logits.sigmoid()
    for half in drawn:
        assert_mean(half, p)
    assert_mean(drawn.prod(0), (2 * p - 1).clamp(min=0))
    assert_mean((1 - drawn).prod(0), (1 - 2 * p).clamp(min=0))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_values_agree_with_and_without_gradients(gradient):
    p, x = one_datum(Bits)
    data = x.expand(4, X)

    def run(part):
        def programme():
            with pyro.plate("data", 20, subsample_size=4):
                part(data, p)

        return programme

    model, guide = run(Bits().model), run(Bits().guide)
    estimator = ImportanceWeightedELBO(3, gradient, num_groups=2)
    values = []
    for method in (estimator.loss, estimator.differentiable_loss, estimator.loss_and_grads):
        torch.manual_seed(2)
        values.append(torch.as_tensor(method(model, guide)).item())
    torch.manual_seed(2)
    values.append(-5 * float(estimator.per_datum(model, guide).sum()))
    assert values == pytest.approx([values[0]] * 4, rel=1e-6)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_masked_data_and_impossible_values_leave_gradients_finite(gradient, float64):
    logits, prior = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    x = torch.randn(5, X)

    def model():
        with pyro.plate("data", 5), poutine.mask(mask=torch.arange(5) > 1):
            z = pyro.sample("z", bernoulli(prior))
            mean = torch.where(z > 0, z, torch.tensor(-math.inf)).sum(-1)
            impossible = torch.where(mean == -math.inf, -math.inf, 0.0)
            pyro.factor("never", impossible)

    def guide():
        with pyro.plate("data", 5), poutine.mask(mask=torch.arange(5) > 1):
            pyro.sample("z", bernoulli(logits))

    for _ in range(5):
        ImportanceWeightedELBO(4, gradient).differentiable_loss(model, guide).backward()
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().sum() > 0
    assert x.shape == (5, X)


def test_inner_plates_are_part_of_their_datum(float64):
    """Two sites in an inner plate are one site of two entries."""
    logits, weight = torch.randn(2, requires_grad=True), torch.randn(2, X)
    x = torch.randn(6, X)

    def model(inner):
        with pyro.plate("data", 6, dim=-1 - inner):
            if inner:
                with pyro.plate("entries", 2, dim=-1):
                    z = pyro.sample("z", dist.Bernoulli(0.3))
                z = z.squeeze(-1) if z.dim() == 1 else z
                mean = (z.unsqueeze(-1) * weight).sum(-2, keepdim=True)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x.unsqueeze(1))
            else:
                z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.3)).to_event(1))
                pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)

    def guide(inner):
        with pyro.plate("data", 6, dim=-1 - inner):
            if inner:
                with pyro.plate("entries", 2, dim=-1):
                    pyro.sample("z", dist.Bernoulli(logits=logits))
            else:
                pyro.sample("z", bernoulli(logits))

    for gradient in GRADIENTS:
        found = []
        for inner in (False, True):
            torch.manual_seed(3)
            loss = ImportanceWeightedELBO(3, gradient).differentiable_loss(model, guide, inner)
            found.append((loss, torch.autograd.grad(loss, logits)[0]))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gains_of_weights_far_apart(dtype):
    """Without a difference of sums that are equal but for rounding."""
    log_w = torch.tensor([0.0, -60.0, -61.0], dtype=dtype).reshape(3, 1)
    gains = Objective().gains(log_w, -2, geometric=False)
    wanted = [60.0 + math.log(2 / 3) - math.log(1 + math.exp(-1.0)), math.log(2 / 3)]
    assert gains.flatten()[:2].tolist() == pytest.approx([wanted[0], wanted[1]], rel=1e-6)


def test_the_repr_says_what_becomes_of_the_sites():
    told = repr(ImportanceWeightedELBO(5, "vimco", num_groups=2))
    assert told.startswith(
        "ImportanceWeightedELBO(num_particles=5, gradient='vimco', num_groups=2)"
    )
    assert "VIMCO's baseline" in told
    assert repr(ImportanceWeightedELBO(5)) != told
