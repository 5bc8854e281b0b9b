"""Pictures: what lands on the Axes."""

import math

import numpy as np
import pytest
from matplotlib import pyplot as plt

from ppl_vae import plots


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.mark.parametrize(
    ("x", "shape", "sheet"),
    [
        (np.zeros((6, 64)), None, (2 * 9 + 1, 3 * 9 + 1)),
        (np.zeros((6, 28, 28)), None, (2 * 29 + 1, 3 * 29 + 1)),
        (np.zeros((6, 1, 8, 8)), None, (2 * 9 + 1, 3 * 9 + 1)),
        (np.zeros((6, 3, 8, 8)), None, (2 * 9 + 1, 3 * 9 + 1, 3)),
        (np.zeros((6, 50)), (5, 10), (2 * 6 + 1, 3 * 11 + 1)),
    ],
)
def test_images_are_tiled(ax, x, shape, sheet):
    assert plots.images(x, columns=3, shape=shape, ax=ax) is ax
    assert ax.images[0].get_array().shape == sheet


def test_every_image_is_where_it_belongs(ax):
    x = np.arange(6).reshape(6, 1, 1) / 10 * np.ones((6, 2, 2))
    plots.images(x, columns=3, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())
    for i in range(6):
        row, column = divmod(i, 3)
        tile = sheet[3 * row + 1 : 3 * row + 3, 3 * column + 1 : 3 * column + 3]
        np.testing.assert_allclose(tile, i / 10)


def test_reconstructions_lie_below_the_data(ax):
    x = np.arange(4).reshape(4, 1, 1) / 10 * np.ones((4, 2, 2))
    plots.reconstructions(x, x + 0.5, columns=2, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())[1::3, 1::3]
    np.testing.assert_allclose(sheet, [[0, 0.1], [0.5, 0.6], [0.2, 0.3], [0.7, 0.8]])


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_latents_of_any_dimension(ax, latent_dim):
    z = np.random.default_rng(0).normal(size=(50, latent_dim))
    plots.latents(z, np.arange(50) % 3, prior_draws=2 * z, ax=ax)
    assert len(ax.collections) == 4  # the prior's draws and three labels
    if latent_dim == 2:
        np.testing.assert_allclose(ax.collections[1].get_offsets(), z[::3])


def test_principal_components_are_those_of_largest_variance(ax):
    z = np.random.default_rng(0).normal(size=(500, 4)) * [0.1, 5.0, 0.1, 2.0]
    plots.latents(z, ax=ax)
    spread = np.asarray(ax.collections[0].get_offsets()).std(0)
    np.testing.assert_allclose(spread, [5.0, 2.0], rtol=0.1)


def test_data_that_are_no_images_are_refused(ax):
    with pytest.raises(ValueError, match="50 values per datum are no square image"):
        plots.images(np.zeros((6, 50)), ax=ax)
    with pytest.raises(ValueError, match="holds no images of shape"):
        plots.images(np.zeros((6, 5, 8, 8)), ax=ax)
    with pytest.raises(ValueError, match="must be the same"):
        plots.reconstructions(np.zeros((6, 64)), np.zeros((5, 64)), ax=ax)


def test_images_are_neither_turned_nor_mirrored(ax):
    x = np.arange(12).reshape(2, 2, 3) / 12
    plots.images(x, columns=2, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(sheet[1:3, 1:4], x[0])
    np.testing.assert_allclose(sheet[1:3, 5:8], x[1])


def test_density_contours_enclose_the_masses():
    axis = np.linspace(-6, 6, 241)
    values = np.exp(-0.5 * (axis[None, :] ** 2 + axis[:, None] ** 2))
    ax = plots.density(axis, axis, values, masses=(0.5, 0.9), ax=plt.figure().gca())
    # a standard normal in the plane: the region of mass m has radius sqrt(-2 log(1 - m))
    radii = [np.linalg.norm(p.vertices, axis=1).max() for p in ax.collections[0].get_paths()]
    expected = [math.sqrt(-2 * math.log(1 - mass)) for mass in (0.9, 0.5)]
    assert radii[:2] == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 4)), "values must have shape"),
        (-np.ones((4, 3)), "not its logarithm"),
        (np.full((4, 3), np.nan), "must be finite"),
        (np.zeros((4, 3)), "not all 0"),
    ],
)
def test_density_refuses_what_is_none(values, message):
    with pytest.raises(ValueError, match=message):
        plots.density(np.arange(3), np.arange(4), values)
