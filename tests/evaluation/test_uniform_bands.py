"""Bands of the ECDF of uniform ranks against enumeration, SciPy and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ppl_vae.evaluation.uniform_bands import UniformBands


def counts(ranks, num_draws):
    """Return the number of ranks below 1, ..., L, for each row."""
    return np.stack([(ranks < j).sum(-1) for j in range(1, num_draws + 1)], -1)


def all_counts(number, num_draws):
    """Return those of every possible outcome, all of one probability."""
    outcomes = itertools.product(range(num_draws + 1), repeat=number)
    return counts(np.array(list(outcomes)), num_draws)


def test_tails_are_those_of_binomial_variables():
    bands = UniformBands(40, 9)
    for j, z in enumerate(bands.points):
        k = np.arange(41)
        s = stats.binom(40, z)
        np.testing.assert_allclose(bands.tails[j], np.minimum(s.cdf(k), s.sf(k - 1)), rtol=1e-9)
    assert bands.points.tolist() == pytest.approx([j / 10 for j in range(1, 10)])


@pytest.mark.parametrize(("number", "num_draws"), [(1, 3), (4, 4), (6, 3), (7, 2)])
def test_the_chance_of_staying_inside_is_that_of_all_outcomes(number, num_draws):
    bands, outcomes = UniformBands(number, num_draws), all_counts(number, num_draws)
    for threshold in (1e-4, 0.01, 0.05, 0.2, 0.4):
        low, high = bands.limits(threshold)
        inside = ((outcomes >= low) & (outcomes <= high)).all(1).mean()
        assert bands.inside(threshold) == pytest.approx(inside, abs=1e-12)


def test_a_band_is_the_narrowest_of_its_level():
    bands, outcomes = UniformBands(6, 4), all_counts(6, 4)
    least = np.array([bands.least_tail(row) for row in outcomes])
    for chance in (0.05, 0.2):
        threshold = bands.threshold(chance)
        assert 1 - bands.inside(threshold) <= chance
        above = least[least > threshold].min()  # the next band
        assert 1 - bands.inside(above) > chance
        np.testing.assert_array_equal(
            least > threshold,
            (
                (outcomes >= bands.limits(threshold)[0]) & (outcomes <= bands.limits(threshold)[1])
            ).all(1),
        )


def test_p_values_are_shares_of_all_outcomes():
    bands, outcomes = UniformBands(5, 3), all_counts(5, 3)
    least = np.array([bands.least_tail(row) for row in outcomes])
    for row, tail in zip(outcomes[::97], least[::97], strict=True):
        assert bands.p_value(row) == pytest.approx((least <= tail).mean(), abs=1e-12)


def test_simultaneous_coverage_is_that_of_simulation():
    number, num_draws, simulations = 200, 19, 4000
    bands = UniformBands(number, num_draws)
    low, high = bands.limits(bands.threshold(0.05))
    ranks = np.random.default_rng(0).integers(0, num_draws + 1, (simulations, number))
    found = counts(ranks, num_draws)
    inside = ((found >= low) & (found <= high)).all(1).mean()
    assert bands.inside(bands.threshold(0.05)) == pytest.approx(0.95, abs=0.005)
    assert abs(inside - 0.95) < 4 * math.sqrt(0.95 * 0.05 / simulations)
