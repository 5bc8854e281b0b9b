"""Elementary functions of graphs, and their derivatives, have float32's digits."""

import math
import re

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ppl_vae.compilation import CompiledFunction
from ppl_vae.compilation.decompositions import decompositions

ULPS = 4
# torch's derivatives y (1 - y), 1 - y² and y - x are rounded in units of 1.
ROUNDED_AS_ONE = {
    "sigmoid: derivative",
    "tanh: derivative",
    "cross-entropy of 1: derivative",
}


def with_derivative(function):
    """Return a function that gives values and derivatives."""

    def both(x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = function(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    return both


def bernoulli(value):
    def cost(x):
        target = torch.full_like(x, value)
        return F.binary_cross_entropy_with_logits(x, target, reduction="none")

    return cost


FUNCTIONS = {
    "softplus": lambda x: F.softplus(x),
    "softplus, beta 2": lambda x: F.softplus(x, beta=2.0),
    "softplus, threshold 40": lambda x: F.softplus(x, threshold=40.0),
    "log-sigmoid": lambda x: F.logsigmoid(x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "ELU": lambda x: F.elu(x),
    "ELU, alpha 0.3": lambda x: F.elu(x, 0.3),
    "cross-entropy of 0": bernoulli(0.0),
    "cross-entropy of 1": bernoulli(1.0),
}


def operations(function, *arguments):
    graph = make_fx(function, decompositions())(*arguments).graph
    targets = [str(node.target).split(".") for node in graph.nodes if node.op == "call_function"]
    return {name for namespace, name, *_ in targets if namespace == "aten"}


@pytest.mark.inductor
def test_values_and_derivatives_have_the_digits_of_float32():
    x = torch.cat([torch.linspace(-15, 15, 30_001), torch.logspace(-30, 1, 2000)])
    x = torch.cat([x, -x])

    def all_of(x):
        return tuple(t for function in FUNCTIONS.values() for t in with_derivative(function)(x))

    compiled = CompiledFunction(all_of, {}, num_persistent=0, name="functions")
    got = compiled(x)
    assert not compiled.failed
    expected = [t for function in FUNCTIONS.values() for t in with_derivative(function)(x.double())]
    names = [f"{name}: {what}" for name in FUNCTIONS for what in ("value", "derivative")]
    for name, one, other in zip(names, got, expected, strict=True):
        size = torch.ones(()) if name in ROUNDED_AS_ONE else other.abs()
        error = (one.double() - other).abs()
        assert (error <= ULPS * 2.0**-23 * size + 1e-37).all(), name


@pytest.mark.inductor
@pytest.mark.skipif(torch.__version__ < (2, 14), reason="2.8 writes any term of a sum to memory")
def test_a_sum_of_bernoulli_densities_takes_no_memory_for_its_terms():
    from torch import _inductor
    from torch._inductor.utils import run_and_get_code

    x, logits = torch.rand(5, 64).round(), torch.randn(7, 5, 64)

    def log_prob(x, logits):
        x = x.expand_as(logits)
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)

    traced = make_fx(log_prob, decompositions())(x, logits)
    got, (code,) = run_and_get_code(lambda: _inductor.compile(traced, [x, logits])(x, logits))
    torch.testing.assert_close(got, log_prob(x, logits))
    sizes = re.findall(r"empty_strided_cpu\(\(([\d, ]*)\)", code)
    assert {math.prod(map(int, size.strip(", ").split(","))) for size in sizes} == {7 * 5}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_graphs_have_exponentials_and_arithmetic_alone(name):
    found = operations(with_derivative(FUNCTIONS[name]), torch.randn(4))
    torch_own = {"softplus", "log_sigmoid_forward", "sigmoid", "tanh", "elu", "log1p", "expm1"}
    assert not found & {*torch_own, "binary_cross_entropy_with_logits"}


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: F.softplus(x, threshold=5.0), "softplus"),
        (lambda x: F.softplus(x, beta=-1.0), "softplus"),
        (lambda x: F.selu(x), "elu"),
        (
            lambda x: F.binary_cross_entropy_with_logits(x, x, pos_weight=2 * torch.ones(4)),
            "binary_cross_entropy_with_logits",
        ),
        (
            lambda x: F.binary_cross_entropy_with_logits(x, x, reduction="sum"),
            "binary_cross_entropy_with_logits",
        ),
    ],
)
def test_other_variants_stay_as_they_are(function, operation):
    assert operation in operations(function, torch.randn(4))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_double_precision_stays_as_it_is(name):
    x = torch.randn(4, dtype=torch.float64)
    traced = make_fx(with_derivative(FUNCTIONS[name]), decompositions())(x)
    for got, expected in zip(traced(x), with_derivative(FUNCTIONS[name])(x), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_bfloat16_is_computed_in_float32(name):
    x = torch.randn(1000).bfloat16()
    traced = make_fx(FUNCTIONS[name], decompositions())(x)
    assert traced(x).dtype is torch.bfloat16
    torch.testing.assert_close(traced(x), FUNCTIONS[name](x.float()).bfloat16())


def test_networks_of_users_are_decomposed_too():
    network = nn.Sequential(nn.Linear(3, 5), nn.ELU(), nn.Linear(5, 4), nn.Tanh())
    assert not operations(lambda x: network(x), torch.randn(2, 3)) & {"elu", "tanh"}
