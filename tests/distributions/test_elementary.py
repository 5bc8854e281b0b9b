"""Elementary functions have float32's digits over their whole range."""

import math

import pytest
import torch
from torch.nn import functional as F

from ppl_vae.distributions import elementary

ULPS = 3
"""Units in the last place of the exact result, as the module says."""


def arguments():
    """Return float32 numbers of all sizes, dense where functions change their form."""
    sizes = torch.logspace(-37, 38, 20_001, dtype=torch.float64)
    dense = torch.linspace(-100, 100, 400_001, dtype=torch.float64)
    edges = torch.linspace(0.45, 0.6, 50_001, dtype=torch.float64)
    return torch.cat([sizes, -sizes, dense, edges, -edges]).float()


def ulps(got, exact):
    """Return errors in units in the last place, where results are normal numbers."""
    normal = exact.abs() >= torch.finfo(torch.float32).tiny
    unit = torch.exp2(exact.abs().log2().floor() - 23)
    return ((got.double() - exact) / unit)[normal & exact.isfinite()].abs()


def softplus(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def log_sigmoid(x):
    return -softplus(-x)


FUNCTIONS = {
    "softplus": (elementary.softplus, softplus),
    "log_sigmoid": (elementary.log_sigmoid, log_sigmoid),
    "sigmoid": (elementary.sigmoid, torch.sigmoid),
    "tanh": (elementary.tanh, torch.tanh),
    "elu": (elementary.elu, F.elu),
    "black": (lambda x: elementary.bernoulli_log_prob(x, x * 0), lambda x: log_sigmoid(-x)),
    "white": (lambda x: elementary.bernoulli_log_prob(x, x * 0 + 1), log_sigmoid),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_are_within_three_units_in_the_last_place(name):
    function, exact = FUNCTIONS[name]
    x = arguments()
    assert ulps(function(x), exact(x.double())).max() <= ULPS


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("black", "white")])
def test_infinities_give_limits_and_nan_gives_nan(name):
    function, exact = FUNCTIONS[name]
    x = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0])
    torch.testing.assert_close(function(x), exact(x.double()).float(), equal_nan=True)


def test_log1p_exp_minus_is_right_for_all_numbers_that_are_not_negative():
    x = arguments().abs()
    exact = torch.log1p(torch.exp(-x.double()))
    assert ulps(elementary.log1p_exp_minus(x), exact).max() <= ULPS


def test_probabilities_of_a_bernoulli_sum_to_one():
    logits = torch.linspace(-100, 100, 20_001)
    both = [elementary.bernoulli_log_prob(logits, torch.full_like(logits, x)) for x in (0.0, 1.0)]
    total = torch.logsumexp(torch.stack(both).double(), 0)
    assert total.abs().max() < 4 * torch.finfo(torch.float32).eps


def test_values_between_zero_and_one_are_weighted():
    logits, value = torch.randn(1000), torch.rand(1000)
    exact = -F.binary_cross_entropy_with_logits(logits.double(), value.double(), reduction="none")
    torch.testing.assert_close(
        elementary.bernoulli_log_prob(logits, value).double(), exact, rtol=1e-6, atol=1e-6
    )
