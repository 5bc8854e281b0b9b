"""What all networks have in common: leading dimensions, gradients, saving, compiling, errors."""

import inspect
import math

import jaxtyping
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.nets.initialisation import gain_after

LEADING = [(), (1,), (5,), (3, 5), (2, 1, 5)]


Z, C = 2, 3


SMALL = {"channels": (3, 4), "hidden": (6,)}


LARGER = {"channels": (4, 3), "hidden": (6,)}


def flattened(channels, height, width):
    """A user's network that knows one batch dimension only."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(channels, 2, 3)
            self.linear = nn.Linear(2 * (height - 2) * (width - 2), 4)

        def forward(self, x):
            batch, *_ = x.shape
            return self.linear(torch.tanh(self.convolution(x)).view(batch, -1))

    return Net()


# name: constructor, event shape of each input, event shape of the output
NETS = {
    "mlp": (lambda: nets.MLP(6, 5, hidden=(8,)), [(6,)], (5,)),
    "mlp, affine": (lambda: nets.MLP(6, 5, hidden=()), [(6,)], (5,)),
    "gated mlp": (lambda: nets.GatedMLP(6, 5, hidden=(8, 7)), [(6,)], (5,)),
    "gated mlp, affine": (lambda: nets.GatedMLP(6, 5, hidden=()), [(6,)], (5,)),
    "encoder": (lambda: nets.ConvEncoder((1, 8, 8), 5, **SMALL), [(1, 8, 8)], (5,)),
    "encoder, 3x3": (lambda: nets.ConvEncoder((1, 3, 3), 5, **SMALL), [(1, 3, 3)], (5,)),
    "encoder, 7x13": (lambda: nets.ConvEncoder((3, 7, 13), 5, **SMALL), [(3, 7, 13)], (5,)),
    "encoder, affine head": (
        lambda: nets.ConvEncoder((1, 2, 9), 5, channels=(3,), hidden=()),
        [(1, 2, 9)],
        (5,),
    ),
    "encoder, context": (
        lambda: nets.ConvEncoder((1, 7, 6), 5, context_features=C, **SMALL),
        [(1, 7, 6), (C,)],
        (5,),
    ),
    "encoder, two contexts": (
        lambda: nets.ConvEncoder(
            (1, 7, 6), 5, channels=(3,), hidden=(), context_features=C + 2, activation=nn.Tanh
        ),
        [(1, 7, 6), (C,), (2,)],
        (5,),
    ),
    "residual encoder": (
        lambda: nets.ConvEncoder((1, 7, 6), 5, residual_blocks=2, context_features=C, **SMALL),
        [(1, 7, 6), (C,)],
        (5,),
    ),
    "decoder": (lambda: nets.ConvDecoder(Z, (1, 8, 8), **LARGER), [(Z,)], (1, 8, 8)),
    "decoder, 3x3": (lambda: nets.ConvDecoder(Z, (1, 3, 3), **LARGER), [(Z,)], (1, 3, 3)),
    "decoder, 7x13": (lambda: nets.ConvDecoder(Z, (6, 7, 13), **LARGER), [(Z,)], (6, 7, 13)),
    "decoder, affine part": (
        lambda: nets.ConvDecoder(Z, (1, 2, 9), channels=(3,), hidden=(), activation=nn.SiLU),
        [(Z,)],
        (1, 2, 9),
    ),
    "residual decoder": (
        lambda: nets.ConvDecoder(Z, (1, 7, 6), residual_blocks=2, **LARGER),
        [(Z,)],
        (1, 7, 6),
    ),
    "residual block": (lambda: nets.ResidualBlock(2), [(2, 4, 5)], (2, 4, 5)),
    "flat data as images": (
        lambda: nets.Arranged(nets.ConvEncoder((1, 7, 6), 2, **SMALL), (1, 7, 6)),
        [(42,)],
        (2,),
    ),
    "adapted": (lambda: nets.KeepLeading(flattened(2, 4, 5), 3), [(2, 4, 5)], (4,)),
    "adapted, flat": (
        lambda: nets.KeepLeading(nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (1, 2, 2))), 1),
        [(6,)],
        (1, 2, 2),
    ),
}


@pytest.mark.parametrize("make", [nets.MLP, nets.GatedMLP])
def test_hooks_of_the_first_layer_run_with_several_inputs(make):
    net = make(5, 4, hidden=(6,))
    first = next(m for m in net.modules() if isinstance(m, nn.Linear))
    torch.nn.utils.spectral_norm(first)
    x, y = torch.randn(7, 1, 3), torch.randn(2, 2)
    with torch.no_grad():
        for _ in range(50):  # of power iterations, one in each call in training
            net(x, y)
    assert torch.linalg.matrix_norm(first.weight.detach(), 2) == pytest.approx(1, abs=1e-3)
    net(x, y).sum().backward()
    assert first.weight_orig.grad.abs().sum() > 0
    net.eval()
    together = torch.cat([x.expand(7, 2, 3), y.expand(7, 2, 2)], -1)
    torch.testing.assert_close(net(x, y), net(together))


def test_gains_are_found_whatever_the_default_device():
    with torch.device("meta"):
        nets.ConvEncoder((1, 8, 8), 3, activation=nn.PReLU)
    assert gain_after(nn.PReLU) == pytest.approx(math.sqrt(2 / (1 + 0.25**2)), rel=1e-4)


def test_flat_data_are_seen_as_images_and_a_context_as_it_is():
    inner = nets.ConvEncoder((2, 4, 5), 3, channels=(4,), context_features=2)
    x, c = torch.randn(5, 7, 40), torch.randn(7, 2)
    expected = inner(x.reshape(5, 7, 2, 4, 5), c)
    assert torch.equal(nets.Arranged(inner, [2, 4, 5])(x, c), expected)


def test_log1p_is_seen_in_place_of_counts_and_a_context_as_it_is():
    inner = nets.MLP(4 + 2, 3)
    x, c = torch.randint(100, (5, 7, 4)).float(), torch.randn(7, 2)
    expected = inner(torch.cat([(1 + x).log(), c.expand(5, 7, 2)], -1))
    torch.testing.assert_close(nets.Log1p(inner)(x, c), expected)
    torch.testing.assert_close(nets.Log1p(nn.Identity())(x), (1 + x).log())


@pytest.fixture(params=NETS)
def case(request):
    return NETS[request.param]


@pytest.mark.parametrize("leading", LEADING)
def test_one_at_a_time_is_as_many_at_once(case, leading, float64):
    make, events, out = case
    net = make()
    inputs = [torch.randn(*leading, *event) for event in events]
    outputs = net(*inputs)
    assert outputs.dtype == torch.float64
    assert outputs.shape == (*leading, *out)
    flat = [x.reshape(-1, *event) for x, event in zip(inputs, events, strict=True)]
    alone = torch.stack([net(*data) for data in zip(*flat, strict=True)])
    torch.testing.assert_close(outputs.reshape(-1, *out), alone)


def test_inputs_need_not_be_contiguous(case, float64):
    make, events, _ = case
    net = make()
    inputs = [torch.randn(3, 5, *event) for event in events]
    swapped = net(*(x.transpose(0, 1) for x in inputs))
    torch.testing.assert_close(swapped.transpose(0, 1), net(*inputs))


def test_every_parameter_gets_a_gradient(case):
    make, events, _ = case
    net = make()
    net(*(torch.randn(7, *event) for event in events)).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert (p.grad != 0).any(), name


def test_float32_is_kept(case):
    make, events, _ = case
    outputs = make()(*(torch.randn(2, *event) for event in events))
    assert outputs.dtype == torch.float32


def test_save_and_load(case, tmp_path):
    make, events, _ = case
    first, second = make(), make()
    inputs = [torch.randn(2, *event) for event in events]
    assert not torch.equal(first(*inputs), second(*inputs))
    torch.save(first.state_dict(), tmp_path / "net.pt")
    second.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    assert torch.equal(first(*inputs), second(*inputs))


def test_arguments_are_kept_and_rebuild_the_network(case):
    make, events, _ = case
    net = make()
    arguments = {name: getattr(net, name) for name in inspect.signature(type(net)).parameters}
    again = type(net)(**arguments)
    again.load_state_dict(net.state_dict())
    inputs = [torch.randn(2, *event) for event in events]
    assert torch.equal(again(*inputs), net(*inputs))
    assert {n: getattr(again, n) for n in arguments} == arguments


@pytest.mark.parametrize("hidden", [[8, 9], (8, 9)])
def test_sequences_are_kept_as_tuples(hidden):
    assert nets.MLP(3, 2, hidden=hidden).hidden == (8, 9)
    assert nets.GatedMLP(3, 2, hidden=hidden).hidden == (8, 9)
    encoder = nets.ConvEncoder([1, 8, 8], 2, channels=[3], hidden=hidden)
    assert (encoder.image_shape, encoder.channels, encoder.hidden) == ((1, 8, 8), (3,), (8, 9))


@pytest.fixture
def no_run_time_types():
    """Switch the run-time type checks of the tests off: users do not have them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


ONE_OF_EACH_KIND = {"mlp", "encoder"}


@pytest.mark.parametrize(
    ("name", "leading"),
    [
        *((name, (3, 4)) for name in NETS),
        # Networks of one kind deal with their leading dimensions alike.
        *(
            pytest.param(n, (5,), marks=() if n in ONE_OF_EACH_KIND else pytest.mark.slow)
            for n in NETS
        ),
    ],
)
def test_compiles_to_one_graph(name, leading, no_run_time_types, float64):
    make, events, _ = NETS[name]
    net = make()
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
    inputs = [torch.randn(*leading, *event) for event in events]
    torch.testing.assert_close(compiled(*inputs), net(*inputs))


def test_gated_layers_are_their_equation(float64):
    net = nets.GatedMLP(6, 5, hidden=(8, 7))
    x = torch.randn(4, 6)
    h = x
    for layer, width in zip((net.layers[0], net.layers[2]), (8, 7), strict=True):
        (A, B), (a, b) = layer.weight.split(width), layer.bias.split(width)
        h = (h @ A.T + a) / (1 + torch.exp(-(h @ B.T + b)))
    torch.testing.assert_close(net(x), h @ net.layers[4].weight.T + net.layers[4].bias)
    assert len(net.layers) == 5


@pytest.mark.parametrize("activation", [nn.ELU, nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("blocks", [0, 10])
@pytest.mark.parametrize("depth", [1, 3])
def test_outputs_start_of_order_one(activation, blocks, depth):
    options = {
        "channels": (24,) * depth,
        "hidden": (64,) * depth,
        "residual_blocks": blocks,
        "activation": activation,
    }
    decoder = nets.ConvDecoder(10, (3, 15, 16), **options)
    encoder = nets.ConvEncoder((3, 15, 16), 10, **options)
    with torch.no_grad():
        for outputs in (decoder(torch.randn(50, 10)), encoder(torch.randn(50, 3, 15, 16))):
            assert 0.3 < outputs.square().mean().sqrt() < 3


def test_gains_are_integrals():
    def elu_squared(u):
        return (u if u > 0 else math.expm1(u)) ** 2 * math.exp(-(u**2) / 2)

    integral = quad(elu_squared, -12, 12)[0] / math.sqrt(2 * math.pi)
    assert gain_after(nn.ReLU) == pytest.approx(math.sqrt(2), rel=1e-4)
    assert gain_after(nn.ELU) == pytest.approx(integral**-0.5, rel=1e-4)
    assert gain_after(nn.Identity) == pytest.approx(1, rel=1e-4)


class Summed(nn.Module):
    def forward(self, x):
        return x.sum(0)


ENCODER = {"image_shape": (1, 8, 8), "out_features": 2}


ERRORS = {
    "mlp, data of another width": (
        lambda: nets.MLP(4, 3)(torch.zeros(2, 5)),
        ValueError,
        r"MLP: expected 4 features.*\(2, 5\).*MLP\(in_features=5",
    ),
    "gated mlp, data of another width": (
        lambda: nets.GatedMLP(4, 3)(torch.zeros(2, 5)),
        ValueError,
        r"GatedMLP: expected 4 features.*\(2, 5\).*GatedMLP\(in_features=5",
    ),
    "decoder, data of another width": (
        lambda: nets.ConvDecoder(4, (1, 8, 8))(torch.zeros(2, 5)),
        ValueError,
        r"ConvDecoder: expected 4 features.*\(2, 5\).*ConvDecoder\(in_features=5",
    ),
    "a number for hidden": (
        lambda: nets.MLP(4, 3, hidden=300),
        TypeError,
        r"MLP: hidden must be a sequence of integers.*300 \(int\).*\(300,\)",
    ),
    "a hidden width of zero": (
        lambda: nets.GatedMLP(4, 3, hidden=(3, 0)),
        ValueError,
        "GatedMLP: hidden must be 1 or more, got 0",
    ),
    "a number for image_shape": (
        lambda: nets.ConvEncoder(28, 2),
        TypeError,
        "ConvEncoder: image_shape must be a sequence.*28",
    ),
    "image_shape without channels": (
        lambda: nets.ConvDecoder(2, (28, 28)),
        ValueError,
        r"ConvDecoder: image_shape must be \(channels, height, width\), got \(28, 28\)",
    ),
    "an image too small": (
        lambda: nets.ConvEncoder((1, 4, 28), 2, channels=(8, 8, 8)),
        ValueError,
        r"ConvEncoder: .*\(1, 4, 28\) take 1 to 2 of them, got 3.*sides of 5 or more",
    ),
    "an image of one row": (
        lambda: nets.ConvDecoder(2, (1, 1, 28)),
        ValueError,
        r"ConvDecoder: image_shape must have sides of 2 or more, got \(1, 1, 28\).*MLP",
    ),
    "no channels": (
        lambda: nets.ConvEncoder(**ENCODER, channels=()),
        ValueError,
        "take 1 to 3 of them, got 0",
    ),
    "a negative number of blocks": (
        lambda: nets.ConvEncoder(**ENCODER, residual_blocks=-1),
        ValueError,
        "residual_blocks must be 0 or more, got -1",
    ),
    "a truth value for a number of blocks": (
        lambda: nets.ConvDecoder(2, (1, 8, 8), residual_blocks=True),
        TypeError,
        "residual_blocks must be an integer of 0 or more, got True",
    ),
    "an image of another shape": (
        lambda: nets.ConvEncoder(**ENCODER)(torch.zeros(2, 1, 8, 9)),
        ValueError,
        r"ConvEncoder: expected images of shape \(1, 8, 8\).*\(2, 1, 8, 9\).*Unflatten",
    ),
    "flat data for an encoder": (
        lambda: nets.ConvEncoder(**ENCODER)(torch.zeros(2, 64)),
        ValueError,
        r"expected images of shape \(1, 8, 8\).*Unflatten\(-1, \(1, 8, 8\)\)",
    ),
    "a context that is not expected": (
        lambda: nets.ConvEncoder(**ENCODER)(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3)),
        ValueError,
        r"context_features=0 features.*got 3 in contexts of shape \(2, 3\); .*context_features=3",
    ),
    "a context that is missing": (
        lambda: nets.ConvEncoder(**ENCODER, context_features=3)(torch.zeros(2, 1, 8, 8)),
        ValueError,
        "context_features=3 features.*got 0 in contexts of shape none",
    ),
    "channels of another number": (
        lambda: nets.ResidualBlock(3)(torch.zeros(2, 1, 8, 8)),
        ValueError,
        r"expected images \(\.\.\., 3, height, width\).*\(2, 1, 8, 8\)",
    ),
    "a function of images": (
        lambda: nets.Arranged(torch.tanh, (1, 4, 4)),
        TypeError,
        r"Arranged: network must be a torch\.nn\.Module",
    ),
    "a shape with no size": (
        lambda: nets.Arranged(nn.Identity(), ()),
        ValueError,
        r"Arranged: shape must have at least one size, got \(\)",
    ),
    "a shape of nothing": (
        lambda: nets.Arranged(nn.Identity(), (4, 0)),
        ValueError,
        r"Arranged: shape must be 1 or more, got 0",
    ),
    "flat data of another length": (
        lambda: nets.Arranged(nn.Identity(), (1, 4, 4))(torch.zeros(3, 15)),
        ValueError,
        r"expected flat data of 16 values.*\(3, 15\)",
    ),
    "a function to adapt": (
        lambda: nets.KeepLeading(torch.tanh, 1),
        TypeError,
        r"KeepLeading: net must be a torch\.nn\.Module",
    ),
    "too few dimensions": (
        lambda: nets.KeepLeading(nn.Identity(), 3)(torch.zeros(8, 8)),
        ValueError,
        r"at least event_dim=3 dimensions.*\(8, 8\)",
    ),
    "a network that loses the batch": (
        lambda: nets.KeepLeading(Summed(), 1)(torch.zeros(2, 3, 4)),
        ValueError,
        r"Summed must return \(6, \*out\) for.*\(6, 4\).*shape \(4,\)",
    ),
    "parts of a pair that disagree": (
        lambda: VAE(
            prior=priors.StandardNormal(Z),
            posterior=posteriors.DiagonalNormal(nets.ConvEncoder((1, 8, 8), 2 * Z)),
            likelihood=likelihoods.Bernoulli(nets.ConvDecoder(Z, (1, 8, 9)), event_dim=3),
        ),
        ValueError,
        r"VAE: .*DiagonalNormal is incompatible.*images of shape \(1, 8, 8\).*\(1, 1, 8, 9\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_came_and_the_fix(name, no_run_time_types):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
