"""Convolutional networks: sizes, contexts, and pairs of images."""

from functools import partial

import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import Adam
from torch import nn

from ppl_vae import VAE, SemiSupervisedVAE, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import ImportanceWeightedELBO

Z, C = 2, 3


SMALL = {"channels": (3, 4), "hidden": (6,)}


LARGER = {"channels": (4, 3), "hidden": (6,)}


@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [(2, 2), (2, 3), (3, 3), (4, 9), (5, 5), (6, 6), (7, 13), (28, 28), (32, 32), (33, 17)]
)
def test_every_size_is_hit_exactly_at_every_depth(size, channels, blocks):
    image_shape = (channels, *size)
    for depth in range(1, (min(size) - 1).bit_length() + 1):
        widths = tuple(range(2, 2 + depth))
        encoder = nets.ConvEncoder(image_shape, 3, channels=widths, residual_blocks=blocks)
        decoder = nets.ConvDecoder(3, image_shape, channels=widths[::-1], residual_blocks=blocks)
        x = torch.randn(2, *image_shape)
        assert encoder(x).shape == (2, 3)
        assert decoder(encoder(x)).shape == x.shape


@pytest.mark.parametrize(
    ("side", "strides"), [(2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (28, 5), (33, 6)]
)
def test_the_minimum_size_is_as_stated(side, strides):
    assert 2 ** (strides - 1) + 1 <= side < 2**strides + 1
    shape = (1, side, 40)
    for make in (
        lambda n: nets.ConvEncoder(shape, 2, channels=(2,) * n),
        lambda n: nets.ConvDecoder(2, shape, channels=(2,) * n),
    ):
        make(strides)
        with pytest.raises(ValueError, match=rf"take 1 to {strides} of them, got {strides + 1}"):
            make(strides + 1)


def test_residual_block_is_its_equation(float64):
    block = nets.ResidualBlock(2, activation=nn.Tanh)
    first, second = (m for m in block.modules() if isinstance(m, nn.Conv2d))
    x = torch.randn(4, 2, 5, 5)
    torch.testing.assert_close(block(x), x + second(first(x.tanh()).tanh()))


def test_activations_in_place_leave_the_input_of_a_residual_block(float64):
    make = partial(nets.ResidualBlock, 2)
    in_place = make(activation=lambda: nn.ReLU(inplace=True))
    other = make(activation=nn.ReLU)
    other.load_state_dict(in_place.state_dict())
    x = torch.randn(4, 2, 5, 5)
    given = x.clone()
    torch.testing.assert_close(in_place(given), other(x))
    assert torch.equal(given, x)


def joined(encoder, x, context):
    """The head on features and context concatenated, with the two terms' weights side by side."""
    features = torch.cat([encoder.convolutions(x), context], -1)
    weight = torch.cat([encoder.from_image.weight, encoder.from_context.weight], 1)
    return encoder.head(features @ weight.T + encoder.from_image.bias)


@pytest.mark.parametrize(
    ("of_x", "of_context"),
    [
        ((5,), (5,)),
        ((5,), (C, 1)),
        ((4, 5), (C, 1, 1)),
        ((C, 1, 5), (4, 1)),
        ((), (C,)),
        ((5,), ()),
    ],
)
def test_contexts_are_broadcast_and_concatenated(of_x, of_context, float64):
    encoder = nets.ConvEncoder((1, 7, 6), 5, context_features=C, **SMALL)
    x, y = torch.randn(*of_x, 1, 7, 6), torch.randn(*of_context, C)
    leading = torch.broadcast_shapes(of_x, of_context)
    expected = joined(encoder, x.expand(*leading, 1, 7, 6), y.expand(*leading, C))
    assert expected.shape == (*leading, 5)
    torch.testing.assert_close(encoder(x, y), expected)
    torch.testing.assert_close(encoder(x, y[..., :1], y[..., 1:]), expected)


def test_several_contexts_are_broadcast_among_themselves(float64):
    encoder = nets.ConvEncoder((1, 7, 6), 5, context_features=C + 2, **SMALL)
    x, y, u = torch.randn(5, 1, 7, 6), torch.randn(C, 1, C), torch.randn(5, 2)
    both = torch.cat([y.expand(C, 5, C), u.expand(C, 5, 2)], -1)
    torch.testing.assert_close(encoder(x, y, u), encoder(x, both))


def test_convolutions_run_on_the_images_alone():
    encoder = nets.ConvEncoder((1, 7, 6), 5, context_features=C, **SMALL)
    seen = []
    for m in encoder.modules():
        if isinstance(m, nn.Conv2d):
            m.register_forward_hook(lambda m, inputs, outputs: seen.append(len(outputs)))
    assert encoder(torch.randn(5, 1, 7, 6), torch.eye(C).unsqueeze(1)).shape == (C, 5, 5)
    assert seen == [5, 5]


@pytest.mark.parametrize("image_shape", [(1, 28, 28), (3, 7, 13)])
def test_every_pixel_of_a_decoder_gets_as_many_terms(image_shape, float64):
    decoder = nets.ConvDecoder(Z, image_shape, channels=(4, 3))
    for m in decoder.modules():
        if isinstance(m, nn.ConvTranspose2d):
            nn.init.ones_(m.weight)
            sums = m(torch.ones(1, m.in_channels, 5, 6))[..., 1:-1, 1:-1]
            torch.testing.assert_close(sums, torch.full_like(sums, 4.0 * m.in_channels))


class Flat(nn.Module):
    """An encoder of images on flat data."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, *context):
        return self.net(x.unflatten(-1, self.net.image_shape), *context)


def conv_vae():
    shape = (1, 7, 6)
    encoder = nets.ConvEncoder(shape, 2 * Z, **SMALL)
    decoder = nets.ConvDecoder(Z, shape, **LARGER)
    images = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(encoder),
        likelihood=likelihoods.Bernoulli(decoder, event_dim=3),
    )
    flat = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nn.Sequential(nn.Unflatten(-1, shape), encoder)),
        likelihood=likelihoods.Bernoulli(nn.Sequential(decoder, nn.Flatten(-3))),
    )
    return images, flat


def conv_ssvae():
    shape = (1, 7, 6)
    encoder = nets.ConvEncoder(shape, 2 * Z, context_features=C, **SMALL)
    classifier = nets.ConvEncoder(shape, C, **SMALL)
    decoder = nets.ConvDecoder(Z + C, shape, **LARGER)
    images = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=classifier,
        posterior=posteriors.DiagonalNormal(encoder),
        likelihood=likelihoods.Bernoulli(decoder, event_dim=3),
        num_classes=C,
    )
    flat = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=Flat(classifier),
        posterior=posteriors.DiagonalNormal(Flat(encoder)),
        likelihood=likelihoods.Bernoulli(nn.Sequential(decoder, nn.Flatten(-3))),
        num_classes=C,
    )
    return images, flat


PAIRS = {
    "vae, Trace_ELBO": (conv_vae, Trace_ELBO),
    "vae, vectorised particles": (
        conv_vae,
        lambda: Trace_ELBO(num_particles=3, vectorize_particles=True),
    ),
    "vae, K = 3": (conv_vae, lambda: ImportanceWeightedELBO(num_particles=3)),
    "ssvae, enumerated": (conv_ssvae, lambda: TraceEnum_ELBO(max_plate_nesting=1)),
    "ssvae, enumerated, K = 3": (conv_ssvae, lambda: ImportanceWeightedELBO(num_particles=3)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_images(name, float64):
    make, estimator = PAIRS[name]
    images, flat = make()
    x = torch.rand(4, 1, 7, 6).bernoulli().double()
    torch.manual_seed(1)
    loss = estimator().differentiable_loss(images.model, images.guide, x)
    torch.manual_seed(1)
    on_flat = estimator().differentiable_loss(flat.model, flat.guide, x.flatten(1))
    torch.testing.assert_close(loss, on_flat)
    loss.backward()
    for parameter, p in images.named_parameters():
        assert (p.grad != 0).any(), parameter
    assert images.generate(3).shape == (3, 1, 7, 6)
    assert images.reconstruct(x).shape == x.shape
    svi = SVI(images.model, images.guide, Adam({"lr": 1e-2}), estimator())
    before = [p.clone() for p in images.parameters()]
    svi.step(x)
    assert all((p != b).any() for p, b in zip(images.parameters(), before, strict=True))


def test_enumerated_labels_give_the_posterior_of_each(float64):
    images, _ = conv_ssvae()
    x, z = torch.rand(4, 1, 7, 6), torch.randn(4, Z)
    every = images.posterior(x, torch.eye(C).unsqueeze(1))
    assert every.batch_shape == (C, 4)
    for y, log_prob in zip(torch.eye(C), every.log_prob(z), strict=True):
        torch.testing.assert_close(log_prob, images.posterior(x, y.expand(4, C)).log_prob(z))
