"""What no draw reaches is computed once; draws are unchanged, and both graphs make the whole."""

import pyro
import pytest
import torch
from evaluated import conditional, hierarchical
from pairs import PRIORS, binary, ssvae, vae
from torch import Tag, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.compilation.invariant_split import invariant_split
from ppl_vae.evaluation.traced_batch import traced
from ppl_vae.labels import assume_checked

PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "convolution")


def operations(graph):
    return [node for node in graph.graph.nodes if node.op == "call_function"]


def draws(graph):
    drawn = Tag.nondeterministic_seeded
    return [n.target for n in operations(graph) if drawn in getattr(n.target, "tags", ())]


def products(graph):
    return sum(
        getattr(n.target, "__name__", "").split(".")[0] in PRODUCTS for n in operations(graph)
    )


def numbers(nodes):
    return [node.meta["val"].numel() for node in nodes]


def traced_weights(pair, x, *context, num_particles=7):
    args = (x, *context)
    with torch.no_grad(), pyro.validation_enabled(False):
        batch = traced("test", pair, args, {})
        with assume_checked(*((t, False) for t in args)):  # a graph cannot look for missing labels
            return make_fx(lambda *_: (batch.log_weights(num_particles),))(*args), args


def assert_whole(traced, inputs):
    """Check that the parts make the whole on the same draws, and return them."""
    first, rest = invariant_split(traced)
    with torch.no_grad():
        torch.manual_seed(1)
        expected, state = traced(*inputs), torch.get_rng_state()
        torch.manual_seed(1)
        got = rest(*inputs, *first(*inputs))
        assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(got, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert draws(first) == []
    assert draws(rest) == draws(traced)
    return first, rest


CASES = {
    **{f"prior: {name}": lambda name=name: (vae(prior=name), binary(3)) for name in PRIORS},
    "iaf": lambda: (vae(posterior="iaf"), binary(3)),
    "y summed": lambda: (ssvae(), binary(3)),
    "y observed": lambda: (ssvae(), binary(3), torch.tensor([0, 2, 1])),
    "a condition": lambda: (conditional(), binary(3), torch.tensor([0, 2, 1])),
    "layers, top-down": lambda: (hierarchical("top-down"), binary(3)),
}


SMALL = (*(f"prior: {n}" for n in PRIORS), "y summed")


LIKE_OTHERS = {
    *("prior: diagonal normal", "prior: full-rank normal", "prior: mixture of one"),
    *(
        "prior: mixture, learned weights",
        "prior: vamp, learned weights",
        "prior: realnvp",
        "prior: maf",
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LIKE_OTHERS else ()) for n in CASES]
)
def test_the_parts_make_the_whole_and_nothing_of_every_particle_is_handed_over(name, float64):
    particles = 1000
    traced, inputs = traced_weights(*CASES[name](), num_particles=particles)
    first, _ = assert_whole(traced, inputs)
    assert products(first) > 0
    if name in SMALL:
        (handed_over,) = (node.args[0] for node in first.graph.nodes if node.op == "output")
        assert 0 < max(numbers(handed_over)) < particles
        assert len(handed_over) <= 12


def example(prior):
    posterior = posteriors.DiagonalNormal(nets.MLP(6, 4, hidden=(5,)))
    return VAE(
        prior=prior(posterior),
        posterior=posterior,
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 6, hidden=(5, 5))),
    )


@pytest.mark.parametrize(
    ("prior", "once", "anew"),
    [
        (lambda posterior: priors.StandardNormal(2), 2, 3),
        (lambda posterior: priors.GaussianMixture(2, components=4), 2, 3 + 1),
        # Two layers that encode pseudo-inputs.
        (lambda posterior: priors.VampPrior(posterior, pseudo_inputs=torch.rand(4, 6)), 2 + 2, 4),
    ],
)
def test_what_is_encoded_is_encoded_once(prior, once, anew):
    traced, inputs = traced_weights(example(prior), binary(3))
    first, rest = assert_whole(traced, inputs)
    assert (products(first), products(rest)) == (once, anew)


def test_the_networks_of_an_enumerated_label_run_once(float64):
    """q(y | x) and q(z | x, y) depend on no draw of z."""
    pair = ssvae()
    traced, inputs = traced_weights(pair, binary(3))
    first, rest = assert_whole(traced, inputs)
    decoder = [m for m in pair.likelihood.modules() if isinstance(m, nn.Linear)]
    assert products(rest) == len(decoder)  # and that of its first layer with y
    assert products(first) == products(traced) - products(rest)


def made(function, *inputs):
    return make_fx(function)(*inputs), inputs


def test_new_memory_that_is_drawn_into_is_drawn():
    def function(x):
        return (x.exp() + torch.empty(3).normal_() + torch.rand(3),)

    first, rest = assert_whole(*made(function, torch.ones(3)))
    assert [node.target for node in operations(first)] == [torch.ops.aten.exp.default]
    assert len(operations(rest)) == 5


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x.exp().add_(torch.rand(3)),),
        lambda x: (torch.zeros(3).add_(torch.rand(3)) + x.exp(),),
        lambda x: (torch.empty(2, 3)[0].normal_() + x.exp(),),
        lambda x: (torch.add(x, 1, out=torch.empty(3)) * torch.rand(3),),
        lambda x: (x.exp() * torch.stack(torch._foreach_add_([torch.zeros(3)], 1.0))[0],),
    ],
    ids=["result", "constant", "view", "out", "list"],
)
def test_where_other_memory_is_written_to_all_is_run_anew(function):
    first, _ = assert_whole(*made(function, torch.ones(3)))
    assert operations(first) == []


def test_a_draw_may_be_changed_in_its_place():
    first, rest = assert_whole(
        *made(lambda x: (torch.rand(3).mul_(2).add_(x.exp()),), torch.ones(3))
    )
    assert len(operations(first)) == 1
    assert len(operations(rest)) == 3


def test_a_function_that_draws_nothing_is_all_first():
    first, rest = assert_whole(*made(lambda x: (x.exp().sum(),), torch.ones(3)))
    assert len(operations(first)) == 2
    assert operations(rest) == []


def test_results_of_several_tensors_and_inputs_that_are_returned():
    def function(x, y):
        largest = x.max(0)
        return largest.values + torch.rand(2), largest.indices, y, y.expand(3, 2).log()

    assert_whole(*made(function, torch.rand(3, 2), torch.rand(2)))


def test_what_is_larger_than_what_it_is_made_of_is_made_anew():
    """A thousand logarithms of ten numbers take memory, and no time."""
    first, rest = invariant_split(
        made(lambda x: (x.exp().expand(100, 10).log() + torch.rand(100, 10),), torch.rand(10))[0]
    )
    assert [n.target for n in operations(first)] == [torch.ops.aten.exp.default]
    assert torch.ops.aten.log.default in [n.target for n in operations(rest)]


def test_convolutions_of_the_data_are_run_once():
    """Their results are larger than what they are of, and are not cheap."""
    convolution = nn.Conv2d(1, 16, 3, padding=1)
    traced, inputs = made(
        lambda x: (convolution(x).relu() + torch.rand(5, 2, 16, 6, 6),),
        torch.rand(2, 1, 6, 6),
    )
    first, rest = assert_whole(traced, inputs)
    assert (products(first), products(rest)) == (1, 0)
