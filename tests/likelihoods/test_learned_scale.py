"""Scales that follow the closed form of greatest likelihood, and the floor of all learned ones."""

import copy
import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch import nn

import ppl_vae
from ppl_vae import (
    VAE,
    SemiSupervisedVAE,
    data,
    estimators,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.constructor import arguments
from ppl_vae.training import NotFiniteError, fit

D, Z, N = 8, 2, 1000


def linear(likelihood=likelihoods.Normal, scale="learned", **options):
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.MLP(D, 2 * Z, hidden=())),
        likelihood=likelihood(nets.MLP(Z, D, hidden=()), scale, **options),
    )


def scale_of(pair):
    return pair.likelihood(torch.zeros(1, Z)).base_dist.scale.detach().unique().item()


@pytest.fixture
def plane(float64):
    """Data about a plane, and the σ of greatest likelihood: Tipping & Bishop 1999, equation 8."""
    torch.manual_seed(3)
    # Along the axes: the posterior's covariance is then diagonal, as the guide's.
    loadings = torch.linalg.qr(torch.randn(D, Z))[0] * torch.tensor([2.0, 1.2])
    x = torch.randn(N, Z) @ loadings.T + 0.1 * torch.randn(N, D)
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    return x, values[:-Z].mean().sqrt().item()


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("estimator", ["elbo", pytest.param("dreg", marks=pytest.mark.slow)])
def test_sigma_of_a_linear_model_is_that_of_greatest_likelihood(plane, estimator):
    x, best = plane
    pyro.set_rng_seed(0)
    pair = linear()
    kind = {"elbo": Trace_ELBO(), "dreg": estimators.ImportanceWeightedELBO(3, gradient="dreg")}
    elbo = kind[estimator](pair.model, pair.guide)
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.04)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for _ in range(250):
        optimizer.zero_grad()
        elbo(x[torch.randint(N, (100,))]).backward()
        optimizer.step()
        rates.step()
    assert scale_of(pair) == pytest.approx(best, rel=0.03)


def test_the_running_error_follows_what_steps_observe(float64):
    pair = linear()
    with torch.no_grad():
        pair.likelihood.log_ratio.fill_(0.3)
    assert scale_of(pair) == pytest.approx(math.exp(0.3))  # before there is any error
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.0)
    x = torch.randn(3, 50, D)
    expected = None
    for batch in x:
        z = torch.randn(50, Z)
        error = (batch - pair.likelihood.net(z)).square().mean().item()
        expected = error if expected is None else 0.9 * expected + 0.1 * error
        model = pyro.condition(pair.model, data={"z": z})
        before = pair.likelihood(z).log_prob(batch).sum() + pair.prior().log_prob(z).sum()
        score = pyro.poutine.trace(model).get_trace(batch).log_prob_sum()
        # The scale that scores a batch is that of before, and does not depend on the batch.
        torch.testing.assert_close(score, before)
        score.backward()
        optimizer.step()
        assert pair.likelihood.running_error.item() == pytest.approx(expected)
    assert scale_of(pair) == pytest.approx(math.exp(0.3) * math.sqrt(expected))


def test_laplace_follows_absolute_errors_of_what_is_observed(float64):
    pair, x, z = linear(likelihoods.Laplace), torch.randn(50, D), torch.randn(50, Z)
    mask = torch.rand(50, D) < 0.5
    pyro.condition(pair.model, data={"z": z})(torch.where(mask, x, math.nan), mask=mask)
    error = (x - pair.likelihood.net(z)).abs()[mask].mean().item()
    assert scale_of(pair) == pytest.approx(error)
    before = pair.likelihood.running_error.clone()
    pair.model(x, mask=torch.zeros_like(mask))  # nothing is observed
    assert torch.equal(pair.likelihood.running_error, before)


def test_nothing_moves_in_evaluation_nor_without_gradients(float64):
    pair, x = linear(), torch.randn(20, D)
    SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.0}), Trace_ELBO()).step(x)
    before = copy.deepcopy(pair.state_dict())
    assert before["model.likelihood.running_error"] > 0
    with torch.no_grad():
        pair.model(x)
    evaluation.elbo_terms(pair, x, num_samples=2)
    evaluation.importance_bounds(pair, x, num_particles=(3,))
    pair.reconstruct(x)
    pair.generate(3)
    pair.eval()
    Trace_ELBO().differentiable_loss(pair.model, pair.guide, x)
    assert all(torch.equal(before[k], v) for k, v in pair.state_dict().items())
    # Each datum is scored by itself.
    whole = pair.likelihood(torch.zeros(20, Z)).log_prob(x)
    torch.testing.assert_close(whole[:1], pair.likelihood(torch.zeros(1, Z)).log_prob(x[:1]))


@pytest.mark.usefixtures("as_users_see_it")
def test_labels_that_are_summed_over_count_by_their_probability(float64):
    """x says its class, and the likelihood the class's mean: σ is the error at the true class."""
    torch.manual_seed(0)
    y = torch.randint(2, (N,))
    x = torch.where(y.bool(), 1.0, -1.0).unsqueeze(-1) + 0.1 * torch.randn(N, D)
    pair = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=nn.Linear(D, 2),
        posterior=posteriors.DiagonalNormal(nn.Linear(D + 2, 2 * Z)),
        likelihood=likelihoods.Normal(nn.Linear(Z + 2, D, bias=False), "learned"),
        num_classes=2,
    )
    with torch.no_grad():
        net, classifier = pair.likelihood.net, pair.classifier.net
        net.weight.copy_(torch.cat([torch.zeros(D, Z), -torch.ones(D, 1), torch.ones(D, 1)], 1))
        classifier.weight.copy_(torch.stack([-torch.ones(D), torch.ones(D)]))
        classifier.bias.zero_()
    optimizer = torch.optim.Adam([pair.likelihood.log_ratio], lr=0.05)
    elbo = TraceEnum_ELBO(max_plate_nesting=1)(pair.model, pair.guide)
    for _ in range(150):
        optimizer.zero_grad()
        elbo(x[torch.randint(N, (100,))]).backward()
        optimizer.step()
    assert scale_of_labelled(pair) == pytest.approx(0.1, rel=0.03)  # and not 1.4


def scale_of_labelled(pair):
    p_x = pair.likelihood(torch.zeros(1, Z), torch.tensor([[1.0, 0.0]]))
    return p_x.base_dist.scale.detach().unique().item()


@pytest.mark.slow
def test_grey_values_find_their_error_within_a_few_hundred_steps():
    digits = data.load("digits")
    pyro.set_rng_seed(0)
    pair = VAE(
        prior=priors.StandardNormal(8),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 16, hidden=(64,))),
        likelihood=likelihoods.Normal(nets.MLP(8, 64, hidden=(64,)), "learned"),
    )
    fit(pair, digits.batches(100, binarise="none"), steps=200, progress=False, seed=0)
    x = digits.draw(torch.arange(500), binarise="none")
    rmse = (pair.reconstruct(x) - x).square().mean().sqrt().item()
    sigma = pair.likelihood(torch.zeros(1, 8)).base_dist.scale.unique().item()
    assert sigma == pytest.approx(rmse, rel=0.05)
    assert pair.likelihood.log_ratio.abs() < 0.1
    assert rmse < 0.25  # the data's own spread is 0.37


def test_a_scale_that_follows_is_saved_and_resumed(tmp_path):
    pair, x = linear(), torch.randn(60, D)
    half, whole = copy.deepcopy(pair), copy.deepcopy(pair)
    options = {"batch_size": 20, "progress": False, "seed": 1}
    known = data.Dataset(x)
    fit(whole, known, steps=8, out=tmp_path / "whole", **options)
    fit(half, known, steps=4, out=tmp_path / "half", **options)
    again = copy.deepcopy(pair)
    fit(again, known, steps=8, out=tmp_path / "half", resume=True, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    loaded = ppl_vae.load(ppl_vae.save(again, tmp_path / "pair"))
    assert scale_of(loaded) == scale_of(whole) != 1


# -------------------------------------------------------------------------------- the least scale

FLOOR = 0.25
LEAST = {
    "normal, learned": lambda: likelihoods.Normal(nn.Identity(), "learned", min_scale=FLOOR),
    "normal, parameter": lambda: likelihoods.Normal(nn.Identity(), "parameter", min_scale=FLOOR),
    "normal, per pixel": lambda: likelihoods.Normal(nn.Identity(), "per-pixel", min_scale=FLOOR),
    "laplace": lambda: likelihoods.Laplace(nn.Identity(), "per-pixel", min_scale=FLOOR),
    "diagonal": lambda: posteriors.DiagonalNormal(nn.Identity(), min_scale=FLOOR),
    "full rank": lambda: posteriors.FullRankNormal(nn.Identity(), min_scale=FLOOR),
    "low rank": lambda: posteriors.LowRankNormal(nn.Identity(), 1, min_scale=FLOOR),
    "mixture": lambda: posteriors.GaussianMixture(nn.Identity(), 1, min_scale=FLOOR),
    "flow": lambda: posteriors.Flow(nn.Identity(), 2, context_features=1, min_scale=FLOOR),
    "conditional": lambda: priors.ConditionalNormal(nn.Identity(), min_scale=FLOOR),
}
WIDTHS = {"low rank": 6, "full rank": 5, "mixture": 5, "flow": 5}


@pytest.mark.parametrize("name", LEAST)
def test_no_scale_is_below_the_least(name, float64):
    part = LEAST[name]()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(parameter if name == "flow" else torch.full_like(parameter, -40.0))
    outputs = torch.zeros(1, WIDTHS.get(name, 4))
    outputs[:, 2:4] = -40.0
    p = part(outputs)
    p = p.dist.base if name == "flow" else p
    scale = p.variance.sqrt() / (math.sqrt(2) if name == "laplace" else 1)
    torch.testing.assert_close(scale, torch.full_like(scale, FLOOR))
    assert arguments(part)["min_scale"] == FLOOR


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, 1e-30])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: likelihoods.Normal(nn.Identity(), "learned", min_scale=value),
        lambda value: posteriors.FullRankNormal(nn.Identity(), min_scale=value),
    ],
)
def test_the_least_scale_is_a_positive_number(make, value):
    with pytest.raises(ValueError, match=r"min_scale must be a positive number.*got"):
        make(value)


def test_the_least_scale_is_for_scales_that_are_learned():
    with pytest.raises(ValueError, match=r"min_scale bounds learned scales.*fixed, 0\.5"):
        likelihoods.Normal(nn.Identity(), 0.5, min_scale=0.1)


def test_the_error_of_a_collapsed_scale_advises_what_helps():
    x = 2e15 * torch.randn(50, D)

    def trained(**options):
        pyro.set_rng_seed(0)
        pair = VAE(
            prior=priors.StandardNormal(Z),
            posterior=posteriors.DiagonalNormal(Collapsed(D, 2 * Z)),
            likelihood=likelihoods.Normal(Collapsed(Z, 2 * D), "per-pixel", **options),
        )
        fit(pair, x, steps=3, progress=False)

    with pytest.raises(NotFiniteError, match=r"log-density .* is infinite.*min_scale=0\.01"):
        trained()
    trained(min_scale=10)


class Collapsed(nn.Module):
    """Returns a mean of 0, and a scale at its floor."""

    def __init__(self, features, out):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, out))
        self.register_buffer("outputs", torch.tensor([0.0, -80.0]).repeat_interleave(out // 2))

    def forward(self, x):
        return 1e-20 * x @ self.weight + self.outputs
