"""Data have the shape that a pair declares, or the flat form of it: as many entries do not do."""

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

from ppl_vae import VAE, evaluation, from_config, likelihoods, nets, posteriors, priors
from ppl_vae.data import Dataset
from ppl_vae.event_shapes import how_to_arrange, same_event
from ppl_vae.plots.image_sheet import as_images
from ppl_vae.report import report
from ppl_vae.training import fit

IMAGE = (3, 8, 6)
FLAT = 144


class Images(nn.Module):
    """A linear network from and to images."""

    def __init__(self, size, out):
        super().__init__()
        self.size, self.out = size, out
        self.linear = nn.Linear(FLAT if size is None else size, FLAT if out is None else out)

    def forward(self, x):
        x = x.flatten(-3) if self.size is None else x
        x = self.linear(x)
        return x.unflatten(-1, IMAGE) if self.out is None else x


def of_images():
    torch.manual_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(Images(None, 4)),
        likelihood=likelihoods.Normal(Images(2, None), event_dim=3),
    )


def of_flat(size=FLAT):
    torch.manual_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(size, 4)),
        likelihood=likelihoods.Normal(nets.MLP(2, size)),
    )


X = torch.randn(20, *IMAGE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "shape", [(8, 6, 3), (3, 6, 8), (6, 8, 3), (1, 12, 12), (3, 48), (1, 144), (12, 12)]
)
def test_as_many_entries_are_not_a_shape(shape, tmp_path):
    """Of 144 entries there is one flat form; any other shape is another order, or says nothing."""
    data = Dataset(X.reshape(20, *shape))
    for call in (
        lambda: of_images().check(data),
        lambda: of_images().check(data.values),
        lambda: fit(of_images(), data, steps=1, progress=False),
        lambda: fit(of_images(), Dataset(X), validation=data, steps=1, progress=False),
        lambda: report(of_images(), data, tmp_path / "page.html", progress=False),
        lambda: evaluation.log_likelihood(of_images(), data.values, num_samples=2),
        lambda: of_images().encode(data.values),
        lambda: of_images().reconstruct(data.values),
    ):
        with pytest.raises(ValueError, match=r"3, 8, 6"):
            call()
    assert not list(tmp_path.iterdir())


def test_the_message_says_which_permutation():
    hwc = X.permute(0, 2, 3, 1)
    with pytest.raises(ValueError, match=r"give x.permute\(0, 3, 1, 2\)"):
        of_images().check(Dataset(hwc))
    assert torch.equal(hwc.permute(0, 3, 1, 2), X), "which is right"


def test_the_flat_form_of_images_is_those_images():
    """Bit for bit: flat data are the images, at the same weights and draws."""
    flat = Dataset(X.flatten(1))
    of_images().check(flat)
    first, again = of_images(), of_images()
    losses = [
        fit(p, d, steps=3, seed=0, validation=d, progress=False)
        for p, d in ((first, Dataset(X)), (again, flat))
    ]
    assert losses[0].history["loss"] == losses[1].history["loss"]
    for one, other in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_images_are_flattened_in_their_own_order_for_flat_data():
    pair = of_flat()
    pair.check(Dataset(X))
    x = Dataset(X).draw(torch.arange(20), binarise="none")
    assert torch.equal(x, X.flatten(1))
    with pytest.raises(ValueError, match=r"x.flatten\(1\)"):
        pair.check(X)  # a tensor is what it is


@pytest.mark.usefixtures("as_users_see_it")
def test_a_report_of_flat_data_shows_the_pair_those_images(unrendered, tmp_path, monkeypatch):
    options = {"num_samples": 2, "num_particles": (1,), "seed": 0, "progress": False}
    flat = report(of_images(), Dataset(X.flatten(1)), tmp_path / "flat.html", **options)
    # Images are drawn elsewhere: here their numbers are enough.
    sections = import_module("ppl_vae.report.figures.sections")
    monkeypatch.setattr(sections, "SECTION_KINDS", ())
    images = report(of_images(), Dataset(X), tmp_path / "images.html", **options)
    made = [found.results["pairs"]["VAE"]["quantities"] for found in (images, flat)]
    assert made[0] == made[1]


CONFIG = {
    "class": "VAE",
    "latent_dim": 2,
    "likelihood": {"class": "Normal", "net": "ConvDecoder"},
    "posterior": {"class": "DiagonalNormal", "net": "ConvEncoder"},
}


def test_a_configuration_is_held_against_the_shape_of_data():
    config = {**CONFIG, "event_shape": [1, 8, 8]}
    from_config(config, data=Dataset(torch.rand(4, 64)))
    from_config(config, data=Dataset(torch.rand(4, 8, 8)))
    for shape in ((4, 16), (8, 8, 1), (1, 4, 16)):
        with pytest.raises(ValueError, match=r"event_shape is \[1, 8, 8\]"):
            from_config(config, data=Dataset(torch.rand(4, *shape)))
    flat = {"class": "VAE", "latent_dim": 2, "likelihood": "Normal", "event_shape": 64}
    from_config(flat, data=Dataset(torch.rand(4, 1, 8, 8)))


@pytest.mark.parametrize(
    ("shape", "wanted", "fits"),
    [
        ((3, 8, 6), (3, 8, 6), True),
        ((144,), (3, 8, 6), True),
        ((8, 6), (8, 6), True),
        ((1, 8, 6), (8, 6), True),
        ((8, 6), (1, 8, 6), True),
        ((8, 6, 3), (3, 8, 6), False),
        ((6, 8), (8, 6), False),
        ((1, 6, 8), (8, 6), False),
    ],
)
def test_pictures_of_a_given_shape(shape, wanted, fits):
    x = np.linspace(0, 1, 2 * int(np.prod(shape))).reshape(2, *shape)
    if not fits:
        with pytest.raises(ValueError, match="x must hold images of shape"):
            as_images("images", x, wanted)
        return
    full = (1, *wanted) if len(wanted) == 2 else wanted
    assert np.array_equal(as_images("images", x, wanted), np.moveaxis(x.reshape(2, *full), 1, -1))


def test_advice_brings_data_into_shape():
    for shape, expected in (
        ((8, 6, 3), (3, 8, 6)),
        ((28, 28), (1, 28, 28)),
        ((1, 28, 28), (28, 28)),
        ((1, 4, 4), (16,)),
        ((16,), (1, 4, 4)),
        ((2, 1, 5, 7), (7, 2, 5, 1)),
    ):
        x = torch.arange(3 * int(np.prod(shape))).reshape(3, *shape)
        advice = how_to_arrange(shape, expected).removeprefix("give ")
        assert tuple(eval(advice, {"x": x}).shape[1:]) == expected
        flat_or_a_channel = 1 in (len(shape), len(expected)) or len(shape) != len(expected)
        assert same_event(shape, expected) == flat_or_a_channel
