"""The inference gap against the closed forms of a linear-Gaussian model."""

import math
from types import SimpleNamespace

import pytest
import torch
from evaluated import as_vae, diagonal, full_rank, hierarchical, unchecked
from pairs import POSTERIORS, C, binary, code_vae, observations, ssvae, vae
from torch import nn

from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.evaluation.gaps import PARTICLES, inference_gap
from ppl_vae.testing import LinearGaussian

N = 12


def spread(pair, x):
    """Return the standard deviation of one draw of the ELBO."""
    with torch.no_grad():
        log_w = ImportanceWeightedELBO(500).log_weights(pair.model, pair.guide, x).log_w
    return log_w.std(0).mean().item()


@pytest.fixture
def oracle(float64):
    return LinearGaussian(4, 3, seed=10)


def approximation_gap(oracle):
    """KL of the best mean-field normal: the exact mean, and the diagonal of the precision Λ.

    ½ (Σ_d log Λ_dd - log |Λ|), the same for all x.
    """
    precision = torch.linalg.inv(oracle._exact_posterior().covariance)
    return 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()


def best_diagonal(oracle):
    exact = oracle._exact_posterior()
    scale = torch.linalg.inv(exact.covariance).diagonal().rsqrt()
    return as_vae(oracle, diagonal(exact.weight, exact.bias, scale))


@unchecked
def test_the_gaps_of_a_diagonal_guide_are_those_in_closed_form(oracle):
    x = torch.randn(N, 4)
    guide = oracle.guide.posterior
    pair = as_vae(oracle, diagonal(guide.weight, guide.bias, guide.log_scale.exp()))
    gap = inference_gap(
        pair, x, log_px=oracle.log_px(x), steps=100, learning_rate=0.2, num_samples=3000
    )
    error = 4 * spread(pair, x) / math.sqrt(3000 * N)
    error_of_best = 4 * spread(best_diagonal(oracle), x) / math.sqrt(3000 * N)
    approximation = approximation_gap(oracle)
    total = (oracle.log_px(x) - oracle.elbo(x)).mean().item()
    assert approximation > 10 * error_of_best  # they can be told apart
    assert total - approximation > 10 * error
    assert gap.approximation.mean == pytest.approx(approximation, abs=error_of_best)
    assert gap.total.mean == pytest.approx(total, abs=error)
    assert gap.amortisation.mean == pytest.approx(total - approximation, abs=2 * error)
    torch.testing.assert_close(
        gap.total.mean, gap.approximation.mean + gap.amortisation.mean, rtol=1e-12, atol=0
    )
    assert "approximation" in str(gap)


@unchecked
def test_the_best_diagonal_guide_has_no_amortisation_gap(oracle):
    x = torch.randn(N, 4)
    pair = best_diagonal(oracle)
    gap = inference_gap(pair, x, log_px=oracle.log_px(x), steps=100, num_samples=2000)
    error = 4 * spread(pair, x) / math.sqrt(2000 * N)
    # The noise of both ELBOs is the same: what is left is what the optimiser lacks.
    assert abs(gap.amortisation.mean) < 0.02 * approximation_gap(oracle)
    assert gap.approximation.mean == pytest.approx(approximation_gap(oracle), abs=error)


def test_the_exact_posterior_has_no_gap_at_all(oracle):
    x = torch.randn(N, 4)
    pair = as_vae(oracle, full_rank(oracle._exact_posterior()))
    gap = inference_gap(pair, x, log_px=oracle.log_px(x), steps=1, num_samples=9)
    torch.testing.assert_close(gap.elbo, oracle.log_px(x).detach(), rtol=0, atol=1e-10)


@unchecked
def test_the_exact_posterior_is_found_from_elsewhere(oracle):
    """The gradient is without noise at the exact posterior, so that only the steps are in the way.

    Adam's are about as long as the learning rate, however small the gradient is, until that falls.
    At δ standard deviations from the exact posterior a draw of the ELBO is off by about δ, the mean
    over n draws by δ / √n, and its expectation by δ² / 2. Here δ is to be below 1e-4.
    """
    x, n = torch.randn(N, 4), 100
    pair = as_vae(oracle, full_rank(oracle._exact_posterior()))
    with torch.no_grad():
        pair.posterior.net.bias += 0.5 * torch.randn(9)
    exact = oracle.log_px(x).detach()
    gap = inference_gap(pair, x, log_px=exact, steps=300, learning_rate=0.2, num_samples=n)
    assert gap.amortisation.mean > 0.5
    torch.testing.assert_close(gap.best_elbo, exact, rtol=0, atol=1e-4 / math.sqrt(n))


# Equal weights have a tail of rounding errors.
@unchecked
@pytest.mark.filterwarnings("ignore:inference_gap")
def test_log_px_is_importance_sampled_by_default(oracle):
    x = torch.randn(N, 4)
    pair = as_vae(oracle, full_rank(oracle._exact_posterior()))
    gap = inference_gap(pair, x, steps=1, num_samples=1)
    torch.testing.assert_close(gap.log_px, oracle.log_px(x).detach(), rtol=0, atol=1e-8)


class Shifted(nn.Module):
    """A program of x - shift."""

    def __init__(self, program):
        super().__init__()
        self.program = program
        self.posterior = getattr(program, "posterior", None)

    def forward(self, x, *, shift):
        self.program(x - shift)


@unchecked
@pytest.mark.filterwarnings("ignore:inference_gap")
def test_log_px_is_that_of_all_that_is_given_by_name(oracle):
    x, shift = torch.randn(N, 4), 10 * torch.randn(N, 4)
    pair = as_vae(oracle, full_rank(oracle._exact_posterior()))
    shifted = SimpleNamespace(model=Shifted(pair.model), guide=Shifted(pair.guide))
    gap = inference_gap(shifted, [{"x": x + shift, "shift": shift}], steps=1, num_samples=1)
    torch.testing.assert_close(gap.log_px, oracle.log_px(x).detach(), rtol=0, atol=1e-8)


def test_too_few_samples_for_pareto_k_are_warned_of(oracle):
    pair, x = as_vae(oracle, full_rank(oracle._exact_posterior())), torch.randn(2, 4)
    with pytest.warns(UserWarning, match="k̂ not computed: .* got importance_samples=24: nothing"):
        inference_gap(pair, x, steps=1, num_samples=1, importance_samples=24)


@unchecked
def test_log_px_does_not_depend_on_the_network(oracle):
    """Sampling from the network's posterior would leave log p(x) far below L[q*]."""
    x = torch.randn(N, 4)
    exact = oracle._exact_posterior()
    off = exact.bias + 4 * exact.covariance.diagonal().sqrt()
    pair = as_vae(oracle, diagonal(0 * exact.weight, off, torch.full((3,), 0.2)))
    with pytest.warns(UserWarning, match=r"inference_gap: Pareto k̂ > 0.7 for \d of 12 data"):
        gap = inference_gap(pair, x, steps=120, learning_rate=0.25)
    error = 4 * spread(best_diagonal(oracle), x) / math.sqrt(1000 * N)
    assert gap.amortisation.mean > 10
    assert gap.approximation.mean == pytest.approx(approximation_gap(oracle), abs=error)
    torch.testing.assert_close(gap.log_px, oracle.log_px(x).detach(), rtol=0, atol=0.1)


FLOWS = ("iaf", "spline flow")


@unchecked
@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        pytest.param(q, p, marks=pytest.mark.slow if p == "vamp" and q in FLOWS else ())
        for q in POSTERIORS
        for p in ("standard", "vamp")
    ],
)
def test_every_posterior_gains_by_optimising_its_outputs(posterior, prior, float64):
    """Also where the prior is made of the same posterior, whose own outputs must stay."""
    pair, x = vae(prior, posterior, "normal"), observations("normal", 4)
    still = inference_gap(pair, x, log_px=torch.zeros(4), steps=1, learning_rate=0.0, num_samples=9)
    torch.testing.assert_close(still.best_elbo, still.elbo, rtol=0, atol=1e-12)
    gap = inference_gap(
        pair, 3 * x, log_px=torch.zeros(4), steps=10, learning_rate=0.1, num_samples=100
    )
    assert (gap.best_elbo > gap.elbo).all()


@unchecked
def test_unobserved_labels_are_optimised_too(float64):
    """The best q(y|x) is softmax_y of the best ELBOs of (x, y), whose logsumexp is the ELBO."""
    pair, x = ssvae(likelihood="normal"), 3 * observations("normal", 2)
    options = {"log_px": torch.zeros(2), "steps": 60, "learning_rate": 0.3, "num_samples": 1000}
    got = inference_gap(pair, x, **options).best_elbo
    given = options | {"log_px": torch.zeros(2 * C)}
    labels = torch.arange(C).repeat_interleave(2)
    each = inference_gap(pair, x.repeat(C, 1), labels, **given).best_elbo.reshape(C, 2)
    # The spread of one draw of the ELBO is about 1 here.
    want, tolerance = each.logsumexp(0), 5 * math.sqrt(2 / 1000)
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance)
    q = pair.classify(x)
    with_given_labels = (q * (each.T - q.log())).sum(-1)
    assert (with_given_labels < want - 2 * tolerance).any()


def test_the_classification_term_is_left_out(float64):
    plain, x, y = ssvae(), binary(4), torch.tensor([0, 1, 2, 1])
    weighted = plain.replace(classification_weight=50.0)
    options = {"log_px": torch.zeros(4), "steps": 3, "num_samples": 30}
    gaps = [inference_gap(pair, x, y, **options) for pair in (plain, weighted)]
    torch.testing.assert_close(gaps[0].elbo, gaps[1].elbo)
    torch.testing.assert_close(gaps[0].best_elbo, gaps[1].best_elbo)


def test_the_pair_is_unchanged():
    pair, x = vae("vamp"), binary(5)
    pair.likelihood.eval()
    before = {name: t.clone() for name, t in pair.state_dict().items()}
    modes, state = [m.training for m in pair.modules()], torch.get_rng_state()
    with torch.no_grad():
        q = pair.posterior(x).mean
    first = inference_gap(pair, x, log_px=torch.zeros(5), steps=5, num_samples=20)
    again = inference_gap(pair, x, log_px=torch.zeros(5), steps=5, num_samples=20)
    other = inference_gap(pair, x, log_px=torch.zeros(5), steps=5, num_samples=20, seed=1)
    assert torch.equal(first.best_elbo, again.best_elbo)
    assert not torch.equal(first.elbo, other.elbo)
    assert all(torch.equal(t, before[name]) for name, t in pair.state_dict().items())
    assert all(p.grad is None for p in pair.parameters())
    assert [m.training for m in pair.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(pair.posterior(x).mean, q)
    assert "outputs" not in vars(pair.posterior)


@unchecked
def test_batches_do_not_change_the_result(float64, monkeypatch):
    pair, x = vae(likelihood="normal"), observations("normal", 4)
    whole = inference_gap(
        pair, x, log_px=torch.zeros(4), steps=15, learning_rate=0.2, num_samples=300
    )
    for module in ("local_posterior", "traced_batch"):
        monkeypatch.setattr(
            f"ppl_vae.evaluation.{module}.row_limit",
            lambda _: 3 * PARTICLES,  # three data, then one
        )
    parts = inference_gap(
        pair, x, log_px=torch.zeros(4), steps=15, learning_rate=0.2, num_samples=300
    )
    # The spread of one draw of the ELBO is below 3 here.
    torch.testing.assert_close(whole.elbo, parts.elbo, rtol=0, atol=5 * 3 * math.sqrt(2 / 300))
    torch.testing.assert_close(
        whole.best_elbo, parts.best_elbo, rtol=0, atol=5 * 3 * math.sqrt(2 / 300)
    )


def test_posteriors_whose_draws_have_no_gradient_are_named():
    for pair, kind in (
        (code_vae(posterior="binary posterior"), "Bernoulli"),
        (code_vae("vectors"), "Delta"),
    ):
        with pytest.raises(NotImplementedError, match=f"inference_gap: .*'z' .* {kind}; use elbo"):
            inference_gap(pair, binary(4), steps=1)


def test_invalid_input_raises(oracle):
    pair, x = vae(), binary(4)
    with pytest.raises(TypeError, match=r"guide\.posterior must be a NeuralConditional"):
        inference_gap(oracle, torch.randn(2, 4))
    with pytest.raises(ValueError, match="log_px must have an entry for each of the 4 data"):
        inference_gap(pair, x, log_px=torch.zeros(3))
    with pytest.raises(ValueError, match="log_px is NaN or infinite at 1 of 4"):
        inference_gap(pair, x, log_px=torch.tensor([0.0, math.nan, 0.0, 0.0]))
    with pytest.raises(ValueError, match="steps must be 1 or more"):
        inference_gap(pair, x, steps=0)
    with pytest.raises(ValueError, match="x must hold at least one datum"):
        inference_gap(pair, x[:0])
    with pytest.raises(ValueError, match="outside the support"):
        inference_gap(pair, x + 0.5)
    with pytest.raises(NotImplementedError, match=r"one continuous latent per datum.* z1, z2"):
        inference_gap(hierarchical(), x)


def test_works_under_no_grad():
    pair, x = vae(), binary(2)
    with torch.no_grad():
        assert inference_gap(pair, x, log_px=torch.zeros(2), steps=3).best_elbo.isfinite().all()
