"""Every gradient of the importance-weighted family against hand-written torch, in float64."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import unchecked
from pyro import poutine
from torch import nn

from ppl_vae import HierarchicalVAE, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.testing import (
    DiscreteLinearGaussian,
    LinearGaussian,
    MixturePriorLinearGaussian,
    TwoLayerLinearGaussian,
)

pytestmark = unchecked
D, B, C = 3, 5, 3
ORACLES = {
    "diagonal": lambda **o: LinearGaussian(D, 2, **o),
    "full rank": lambda **o: LinearGaussian(D, 2, full_rank=True, **o),
    "mixture prior": lambda **o: MixturePriorLinearGaussian(D, 2, 3, **o),
    "hierarchical": lambda **o: TwoLayerLinearGaussian(D, 2, 2, **o),
    "y in guide": lambda **o: DiscreteLinearGaussian(D, 2, C, enumerate="guide", **o),
    "y in model": lambda **o: DiscreteLinearGaussian(D, 2, C, enumerate="model", **o),
}
SETTINGS = {
    "plain": lambda: {},
    "N/B": lambda: {"size": 50},
    "beta": lambda: {"beta": 0.3},
    "mask": lambda: {"mask": torch.tensor([True, False, True, True, False])},
    "all": lambda: {"size": 50, "beta": 2.0, "mask": torch.arange(B) != 1},
}
OPTIONS = {
    "iwae": {},
    "dreg": {"gradient": "dreg"},
    "stl": {"gradient": "stl"},
    "wake": {"gradient": "wake"},
    "miwae": {"num_groups": 3},
    "miwae dreg": {"num_groups": 3, "gradient": "dreg"},
    "piwae": {"num_groups": 3, "pool_model": True},
    "piwae dreg": {"num_groups": 3, "pool_model": True, "gradient": "dreg"},
    "ciwae": {"elbo_weight": 0.3},
    "ciwae dreg": {"elbo_weight": 0.3, "gradient": "dreg"},
    "renyi": {"alpha": 0.5},
    "renyi dreg": {"alpha": 0.5, "gradient": "dreg"},
    "renyi below 0": {"alpha": -1.0},
    "chunks": {"chunk_size": 3},
    "chunks dreg": {"chunk_size": 3, "gradient": "dreg"},
}


def draws(oracle, x, particles, seed=1):
    """The estimator's own latents at this seed, with the graph that carries dz/dφ."""
    guide = pyro.plate("num_particles_vectorized", particles, dim=-2)(oracle.guide)
    guide = poutine.enum(guide, first_available_dim=-3)
    torch.manual_seed(seed)
    sites = poutine.trace(guide).get_trace(x).iter_stochastic_nodes()
    return {
        name: site["value"]
        for name, site in sites
        if not poutine.util.site_is_subsample(site) and name != "y"
    }


def sums_labels(oracle):
    """Whether y is enumerated in the guide: only then has the guide a q(y|x)."""
    return hasattr(oracle.guide, "bias")


def log_weights(oracle, x, z):
    """log w, ``(labels, particles, batch)``: one label where y is not enumerated in the guide."""
    if not sums_labels(oracle):
        return oracle.log_weight(x, **z).unsqueeze(0)
    particles = z["z"].shape[1]
    weights = [
        oracle.log_weight(x, y=torch.full((particles, len(x)), y), z=z["z"][y]) for y in range(C)
    ]
    return torch.stack(weights)


def hand_written(oracle, x, z, k, options):
    """The bound, then the gradients of the model and of the guide, by their defining sums."""
    options = {
        "gradient": "iwae",
        "num_groups": 1,
        "pool_model": False,
        "alpha": 0.0,
        "elbo_weight": 0.0,
        **options,
    }
    groups, alpha, beta = options["num_groups"], options["alpha"], options["elbo_weight"]
    gradient = options["gradient"]

    def groupwise(log_w, m):
        return log_w.reshape(len(log_w), m, -1, log_w.shape[-1])

    def bound_of(log_w, m):
        grouped = groupwise(log_w, m)
        powers = torch.exp((1 - alpha) * grouped).mean(2)
        of_groups = torch.log(powers) / (1 - alpha)
        return (1 - beta) * of_groups.mean(1) + beta * log_w.mean(1)

    def normalised(log_w, m):
        powers = torch.exp((1 - alpha) * groupwise(log_w, m))
        return powers / powers.sum(2, keepdim=True)

    def counts(nu, m):
        flat = nu.reshape(len(nu), -1, nu.shape[-1]) / m
        return (1 - beta) * flat + beta / flat.shape[1]

    options_model = 1 if options["pool_model"] else groups
    detached = {name: value.detach() for name, value in z.items()}
    log_w = log_weights(oracle, x, detached).detach()
    nu_model, nu_guide = normalised(log_w, options_model), normalised(log_w, groups)
    of_model = counts(nu_model, options_model)
    path = direct = torch.zeros(())
    if gradient == "iwae":
        path = direct = counts(nu_guide, groups)
    elif gradient == "stl":
        path = counts(nu_guide, groups)
    elif gradient == "dreg":
        # log q has weight β in log w, and its direct term is reparameterised once more
        path = counts(nu_guide - oracle.beta * (1 - alpha) * nu_guide * (1 - nu_guide), groups)
    else:
        direct = -counts(nu_guide, groups)

    # q(y|x) is in the outer sum alone
    in_guide = sums_labels(oracle)
    log_q_y = oracle.log_qy(x).T if in_guide else torch.zeros(1, len(x))
    q_y = log_q_y.exp()
    kl_weight = oracle.beta if in_guide else 1.0
    bound = bound_of(log_w, options_model)
    mask = oracle.model.options.mask
    mask = torch.ones(len(x)) if mask is None else mask.to(x.dtype)
    size = oracle.model.options.size
    scale = mask * (1.0 if size is None else size / len(x))

    def total(term):
        return (scale * q_y.detach() * term.sum(1)).sum()

    value = (scale * (q_y * (bound - kl_weight * log_q_y)).sum(0)).sum()
    model, guide = list(oracle.model.parameters()), list(oracle.guide.parameters())

    def grad(target, parameters):
        return torch.autograd.grad(
            target, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )

    frozen = copy.deepcopy(oracle)
    frozen.guide.requires_grad_(False)
    frozen.model.load_state_dict(oracle.model.state_dict())
    of_paths = grad(total(path * log_weights(frozen, x, z)), guide)
    of_densities = grad(total(direct * log_weights(oracle, x, detached)), guide)
    of_labels = grad(value, guide) if value.requires_grad else [torch.zeros(())] * len(guide)
    in_guide_total = [a + b + c for a, b, c in zip(of_paths, of_densities, of_labels, strict=True)]
    in_model_total = grad(total(of_model * log_weights(oracle, x, detached)), model)
    return value, in_model_total, in_guide_total


# Every estimator on every program with all settings at once, and plain on one (slow: on every);
# what each setting alone does is seen where the estimators differ in what they do with it, on every
# other program.
ONE_BY_ONE = ("iwae", "dreg", "wake")
CELLS = [
    pytest.param(
        name,
        options,
        settings,
        marks=[]
        if settings == "all"
        or i == j % len(ORACLES)
        or (options in ONE_BY_ONE and (i + j + k) % 2 == 0)
        else pytest.mark.slow,
    )
    for i, name in enumerate(ORACLES)
    for j, options in enumerate(OPTIONS)
    for k, settings in enumerate(SETTINGS)
    if settings in ("plain", "all") or options in ONE_BY_ONE
]


@pytest.mark.parametrize(("name", "options", "settings"), CELLS)
def test_value_and_gradients_equal_the_hand_written_ones(name, options, settings, float64):
    oracle, options, k = ORACLES[name](**SETTINGS[settings]()), OPTIONS[options], 4
    x = torch.randn(B, D)
    z = draws(oracle, x, k * options.get("num_groups", 1))
    hand = {key: value for key, value in options.items() if key != "chunk_size"}
    value, of_model, of_guide = hand_written(oracle, x, z, k, hand)
    torch.manual_seed(1)
    estimator = ImportanceWeightedELBO(k, max_plate_nesting=1, **options)
    loss = estimator(oracle.model, oracle.guide)(x)
    assert loss.item() == pytest.approx(-value.item(), rel=1e-12)
    loss.backward()
    for module, wanted in ((oracle.model, of_model), (oracle.guide, of_guide)):
        for (path, p), want in zip(module.named_parameters(), wanted, strict=True):
            got = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(got, -want, rtol=1e-10, atol=1e-10, msg=path)


def guide_gradients(oracle, x, k, gradient, repeats, batches):
    """Gradients of the guide's parameters at one datum, averaged over repeats, of each batch."""
    estimator = ImportanceWeightedELBO(k, gradient, max_plate_nesting=1)
    rows = []
    for _ in range(batches):
        loss = estimator(oracle.model, oracle.guide)(x.expand(repeats, -1)) / repeats
        grads = torch.autograd.grad(loss, list(oracle.guide.parameters()))
        rows.append(torch.cat([g.flatten() for g in grads]))
    rows = torch.stack(rows)
    return rows.mean(0), rows.std(0) / math.sqrt(batches)


@pytest.mark.parametrize(
    ("name", "beta"),
    [("diagonal", None), ("hierarchical", 2.0)]
    + [
        pytest.param(n, b, marks=pytest.mark.slow)
        for n, b in [
            ("full rank", None),
            ("full rank", 2.0),
            ("diagonal", 2.0),
            ("hierarchical", None),
        ]
    ],
)
def test_dreg_is_unbiased_and_stl_is_not(name, beta, float64):
    oracle, x = ORACLES[name](beta=beta), torch.randn(1, D)
    results = {
        gradient: guide_gradients(oracle, x, 5, gradient, repeats=1000, batches=20)
        for gradient in ("iwae", "dreg", "stl")
    }

    def distance(a, b):
        """The largest difference in standard errors."""
        difference, error = (a[0] - b[0]).abs(), (a[1] ** 2 + b[1] ** 2).sqrt()
        return (difference / error)[error > 0].max()

    assert distance(results["iwae"], results["dreg"]) < 4.5  # of a dozen parameters
    assert distance(results["dreg"], results["stl"]) > 10


@pytest.mark.parametrize("name", ["diagonal", "hierarchical"])
def test_dreg_has_lower_variance_for_the_guide(name, float64):
    oracle, x = ORACLES[name](), torch.randn(1, D)
    errors = {
        gradient: guide_gradients(oracle, x, 50, gradient, repeats=10, batches=40)[1]
        for gradient in ("iwae", "dreg")
    }
    assert errors["dreg"].square().sum() < 0.5 * errors["iwae"].square().sum()


def test_dreg_refuses_sites_of_different_weights():
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc.expand(len(x), 2), 1.0).to_event(1))
            with poutine.scale(scale=0.5):
                pyro.sample("later", dist.Normal(z, 1.0).to_event(1))

    loc = torch.zeros(2, requires_grad=True)
    x = torch.zeros(B, D)
    with pytest.raises(NotImplementedError, match=r"one scale and mask.*'later'"):
        ImportanceWeightedELBO(3, "dreg").differentiable_loss(program, program, x)
    ImportanceWeightedELBO(3).differentiable_loss(program, program, x).backward()


def test_wake_trains_discrete_samples(float64):
    logits = torch.randn(2, requires_grad=True)
    weight = torch.randn(2, D, requires_grad=True)
    x, k = torch.randn(B, D), 6

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(torch.full((2,), 0.3)).to_event(1))
            pyro.sample("x", dist.Normal(z @ weight, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=logits).to_event(1))

    torch.manual_seed(1)
    z = dist.Bernoulli(logits=logits).to_event(1).expand((k, B)).sample()
    log_q = (z * logits - torch.log1p(logits.exp())).sum(-1)
    log_p = dist.Bernoulli(torch.tensor(0.3)).log_prob(z).sum(-1)
    log_p = log_p - 0.5 * ((x - z @ weight) ** 2 + math.log(2 * math.pi)).sum(-1)
    log_w = (log_p - log_q).detach()
    nu = torch.softmax(log_w, 0)
    expected = torch.autograd.grad(-(nu * (log_p + log_q)).sum(), [weight, logits])
    torch.manual_seed(1)
    loss = ImportanceWeightedELBO(k, "wake").differentiable_loss(model, guide, x)
    assert loss.item() == pytest.approx(-log_w.exp().mean(0).log().sum().item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(loss, [weight, logits]), expected)


def hierarchy():
    """Return a hierarchy with dropout in the guide."""
    nets_ = [nn.Sequential(nn.Dropout(), nn.Linear(n, m)) for n, m in ((5, 6), (3, 4))]
    vae = HierarchicalVAE(
        prior=priors.StandardNormal(2),
        conditionals=[priors.ConditionalNormal(nets.MLP(2, 6, hidden=(4,)))],
        posteriors=[posteriors.DiagonalNormal(net) for net in nets_],
        likelihood=likelihoods.Normal(nets.MLP(3, 5, hidden=(4,))),
    )
    with torch.no_grad():  # small scales: a density at the values of another mask is far off
        for net in nets_:
            net[-1].bias[len(net[-1].bias) // 2 :] = -4.0
    return vae


@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl", "wake"])
@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"num_groups": 2}])
def test_a_guide_may_draw_random_numbers_of_its_own(gradient, options, float64):
    """Such as dropout's masks: the densities are those of the masks that the values came from."""
    torch.manual_seed(0)
    vae, x = hierarchy(), torch.randn(6, 5)
    elbo = ImportanceWeightedELBO(4, gradient, max_plate_nesting=1, **options)
    pyro.set_rng_seed(1)
    value = elbo.loss(vae.model, vae.guide, x)
    pyro.set_rng_seed(1)
    found = elbo.differentiable_loss(vae.model, vae.guide, x)
    assert found.item() == pytest.approx(value, rel=1e-9)
