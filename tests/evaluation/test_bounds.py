"""Evaluation against closed forms, for every pair."""

import math

import pytest
import torch
from evaluated import within
from pairs import PRIORS, C, binary, ssvae, vae
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.distributions import kl_divergence

from ppl_vae import SemiSupervisedVAE, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.evaluation import Estimate
from ppl_vae.evaluation.bounds import MAX_ROWS
from ppl_vae.testing import LinearGaussian


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("make", [vae, ssvae])
def test_nelbo_is_reconstruction_plus_kl_and_what_pyro_estimates(make, prior, float64):
    pair, x = make(prior), binary(9)
    torch.manual_seed(1)
    terms = evaluation.elbo_terms(pair, x)
    assert terms.nelbo.mean == pytest.approx(terms.reconstruction.mean + terms.kl.mean)
    elbo = Trace_ELBO() if make is vae else TraceEnum_ELBO(max_plate_nesting=1)
    torch.manual_seed(1)
    assert terms.nelbo.mean == pytest.approx(elbo.loss(pair.model, pair.guide, x) / 9, rel=1e-12)


def test_terms_equal_their_closed_forms(float64):
    oracle, x = LinearGaussian(3, 2), torch.randn(6, 3)
    samples = 20_000
    terms = evaluation.elbo_terms(oracle, x, num_samples=samples)
    # the spread of one draw is of the order of the KL's; 5 standard errors
    tolerance = 5 * 3 / math.sqrt(samples)
    exact = (-oracle.elbo(x), -oracle.expected_log_likelihood(x), oracle.kl_to_prior(x))
    for got, want in zip(
        (terms.nelbo, terms.reconstruction, terms.kl), map(Estimate.of, exact), strict=True
    ):
        assert got.mean == pytest.approx(want.mean, abs=tolerance)
        assert got.standard_error == pytest.approx(want.standard_error, abs=tolerance)


def test_the_reconstruction_of_latent_labels_is_their_expectation(float64):
    pair, x = ssvae(), binary(4)
    terms = evaluation.elbo_terms(pair, x, num_samples=4000)
    q = pair.classify(x)
    by_hand = torch.zeros(4)
    for c in range(C):
        one_hot = torch.eye(C)[c].expand(4, C)
        z = pair.posterior(x, one_hot).sample((4000,))
        by_hand -= q[:, c] * pair.likelihood(z, one_hot).log_prob(x).mean(0).detach()
    assert terms.reconstruction.mean == pytest.approx(by_hand.mean().item(), abs=0.02)
    assert terms.kl.mean > 0


LABELS = {
    "given": [0, 1, 2, 1],
    "some": [0, -1, 2, -1],
    "none": [-1, -1, -1, -1],
    "latent": None,
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("labels", LABELS)
def test_a_given_label_is_a_point_mass_whose_kl_is_minus_log_p(labels, float64):
    """Closed forms of a normal likelihood whose mean is a line in z, and of a uniform p(y).

    A datum's terms are the same whether or not others of its batch lack their labels.
    """
    pair = SemiSupervisedVAE(
        prior=priors.StandardNormal(1),
        classifier=nets.MLP(2, C, hidden=(4,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(2 + C, 2, hidden=(4,))),
        likelihood=likelihoods.Normal(nn.Linear(1 + C, 2), scale=1.0),
        num_classes=C,
        classification_weight=2.0,
    )
    x = torch.randn(4, 2)
    y = None if LABELS[labels] is None else torch.tensor(LABELS[labels])
    reconstruction, kl = torch.zeros(4), torch.zeros(4)
    net = pair.likelihood.net
    with torch.no_grad():
        q_y = pair.classify(x)
        if y is not None:
            given = nn.functional.one_hot(y.clamp(min=0), C).double()
            q_y = torch.where(y[:, None] < 0, q_y, given)
        for c in range(C):
            one_hot = torch.eye(C)[c].expand(4, C)
            q_z = pair.posterior(x, one_hot).base_dist
            mean = net(torch.cat([q_z.loc, one_hot], -1))
            wrong = (x - mean).square() + (net.weight[:, 0] * q_z.scale).square()
            reconstruction += q_y[:, c] * (wrong + math.log(2 * math.pi)).sum(-1) / 2
            of_z = kl_divergence(q_z, torch.distributions.Normal(0.0, 1.0)).sum(-1)
            kl += q_y[:, c] * (of_z + math.log(C)) + q_y[:, c].xlogy(q_y[:, c])
    found = []
    for _ in range(30):
        terms = evaluation.elbo_terms(pair, x, *[] if y is None else [y], num_samples=100)
        assert terms.nelbo.mean == pytest.approx(terms.reconstruction.mean + terms.kl.mean)
        found.append([terms.reconstruction.mean, terms.kl.mean])
    assert within(torch.tensor(found).T, torch.stack([reconstruction.mean(), kl.mean()]))


def test_importance_bounds_fall_towards_the_exact_evidence(float64):
    oracle = LinearGaussian(3, 2)
    x = torch.randn(4, 3).repeat(500, 1)
    bounds = evaluation.importance_bounds(oracle, x, num_particles=(1, 10, 200))
    exact = -oracle.log_px(x).mean().item()
    means = [b.mean for b in bounds.values()]
    assert means == sorted(means, reverse=True)
    assert exact - 0.01 < means[-1] < exact + 0.1 * (means[0] - exact)


def test_bounds_at_the_exact_posterior_are_the_evidence_in_every_batch_size(float64):
    oracle = LinearGaussian(3, 2, full_rank=True)
    oracle.set_exact_guide()
    x = torch.randn(7, 3)
    k = MAX_ROWS // 3  # three data at a time, the last batch of one
    bounds = evaluation.importance_bounds(oracle, x, num_particles=(1, k))
    for bound in bounds.values():
        assert bound.mean == pytest.approx(-oracle.log_px(x).mean().item(), rel=1e-12)


BOUNDS = {
    "elbo_terms": evaluation.elbo_terms,
    "importance_bounds": lambda *data: evaluation.importance_bounds(*data, num_particles=(1, 3)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_programs_with_weights_are_refused(name, float64):
    pair, x = LinearGaussian(3, 2, beta=0.2), torch.randn(5, 3)
    with pytest.raises(ValueError, match=f"{name}: .* site 'z' is scaled by 0.2 .poutine.scale"):
        BOUNDS[name](pair, x)


@pytest.mark.parametrize("name", BOUNDS)
def test_the_weight_of_a_subsampled_plate_is_accepted(name, float64):
    oracle, x = LinearGaussian(3, 2, size=70, full_rank=True), torch.randn(5, 3)
    oracle.set_exact_guide()
    found = BOUNDS[name](oracle, x)
    nelbo = found.nelbo if name == "elbo_terms" else found[1]
    assert nelbo.mean == pytest.approx(-oracle.log_px(x).mean().item(), rel=1e-12)


def test_modes_are_restored():
    pair, x = vae(), binary()
    pair.posterior.eval()
    modes = [m.training for m in pair.modules()]
    evaluation.elbo_terms(pair, x)
    assert [m.training for m in pair.modules()] == modes


def test_estimate_of_values():
    estimate = Estimate.of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert estimate.mean == 3.0
    assert estimate.standard_error == pytest.approx(math.sqrt(14 / 3) / 2)
    assert str(estimate) == "3.00 ± 1.08"
