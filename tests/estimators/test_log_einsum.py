"""Sums of products in logarithms against the sums themselves, in float64."""

import math

import pytest
import torch
from opt_einsum import contract

from ppl_vae.estimators import log_einsum

SIZES = {"a": 2, "b": 3, "c": 4, "d": 1}
EQUATIONS = [
    "ab->ab",
    "ab->ba",
    "abc->b",
    "ab,bc->ac",
    "ab,ab->",
    "a,b->ba",
    "ab,bc,c->a",
    "abd,db,ca->d",
]


def factors(equation):
    names = equation.split("->")[0].split(",")
    return [torch.randn([SIZES[s] for s in name], requires_grad=True) for name in names]


@pytest.mark.parametrize("equation", EQUATIONS)
def test_sums_and_derivatives_are_those_of_products(float64, equation):
    terms = factors(equation)
    expected = torch.einsum(equation, *(term.exp() for term in terms)).log()
    slopes = torch.autograd.grad(expected.sum(), terms)
    for found in (
        log_einsum.einsum(equation, *terms),
        contract(equation, *terms, backend=log_einsum.__name__),
    ):
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found.sum(), terms), slopes)


@pytest.mark.parametrize("nats", [1e2, 1e4, 1e6])
def test_nothing_underflows(nats):
    one, other = torch.tensor([0.0, -nats]), torch.tensor([-nats, 0.0])
    found = contract("a,a->", one, other, backend=log_einsum.__name__)
    torch.testing.assert_close(found, torch.tensor(-nats + math.log(2)))


def test_what_is_impossible_is_minus_infinity_with_derivative_zero():
    one = torch.tensor([0.0, -math.inf], requires_grad=True)
    found = log_einsum.einsum("a,a->", one, torch.tensor([-math.inf, 0.0]))
    assert found == -math.inf
    assert torch.autograd.grad(found, one)[0].tolist() == [0.0, 0.0]
