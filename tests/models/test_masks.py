"""Missing entries, imputation and queries: against conditional normals in closed form."""

import math

import pyro
import pytest
import torch
from pairs import C, D, Z, binary, net, observations, ssvae, vae
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    estimators,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.models import imputation

SIGMA = 0.5


def linear(batch=4):
    """A linear-Gaussian VAE, x ~ N(b, W Wᵀ + σ²), with data and a mask."""
    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.MLP(D, 2 * Z, hidden=())),
        likelihood=likelihoods.Normal(nets.MLP(Z, D, hidden=()), SIGMA),
    )
    affine = pair.likelihood.net.layers[0]
    with torch.no_grad():
        affine.weight.copy_(torch.randn(D, Z))
        pair.posterior.net.layers[0].weight.mul_(0.3)
    cov = affine.weight @ affine.weight.T + SIGMA**2 * torch.eye(D)
    x = torch.distributions.MultivariateNormal(affine.bias, cov).sample((batch,))
    mask = torch.tensor([1, 0, 1, 1, 0, 1]).bool().repeat(batch, 1)
    mask[1] = True
    mask[2] = torch.tensor([0, 0, 0, 0, 1, 0]).bool()
    return pair, affine.bias.detach(), cov.detach(), x, mask


def log_px(bias, cov, x, mask):
    """log p(x_observed) of each datum."""
    values = []
    for row, seen in zip(x, mask, strict=True):
        p = torch.distributions.MultivariateNormal(bias[seen], cov[seen][:, seen])
        values.append(p.log_prob(row[seen]))
    return torch.stack(values)


def test_masked_bound_reaches_the_log_density_of_what_is_observed(float64):
    pair, bias, cov, x, mask = linear()
    x[~mask] = math.nan
    weights = estimators.ImportanceWeightedELBO(20_000).log_weights(
        pair.model, pair.guide, x, mask=mask
    )
    log_w = weights.log_w.reshape(20_000, -1)
    estimate = log_w.logsumexp(0) - math.log(len(log_w))
    # delta method for the standard error of a log of a mean
    relative = (log_w - estimate).exp()
    error = relative.std(0) / math.sqrt(len(log_w))
    assert ((estimate - log_px(bias, cov, x, mask)).abs() < 5 * error).all()


def test_masked_elbo_is_the_hand_written_one_and_ignores_what_is_missing(float64):
    pair, _, _, x, mask = linear()
    losses, gradients = [], []
    for filling in (math.nan, 1e6):
        x[~mask] = filling
        torch.manual_seed(2)
        loss = Trace_ELBO()(pair.model, pair.guide)(x, mask=mask)
        losses.append(loss.item())
        gradients.append(torch.autograd.grad(loss, list(pair.parameters())))
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    torch.manual_seed(2)
    q = pair.posterior(torch.where(mask, x, 0.0))
    z = q.rsample()
    elements = torch.distributions.Normal(pair.likelihood.net(z), SIGMA).log_prob(x)
    by_hand = (elements * mask).sum() + pair.prior().log_prob(z).sum() - q.log_prob(z).sum()
    assert losses[0] == pytest.approx(-by_hand.item(), rel=1e-12)


def conditional():
    return ConditionalVAE(
        prior=priors.ConditionalNormal(net(C, 2 * Z)),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )


def hierarchical():
    return HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[priors.ConditionalNormal(net(Z, 2 * 3))],
        posteriors=[
            posteriors.DiagonalNormal(net(D, 2 * 3)),
            posteriors.DiagonalNormal(net(3, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(net(3, D)),
    )


LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2])
PAIRS = {
    "vae": (vae, ()),
    "semi-supervised": (ssvae, ()),
    "semi-supervised, labels": (lambda: ssvae(alpha=2.0), (LABELS,)),
    "semi-supervised, some labels": (
        lambda: ssvae("normal given y"),
        (LABELS.where(LABELS > 0, -1),),
    ),
    "conditional": (conditional, (LABELS,)),
    "hierarchical": (hierarchical, ()),
}


def enum():
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


@pytest.mark.parametrize("name", PAIRS)
def test_a_mask_of_ones_changes_nothing(name, float64):
    make, context = PAIRS[name]
    pair, x = make(), binary()
    values = []
    for kwargs in ({}, {"mask": torch.ones(7, D, dtype=torch.bool)}):
        torch.manual_seed(1)
        values.append(enum().loss(pair.model, pair.guide, x, *context, **kwargs))
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_trains_on_and_imputes_missing_entries(name):
    make, context = PAIRS[name]
    pair, x = make(), binary()
    mask = torch.rand(7, D) < 0.5
    x[~mask] = math.nan
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), enum())
    assert all(math.isfinite(svi.step(x, *context, mask=mask)) for _ in range(3))
    filled = pair.impute(x, mask, *context, num_particles=20)
    assert filled.shape == x.shape
    assert torch.equal(filled[mask], x[mask])
    assert set(filled[~mask].tolist()) <= {0.0, 1.0}
    several = pair.impute(x, mask, *context, num_samples=3, num_particles=20, mean=True)
    assert several.shape == (3, *x.shape)
    missing = several[:, ~mask]
    assert ((missing > 0) & (missing < 1)).all()
    terms = evaluation.elbo_terms(pair, x, *context, mask=mask)
    assert math.isfinite(terms.nelbo.mean)
    bounds = evaluation.importance_bounds(pair, x, *context, mask=mask, num_particles=(1, 5))
    assert math.isfinite(bounds[5].mean)


def test_imputation_draws_from_the_conditional_normal(float64):
    pair, bias, cov, x, mask = linear()
    x[~mask] = math.nan
    draws = pair.impute(x, mask, num_samples=4000, num_particles=4000)
    for datum in (0, 2, 3):
        seen, missing = mask[datum], ~mask[datum]
        gain = cov[missing][:, seen] @ torch.linalg.inv(cov[seen][:, seen])
        mean = bias[missing] + gain @ (x[datum, seen] - bias[seen])
        conditional_cov = cov[missing][:, missing] - gain @ cov[seen][:, missing]
        values = draws[:, datum, missing]
        # resampled from 4,000 weighted particles: their number, not the draws', sets the error
        weights = estimators.ImportanceWeightedELBO(4000).log_weights(
            pair.model, pair.guide, x, mask=mask
        )
        w = torch.softmax(weights.log_w.reshape(4000, -1)[:, datum], 0)
        error = (conditional_cov.diagonal() * (w.square().sum() + 1 / 4000)).sqrt()
        assert ((values.mean(0) - mean).abs() < 5 * error).all()
        ratio = values.var(0) / conditional_cov.diagonal()
        assert (
            (ratio - 1).abs() < 5 * math.sqrt(2) * error / conditional_cov.diagonal().sqrt()
        ).all()


def test_imputation_with_a_label_sums_over_it(float64):
    # z does not matter here, so p(x_missing = 1 | x_observed) is a sum over labels by hand.
    pair, x = ssvae(), binary(3)
    with torch.no_grad():
        layer = pair.likelihood.net.layers[0]
        layer.weight[:, :Z] = 0.0
        pair.likelihood.net.layers[-1].weight.mul_(4)
        pair.classifier.net.layers[-1].weight.mul_(3)
    mask = torch.tensor([[1, 1, 1, 0, 0, 1]]).bool().expand(3, D)
    p = torch.sigmoid(pair.likelihood.net(torch.cat([torch.zeros(C, Z), torch.eye(C)], -1)))
    for datum in range(3):
        seen = torch.where(x[datum] > 0, p, 1 - p)[:, mask[datum]].prod(-1)
        exact = (seen / seen.sum()) @ p[:, ~mask[datum]]
        draws = pair.impute(
            x[datum : datum + 1], mask[:1], num_samples=20_000, num_particles=20_000
        )
        error = 2 * (exact * (1 - exact) / 20_000).sqrt()  # draws' and particles'
        assert ((draws[:, 0, ~mask[datum]].mean(0) - exact).abs() < 5 * error).all()


def test_batches_of_imputation_fill_every_datum(monkeypatch):
    monkeypatch.setattr(imputation, "MAX_ROWS", 100)
    pair, x = vae(), binary(50)
    mask = torch.rand(50, D) < 0.5
    filled = pair.impute(x, mask, num_particles=25)  # batches of 4 data
    assert filled.shape == x.shape
    assert torch.equal(filled[mask], x[mask])


@pytest.mark.usefixtures("as_users_see_it")
def test_training_with_missing_entries_recovers_the_covariance(float64):
    # A linear-Gaussian VAE is factor analysis: with a third of the entries missing, what it says of
    # the pairwise covariance comes close to the truth.
    torch.manual_seed(3)
    pair, bias, cov, _, _ = linear()
    x = torch.distributions.MultivariateNormal(bias, cov).sample((2000,))
    mask = torch.rand(2000, D) < 0.67
    learner = pair.replace(
        posterior=posteriors.DiagonalNormal(nets.MLP(D, 2 * Z, hidden=(32,))),
        likelihood=likelihoods.Normal(nets.MLP(Z, D, hidden=()), SIGMA),
    )
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.05)
    loss = estimators.ImportanceWeightedELBO(5)(learner.model, learner.guide)
    for _ in range(150):
        optimizer.zero_grad()
        chosen = torch.randint(2000, (200,))
        loss(x[chosen], mask=mask[chosen]).backward()
        optimizer.step()
    weight = learner.likelihood.net.layers[0].weight
    learned = weight @ weight.T + SIGMA**2 * torch.eye(D)
    untrained = SIGMA**2 * torch.eye(D)
    assert (learned - cov).norm() < 0.25 * (untrained - cov).norm()


@pytest.mark.parametrize("likelihood", ["categorical", "poisson", "continuous bernoulli"])
def test_other_likelihoods_leave_missing_entries_out(likelihood, float64):
    pair, x = vae(likelihood=likelihood), observations(likelihood)
    mask = torch.rand(7, D) < 0.5
    torch.manual_seed(0)
    loss = Trace_ELBO().loss(pair.model, pair.guide, torch.where(mask, x, math.nan), mask=mask)
    torch.manual_seed(0)
    q = pair.posterior(torch.where(mask, x, 0.0))
    z = q.sample()
    elements = pair.likelihood(z).base_dist.log_prob(x) * mask
    by_hand = elements.sum() + (pair.prior().log_prob(z) - q.log_prob(z)).sum()
    assert loss == pytest.approx(-by_hand.item(), rel=1e-9)


def test_drawing_data_and_conditioning_sites():
    pair = vae("mixture")
    draws = Predictive(pair.model, num_samples=50, parallel=True)(size=3)
    assert draws["x"].shape == (50, 3, D)
    z = torch.full((9, Z), 2.0)
    trace = pyro.poutine.trace(pyro.condition(pair.model, data={"z": z})).get_trace(size=9)
    torch.testing.assert_close(trace.nodes["x"]["fn"].mean, pair.likelihood(z).mean)
    labelled = ssvae("normal given y")
    y = torch.tensor([2, 0, 1, 1])
    trace = pyro.poutine.trace(pyro.condition(labelled.model, data={"y": y})).get_trace(size=4)
    expected = labelled.prior(torch.nn.functional.one_hot(y, C).float())
    torch.testing.assert_close(trace.nodes["z"]["fn"].mean, expected.mean)
    assert pyro.poutine.trace(labelled.model).get_trace(y=y).nodes["x"]["value"].shape == (4, D)
    assert pyro.poutine.trace(conditional().model).get_trace(c=y).nodes["x"]["value"].shape == (
        4,
        D,
    )


@pytest.mark.usefixtures("as_users_see_it")
def test_the_posterior_of_a_conditioned_model_by_mcmc(float64):
    # Any inference of Pyro's works on the model: here a query by Hamiltonian Monte Carlo.
    pair, bias, cov, x, _ = linear()
    kernel = pyro.infer.mcmc.HMC(pair.model, trajectory_length=1.0, jit_compile=False)
    mcmc = pyro.infer.mcmc.MCMC(kernel, 200, warmup_steps=100, disable_progbar=True)
    pair.requires_grad_(False)
    mcmc.run(x[:1])
    weight = pair.likelihood.net.layers[0].weight
    gain = weight.T @ torch.linalg.inv(cov)
    exact = gain @ (x[0] - bias)
    spread = (torch.eye(Z) - gain @ weight).diagonal().sqrt()
    z = mcmc.get_samples()["z"].reshape(200, Z)
    # 200 draws count for at least 40 independent ones here
    assert ((z.mean(0) - exact).abs() < 5 * spread / math.sqrt(40)).all()


BAD = {
    "a mask of floats": ({"mask": torch.ones(7, D)}, TypeError, "expected a boolean mask of shape"),
    "a mask of another shape": (
        {"mask": torch.ones(D, dtype=torch.bool)},
        ValueError,
        r"mask of shape \(7, 6\).*expand_as",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("program", ["model", "guide", "impute"])
def test_bad_masks(case, program, as_users_see_it):
    kwargs, error, message = BAD[case]
    with pytest.raises(error, match=message):
        getattr(vae(), program)(binary(), **kwargs)


def test_bad_queries(as_users_see_it):
    pair, x = vae(), binary()
    with pytest.raises(ValueError, match="give x with it"):
        pair.model(mask=torch.ones(7, D, dtype=torch.bool))
    with pytest.raises(ValueError, match="leave one of them out"):
        pair.model(x, size=7)
    with pytest.raises(ValueError, match="size must be 1 or more"):
        pair.model(size=0)
    x[0, 0] = math.nan
    with pytest.raises(ValueError, match="non-finite"):
        pair.model(x, mask=torch.ones(7, D, dtype=torch.bool))


def test_a_likelihood_that_does_not_factorise_cannot_be_masked():
    class Joint(likelihoods.Normal):
        def forward(self, z):
            mean = self.outputs(z)
            return pyro.distributions.MultivariateNormal(mean, torch.eye(D))

    pair = vae().replace(likelihood=Joint(net(Z, D)))
    with pytest.raises(NotImplementedError, match="Joint likelihood does not factorise"):
        pair.model(torch.randn(7, D), mask=torch.ones(7, D, dtype=torch.bool))
