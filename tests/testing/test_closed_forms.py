"""The oracles against SciPy, Bayes' rule, numerical integration and Pyro, all in float64.

Exact identities hold to 1e-10. Monte Carlo means agree within ``SIGMAS`` standard errors of the
estimate; the seeds are fixed, so a test that passes once passes always.
"""

import copy
import doctest
import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.enum_messenger import EnumMessenger
from scipy.stats import multivariate_normal
from torch.distributions import Categorical, MultivariateNormal, kl_divergence

import ppl_vae.testing
from ppl_vae.testing import (
    DiscreteLinearGaussian,
    LinearGaussian,
    MixturePriorLinearGaussian,
    TwoLayerLinearGaussian,
)

DIM, BATCH = 3, 5
EXACT = {"rtol": 0.0, "atol": 1e-10}
SIGMAS = 4.0

ORACLES = {
    "linear": lambda **o: LinearGaussian(DIM, 2, **o),
    "linear 1-d": lambda **o: LinearGaussian(DIM, 1, **o),
    "linear full": lambda **o: LinearGaussian(DIM, 2, full_rank=True, **o),
    "mixture": lambda **o: MixturePriorLinearGaussian(DIM, 2, 4, **o),
    "mixture full": lambda **o: MixturePriorLinearGaussian(DIM, 2, full_rank=True, **o),
    "label": lambda **o: DiscreteLinearGaussian(DIM, 2, 4, **o),
    "label full": lambda **o: DiscreteLinearGaussian(DIM, 2, 3, full_rank=True, **o),
    "label in model": lambda **o: DiscreteLinearGaussian(DIM, 2, 3, enumerate="model", **o),
    "two layers": lambda **o: TwoLayerLinearGaussian(DIM, 2, 3, **o),
}
WITH_ELBO = ["linear", "linear 1-d", "linear full", "label", "label full", "two layers"]
WITH_EXACT_GUIDE = ["linear 1-d", "linear full", "label full", "two layers"]
WITHOUT_EXACT_GUIDE = [name for name in ORACLES if name not in WITH_EXACT_GUIDE]

# One- and two-dimensional latents, for integration on a grid.
SMALL = {
    "linear": lambda: LinearGaussian(DIM, 1),
    "mixture": lambda: MixturePriorLinearGaussian(DIM, 1),
    "mixture 2-d": lambda: MixturePriorLinearGaussian(DIM, 2),
    "label": lambda: DiscreteLinearGaussian(DIM, 1),
    "label in model 2-d": lambda: DiscreteLinearGaussian(DIM, 2, enumerate="model"),
    "two layers": lambda: TwoLayerLinearGaussian(DIM, 1, 1),
}

OPTIONS = {
    "plain": {},
    "size": {"size": 40},
    "beta": {"beta": 0.4},
    "mask": {"mask": torch.tensor([True, False, True, True, False])},
    "all": {"size": 40, "beta": 1.7, "mask": torch.tensor([False, True, True, False, True])},
}


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def x() -> torch.Tensor:
    return 1.5 * normal(BATCH, DIM)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """The tensors are small: threads cost more in waiting than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _clean_pyro():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    pyro.clear_param_store()


def numbers(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def latent_names(oracle) -> list[str]:
    return ["z1", "z2"] if isinstance(oracle, TwoLayerLinearGaussian) else ["z"]


def sample_guide(oracle, x, particles: int) -> dict[str, torch.Tensor]:
    """Latents from Pyro, of shape (particles, batch, ...); y is drawn, not enumerated."""
    with torch.no_grad(), pyro.plate("particles", particles, dim=-2):
        trace = poutine.trace(oracle.guide).get_trace(x)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if name != "data"}


def sample_log_weights(oracle, x, particles: int) -> torch.Tensor:
    """``log p(x, latents) - log q(latents | x)`` with beta, y a latent like the others."""
    latents = sample_guide(oracle, x, particles)
    with torch.no_grad():
        log_weight = oracle.log_weight(x, **latents)
        if "y" in latents:
            log_qy = Categorical(logits=oracle.log_qy(x)).log_prob(latents["y"])
            log_weight = log_weight - oracle.beta * log_qy
    return log_weight


def pyro_elbo(oracle, **options):
    enumerated = isinstance(oracle, DiscreteLinearGaussian)
    kind = TraceEnum_ELBO if enumerated else Trace_ELBO
    return kind(max_plate_nesting=1, vectorize_particles=True, **options)


def assert_mean(samples: torch.Tensor, expected: torch.Tensor, sigmas: float = SIGMAS) -> None:
    """The mean over dimension 0 is ``expected`` within ``sigmas`` standard errors."""
    error = (samples.mean(0) - expected).abs()
    standard_error = samples.std(0) / math.sqrt(len(samples))
    assert (error <= sigmas * standard_error + 1e-10).all(), (error / standard_error).max()


def total(values: torch.Tensor, options: dict) -> torch.Tensor:
    """What an estimator returns for the plate: the caller's share of the closed form."""
    kept = values[options["mask"]] if "mask" in options else values
    return kept.sum() * options.get("size", BATCH) / BATCH


# ---- the evidence ------------------------------------------------------------------------------


def linear_parts(oracle) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    likelihood = oracle.model.likelihood
    noise = np.exp(2 * numbers(likelihood.log_scale)) * np.eye(DIM)
    return numbers(likelihood.weight), numbers(likelihood.bias), noise


def test_linear_evidence_is_scipys(x):
    oracle = LinearGaussian(DIM, 2)
    weight, bias, noise = linear_parts(oracle)
    prior = oracle.model.prior
    covariance = weight @ np.diag(np.exp(2 * numbers(prior.log_scale))) @ weight.T + noise
    expected = multivariate_normal(weight @ numbers(prior.loc) + bias, covariance).logpdf(x)
    np.testing.assert_allclose(numbers(oracle.log_px(x)), expected, **EXACT)


def test_mixture_evidence_is_scipys(x):
    oracle = MixturePriorLinearGaussian(DIM, 2, 4)
    weight, bias, noise = linear_parts(oracle)
    prior = oracle.model.prior
    density = np.zeros(BATCH)
    for k in range(4):
        covariance = weight @ np.diag(np.exp(2 * numbers(prior.log_scale[k]))) @ weight.T + noise
        component = multivariate_normal(weight @ numbers(prior.loc[k]) + bias, covariance)
        density += numbers(prior.logits.softmax(-1))[k] * component.pdf(x)
    np.testing.assert_allclose(numbers(oracle.log_px(x)), np.log(density), **EXACT)


@pytest.mark.parametrize("where", ["guide", "model"])
def test_label_evidence_is_scipys(x, where):
    oracle = DiscreteLinearGaussian(DIM, 2, 4, enumerate=where)
    both, bias, noise = linear_parts(oracle)
    weight, offsets = both[:, :2], both[:, 2:]
    prior = oracle.model.prior
    covariance = weight @ np.diag(np.exp(2 * numbers(prior.log_scale))) @ weight.T + noise
    density = np.zeros(BATCH)
    for y in range(4):
        loc = weight @ numbers(prior.loc) + bias + offsets[:, y]
        component = multivariate_normal(loc, covariance)
        density += numbers(oracle.model.logits.softmax(-1))[y] * component.pdf(x)
    np.testing.assert_allclose(numbers(oracle.log_px(x)), np.log(density), **EXACT)


def test_two_layer_evidence_is_scipys(x):
    oracle = TwoLayerLinearGaussian(DIM, 2, 3)
    weight, bias, noise = linear_parts(oracle)
    upper = oracle.model.transition
    v = numbers(upper.weight)
    z1_covariance = v @ v.T + np.diag(np.exp(2 * numbers(upper.log_scale)))
    expected = multivariate_normal(
        weight @ numbers(upper.bias) + bias, weight @ z1_covariance @ weight.T + noise
    )
    np.testing.assert_allclose(numbers(oracle.log_px(x)), expected.logpdf(x), **EXACT)


def on_grid(oracle, points: int = 101, reach: float = 9.0):
    """Latents on a grid, each (points, batch, dim), and the size of a cell."""
    line = torch.linspace(-reach, reach, points, dtype=torch.float64)
    plane = torch.cartesian_prod(line, line).unsqueeze(1).expand(-1, BATCH, -1)
    step = 2 * reach / (points - 1)
    if isinstance(oracle, TwoLayerLinearGaussian):
        return {"z1": plane[..., :1], "z2": plane[..., 1:]}, step**2
    if oracle.guide.posterior.bias.numel() == 2:
        return {"z": plane}, step**2
    return {"z": line.reshape(-1, 1, 1).expand(-1, BATCH, -1)}, step


@pytest.mark.parametrize("name", SMALL)
def test_evidence_and_posterior_on_a_grid(name, x):
    oracle = SMALL[name]()
    latents, cell = on_grid(oracle)
    with torch.no_grad():
        log_joint = oracle.log_joint(x, **latents)
        log_px = log_joint.logsumexp(0) + math.log(cell)
        # The trapezoidal rule is exact to rounding for a smooth integrand that dies out.
        torch.testing.assert_close(log_px, oracle.log_px(x), **EXACT)
        z = torch.cat(list(latents.values()), -1)
        weights = (log_joint + math.log(cell) - log_px).exp().unsqueeze(-1)
        mean = (weights * z).sum(0)
        torch.testing.assert_close(mean, oracle.posterior(x).mean, rtol=0.0, atol=1e-9)


# ---- the posterior -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORACLES)
def test_bayes_rule(name, x):
    oracle = ORACLES[name]()
    posterior = oracle.posterior(x)
    assert posterior.batch_shape == (BATCH,)
    z = normal(7, BATCH, *posterior.event_shape, seed=2)
    latents = {"z": z}
    if isinstance(oracle, TwoLayerLinearGaussian):
        latents = {"z1": z[..., :2], "z2": z[..., 2:]}
    log_posterior = oracle.log_joint(x, **latents) - oracle.log_px(x)
    torch.testing.assert_close(posterior.log_prob(z), log_posterior, **EXACT)


@pytest.mark.parametrize("name", ["label", "label in model"])
def test_bayes_rule_with_labels(name, x):
    oracle = ORACLES[name]()
    z = normal(7, 1, BATCH, 2, seed=2)
    y = torch.arange(oracle.num_classes).unsqueeze(-1)  # (classes, 1), as enumeration gives it
    log_posterior = oracle.log_joint(x, y=y, z=z) - oracle.log_px(x)
    log_y = oracle.posterior_y(x).logits.mT
    log_z = oracle.posterior_z_given_y(x).log_prob(z.squeeze(1).unsqueeze(-2)).mT
    assert log_posterior.shape == (7, oracle.num_classes, BATCH)
    torch.testing.assert_close(log_posterior, log_y + log_z, **EXACT)
    torch.testing.assert_close(
        oracle.log_joint(x, y=y, z=z).logsumexp(1), oracle.log_joint(x, z=z)[:, 0], **EXACT
    )


# ---- the programs are the densities ------------------------------------------------------------


def pyros_log_density(program, x, options: dict) -> torch.Tensor:
    """The sum over the sites of a program, beta included; N/B and the mask are checked instead."""
    trace = poutine.trace(program).get_trace(x)
    trace.compute_log_prob()
    density = torch.zeros((), dtype=torch.float64)
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or name == "data":
            continue
        beta = 1.0 if name == "x" else options.get("beta", 1.0)
        assert site["scale"] == pytest.approx(beta * options.get("size", BATCH) / BATCH)
        assert site["mask"] is options.get("mask")
        density = density + beta * site["unscaled_log_prob"]
    return density


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ORACLES)
def test_programs_have_the_densities(name, options, x):
    """Pyro's log densities at given latents are the log weights by hand."""
    oracle = ORACLES[name](**OPTIONS[options])
    latents = {k: v[0] for k, v in sample_guide(oracle, x, 1).items()}
    model, guide = (poutine.condition(p, latents) for p in (oracle.model, oracle.guide))
    log_weight = oracle.log_weight(x, **latents)
    log_q = pyros_log_density(guide, x, OPTIONS[options])
    if name == "label in model":
        enumerated = EnumMessenger(first_available_dim=-2)(model)
        log_p = pyros_log_density(enumerated, x, OPTIONS[options]).logsumexp(0)
    else:
        log_p = pyros_log_density(model, x, OPTIONS[options])
    if "y" in latents:
        log_qy = Categorical(logits=oracle.log_qy(x)).log_prob(latents["y"])
        log_weight = log_weight - oracle.beta * log_qy
    torch.testing.assert_close(log_p - log_q, log_weight, **EXACT)


@pytest.mark.parametrize("name", ORACLES)
def test_beta_scales_only_the_latents(name, x):
    oracle, weighed = ORACLES[name](), ORACLES[name](beta=0.3)
    latents = sample_guide(oracle, x, 6)
    torch.testing.assert_close(oracle.log_px(x), weighed.log_px(x), **EXACT)
    joint = [o.log_joint(x, **{n: latents[n] for n in latent_names(o)}) for o in (oracle, weighed)]
    torch.testing.assert_close(*joint, **EXACT)
    assert not torch.allclose(oracle.log_weight(x, **latents), weighed.log_weight(x, **latents))


# ---- the ELBO ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_ELBO)
@pytest.mark.parametrize("seed", range(3))
def test_elbo_is_a_bound(name, seed, x):
    oracle = ORACLES[name](seed=seed)
    gap = oracle.log_px(x) - oracle.elbo(x)
    assert (gap > 1e-3).all()
    assert gap.mean() < 3.0  # a guide worth testing with: neither exact nor hopeless


@pytest.mark.parametrize("name", WITH_EXACT_GUIDE)
def test_exact_guide_closes_the_gap(name, x):
    oracle = ORACLES[name]()
    parameters = list(oracle.guide.parameters())
    oracle.set_exact_guide()
    torch.testing.assert_close(oracle.elbo(x), oracle.log_px(x), **EXACT)
    assert all(a is b for a, b in zip(parameters, oracle.guide.parameters(), strict=True))
    # and every single weight is the evidence
    log_weights = sample_log_weights(oracle, x, 3)
    torch.testing.assert_close(log_weights, oracle.log_px(x).expand(3, -1), **EXACT)


@pytest.mark.parametrize("name", WITHOUT_EXACT_GUIDE)
def test_exact_guide_outside_the_family(name):
    oracle = ORACLES[name]()
    before = copy.deepcopy(oracle.state_dict())
    with pytest.raises(ValueError, match=r"posterior|mixture"):
        oracle.set_exact_guide()
    assert all(torch.equal(before[k], v) for k, v in oracle.state_dict().items())


def test_orthogonal_weights_have_a_diagonal_posterior(x):
    oracle = LinearGaussian(DIM, 2)
    with torch.no_grad():
        oracle.model.likelihood.weight.copy_(torch.linalg.qr(normal(DIM, 2)).Q)
    oracle.set_exact_guide()
    torch.testing.assert_close(oracle.elbo(x), oracle.log_px(x), **EXACT)


def guide_at(affine, x) -> MultivariateNormal:
    """q(z | context) from the raw parameters."""
    scale_tril = torch.diag_embed(affine.log_scale.exp())
    if affine.lower is not None:
        scale_tril = scale_tril + affine.lower.tril(-1)
    return MultivariateNormal(x @ affine.weight.T + affine.bias, scale_tril=scale_tril)


@pytest.mark.parametrize("name", ["linear", "linear 1-d", "linear full"])
def test_gap_is_torchs_kl(name, x):
    oracle = ORACLES[name]()
    q = guide_at(oracle.guide.posterior, x)
    gap = kl_divergence(q, oracle.posterior(x))
    torch.testing.assert_close(oracle.log_px(x) - oracle.elbo(x), gap, **EXACT)
    prior = oracle.model.prior
    p = MultivariateNormal(prior.loc, scale_tril=torch.diag(prior.log_scale.exp()))
    torch.testing.assert_close(oracle.kl_to_prior(x), kl_divergence(q, p), **EXACT)


@pytest.mark.parametrize("name", ["label", "label full"])
def test_label_gap_is_torchs_kl(name, x):
    oracle = ORACLES[name]()
    classes = oracle.num_classes
    one_hot = torch.eye(classes, dtype=torch.float64).expand(BATCH, -1, -1)
    context = torch.cat([x.unsqueeze(1).expand(-1, classes, -1), one_hot], -1)
    kl_z = kl_divergence(guide_at(oracle.guide.posterior, context), oracle.posterior_z_given_y(x))
    q_y = Categorical(logits=oracle.log_qy(x))
    gap = kl_divergence(q_y, Categorical(logits=oracle.posterior_y(x).logits))
    gap = gap + (q_y.probs * kl_z).sum(-1)
    torch.testing.assert_close(oracle.log_px(x) - oracle.elbo(x), gap, **EXACT)


def test_label_in_model_kl_is_of_z(x):
    oracle = ORACLES["label in model"]()
    prior = oracle.model.prior
    p = MultivariateNormal(prior.loc, scale_tril=torch.diag(prior.log_scale.exp()))
    expected = kl_divergence(guide_at(oracle.guide.posterior, x), p)
    torch.testing.assert_close(oracle.kl_to_prior(x), expected, **EXACT)


@pytest.mark.parametrize("beta", [None, 0.4])
@pytest.mark.parametrize("name", WITH_ELBO)
def test_elbo_is_the_mean_log_weight(name, beta, x):
    oracle = ORACLES[name](beta=beta)
    assert_mean(sample_log_weights(oracle, x, 10_000), oracle.elbo(x))


@pytest.mark.parametrize("name", ORACLES)
def test_evidence_is_the_mean_weight(name, x):
    oracle = ORACLES[name]()
    log_ratio = sample_log_weights(oracle, x, 10_000) - oracle.log_px(x)
    assert_mean(log_ratio.exp(), torch.ones(BATCH, dtype=torch.float64))


@pytest.mark.parametrize("name", ["mixture", "mixture full"])
def test_mixture_reconstruction_is_the_mean_log_likelihood(name, x):
    oracle = ORACLES[name]()
    z = sample_guide(oracle, x, 10_000)["z"]
    with torch.no_grad():
        samples = oracle.model.likelihood(z).log_prob(x)
    assert_mean(samples, oracle.expected_log_likelihood(x))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["linear", "linear full", "two layers"])
def test_importance_weights_have_finite_variance(name, seed, x):
    """E_q w^2 is finite iff 2 P^-1 - Q^-1 is positive definite, P the posterior's covariance."""
    oracle = ORACLES[name](seed=seed)
    if name == "two layers":
        guide = oracle.guide
        q = guide.posterior2.closed_form().joint(guide.posterior1.closed_form().at(x)).covariance
    else:
        q = guide_at(oracle.guide.posterior, x).covariance_matrix
    precision = 2 * oracle.posterior(x).covariance_matrix.inverse() - q.inverse()
    assert (torch.linalg.eigvalsh(precision) > 0).all()


# ---- Pyro's own estimators ---------------------------------------------------------------------


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("options", [pytest.param("plain", marks=pytest.mark.slow), "all"])
@pytest.mark.parametrize("name", WITH_ELBO)
def test_pyros_elbo_agrees(name, options, x):
    oracle = ORACLES[name](**OPTIONS[options])
    estimator = pyro_elbo(oracle, num_particles=500)
    losses = [estimator.loss(oracle.model, oracle.guide, x) for _ in range(20)]
    estimates = -torch.tensor(losses, dtype=torch.float64)
    assert_mean(estimates, total(oracle.elbo(x), OPTIONS[options]))


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("options", ["plain", "size", "mask"])
def test_pyros_model_enumeration_agrees(options, x):
    """No closed form of the ELBO here: the mean of the log weights, with its own standard error."""
    oracle = DiscreteLinearGaussian(DIM, 2, enumerate="model", **OPTIONS[options])
    log_weights = sample_log_weights(oracle, x, 10_000)
    by_hand = torch.stack([total(row, OPTIONS[options]) for row in log_weights])
    estimator = pyro_elbo(oracle, num_particles=500)
    losses = [estimator.loss(oracle.model, oracle.guide, x) for _ in range(20)]
    estimates = -torch.tensor(losses, dtype=torch.float64)
    standard_error = math.hypot(
        by_hand.std().item() / math.sqrt(len(by_hand)),
        estimates.std().item() / math.sqrt(len(estimates)),
    )
    assert abs(by_hand.mean() - estimates.mean()) <= SIGMAS * standard_error


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("options", [pytest.param("plain", marks=pytest.mark.slow), "all"])
@pytest.mark.parametrize("name", ["linear full", "label", "two layers"])
def test_autograd_of_the_elbo_is_the_mean_gradient(name, options, x):
    oracle = ORACLES[name](**OPTIONS[options])
    parameters = list(oracle.parameters())
    expected = torch.autograd.grad(total(oracle.elbo(x), OPTIONS[options]), parameters)
    loss = pyro_elbo(oracle, num_particles=200)(oracle.model, oracle.guide)
    draws = [torch.autograd.grad(-loss(x), parameters) for _ in range(30)]
    for i, gradient in enumerate(expected):
        # Hundreds of numbers, and an error with 29 degrees of freedom: wider than elsewhere.
        assert_mean(torch.stack([draw[i] for draw in draws]), gradient, sigmas=6.0)


# ---- training, names and options ---------------------------------------------------------------


@pytest.mark.parametrize("name", ORACLES)
def test_both_routes_reach_every_parameter(name, x):
    oracle = ORACLES[name]()
    loss = pyro_elbo(oracle, num_particles=2)(oracle.model, oracle.guide)
    assert {id(p) for p in loss.parameters()} == {id(p) for p in oracle.parameters()}
    loss(x).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in oracle.parameters())

    before = copy.deepcopy(oracle.state_dict())
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    SVI(oracle.model, oracle.guide, optimizer, pyro_elbo(oracle, num_particles=2)).step(x)
    trained = dict(oracle.named_parameters())
    assert all(not torch.equal(before[n], p) for n, p in trained.items())


def test_svi_trains_every_instance(x):
    """One name for two instances would leave the second, or a copy, where it started."""
    first = LinearGaussian(DIM, 2, full_rank=True)
    for oracle in (first, LinearGaussian(DIM, 2, full_rank=True), copy.deepcopy(first)):
        start = oracle.elbo(x).sum().item()
        loss = Trace_ELBO(num_particles=8, vectorize_particles=True)
        svi = SVI(oracle.model, oracle.guide, pyro.optim.Adam({"lr": 3e-2}), loss)
        for _ in range(30):
            svi.step(x)
        assert oracle.elbo(x).sum().item() > start + 0.5
        assert first.elbo(x).sum().item() > start


@pytest.mark.parametrize("name", ORACLES)
def test_seeds_leave_the_global_state_unchanged(name):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = ORACLES[name](), ORACLES[name](), ORACLES[name](seed=1)
    assert torch.equal(state, torch.get_rng_state())
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize("name", ORACLES)
def test_single_precision(name, x):
    oracle = ORACLES[name](dtype=torch.float32)
    assert {p.dtype for p in oracle.parameters()} == {torch.float32}
    assert oracle.log_px(x.float()).dtype == torch.float32
    assert pyro_elbo(oracle, num_particles=2)(oracle.model, oracle.guide)(x.float()).isfinite()


@pytest.mark.parametrize("name", ORACLES)
def test_particles_and_labels_come_on_the_left(name, x):
    oracle = ORACLES[name]()
    latents = sample_guide(oracle, x, 7)
    labels = [None]
    if "y" in latents:
        labels = list(range(oracle.num_classes))
        latents["y"] = torch.tensor(labels).reshape(-1, 1, 1)  # as enumeration gives it
    log_weights = oracle.log_weight(x, **latents)
    assert log_weights.shape == (*(len(labels),) * ("y" in latents), 7, BATCH)
    for label, row in zip(labels, log_weights.reshape(-1, 7, BATCH), strict=True):
        one = {name: value[3] for name, value in latents.items() if name != "y"}
        if label is not None:
            one["y"] = torch.full((BATCH,), label)
        torch.testing.assert_close(row[3], oracle.log_weight(x, **one), **EXACT)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("mixture", "elbo"),
        ("mixture", "kl_to_prior"),
        ("label in model", "elbo"),
        ("label in model", "expected_log_likelihood"),
        ("label in model", "log_qy"),
    ],
)
def test_no_closed_form(name, method, x):
    with pytest.raises(NotImplementedError, match=r"closed form|not in q"):
        getattr(ORACLES[name](), method)(x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: LinearGaussian(DIM, 2, beta=0.0), "beta must be finite and above 0"),
        (
            lambda x: LinearGaussian(DIM, 2, size=3).model(x),
            "size must be at least the batch of 5, got 3",
        ),
        (
            lambda x: LinearGaussian(DIM, 2, mask=torch.ones(4).bool()).guide(x),
            "an entry for each of 5 data, got 4",
        ),
        (lambda x: DiscreteLinearGaussian(DIM, 2).log_weight(x, z=normal(BATCH, 2)), "pass y"),
        (
            lambda x: DiscreteLinearGaussian(DIM, 2, enumerate="model").log_weight(
                x, z=normal(BATCH, 2), y=torch.zeros(BATCH).long()
            ),
            "summed out",
        ),
        (lambda x: LinearGaussian(DIM, 2).log_px(x[:, :1]), "event size 1|n=1"),
        (lambda x: DiscreteLinearGaussian(DIM, 2, enumerate="both"), "both"),
    ],
)
def test_errors_name_what_was_given(call, message, x, as_users_see_it):
    with pytest.raises(ValueError, match=message):
        call(x)


def test_docstring_example():
    assert doctest.testmod(ppl_vae.testing).failed == 0
