"""A graph is right for every input that its key allows, however the first one lay in memory."""

import pytest
import torch
from torch import nn

from ppl_vae.compilation import CompiledFunction, compiled_function
from ppl_vae.labels import Labels

pytestmark = pytest.mark.usefixtures("as_users_see_it")
X, C = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def eager(monkeypatch):
    """Run the traced graph as it is, not through Inductor; count the graphs."""
    made = []

    def as_it_is(graph, **options):
        made.append(graph)
        return graph

    monkeypatch.setattr(compiled_function, "inductor", as_it_is)
    return made


def compiled(function, module):
    return CompiledFunction(function, {"module": module}, num_persistent=1, name="a function")


def check(graph, function, *tensors):
    torch.testing.assert_close(graph(*tensors), function(*tensors))
    assert not graph.failed


def test_an_input_may_be_another_input_or_a_tensor_of_a_module_at_the_first_call(eager):
    layer = nn.Linear(6, 6)
    layer.register_buffer("shift", torch.ones(5, 6))

    def function(x, c):
        return ((layer(x) * c + 2 * layer.shift).sum(-1).detach(),)

    for first in ((X, X), (layer.shift, C), (layer.shift, layer.shift)):
        graph = compiled(function, layer)
        for pair in (first, (X, C), (X, X)):
            check(graph, function, *pair)
    assert len(eager) == 3


def test_labels_that_are_also_another_input_at_the_first_call(eager):
    labels = Labels(3)

    def function(y, numbers):
        missing = labels.check(y, len(y))
        return (numbers / 2 if missing else numbers / 3 + y,)

    graph = compiled(function, nn.Identity())
    y = torch.arange(5) % 3
    for pair in ((y, y), (y, y + 10), (y - 1, y + 10)):
        check(graph, function, *pair)


@pytest.mark.parametrize("name", ["x", "weight"])
def test_gradients_with_respect_to_what_is_an_input_too(name, eager):
    layer = nn.Linear(6, 5)

    def function(x):
        with torch.enable_grad():
            loss = (layer.weight * x).square().sum() + (x * x).sum()
            of = {"x": x, "weight": layer.weight}[name]
            return torch.autograd.grad(loss, [of])

    graph = compiled(function, layer)
    for x in (X.clone().requires_grad_(), C.clone().requires_grad_()):
        check(graph, function, x)


def test_a_parameter_as_an_input_that_gradients_flow_through(eager):
    layer = nn.Linear(6, 5)

    def function(x):
        with torch.enable_grad():
            return torch.autograd.grad((layer.weight * x).sum(), [layer.weight])

    graph = compiled(function, layer)
    with pytest.warns(compiled_function.NotCompiledWarning):
        results = [graph(layer.weight), graph(X)]
    torch.testing.assert_close(results, [(2 * layer.weight.detach(),), (X,)])


def test_in_inference_mode(eager):
    layer = nn.Linear(6, 6)

    def function(x):
        return (layer(x).sum(-1).detach(),)

    graph = compiled(function, layer)
    with torch.inference_mode():
        for x in (X, X + 1):
            check(graph, function, x)
    check(graph, function, C)


@pytest.mark.inductor
def test_inputs_and_parameters_may_have_other_strides():
    layer = nn.Linear(6, 3)

    def function(x):
        return (layer(x).relu().sum(-1).detach(),)

    graph = compiled(function, layer)
    column = torch.empty_strided((5, 6), (1, 5)).copy_(X)
    for x in (X, column, X[:1], column[:1].as_strided((1, 6), (77, 1))):
        check(graph, function, x)
    layer.weight.data = torch.empty_strided((3, 6), (1, 3)).copy_(layer.weight.data)
    check(graph, function, X)


def test_strides_that_do_not_matter_need_no_new_graph(eager):
    layer = nn.Linear(6, 3)

    def function(x):
        return (layer(x).sum(-1).detach(),)

    graph = compiled(function, layer)
    for x in (X[:1], X[:1].as_strided((1, 6), (77, 1)), C[1:2]):
        check(graph, function, x)
    assert len(eager) == 1
    layer.weight.data = torch.empty_strided((3, 6), (1, 3)).copy_(layer.weight.data)
    check(graph, function, X[:1])
    assert len(eager) == 2


def test_functions_of_integers_alone(eager):
    def function(x):
        return (x.sum(-1) % 3,)

    graph = compiled(function, nn.Identity())
    check(graph, function, X.long())
    assert len(eager) == 1
