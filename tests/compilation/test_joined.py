"""A matrix meets its rows at once: with the result of several products, on the same draws."""

import pyro
import pytest
import torch
from pairs import POSTERIORS, PRIORS, binary, vae
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ppl_vae import (
    SemiSupervisedVAE,
    data,
    estimators,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.compilation.joined import joined
from ppl_vae.compilation.operations import draws
from ppl_vae.labels import assume_checked
from ppl_vae.training.distributed import Processes
from ppl_vae.training.objective import Objective
from ppl_vae.training.schedules import Scheduled

pytestmark = pytest.mark.usefixtures("float64")


def products(graph):
    """Return the numbers of rows that are summed over or multiplied, product by product."""
    names = ("mm.default", "addmm.default")
    found = [n for n in graph.graph.nodes if getattr(n.target, "__name__", "") in names]
    return [tuple(a.meta["val"].shape for a in n.args[-2:] if "val" in a.meta) for n in found]


def assert_same(traced, inputs):
    """Check that joining changes nothing but the products, and return the graph."""
    graph = joined(traced)
    graph.graph.lint()
    torch.manual_seed(1)
    expected, state = traced(*inputs), torch.get_rng_state()
    torch.manual_seed(1)
    got = graph(*inputs)
    assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    return graph


def traced(function, *inputs):
    return make_fx(function)(*inputs), inputs


def gradients_of(loss_of, parameters):
    """Return a function that returns a loss and its gradients."""

    def function(*inputs):
        loss = loss_of(*inputs)
        return (loss.detach(), *torch.autograd.grad(loss, parameters))

    return function


def step_of(pair, estimator, *parts):
    """Return a step's objective and gradients, traced, of parts of the data, and its inputs."""
    objective = Objective(pair, Scheduled(estimator, None, None, None), parts[0])
    parameters = list(pair.parameters())
    inputs = [tensor for part in parts for tensor in part.args]

    def function(*tensors):
        rest = iter(tensors)
        given = [data.Part(p.name, tuple(next(rest) for _ in p.args), p.weight) for p in parts]
        loss, losses = objective(Processes().share(tuple(given)))
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return (loss.detach(), losses, *(g for g in found if g is not None))

    # No label is missing, and a graph cannot look; nor is a first look at the plates part of it.
    with pyro.validation_enabled(False), assume_checked(*((t, False) for t in inputs)):
        function(*inputs)
        return make_fx(function)(*inputs), inputs


def labelled_and_not():
    """Return a pair, and data without labels and with: 6 and 3 rows of 40."""
    pair = SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=nets.MLP(40, 3, hidden=(50,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(40 + 3, 4, hidden=(50,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2 + 3, 40, hidden=(50,))),
        num_classes=3,
        classification_weight=2.0,
    )
    x = (torch.rand(9, 40) < 0.5).double()
    return (
        pair,
        data.Part("unlabelled", (x[:6],), 1.0),
        data.Part("labelled", (x[6:], torch.tensor([0, 2, 1])), 0.5),
    )


def test_parts_with_and_without_labels_share_their_products():
    pair, *parts = labelled_and_not()
    step, inputs = step_of(pair, estimators.AnalyticKLELBO(), *parts)
    graph = assert_same(step, inputs)
    apart = [len(products(step_of(pair, estimators.AnalyticKLELBO(), part)[0])) for part in parts]
    assert len(products(step)) == sum(apart)
    # Where rows are smaller than the matrix. Forwards: the classifier's first layer, the
    # posterior's for x and y, the likelihood's for z and y and its second. Backwards: gradients of
    # hidden units in all three, and of the matrices that meet x or give its logits.
    assert len(products(graph)) == len(products(step)) - (6 + 3 + 3)


def test_parts_of_several_particles():
    pair, *parts = labelled_and_not()
    step, inputs = step_of(pair, estimators.ImportanceWeightedELBO(3), *parts)
    assert len(products(assert_same(step, inputs))) < len(products(step))


PARTS = [*(("prior", name) for name in PRIORS), *(("posterior", name) for name in POSTERIORS)]
SLOW = ("spline", "maf", "spline flow")


@pytest.mark.parametrize(
    ("kind", "name"),
    [p if p[1] not in SLOW else pytest.param(*p, marks=pytest.mark.slow) for p in PARTS],
)
def test_two_parts_of_any_pair(kind, name):
    pair = vae(**{kind: name})
    parts = (data.Part("one", (binary(1),), 1.0), data.Part("other", (binary(1),), 2.0))
    step, inputs = step_of(pair, estimators.ImportanceWeightedELBO(1), *parts)
    joins = len(products(step)) - len(products(assert_same(step, inputs)))
    # torch's density of a low-rank normal changes a tensor in its place.
    assert joins > 0 if name != "low rank" else joins == 0


def test_what_has_one_part_stays_as_it_is():
    pair, x = vae(), binary(5)
    step, _ = step_of(pair, estimators.AnalyticKLELBO(), data.Part("data", (x,)))
    assert joined(step) is step


class Networks(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(40, 30)
        self.other = nn.Linear(30, 40, bias=False)

    def forward(self, x):
        return self.other(self.one(x).tanh()).exp().sum(-1)


def test_one_product_forwards_and_two_backwards_in_each_layer():
    net = Networks()
    loss_of = gradients_of(lambda x, y: net(x).mean() - 2 * net(y).mean(), list(net.parameters()))
    step, inputs = traced(loss_of, torch.randn(5, 40), torch.randn(2, 40))
    assert len(products(step)) == 2 * (2 + 3)  # of x and y no gradient is asked for
    graph = assert_same(step, inputs)
    assert len(products(graph)) == 2 + 3
    (stack,) = (n for n in graph.graph.nodes if n.name == "cat_default")
    assert len(stack.args[0]) == 2


def test_rows_are_put_together_once_for_all_products_with_them():
    net = Networks()
    loss_of = gradients_of(lambda x, y: net(x).mean() - net(y).mean(), list(net.parameters()))
    graph = joined(traced(loss_of, torch.randn(5, 40), torch.randn(2, 40))[0])
    stacks = [n for n in graph.graph.nodes if n.target is torch.ops.aten.cat.default]
    # x, the hidden units, and the gradients of both layers' outputs.
    assert len(stacks) == 4


def test_layers_with_nothing_between_them():
    """The parts of one product are rows of the next."""
    net = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 40), nn.Linear(40, 30))
    loss_of = gradients_of(
        lambda x, y: net(x).square().mean() + net(y).exp().mean(), list(net.parameters())
    )
    step, inputs = traced(loss_of, torch.randn(5, 40), torch.randn(2, 40))
    assert len(products(assert_same(step, inputs))) == len(products(step)) // 2


def test_three_parts():
    net = Networks()
    loss_of = gradients_of(
        lambda *parts: sum((k + 1) * net(x).mean() for k, x in enumerate(parts)),
        list(net.parameters()),
    )
    step, inputs = traced(loss_of, torch.randn(5, 40), torch.randn(2, 40), torch.randn(3, 40))
    assert len(products(step)) == 3 * (2 + 3)
    assert len(products(assert_same(step, inputs))) == 2 + 3


def test_a_first_layer_with_several_inputs():
    net = nets.MLP(40 + 20, 60, hidden=(50,))
    loss_of = gradients_of(
        lambda x, y, a, b: net(x, y).square().mean() + net(a, b).exp().mean(),
        list(net.parameters()),
    )
    inputs = torch.randn(2, 1, 40), torch.randn(3, 20), torch.randn(3, 40), torch.randn(3, 20)
    step, _ = traced(loss_of, *inputs)
    # Two products of the first layer, and one of the second, forwards; their matrices' gradients,
    # and that of the hidden units.
    assert len(products(step)) == 2 * (3 + 4)
    assert len(products(assert_same(step, inputs))) == 3 + 4


def test_the_same_rows_twice():
    """Each weight sees x in both terms: G_1ᵀ X + G_2ᵀ X has one X."""
    net = Networks()
    loss_of = gradients_of(
        lambda x: net(x).mean() + net(x).square().mean() + net.one(x).exp().mean(),
        list(net.parameters()),
    )
    assert_same(*traced(loss_of, torch.randn(5, 40)))


def test_products_that_follow_each_other_stay_apart():
    square = nn.Linear(30, 30)
    loss_of = gradients_of(lambda x: square(square(x).tanh()).sum(), list(square.parameters()))
    step, inputs = traced(loss_of, torch.randn(5, 30))
    graph = assert_same(step, inputs)
    # The gradient of the matrix has two terms, which are one product; nothing else is.
    assert len(products(graph)) == len(products(step)) - 1


def test_joins_of_which_one_alone_is_possible():
    one, other = nn.Linear(30, 30), nn.Linear(30, 30)

    def function(x, y):
        return one(x) + other(one(x)), one(other(y))

    step, inputs = traced(function, torch.randn(5, 30), torch.randn(2, 30))
    assert len(products(assert_same(step, inputs))) == 3


def test_draws_are_not_put_in_another_order():
    layer = nn.Linear(30, 30)

    def function(x):
        first = torch.bernoulli(layer(x).sigmoid())
        return first, layer(torch.rand(2, 30))  # would have to be drawn first

    step, inputs = traced(function, torch.randn(5, 30))
    assert joined(step) is step

    def other(x):
        later = torch.rand(2, 30)
        return torch.bernoulli(layer(x).sigmoid()), layer(later)

    step, inputs = traced(other, torch.randn(5, 30))
    graph = assert_same(step, inputs)
    assert len(products(graph)) == 1
    assert [n.target for n in graph.graph.nodes if draws(n)] == [
        n.target for n in step.graph.nodes if draws(n)
    ]


def test_draws_are_not_shared():
    layer = nn.Linear(30, 30)

    def function(x, y):
        noise = [torch.rand(2, 30), torch.rand(2, 30), torch.empty(2, 30).normal_()]
        noise += [torch.empty(2, 30).normal_(), F.dropout(y, 0.5), F.dropout(y, 0.5)]
        return torch.stack(noise), layer(x), layer(y)

    step, inputs = traced(function, torch.randn(5, 30), torch.randn(2, 30))
    noise, *_ = assert_same(step, inputs)(*inputs)
    assert len(noise.flatten(1).unique(dim=0)) == 6
    assert len(products(joined(step))) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda layer, x: x.add_(1),
        lambda layer, x: layer.weight.mul_(2),
        lambda layer, x: x.exp()[0].add_(1),
        lambda layer, x: torch._foreach_mul_([x], 2.0),
    ],
    ids=["input", "parameter", "view", "list"],
)
def test_what_changes_tensors_in_their_place_stays_as_it_is(change):
    layer = nn.Linear(30, 30)

    @torch.no_grad()
    def function(x, y):
        first = layer(x)
        change(layer, x)
        return first, layer(y)

    step, _ = traced(function, torch.randn(5, 30), torch.randn(2, 30))
    assert joined(step) is step


def test_batch_normalisation_in_training_stays_as_it_is():
    net = nn.Sequential(nn.Linear(30, 30), nn.BatchNorm1d(30))
    step, _ = traced(lambda x, y: (net(x), net(y)), torch.randn(5, 30), torch.randn(2, 30))
    assert joined(step) is step


def test_rows_that_are_larger_than_the_matrix_stay_apart():
    layer = nn.Linear(3, 8)
    step, _ = traced(lambda x, y: (layer(x), layer(y)), torch.randn(5, 3), torch.randn(4, 3))
    assert joined(step) is step
    step, inputs = traced(lambda x, y: (layer(x), layer(y)), torch.randn(5, 3), torch.randn(3, 3))
    assert len(products(assert_same(step, inputs))) == 1


def test_dtypes_are_not_mixed():
    layer = nn.Linear(30, 30)
    low = nn.Linear(30, 30).float()

    def loss_of(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = low(x)
        return low(y).sum() + first.double().sum() + layer(y.double()).sum()

    function = gradients_of(loss_of, [*low.parameters(), *layer.parameters()])
    step, inputs = traced(function, torch.randn(5, 30).float(), torch.randn(2, 30).float())
    graph = joined(step)
    for ours, theirs in zip(graph(*inputs), step(*inputs), strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_sums_that_are_no_gradients_of_one_matrix():
    """A term of one row is added to each row of another: they are not parts of one product."""

    def function(a, b, c, d):
        return a.mT @ b + c.mT @ d, torch.add(a.mT @ b, a.mT @ b.exp(), alpha=3)

    inputs = torch.randn(5, 40), torch.randn(5, 2), torch.randn(3, 1), torch.randn(3, 2)
    step, _ = traced(function, *inputs)
    assert joined(step) is step
    assert_same(step, inputs)
