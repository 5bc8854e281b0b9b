"""Shift and width of ranks against the normals that they were drawn from."""

import math

import pytest
import torch

from ppl_vae.evaluation import rank_fit
from ppl_vae.evaluation.rank_fit import fit_ranks


def ranks_of(shift, width, num_draws, number):
    truth = shift + width * torch.randn(number, 1, dtype=torch.float64)
    return (torch.randn(number, num_draws, dtype=torch.float64) < truth).sum(1)


@pytest.mark.parametrize(
    ("shift", "width", "num_draws"),
    [(0.0, 1.0, 99), (0.0, 1.1, 99), (-0.3, 1.0, 50), (1.0, 3.0, 9), (0.5, 0.1, 99), (0.0, 8.0, 3)],
)
def test_shift_and_width_are_found(shift, width, num_draws):
    fit = fit_ranks(ranks_of(shift, width, num_draws, 4000), num_draws)
    assert abs(fit.shift - shift) < 4 * fit.shift_error
    assert abs(fit.log_width - math.log(width)) < 4 * fit.log_width_error
    # as precise as the ranks allow, and not more: a normal sample has 1/√n and 1/√(2n)
    assert fit.shift_error > 0.99 * width / math.sqrt(4000)
    assert fit.log_width_error > 0.99 / math.sqrt(8000)


def test_standard_errors_and_scores_are_those_of_repetitions(as_users_see_it):
    fits = [fit_ranks(ranks_of(0.2, 1.3, 19, 200), 19) for _ in range(50)]
    for value, error in (("shift", "shift_error"), ("log_width", "log_width_error")):
        spread = torch.tensor([getattr(f, value) for f in fits]).std().item()
        claimed = sum(getattr(f, error) for f in fits) / len(fits)
        assert spread == pytest.approx(claimed, rel=4 / math.sqrt(2 * 49))
    uniform = [fit_ranks(torch.randint(20, (200,)), 19) for _ in range(50)]
    for score in ("shift_score", "width_score"):
        values = torch.tensor([getattr(f, score) for f in uniform])
        assert abs(values.mean()) < 4 / math.sqrt(50)
        assert values.std().item() == pytest.approx(1, abs=4 / math.sqrt(2 * 49))


def test_information_is_the_expected_curvature(float64):
    """Gradient and information against differences of the log-likelihood."""
    at = torch.tensor([0.3, -0.2])
    edges, binomial = rank_fit._binomial(9)

    def log_p(at):
        mass = torch.special.ndtr((edges - at[0]) / at[1].exp()).diff()
        return (binomial @ mass).log()

    counts = 500 * log_p(at).exp()  # as expected at these values
    value, gradient, information = rank_fit._likelihood(counts, at)
    assert value == pytest.approx(float(counts @ log_p(at)))
    torch.testing.assert_close(gradient, torch.zeros(2), atol=1e-8, rtol=0)
    step = 1e-5 * torch.eye(2)

    def slope(weights, of):
        return torch.stack([(of(at + h, weights) - of(at - h, weights)) / 2e-5 for h in step])

    curvature = slope(counts, lambda at, w: rank_fit._likelihood(w, at)[1])
    torch.testing.assert_close(information, -curvature, rtol=1e-6, atol=1e-4)
    other = torch.rand(10)
    found = rank_fit._likelihood(other, at)[1]
    torch.testing.assert_close(slope(other, lambda at, w: w @ log_p(at)), found)


@pytest.mark.parametrize("rank", [0, 99])
def test_ranks_that_are_all_extreme_have_a_finite_fit(rank):
    fit = fit_ranks(torch.full((500,), rank), 99)
    assert fit.shift_score == pytest.approx(math.copysign(fit.shift_score, rank - 50))
    assert abs(fit.shift_score) > 10
    assert abs(fit.width_score) < 3
    halves = torch.tensor([0, 99]).repeat(250)
    assert fit_ranks(halves, 99).width_score > 10
    middle = fit_ranks(torch.full((500,), 50), 99)
    assert middle.width_score < -10
