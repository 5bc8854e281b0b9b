"""Pairs of discrete latents: bounds and gradients against sums over all codes."""

import math

import pyro
import pytest
import torch
from pairs import CODE_PRIORS, LIKELIHOODS, D, W, Z, binary, code_vae, net, vae, values_of
from pairwise import cross
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

from ppl_vae import VAE, evaluation, likelihoods, posteriors, priors, tables
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO
from ppl_vae.training import compile_step

K = 3
CODES = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * K)


def pair_of(posterior, prior=priors.Bernoulli):
    return VAE(
        prior=prior(K, learn_logits=True) if prior is priors.Bernoulli else prior(K),
        posterior=posterior(net(D, K)),
        likelihood=likelihoods.Bernoulli(net(K, D)),
    )


def exact(pair, x):
    """Return the ELBO and log p(x) as sums over the codes."""
    z = CODES.to(x).unsqueeze(1).expand(-1, len(x), -1)
    log_p = pair.prior().log_prob(z) + pair.likelihood(z).log_prob(x)
    log_q = pair.posterior(x).log_prob(z)
    return (log_q.exp() * (log_p - log_q)).sum(0), log_p.logsumexp(0)


POSTERIORS = {"bernoulli": posteriors.Bernoulli, "relaxed": posteriors.RelaxedBernoulli}


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize(
    "prior", [priors.Bernoulli, priors.Autoregressive], ids=lambda p: p.__name__
)
def test_bounds_are_those_of_the_discrete_model(posterior, prior, float64):
    pair, x = pair_of(POSTERIORS[posterior], prior), binary(4).double()
    with torch.no_grad():
        elbo, log_px = exact(pair, x)
        one = ImportanceWeightedELBO(2000).log_weights(pair.model, pair.guide, x).log_w
    off = (one.mean(0).squeeze() - elbo).abs()
    assert (off < 4 * one.std(0).squeeze() / math.sqrt(2000)).all()
    found = evaluation.log_likelihood(pair, x, num_samples=2000)
    assert ((found.log_px - log_px).abs() < 4 * found.standard_error + 1e-9).all()


def test_the_closed_form_of_the_kl_is_exact(float64):
    pair, x = pair_of(posteriors.RelaxedBernoulli), binary(4).double()
    estimators = [e(num_particles=3000) for e in (AnalyticKLELBO,)]
    estimators.append(TraceMeanField_ELBO(3000, vectorize_particles=True, max_plate_nesting=1))
    for estimator in estimators:
        with torch.no_grad():
            losses = [float(estimator.loss(pair.model, pair.guide, x)) for _ in range(10)]
        losses = torch.tensor(losses)
        assert abs(losses.mean() + exact(pair, x)[0].sum()) < 4 * losses.std() / math.sqrt(10)


SCORED = {
    "Pyro's": lambda: Trace_ELBO(500, vectorize_particles=True, max_plate_nesting=1),
    "loo": lambda: AnalyticKLELBO(500, gradient="loo"),
    "disarm": lambda: AnalyticKLELBO(500, gradient="disarm"),
}


@pytest.mark.parametrize("name", SCORED)
def test_gradients_of_draws_without_one_are_unbiased(name, float64):
    # Against the derivative of the sum over all codes.
    pair, x = pair_of(posteriors.Bernoulli), binary(4).double()
    parameters = list(pair.posterior.parameters())
    right = torch.autograd.grad(-exact(pair, x)[0].sum(), parameters)
    elbo = SCORED[name]()
    draws = []
    for _ in range(30):
        loss = elbo.differentiable_loss(pair.model, pair.guide, x)
        draws.append(torch.autograd.grad(loss, parameters))
    for estimates, gradient in zip(zip(*draws, strict=True), right, strict=True):
        of = torch.stack(estimates)
        assert ((of.mean(0) - gradient).abs() < 5 * of.std(0) / math.sqrt(30) + 1e-12).all()


def test_the_relaxed_gradient_descends(float64):
    """Near the exact gradient, though biased."""
    pair, x = pair_of(posteriors.RelaxedBernoulli), binary(4).double()
    parameters = list(pair.posterior.parameters())
    right = torch.autograd.grad(-exact(pair, x)[0].sum(), parameters)
    elbo = AnalyticKLELBO(20_000)
    ours = torch.autograd.grad(elbo.differentiable_loss(pair.model, pair.guide, x), parameters)
    one, other = (torch.cat([g.flatten() for g in grads]) for grads in (right, ours))
    assert torch.cosine_similarity(one, other, dim=0) > 0.95


def test_latents_are_encoded_as_probabilities():
    pair, x = code_vae(posterior="binary posterior"), binary(5)
    assert torch.equal(pair.encode(x), pair.posterior(x).base_dist.probs)
    pair = code_vae(posterior="one-hot posterior")
    z = pair.encode(x)
    torch.testing.assert_close(z.unflatten(-1, (2, 3)).sum(-1), torch.ones(5, 2))
    assert pair.decode(z).shape == pair.reconstruct(x).shape == pair.generate(5).shape == (5, D)


# Every prior with the posteriors over its values.

ELBO = {
    "elbo": Trace_ELBO,
    "importance weighted": lambda: ImportanceWeightedELBO(3),
    "dreg": lambda: ImportanceWeightedELBO(1, "dreg"),
    "stl": lambda: ImportanceWeightedELBO(2, "stl"),
    "closed form or not": lambda: AnalyticKLELBO(monte_carlo=True),
}


def step_by_svi(pair, estimator, x):
    return SVI(pair.model, pair.guide, pyro.optim.SGD({"lr": 0.1}), estimator).step(x)


def step_as_module(pair, estimator, x):
    bound = estimator(pair.model, pair.guide)
    optimizer = torch.optim.SGD(bound.parameters(), lr=0.1)
    loss = bound(x)
    loss.backward()
    optimizer.step()
    return loss.item()


ROUTES = {"svi": step_by_svi, "module": step_as_module}


@cross(prior=CODE_PRIORS, likelihood=["bernoulli", "normal"], estimator=ELBO, route=ROUTES)
def test_every_prior_trains(prior, likelihood, estimator, route, as_users_see_it):
    cut = estimator in ("dreg", "stl")
    pair, x = code_vae(prior, likelihood=likelihood), binary(4)
    if cut and values_of(prior) == "vectors":
        return  # refused, see test_vq_vae.py
    before = {n: p.detach().clone() for n, p in pair.named_parameters()}
    assert math.isfinite(ROUTES[route](pair, ELBO[estimator](), x))
    assert not [n for n, p in pair.named_parameters() if torch.equal(p, before[n])]
    assert all(p.isfinite().all() for p in pair.parameters())


@pytest.mark.parametrize("prior", ["binary", "one-hot autoregressive", "vectors, learned"])
def test_a_compiled_step_is_an_uncompiled_one(prior, as_users_see_it, monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    weights = []
    for compiled in (True, False):
        pyro.set_rng_seed(0)
        pair, x = code_vae(prior), binary(4)
        optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
        estimator = ImportanceWeightedELBO(2, max_plate_nesting=1)
        step = compile_step(pair, estimator, optimizer)
        pyro.set_rng_seed(1)
        for _ in range(2):
            if compiled:
                step(x)
            else:
                optimizer.zero_grad()
                (estimator.differentiable_loss(pair.model, pair.guide, x) / len(x)).backward()
                optimizer.step()
        weights.append(list(pair.parameters()))
    for ours, right in zip(*weights, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prior", CODE_PRIORS)
def test_no_value_is_read_on_the_device(prior):
    """A look at a value on the device ("meta" has none) would be an error."""
    pyro.enable_validation(False)
    pair, x = code_vae(prior).to("meta"), torch.zeros(4, D, device="meta")
    for estimator in (ImportanceWeightedELBO(2), AnalyticKLELBO(monte_carlo=True)):
        estimator.differentiable_loss(pair.model, pair.guide, x).backward()


# Other values of the latent.


def test_a_discrete_latent_takes_the_place_of_a_continuous_one():
    before = vae()
    q, p = posteriors.Bernoulli(net(D, Z)), priors.Bernoulli(Z)
    pair = before.replace(prior=p, posterior=q)
    assert pair.likelihood is before.likelihood
    assert pair.generate(3).shape == (3, D)
    for changes in ({"prior": p}, {"posterior": q}):
        with pytest.raises(ValueError, match="must both be discrete or both continuous"):
            before.replace(**changes)


def test_codes_of_other_values_are_refused():
    likelihood = LIKELIHOODS["bernoulli"](W - Z)
    q = posteriors.Bernoulli(net(D, W))
    for name in CODE_PRIORS:
        if values_of(name) == "one-hot":
            with pytest.raises(ValueError, match="posterior must draw values in the support of"):
                VAE(prior=CODE_PRIORS[name](None), posterior=q, likelihood=likelihood)


def test_tables_have_codes_of_several_entries():
    from functools import partial

    import numpy as np

    table = np.random.default_rng(0).normal(size=(30, 2))
    fitted = tables.fit(
        table,
        latent_dim=2,
        prior=priors.Categorical(2, 3),
        posterior=partial(posteriors.RelaxedOneHotCategorical, categories=3),
        hidden=(4,),
        steps=2,
    )
    assert fitted.transform(table).shape == (30, 6)


def test_the_default_gradient_names_the_distribution_and_the_ways_out():
    pair = code_vae(posterior="binary posterior")
    with pytest.raises(
        NotImplementedError, match=r"'z' of the guide, Bernoulli, .*'vimco'"
    ) as error:
        ImportanceWeightedELBO(1).differentiable_loss(pair.model, pair.guide, binary(3))
    assert "enumerate'" not in str(error.value)  # of 2^6 values
