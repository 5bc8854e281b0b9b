"""The VQ-VAE against its equations, written by hand."""

import warnings

import pyro
import pytest
import torch
from pairs import C, D, W, binary, code_vae, net
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    evaluation,
    likelihoods,
    load,
    posteriors,
    priors,
    save,
)
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO, KLWeighted
from ppl_vae.training import fit

CODES, M = 4, W // 2


def quantised(features=D, width=W, **options):
    return posteriors.VectorQuantised(net(features, width), 2, codes=CODES, code_dim=M, **options)


def pair_of(**options):
    q = quantised(**options)
    p = priors.Codebook(q, priors.Categorical(2, CODES, learn_logits=True))
    return VAE(prior=p, posterior=q, likelihood=likelihoods.Bernoulli(net(W, D)))


def by_hand(pair, x, beta):
    """Return log p(x | z) + log p(k), and the terms of training, per datum."""
    e = pair.posterior.net(x).unflatten(-1, (2, M))
    c = pair.posterior.codebook
    k = (e.unsqueeze(-2) - c).square().sum(-1).argmin(-1)
    z = e + (c[k] - e).detach()
    logits = pair.likelihood.net(z.flatten(-2))
    log_px = (x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()).sum(-1)
    log_pk = pair.prior.codes_prior.logits.log_softmax(-1)[torch.arange(2), k].sum(-1)
    codebook = (e.detach() - c[k]).square().sum((-2, -1))
    commitment = beta * (e - c[k].detach()).square().sum((-2, -1))
    return log_px + log_pk, codebook, commitment


ESTIMATORS = {
    "elbo": Trace_ELBO,
    "elbo of particles": lambda: Trace_ELBO(3, vectorize_particles=True, max_plate_nesting=1),
    "importance weighted": lambda: ImportanceWeightedELBO(3),
    "in chunks": lambda: ImportanceWeightedELBO(3, chunk_size=2),
    "loo": lambda: ImportanceWeightedELBO(3, "loo"),
    "disarm": lambda: ImportanceWeightedELBO(2, "disarm"),
    "vimco": lambda: ImportanceWeightedELBO(3, "vimco"),
    "closed forms": lambda: AnalyticKLELBO(monte_carlo=True),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_objective_and_its_gradient_are_those_of_the_equations(name, float64):
    pair, x = pair_of(commitment=0.3), binary(7).double()
    with torch.no_grad():
        pair.prior.codes_prior.logits.normal_()
    bound, codebook, commitment = by_hand(pair, x, 0.3)
    right = -bound.sum() + codebook.sum() + commitment.sum()
    loss = ESTIMATORS[name]().differentiable_loss(pair.model, pair.guide, x)
    torch.testing.assert_close(loss, right)
    parameters = list(pair.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    for ours, expected in zip(gradients, torch.autograd.grad(right, parameters), strict=True):
        assert expected.any()
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("gradient", ["dreg", "stl", "wake"])
def test_gradients_that_would_miss_the_terms_are_refused(gradient):
    pair, x = pair_of(), binary(7)
    with pytest.raises(NotImplementedError, match=r"'z_codebook' .* term of training"):
        ImportanceWeightedELBO(2, gradient).differentiable_loss(pair.model, pair.guide, x)


def test_a_prior_with_a_density_is_refused():
    q, likelihood = quantised(), likelihoods.Bernoulli(net(W, D))
    with pytest.raises(ValueError, match=r"a codebook, .* use priors.Codebook"):
        VAE(prior=priors.StandardNormal(W), posterior=q, likelihood=likelihood)


@pytest.mark.filterwarnings("ignore:.*Pareto")
def test_evaluation_leaves_the_terms_out(float64):
    pair, x = pair_of(), binary(7).double()
    bound = by_hand(pair, x, 0.25)[0].detach()
    bounds = evaluation.importance_bounds(pair, x, num_particles=(1, 5))
    assert [b.mean for b in bounds.values()] == pytest.approx([-bound.mean().item()] * 2)
    found = evaluation.log_likelihood(pair, x, num_samples=3)
    torch.testing.assert_close(found.log_px, bound)
    terms = evaluation.elbo_terms(pair, x)
    assert terms.nelbo.mean == pytest.approx(-bound.mean().item())


def test_weights_of_a_point_mass_are_no_estimate_of_the_evidence(float64):
    pair, x = pair_of(), binary(7).double()
    with pytest.warns(UserWarning, match="k̂ > 0.7 for 7 of 7 data"):
        found = evaluation.log_likelihood(pair, x, num_samples=30)
    assert found.unreliable == 7
    assert (found.ess == 1).all()
    with pytest.warns(UserWarning, match="k̂"):
        drawn = evaluation.posterior_draws(pair, x, num_samples=30, refine="importance")
    assert not drawn.refined.any()
    assert drawn.unreliable.all()
    assert (drawn.ess == 1).all()
    with pytest.raises(NotImplementedError, match=r"'z' of the guide is Delta; use elbo_terms$"):
        evaluation.inference_gap(pair, x, steps=1)


@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_small_codes_have_not_collapsed_if_they_follow_x(spread, float64):
    pair, x = pair_of(), binary(50).double()
    with torch.no_grad():
        pair.posterior.codebook.normal_().mul_(0.05)  # activities below 0.01
        last = [m for m in pair.posterior.net.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.mul_(spread)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        units = evaluation.latent_units(pair, x)
    assert units.num_active == 0
    assert (units.collapse is None or "uses only" in units.collapse) == (spread == 1)


def test_terms_are_of_the_distribution_and_are_not_weighted_by_beta(float64):
    pair, x = pair_of(commitment=2), binary(7).double()
    _, codebook, commitment = by_hand(pair, x, 2)
    terms = pair.posterior(x).training_terms
    torch.testing.assert_close(terms, {"codebook": codebook, "commitment": commitment})
    trace = pyro.poutine.trace(pair.guide).get_trace(x)
    assert list(trace.stochastic_nodes) == ["data", "z"]
    assert {"z_codebook", "z_commitment"} <= set(trace.observation_nodes)
    loss = KLWeighted(Trace_ELBO(), 0).differentiable_loss(pair.model, pair.guide, x)
    log_px = pair.likelihood(pair.posterior(x).sample()).log_prob(x)
    torch.testing.assert_close(loss, (codebook + commitment - log_px).sum())


def test_the_mass_of_a_quantised_posterior_is_at_the_nearest_vectors(float64):
    q, x = quantised(), binary(7).double()
    z = q(x).sample()
    assert (q(x).log_prob(z) == 0).all()
    assert (q(x).log_prob(z + 1e-9) == -torch.inf).all()
    assert torch.equal(z, q(x).mean)
    e = q.net(x).unflatten(-1, (2, M))
    distance = (e.unsqueeze(-2) - q.codebook).square().sum(-1).amin(-1)
    ours = (e - z.unflatten(-1, (2, M))).square().sum(-1)
    torch.testing.assert_close(ours, distance)


def test_the_gradient_of_the_codes_prior_reaches_nothing_else():
    pair, x = pair_of(), binary(7)
    log_p = pair.prior().log_prob(pair.posterior(x).rsample()).sum()
    gradients = torch.autograd.grad(log_p, list(pair.parameters()), allow_unused=True)
    named = zip(dict(pair.named_parameters()), gradients, strict=True)
    assert [n for n, g in named if g is not None] == ["model.prior.codes_prior.logits"]


def test_the_codes_prior_is_trained_alone_and_generate_draws_from_it(as_users_see_it):
    torch.manual_seed(0)
    first = code_vae("vectors")
    with torch.no_grad():
        first.posterior.codebook.normal_()
    x = torch.eye(D)[torch.tensor([0, 0, 0, 1, 2, 3, 4, 5])]
    prior = priors.Codebook(first.posterior, priors.Categorical(2, CODES, learn_logits=True))
    pair = first.requires_grad_(False).replace(prior=prior)
    before = {n: p.detach().clone() for n, p in pair.named_parameters()}
    fit(
        pair,
        x,
        batch_size=8,
        steps=150,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.2),
        progress=False,
    )
    moved = [n for n, p in pair.named_parameters() if not torch.equal(p, before[n])]
    assert moved == ["model.prior.codes_prior.logits"]
    # The best independent codes have the frequencies of the data's.
    codes = pair.prior().codes_of(pair.posterior(x).sample())
    torch.testing.assert_close(pair.prior().codes.mean, codes.mean(0), rtol=0, atol=0.02)
    drawn = pair.prior().codes_of(pair.prior().sample((2000,)))
    torch.testing.assert_close(drawn.mean(0), codes.mean(0), rtol=0, atol=0.02 + 4 / 2000**0.5 / 2)
    assert pair.generate(3).shape == (3, D)


def test_replace_save_and_load_keep_one_codebook(tmp_path):
    pair = pair_of()
    assert len([p for p in pair.parameters() if p is pair.posterior.codebook]) == 1
    other = pair.replace(posterior=quantised())
    assert other.prior.posterior is other.posterior is not pair.posterior
    assert other.prior.codes_prior is pair.prior.codes_prior
    save(pair, tmp_path / "pair")
    again = load(tmp_path / "pair")
    assert again.prior.posterior is again.posterior
    assert torch.equal(again.posterior.codebook, pair.posterior.codebook)
    with pytest.raises(ValueError, match="built on a posterior other than the pair's"):
        pair.replace(prior=priors.Codebook(quantised()))


def test_terms_are_there_in_every_pair_with_a_posterior(as_users_see_it):
    x, y = binary(7), torch.tensor([0, 1, 2, 0, -1, 1, -1])
    q = quantised(D + C)
    likelihood = likelihoods.Bernoulli(net(W + C, D))
    parts = {"prior": priors.Codebook(q), "posterior": q, "likelihood": likelihood}
    conditional = ConditionalVAE(**parts, num_classes=C)
    labelled = SemiSupervisedVAE(**parts, classifier=net(D, C), num_classes=C)
    top = quantised(W)
    hierarchy = HierarchicalVAE(
        prior=priors.Codebook(top),
        conditionals=[priors.ConditionalNormal(net(W, 2 * W))],
        posteriors=[posteriors.DiagonalNormal(net(D, 2 * W)), top],
        likelihood=likelihoods.Bernoulli(net(W, D)),
    )
    enumerating = TraceEnum_ELBO(max_plate_nesting=1)
    for pair, args, elbos in (
        (conditional, (x, y.abs()), [Trace_ELBO(), ImportanceWeightedELBO(2)]),
        (labelled, (x, y), [enumerating, ImportanceWeightedELBO(2)]),
        (hierarchy, (x,), [Trace_ELBO(), ImportanceWeightedELBO(2)]),
    ):
        for elbo in elbos:
            pair.zero_grad()
            elbo(pair.model, pair.guide)(*args).backward()
            codebook = dict(pair.named_parameters(remove_duplicate=False))
            found = [p.grad for n, p in codebook.items() if n.endswith("codebook")]
            assert found[0].any()
