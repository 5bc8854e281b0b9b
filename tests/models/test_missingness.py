"""Values that are not missing at random: p(m | x) as part of the program."""

import math

import pyro
import pytest
import torch
from torch import nn

from ppl_vae import (
    VAE,
    columns,
    evaluation,
    from_config,
    likelihoods,
    posteriors,
    priors,
    to_config,
)
from ppl_vae import nets as networks
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO

D = 2
pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:log_likelihood. Pareto"),  # the guide is not trained
]


def linear(scale=0.5):
    """Return x_d = w_d z + b_d + scale ε, each missing with a probability that depends on x_d."""
    net = networks.MLP(1, D, hidden=())
    masking = networks.SelfMasking(D)
    with torch.no_grad():
        net.layers[0].weight.copy_(torch.tensor([[1.0], [-0.7]]))
        net.layers[0].bias.copy_(torch.tensor([0.3, 0.1]))
        masking.slope.copy_(torch.tensor([2.0, -1.0]))
        masking.bias.copy_(torch.tensor([0.5, 0.2]))
    return VAE(
        prior=priors.StandardNormal(1),
        posterior=posteriors.DiagonalNormal(networks.MLP(D, 2, hidden=(4,))),
        likelihood=likelihoods.Normal(net, scale),
        missingness=likelihoods.Bernoulli(masking),
    ).double()


def log_joint(pair, z, x, mask):
    """Return log p(z) p(x | z) p(m | x), shape of z without its last dimension."""
    p_z = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
    p_x = pair.likelihood(z).log_prob(x)
    return p_z + p_x + pair.missingness(x).log_prob(mask.double())


def quadrature(pair, x, mask):
    """Return log p(x_observed, m) of a row with at most one missing entry, and E[x_missing]."""
    t = torch.linspace(-8, 8, 201)
    step = (t[1] - t[0]).log()
    z = t[:, None]
    if mask.all():
        return (log_joint(pair, z, x.expand(201, D), mask).logsumexp(0) + step).item(), None
    gone = int((~mask).nonzero())
    full = x.nan_to_num().expand(201, 201, D).clone()
    full[..., gone] = t
    log_p = log_joint(pair, z[:, None].expand(201, 201, 1), full, mask)
    total = log_p.flatten().logsumexp(0)
    return (total + 2 * step).item(), ((log_p - total).exp() * t).sum().item()


ROWS = torch.tensor([[1.2, -0.4], [torch.nan, 0.9], [0.1, torch.nan]], dtype=torch.float64)
MASK = ~ROWS.isnan()


def test_log_p_is_that_of_observed_values_and_mask():
    pair = linear()
    found = evaluation.log_likelihood(pair, ROWS, mask=MASK, num_samples=20_000)
    for row, mask, log_p, error in zip(ROWS, MASK, found.log_px, found.standard_error, strict=True):
        exact, _ = quadrature(pair, row, mask)
        assert abs(log_p.item() - exact) < 5 * error.item() + 1e-9


def test_imputations_take_into_account_that_the_value_is_missing():
    pair = linear()
    guess = pair.impute(ROWS, MASK, num_particles=50_000, mean=True)
    draws = pair.impute(ROWS, MASK, num_samples=4000, num_particles=20_000)
    assert torch.equal(guess[MASK], ROWS[MASK])
    at_random = pair.replace(missingness=None)
    other = at_random.impute(ROWS, MASK, num_particles=50_000, mean=True)
    for i, j in ((1, 0), (2, 1)):
        _, exact = quadrature(pair, ROWS[i], MASK[i])
        assert guess[i, j].item() == pytest.approx(exact, abs=0.02)
        error = draws[:, i, j].std().item() / math.sqrt(1000)
        assert abs(draws[:, i, j].mean().item() - exact) < 5 * error
        assert abs(other[i, j].item() - exact) > 0.1


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("gradient", ["iwae", "dreg", pytest.param("stl", marks=pytest.mark.slow)])
def test_bounds_are_below_and_their_gradients_are_those_of_automatic_differentiation(gradient):
    pair = linear()
    exact = sum(quadrature(pair, row, mask)[0] for row, mask in zip(ROWS, MASK, strict=True))
    elbo = ImportanceWeightedELBO(num_particles=50, gradient=gradient)
    values, slopes = [], []
    for _ in range(60):
        pair.zero_grad()
        loss = elbo.differentiable_loss(pair.model, pair.guide, ROWS, mask=MASK)
        loss.backward()
        values.append(-loss.item())
        slopes.append(pair.missingness.net.slope.grad.clone())
    mean = torch.tensor(values).mean().item()
    error = torch.tensor(values).std().item() / math.sqrt(60)
    assert mean < exact + 4 * error
    assert mean > exact - 1
    if gradient == "stl":
        return
    # d log p / d slope by finite differences; the bound with K = 50 is close to log p.
    found, h = torch.stack(slopes).mean(0), 1e-4
    spread = torch.stack(slopes).std(0) / math.sqrt(60)
    for d in range(D):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                pair.missingness.net.slope[d] += sign * h
            sides.append(sum(quadrature(pair, r, m)[0] for r, m in zip(ROWS, MASK, strict=True)))
            with torch.no_grad():
                pair.missingness.net.slope[d] -= sign * h
        slope = (sides[0] - sides[1]) / (2 * h)
        assert abs(-found[d].item() - slope) < 5 * spread[d].item() + 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("as_users_see_it")
def test_a_censored_variable_is_estimated_better_than_at_random():
    """x2 is missing where it is large; its mean is found with p(m | x), not without."""
    torch.manual_seed(0)
    z = torch.randn(1000, 1)
    x = torch.cat([z, z], -1) + 0.3 * torch.randn(1000, 2)
    mask = torch.stack(
        [torch.ones(1000), (torch.rand(1000) < torch.sigmoid(-4 * x[:, 1]))], -1
    ).bool()
    guesses = {}
    for name in ("random", "model"):
        pair = linear(scale="learned")
        pair = pair.replace(missingness=None) if name == "random" else pair
        optimizer = torch.optim.Adam(
            [p for p in set(pair.parameters()) if p.requires_grad], lr=5e-2
        )
        elbo = ImportanceWeightedELBO(num_particles=5)
        for _ in range(100):
            rows = torch.randint(1000, (100,))
            optimizer.zero_grad()
            elbo.differentiable_loss(pair.model, pair.guide, x[rows], mask=mask[rows]).backward()
            optimizer.step()
        filled = pair.impute(x, mask, num_particles=200, mean=True)
        guesses[name] = (filled - x)[~mask].mean().abs().item()
    assert guesses["model"] < 0.5 * guesses["random"]


def test_without_data_masks_are_drawn_and_complete_data_need_none():
    pair = linear()
    trace = pyro.poutine.trace(pair.model).get_trace(size=5)
    assert trace.nodes["mask"]["value"].shape == (5, D)
    complete = torch.randn(4, D)
    found = evaluation.log_likelihood(pair, complete, num_samples=5000)
    exact = quadrature(pair, complete[0], torch.ones(D, dtype=torch.bool))[0]
    assert abs(found.log_px[0].item() - exact) < 5 * found.standard_error[0].item()
    assert pair.generate(3).shape == (3, D)


def test_configurations_hold_it_and_parts_are_replaced():
    pair = linear()
    again = from_config(to_config(pair)).double()
    again.load_state_dict(pair.state_dict())
    assert torch.equal(again.missingness(ROWS[:1]).mean, pair.missingness(ROWS[:1]).mean)
    assert pair.replace(missingness=None).missingness is None
    with_kl = AnalyticKLELBO().differentiable_loss(pair.model, pair.guide, ROWS, mask=MASK)
    assert with_kl.isfinite()


def test_it_is_refused_where_it_cannot_be_right():
    pair = linear()
    with pytest.raises(ValueError, match=r"missingness must be a distribution of 0 and 1"):
        pair.replace(missingness=likelihoods.Normal(nn.Linear(D, D)))
    with pytest.raises(ValueError, match=r"missingness.*\(2,\), got .*\(3,\)"):
        pair.replace(missingness=likelihoods.Bernoulli(nn.Linear(D, 3)))
    with pytest.raises(ValueError, match=r"drawn by reparameterisation.*Bernoulli are discrete"):
        pair.replace(likelihood=likelihoods.Bernoulli(nn.Linear(1, D)))
    table = [columns.Normal(), columns.Categorical(3)]
    mixed = pair.replace(likelihood=likelihoods.Columns(nn.Linear(1, 5), table))
    with pytest.raises(NotImplementedError, match="continuous columns"):
        mixed.impute(ROWS.clamp(min=0).round(), MASK, num_particles=2)
