"""Pictures: what lands on the Axes."""

import math
from itertools import pairwise

import numpy as np
import pyro
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from matplotlib.transforms import Bbox
from pairs import binary, ssvae, vae
from pyro.infer.inspect import get_model_relations
from scipy import stats

from ppl_vae import plots
from ppl_vae.evaluation.graph import relations
from ppl_vae.plots import colours
from ppl_vae.plots.arrays import number, some
from ppl_vae.plots.layout import HEIGHT, lay_out

RNG = np.random.default_rng(0)
# Images of every kind, flat and in their shape: name -> (event shape, shape=, pixels of a tile).
KINDS = {
    "8x8, flat": ((64,), None, (8, 8)),
    "28x28": ((28, 28), None, (28, 28)),
    "28x28, one channel": ((1, 28, 28), None, (28, 28)),
    "RGB": ((3, 16, 16), None, (16, 16, 3)),
    "RGB, flat": ((3 * 8 * 6,), (3, 8, 6), (8, 6, 3)),
    "oblong, flat": ((50,), (5, 10), (5, 10)),
}
KIND = pytest.mark.parametrize(("event", "shape", "tile"), KINDS.values(), ids=KINDS.keys())


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def pixels(ax):
    return np.asarray(ax.images[0].get_array())


def tile_at(ax, row, column, tile, gap=1):
    """Return the pixels of one image of a sheet."""
    top, left = (gap + i * (n + gap) for i, n in zip((row, column), tile, strict=False))
    return pixels(ax)[top : top + tile[0], left : left + tile[1]]


def as_seen(image, event, shape):
    """Return one image as it is drawn: (H, W), or (H, W, 3)."""
    full = shape or (event if len(event) > 1 else (math.isqrt(event[0]),) * 2)
    image = image.reshape(full)
    return (
        image.transpose(1, 2, 0).squeeze(-1)
        if full[0] == 1
        else (image.transpose(1, 2, 0) if len(full) == 3 else image)
    )


def labels_of(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


# --- images ---------------------------------------------------------------------------------------


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


@KIND
def test_every_image_is_where_it_belongs(ax, event, shape, tile):
    x = RNG.random((5, *event))
    plots.images(x, columns=3, shape=shape, ax=ax)
    for i in range(5):
        expected = as_seen(x[i], event, shape)
        np.testing.assert_array_equal(tile_at(ax, *divmod(i, 3), tile), expected)
    assert (tile_at(ax, 1, 2, tile) == 1).all()  # there is no sixth: white


def test_images_default_to_a_square_sheet_and_the_current_axes():
    _, (left, right) = plt.subplots(1, 2)
    plt.sca(left)
    assert plots.images(np.zeros((9, 64))) is left
    assert pixels(left).shape == (28, 28)
    assert not right.images
    assert plots.images(np.zeros((1, 64)), ax=right) is right
    assert pixels(right).shape == (10, 10)


def test_tensors_are_arrays(ax):
    x = torch.rand(4, 8, 8)
    plots.images(x, columns=2, ax=ax)
    np.testing.assert_allclose(tile_at(ax, 1, 0, (8, 8)), x[2])
    with pytest.raises(TypeError, match=r"x must be an array of numbers.*x\.detach\(\)\.cpu\(\)"):
        plots.images(x.requires_grad_(), ax=ax)


@KIND
def test_missing_pixels_are_neither_black_nor_white(ax, event, shape, tile):
    x = np.zeros((1, *event))
    x[0, ..., 0] = np.nan
    missing = np.isnan(as_seen(x[0], event, shape))
    plots.images(x, shape=shape, ax=ax)
    shown = ax.images[0].to_rgba(ax.images[0].get_array())[1 : 1 + tile[0], 1 : 1 + tile[1], :3]
    where = missing if missing.ndim == 2 else missing.any(-1)
    np.testing.assert_allclose(
        shown[where], np.broadcast_to(to_rgb(colours.MISSING), shown[where].shape), atol=1 / 255
    )
    assert (shown[~where] == 0).all()
    assert 0 < where.sum() < where.size


def test_values_beyond_the_range_are_shown_at_its_ends(ax):
    plots.images([[[-1.0, 0.5], [2.0, 1.0]]], ax=ax)
    np.testing.assert_array_equal(tile_at(ax, 0, 0, (2, 2)), [[0, 0.5], [1, 1]])


def test_reconstructions_lie_below_the_data(ax):
    x = np.arange(4).reshape(4, 1, 1) / 10 * np.ones((4, 2, 2))
    plots.reconstructions(x, x + 0.5, columns=2, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())[1::3, 1::3]
    np.testing.assert_allclose(sheet, [[0, 0.1], [0.5, 0.6], [0.2, 0.3], [0.7, 0.8]])


@KIND
def test_reconstructions_of_every_kind(ax, event, shape, tile):
    x, r = RNG.random((2, 7, *event))
    plots.reconstructions(x, r, columns=3, shape=shape, ax=ax)
    for i in range(6):  # two full rows; the seventh is left out
        row, column = divmod(i, 3)
        for which, values in enumerate((x, r)):
            np.testing.assert_array_equal(
                tile_at(ax, 2 * row + which, column, tile), as_seen(values[i], event, shape)
            )
    assert pixels(ax).shape[0] == 4 * (tile[0] + 1) + 1


def test_fewer_reconstructions_than_columns(ax):
    plots.reconstructions(np.zeros((3, 64)), np.ones((3, 64)), ax=ax)
    assert pixels(ax).shape == (2 * 9 + 1, 3 * 9 + 1)


@KIND
def test_rows_are_named(ax, event, shape, tile):
    x = RNG.random((3, 4, *event))
    plots.rows(x, ["a", "b", "c"], shape=shape, ax=ax)
    for i in range(3):
        for j in range(4):
            expected = as_seen(x[i, j], event, shape)
            np.testing.assert_array_equal(tile_at(ax, i, j, tile), expected)
    assert labels_of(ax.yaxis) == ["a", "b", "c"]
    middle = 1 + np.arange(3) * (tile[0] + 1) + (tile[0] - 1) / 2
    np.testing.assert_allclose(ax.get_yticks(), middle)


def test_rows_without_names_have_no_axis(ax):
    plots.rows(np.zeros((1, 1, 64)), ax=ax)
    assert not ax.axison


def test_data_that_are_no_images_are_refused(ax):
    with pytest.raises(ValueError, match="50 values per datum are no square image"):
        plots.images(np.zeros((6, 50)), ax=ax)
    with pytest.raises(ValueError, match="holds no images of shape"):
        plots.images(np.zeros((6, 5, 8, 8)), ax=ax)
    with pytest.raises(ValueError, match="must be the same"):
        plots.reconstructions(np.zeros((6, 64)), np.zeros((5, 64)), ax=ax)


@pytest.mark.parametrize("name", ["images", "rows", "manifold", "interpolation", "traversals"])
@pytest.mark.parametrize(
    ("event", "shape", "message"),
    [
        ((50,), None, "50 values per datum are no square image"),
        ((64,), (7, 8), r"holds no images of shape \(7, 8\)"),
        ((2, 8, 8), None, "1 or 3 channels"),
        ((8, 8, 3), None, "1 or 3 channels"),
        ((1, 3, 8, 8), None, "holds no images"),
        ((), None, "holds no images"),
        ((0,), None, "nothing to draw"),
    ],
)
def test_no_images(ax, name, event, shape, message):
    leading = (6,) if name == "images" else (2, 3)
    with pytest.raises(ValueError, match=f"^{name}: .*{message}"):
        getattr(plots, name)(np.zeros((*leading, *event)), shape=shape, ax=ax)
    assert not ax.images


@pytest.mark.parametrize("name", ["images", "rows", "manifold", "interpolation", "traversals"])
def test_infinite_pixels_are_refused(ax, name):
    x = np.zeros((2, 3, 64) if name != "images" else (2, 64))
    x.flat[7] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        getattr(plots, name)(x, ax=ax)


def test_images_are_neither_turned_nor_mirrored(ax):
    x = np.arange(12).reshape(2, 2, 3) / 12
    plots.images(x, columns=2, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(sheet[1:3, 1:4], x[0])
    np.testing.assert_allclose(sheet[1:3, 5:8], x[1])


# --- the latent space -----------------------------------------------------------------------------


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


def test_principal_components_are_of_what_varies_and_not_of_the_mean(ax):
    z = np.random.default_rng(0).normal(size=(500, 3)) * [0.1, 5.0, 2.0] + [100.0, 0.0, 0.0]
    plots.latents(z, ax=ax)
    points = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(points.std(0), [5.0, 2.0], rtol=0.1)
    np.testing.assert_allclose(points.mean(0), 0, atol=1e-9)


def test_draws_of_the_prior_are_projected_as_z_is(ax):
    z = RNG.normal(size=(50, 4)) + 3
    plots.latents(z, prior_draws=z, ax=ax)
    draws, points = (c.get_offsets() for c in ax.collections)
    np.testing.assert_allclose(draws, points)


def test_a_label_has_its_colour_whichever_others_there_are(ax):
    z = RNG.normal(size=(6, 2))
    plots.latents(z, [-1, -1, 2, 2, 12, 12], ax=ax)
    unlabelled, two, twelve = ax.collections
    assert unlabelled.get_label() == "no label"
    np.testing.assert_allclose(two.get_facecolor()[0], to_rgba(colours.PALETTE[2]))
    np.testing.assert_allclose(twelve.get_facecolor()[0], to_rgba(colours.PALETTE[2]))
    assert not np.array_equal(
        two.get_paths()[0].vertices.shape, twelve.get_paths()[0].vertices.shape
    )
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["no label", "2", "12"]


def test_labels_may_be_names(ax):
    plots.latents(RNG.normal(size=(4, 2)), ["cat", "dog", "cat", "dog"], ax=ax)
    assert [c.get_label() for c in ax.collections] == ["cat", "dog"]


def test_a_single_latent(ax):
    plots.latents(np.zeros((1, 5)), ax=ax)
    assert ax.collections[0].get_offsets().shape == (1, 2)


def plane():
    axis = np.linspace(-6, 6, 241)
    return axis, axis, np.exp(-0.5 * (axis[None, :] ** 2 + axis[:, None] ** 2))


def test_prior_contours_lie_beneath_the_latents(ax):
    z = RNG.normal(size=(20, 2))
    plots.latents(z, np.arange(20) % 2, prior_density=plane(), ax=ax)
    contours, first, second = ax.collections
    assert len(contours.get_paths()) == 5
    widest = contours.get_paths()[0].vertices
    radius = np.linalg.norm(widest, axis=1).max()
    assert radius == pytest.approx(math.sqrt(-2 * math.log(0.05)), abs=0.05)
    assert contours.get_zorder() <= first.get_zorder()
    np.testing.assert_allclose(second.get_offsets(), z[1::2])
    legend = [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == ["p(z), 20 to 95 %\nof its mass", "0", "1"]


@pytest.mark.parametrize("latent_dim", [1, 3])
def test_a_projection_has_no_prior_density(ax, latent_dim):
    with pytest.raises(ValueError, match=f"z has {latent_dim} dimensions: a projection"):
        plots.latents(np.zeros((5, latent_dim)), prior_density=plane(), ax=ax)


def test_density_contours_enclose_the_masses():
    axis, _, values = plane()
    ax = plots.density(axis, axis, values, masses=(0.5, 0.9), ax=plt.figure().gca())
    # a standard normal in the plane: the region of mass m has radius sqrt(-2 log(1 - m))
    radii = [np.linalg.norm(p.vertices, axis=1).max() for p in ax.collections[0].get_paths()]
    expected = [math.sqrt(-2 * math.log(1 - mass)) for mass in (0.9, 0.5)]
    assert radii[:2] == pytest.approx(expected, abs=0.05)


def test_density_of_all_mass(ax):
    plots.density(*plane(), masses=(1.0,), ax=ax)
    assert len(ax.collections) == 1


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


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_quantile_grid_is_of_equal_mass(n):
    grid = plots.quantile_grid(n)
    assert grid.shape == (n, n, 2)
    mass = stats.norm.cdf(grid)
    across = (np.arange(n) + 0.5) / n
    np.testing.assert_allclose(mass[..., 0], np.broadcast_to(across, (n, n)), atol=1e-12)
    # upwards, as in the scatter of latents
    np.testing.assert_allclose(
        mass[..., 1], np.broadcast_to(across[::-1, None], (n, n)), atol=1e-12
    )


@KIND
def test_manifold_is_a_sheet_without_gaps(ax, event, shape, tile):
    x = RNG.random((3, 5, *event))
    plots.manifold(x, shape=shape, ax=ax)
    assert pixels(ax).shape[:2] == (3 * tile[0], 5 * tile[1])
    for i in range(3):
        for j in range(5):
            expected = as_seen(x[i, j], event, shape)
            np.testing.assert_array_equal(tile_at(ax, i, j, tile, gap=0), expected)
    # quantiles at 1/10, 3/10, ... of the mass, and at 1/6, 1/2, 5/6, upwards
    written = ["\N{MINUS SIGN}1.3", "\N{MINUS SIGN}0.5", "0.0", "0.5", "1.3"]
    assert labels_of(ax.xaxis) == written
    assert labels_of(ax.yaxis) == ["1.0", "0.0", "\N{MINUS SIGN}1.0"]
    np.testing.assert_allclose(ax.get_xticks(), np.arange(5) * tile[1] + (tile[1] - 1) / 2)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$z_1$", "$z_2$")


def test_manifold_of_another_prior(ax):
    x, z = np.zeros((2, 2, 64)), plots.quantile_grid(2) * 10
    plots.manifold(x, z, ax=ax)
    assert labels_of(ax.xaxis) == ["\N{MINUS SIGN}6.7", "6.7"]
    bent = z.copy()
    bent[0, 0] += 1
    other = plots.manifold(x, bent, ax=plt.figure().gca())
    assert not other.axison
    with pytest.raises(ValueError, match=r"coordinates must have shape \(2, 2, 2\)"):
        plots.manifold(x, plots.quantile_grid(3), ax=ax)


# --- paths ----------------------------------------------------------------------------------------


@KIND
def test_interpolation_between_its_ends(ax, event, shape, tile):
    x, ends = RNG.random((2, 5, *event)), RNG.random((2, 2, *event))
    plots.interpolation(x, tuple(ends), shape=shape, ax=ax)
    sheet, wider = pixels(ax), max(2, tile[1] // 3)
    assert sheet.shape[1] == 7 * (tile[1] + 1) + 1 + 2 * wider
    lefts = 1 + np.arange(7) * (tile[1] + 1) + wider * np.array([0, 1, 1, 1, 1, 1, 2])
    for i in range(2):
        row = [ends[0, i], *x[i], ends[1, i]]
        for left, image in zip(lefts, row, strict=True):
            top = 1 + i * (tile[0] + 1)
            shown = sheet[top : top + tile[0], left : left + tile[1]]
            np.testing.assert_array_equal(shown, as_seen(image, event, shape))
    assert labels_of(ax.xaxis) == ["datum", "$t = 0$", "$t = 1$", "datum"]
    np.testing.assert_allclose(ax.get_xticks(), lefts[[0, 1, 5, 6]] + (tile[1] - 1) / 2)


def test_interpolation_alone(ax):
    plots.interpolation(np.zeros((1, 1, 64)), names=["a"], ax=ax)
    assert (labels_of(ax.xaxis), labels_of(ax.yaxis)) == (["$t = 0$"], ["a"])


def test_interpolation_refuses_other_ends(ax, as_users_see_it):
    x = np.zeros((2, 5, 64))
    with pytest.raises(ValueError, match=r"ends\[1\] must be one image for each row"):
        plots.interpolation(x, (x[:, 0], x[:1, 0]), ax=ax)
    with pytest.raises(ValueError, match="ends must have 2 entries"):
        plots.interpolation(x, (x[:, 0],), ax=ax)
    with pytest.raises(ValueError, match="names must have 2 entries"):
        plots.interpolation(x, names=["a"], ax=ax)


@KIND
def test_traversals_are_ordered_by_kl(ax, event, shape, tile):
    x = RNG.random((4, 3, *event))
    plots.traversals(x, [0.1, 2.0, 0.0, 1.0], values=[-3, 0, 3], most=3, shape=shape, ax=ax)
    for row, d in enumerate([1, 3, 0]):
        for j in range(3):
            expected = as_seen(x[d, j], event, shape)
            np.testing.assert_array_equal(tile_at(ax, row, j, tile), expected)
    assert labels_of(ax.yaxis) == [
        "$z_{2}$   2.00 nats",
        "$z_{4}$   1.00 nats",
        "$z_{1}$   0.10 nats",
    ]
    assert labels_of(ax.xaxis) == ["\N{MINUS SIGN}3.0", "0.0", "3.0"]
    assert pixels(ax).shape[0] == 3 * (tile[0] + 1) + 1


def test_traversals_without_kl_keep_their_order(ax):
    plots.traversals(np.zeros((3, 2, 64)), names=["a", "b", "c"], ax=ax)
    assert labels_of(ax.yaxis) == ["a", "b", "c"]


def test_traversals_refuse_what_does_not_suit(ax):
    x = np.zeros((3, 2, 64))
    with pytest.raises(ValueError, match="kl must have 3 entries"):
        plots.traversals(x, [1.0], ax=ax)
    with pytest.raises(ValueError, match=r"kl must be finite, got nan at index \(1,\)"):
        plots.traversals(x, [1.0, np.nan, 0.0], ax=ax)
    with pytest.raises(ValueError, match="values must have 2 entries"):
        plots.traversals(x, values=[1.0], ax=ax)
    with pytest.raises(ValueError, match="most must be 1 or more"):
        plots.traversals(x, most=0, ax=ax)


# --- units ----------------------------------------------------------------------------------------


def bars(container):
    return np.array([[b.get_x() + b.get_width() / 2, b.get_y(), b.get_height()] for b in container])


@pytest.mark.parametrize("mass", [0.5, 0.95])
def test_intervals_over_the_priors(ax, mass):
    loc, scale = RNG.normal(size=(2, 4)), RNG.random((2, 4)) + 0.1
    prior = np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0])
    plots.intervals(loc, scale, prior=prior, mass=mass, data_names=["a", "b"], ax=ax)
    half = stats.norm.ppf((1 + mass) / 2)
    band, *data = ax.containers
    drawn = bars(band)
    np.testing.assert_allclose(drawn[:, 0], np.arange(4))
    np.testing.assert_allclose(drawn[:, 1], prior[0] - half * prior[1])
    np.testing.assert_allclose(drawn[:, 2], 2 * half * prior[1])
    for i, (points, _, (segments,)) in enumerate(data):
        np.testing.assert_allclose(points.get_ydata(), loc[i])
        np.testing.assert_allclose(points.get_xdata(), np.arange(4) + [-0.15, 0.15][i])
        ends = np.array([s[:, 1] for s in segments.get_segments()])
        np.testing.assert_allclose(ends[:, 0], loc[i] - half * scale[i])
        np.testing.assert_allclose(ends[:, 1], loc[i] + half * scale[i])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["$p(z)$", "a", "b"]
    assert ax.get_ylabel() == f"{100 * mass:g} % interval of $z$"


def test_intervals_of_one_datum_without_a_prior(ax):
    plots.intervals([0.5], [1.0], prior=None, ax=ax)
    assert len(ax.containers) == 1
    assert labels_of(ax.xaxis) == ["$z_{1}$"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loc": [0.0, 1.0], "scale": [1.0]}, "must be the same"),
        ({"loc": [0.0], "scale": [-1.0]}, "scale must be above 0, got -1"),
        ({"loc": [np.nan], "scale": [1.0]}, "loc must be finite"),
        ({"loc": [], "scale": []}, "loc is empty"),
        ({"loc": [0.0], "scale": [1.0], "mass": 1.0}, "mass must be between 0 and 1"),
        (
            {"loc": [0.0], "scale": [1.0], "prior": (0.0, [1.0, 2.0])},
            r"prior\[1\] must be a number",
        ),
        ({"loc": [0.0], "scale": [1.0], "prior": (0.0, 0.0)}, r"prior\[1\] must be above 0"),
        ({"loc": [0.0], "scale": [1.0], "data_names": ["a", "b"]}, "data_names must have 1"),
        ({"loc": [0.0], "scale": [1.0], "names": ["a", "b"]}, "names must have 1"),
    ],
)
def test_intervals_refuse(ax, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.intervals(**arguments, ax=ax)


def test_kl_bars_are_sorted_and_active_units_marked(ax):
    kl = np.array([0.1, 2.0, -0.01, 1.0])
    plots.kl_per_dimension(kl, [False, True, False, True], ax=ax)
    active, inactive = ax.containers
    np.testing.assert_allclose(bars(active)[:, [0, 2]], [[0, 2.0], [1, 1.0]])
    np.testing.assert_allclose(
        [[b.get_x() + b.get_width() / 2, b.get_height()] for b in inactive], [[2, 0.1], [3, -0.01]]
    )
    assert {b.get_hatch() for b in inactive} == {"////"}  # told apart without colour
    assert (active.get_label(), inactive.get_label()) == ("active: 2 of 4", "inactive: 2 of 4")
    assert labels_of(ax.xaxis) == ["$z_{2}$", "$z_{4}$", "$z_{1}$", "$z_{3}$"]
    assert ax.get_ylabel() == "KL (nats)"


def test_kl_bars_without_marks(ax):
    plots.kl_per_dimension(torch.tensor([1.0]), ax=ax)
    assert len(ax.containers[0]) == 1
    assert ax.get_legend() is None


@pytest.mark.parametrize("count", [20, 100, 500])
def test_names_of_many_dimensions_do_not_overlap(ax, count):
    plots.kl_per_dimension(RNG.random(count), ax=ax)
    ax.figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.xaxis.get_ticklabels()]
    assert len(boxes) >= 10
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_kl_bars_refuse_what_does_not_suit(ax):
    with pytest.raises(ValueError, match="kl must be finite"):
        plots.kl_per_dimension([1.0, np.nan], ax=ax)
    with pytest.raises(ValueError, match="active must have 2 entries"):
        plots.kl_per_dimension([1.0, 2.0], [True], ax=ax)
    with pytest.raises(TypeError, match="active must be boolean"):
        plots.kl_per_dimension([1.0, 2.0], [1, 0], ax=ax)
    with pytest.raises(ValueError, match=r"kl must have 1 dimension, got shape \(1, 2\)"):
        plots.kl_per_dimension([[1.0, 2.0]], ax=ax)


# --- training -------------------------------------------------------------------------------------


def test_curves_of_values_and_of_pairs(ax):
    plots.curves({"train": [3.0, 2.0, 1.0], "test": [(0, 4.0), (10, 2.0)]}, ax=ax)
    train, test = ax.lines
    np.testing.assert_allclose(train.get_xydata(), [[0, 3], [1, 2], [2, 1]])
    np.testing.assert_allclose(test.get_xydata(), [[0, 4], [10, 2]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train", "test"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats per datum")


def test_a_diverged_run_is_seen_to_have_diverged(ax):
    plots.curves({"loss": [3.0, np.nan, 1.0, np.inf, 5.0, 6.0]}, ax=ax)
    drawn, alone = ax.lines
    np.testing.assert_array_equal(drawn.get_ydata(), [3.0, np.nan, 1.0, np.nan, 5.0, 6.0])
    np.testing.assert_allclose(alone.get_xydata(), [[0, 3.0], [2, 1.0]])
    assert drawn.get_label() == "loss (2 not finite)"


def test_more_than_ten_curves_have_other_lines(ax):
    plots.curves({str(i): [1.0, 2.0] for i in range(11)}, ax=ax)
    first, last = ax.lines[0], ax.lines[10]
    assert first.get_color() == last.get_color()
    assert first.get_linestyle() != last.get_linestyle()


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ({}, ValueError, "history is empty"),
        ([1.0], TypeError, "must map names to values"),
        ({"a": []}, ValueError, r"history\['a'\] is empty"),
        ({"a": np.zeros((3, 3))}, ValueError, r"must have shape \(T,\) or \(T, 2\)"),
        ({"a": [np.nan, np.nan]}, ValueError, "no finite value"),
        ({"a": [(np.nan, 1.0)]}, ValueError, r"steps of history\['a'\] must be finite"),
    ],
)
def test_curves_refuse(ax, as_users_see_it, history, error, message):
    with pytest.raises(error, match=message):
        plots.curves(history, ax=ax)


def heights(collection, at):
    """Return the lowest and the highest point of an area at x."""
    vertices = collection.get_paths()[0].vertices
    y = vertices[np.isclose(vertices[:, 0], at), 1]
    return y.min(), y.max()


def test_terms_are_stacked(ax):
    plots.stack({"a": [1.0, 2.0], "b": [3.0, 4.0]}, [5, 6], total="NELBO", ax=ax)
    named = {c.get_label(): c for c in ax.collections if not c.get_label().startswith("_")}
    assert heights(named["a"], 6) == pytest.approx((0, 2))
    assert heights(named["b"], 5) == pytest.approx((1, 4))
    assert heights(named["b"], 6) == pytest.approx((2, 6))
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[5, 4], [6, 6]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["NELBO", "b", "a"]
    assert ax.get_ylim()[0] == 0


def test_what_is_below_0_is_stacked_downwards(ax):
    plots.stack({"a": [-1.0, -2.0], "b": [3.0, 3.0], "c": [-1.0, -1.0]}, ax=ax)
    areas = list(ax.collections)  # upwards and downwards for each term
    assert heights(areas[1], 1) == pytest.approx((-2, 0))
    assert heights(areas[2], 1) == pytest.approx((0, 3))
    assert heights(areas[5], 1) == pytest.approx((-3, -2))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1, 0])
    assert ax.get_ylim()[0] < -3


def test_a_single_epoch_is_seen(ax):
    plots.stack({"a": [2.0]}, ax=ax)
    vertices = ax.collections[0].get_paths()[0].vertices
    assert np.ptp(vertices, axis=0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("terms", "steps", "message"),
    [
        ({}, None, "terms is empty"),
        ({"a": [1.0], "b": [1.0, 2.0]}, None, r"terms\['b'\] must have 1 entries"),
        ({"a": [1.0, np.nan]}, None, r"terms\['a'\] must be finite"),
        ({"a": [1.0, 2.0]}, [1], "steps must have 2 entries"),
        ({"a": [1.0, 2.0]}, [1, 0], "steps must ascend"),
    ],
)
def test_stack_refuses(ax, terms, steps, message):
    with pytest.raises(ValueError, match=message):
        plots.stack(terms, steps, ax=ax)


# --- scores ---------------------------------------------------------------------------------------


def test_models_are_compared(ax):
    plots.comparison(
        ["A", "B"],
        {"NELBO": [100.0, 99.0], "AIS": [98.0, np.nan]},
        {"NELBO": [0.5, np.nan]},
        ax=ax,
    )
    nelbo, ais = (line for line in ax.lines if line.get_label() in ("NELBO", "AIS"))
    np.testing.assert_allclose(nelbo.get_xdata(), [100, 99])
    np.testing.assert_allclose(ais.get_xdata(), [98])
    # within the model's line, first quantity first
    np.testing.assert_allclose(nelbo.get_ydata(), [-0.125, 0.875])
    np.testing.assert_allclose(ais.get_ydata(), [0.125])
    assert nelbo.get_marker() != ais.get_marker()
    segments = ax.containers[0][2][0].get_segments()
    np.testing.assert_allclose(segments, [[[99.5, -0.125], [100.5, -0.125]]])
    assert labels_of(ax.yaxis) == ["A", "B"]
    assert ax.yaxis_inverted()  # the first model on top
    assert ax.get_xlabel() == "nats per datum (± standard error)"


def test_a_single_model_and_quantity(ax):
    plots.comparison(["A"], {"accuracy": torch.tensor([0.9])}, xlabel="share", ax=ax)
    assert ax.get_xlabel() == "accuracy, share"
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], {"a": []}), "names is empty"),
        ((["A"], {}), "estimates is empty"),
        ((["A"], {"a": [1.0, 2.0]}), r"estimates\['a'\] must have 1 entries"),
        ((["A"], {"a": [np.inf]}), "infinite"),
        ((["A"], {"a": [np.nan]}), "all estimates are NaN"),
        ((["A"], {"a": [1.0]}, {"b": [1.0]}), "errors has 'b', of which there is no estimate"),
        ((["A"], {"a": [1.0]}, {"a": [-1.0]}), "must be at least 0"),
    ],
)
def test_comparison_refuses(ax, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.comparison(*arguments, ax=ax)


def test_reliability(ax):
    confidence, accuracy, counts = [0.95, np.nan, 0.6], [0.9, np.nan, 0.25], [60, 0, 40]
    plots.reliability(confidence, accuracy, counts, ax=ax)
    points, _, (segments,) = ax.containers[0]
    np.testing.assert_allclose(points.get_xydata(), [[0.6, 0.25], [0.95, 0.9]])
    for segment, right, of in zip(segments.get_segments(), (10, 54), (40, 60), strict=True):
        interval = stats.binomtest(right, of).proportion_ci(0.95, method="wilson")
        np.testing.assert_allclose(segment[:, 1], [interval.low, interval.high], atol=1e-4)
    shares = {
        tuple(s[1])
        for c in ax.collections
        if c.get_label() == "share of data"
        for s in c.get_segments()
    }
    assert shares == {(0.95, 0.6), (0.6, 0.4)}
    # 0.6 · |0.9 - 0.95| + 0.4 · |0.25 - 0.6|
    assert ax.get_title() == "expected calibration error 17.0 %"


def test_reliability_of_certain_bins(ax):
    plots.reliability([1.0], [1.0], [3], ax=ax)
    low, high = ax.containers[0][2][0].get_segments()[0][:, 1]
    assert 0 < low < high == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5], [0.5], [0]), "all counts are 0"),
        (([0.5], [0.5], [1.5]), "whole numbers"),
        (([0.5], [0.5], [-1]), "whole numbers"),
        (([0.5], [0.5, 0.6], [1]), "accuracy must have 1 entries"),
        (([np.nan], [0.5], [1]), "confidence of bins with data must be in"),
        (([0.5], [50.0], [1]), "accuracy of bins with data must be in"),
        (([], [], []), "confidence is empty"),
    ],
)
def test_reliability_refuses(ax, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.reliability(*arguments, ax=ax)


# --- programs -------------------------------------------------------------------------------------


def sites(ax):
    return {p.get_label(): p for p in ax.patches if isinstance(p, Ellipse)}


def edges(ax):
    return {p.get_label() for p in ax.patches if isinstance(p, FancyArrowPatch)}


def plates(ax):
    return {p.get_label(): p.get_bbox() for p in ax.patches if isinstance(p, FancyBboxPatch)}


@pytest.mark.parametrize("prior", ["standard", "vamp", "spline"])
def test_graph_of_a_pair(ax, prior):
    pair, x = vae(prior), binary()
    before = torch.get_rng_state()
    found = relations(pair.model, x)
    assert torch.equal(before, torch.get_rng_state())
    assert pair.model.training
    assert found["sample_sample"] == {"z": [], "x": ["z"]}
    plots.graph(found, ax=ax)
    assert edges(ax) == {"z -> x"}
    drawn = sites(ax)
    assert drawn["x"].get_facecolor() == to_rgba("0.8")
    assert drawn["z"].get_facecolor() == to_rgba("white")
    assert drawn["z"].center[1] > drawn["x"].center[1]
    assert "x ~ Bernoulli" in ax.texts[-1].get_text()
    assert plates(ax).keys() == {"data"}


def test_graph_of_a_guide_and_of_partial_labels(ax):
    pair, x = ssvae(), binary()
    plots.graph(relations(pair.guide, x), ax=ax)
    assert edges(ax) == {"y -> z"}
    other = plt.figure().gca()
    plots.graph(relations(pair.model, x, torch.tensor([0, 1, 2, -1, -1, 0, 1])), ax=other)
    assert edges(other) == {"y -> x", "z -> x", "y -> y_observed"}
    assert sites(other)["y_observed"].get_facecolor() == to_rgba("black")


def test_pyros_own_relations_are_drawn(ax):
    def model():
        loc = pyro.sample("loc", pyro.distributions.Normal(0.0, 1.0))
        with pyro.plate("outer", 2), pyro.plate("inner", 3):
            z = pyro.sample("z", pyro.distributions.Normal(loc, 1.0))
            pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=torch.zeros(3, 2))

    plots.graph(get_model_relations(model), distributions=False, ax=ax)
    assert edges(ax) == {"loc -> z", "z -> x"}
    boxes = plates(ax)
    assert boxes.keys() == {"outer", "inner"}
    assert len(ax.texts) == 5  # three sites and two plates
    assert not boxes["outer"].contains(*sites(ax)["loc"].center)


# Latent Dirichlet allocation, written with the plates of topics and documents side by side.
TOPICS = {
    "sample_sample": {
        "alpha": [],
        "weights": ["alpha"],
        "topic": [],
        "doc": ["weights"],
        "assigned": ["doc"],
        "word": ["topic", "assigned"],
    },
    "plate_sample": {
        "topics": ["weights", "topic"],
        "documents": ["doc", "assigned", "word"],
        "words": ["assigned", "word"],
    },
    "observed": ["word"],
}
LADDER = {
    "sample_sample": {
        "layer3": [],
        "layer2": ["layer3"],
        "layer1": ["layer2", "layer3"],
        "x": ["layer1", "layer2", "layer3"],
    },
    "plate_sample": {"data": ["layer3", "layer2", "layer1", "x"]},
    "observed": ["x"],
}
# "shared" is of the plate's first layer, and outside it.
BESIDE = {
    "sample_sample": {"top": [], "shared": ["top"], "z": ["top"], "x": ["z", "shared"]},
    "plate_sample": {"data": ["z", "x"]},
}
LONE = {"sample_sample": {"z": []}}


@pytest.mark.parametrize(
    "given", [TOPICS, LADDER, BESIDE, LONE], ids=["topics", "ladder", "beside", "lone"]
)
def test_a_plate_holds_its_sites_and_no_other(ax, given):
    plots.graph(given, ax=ax)
    boxes, drawn = plates(ax), sites(ax)
    for name, members in given.get("plate_sample", {}).items():
        for site, ellipse in drawn.items():
            (x, y), half = ellipse.center, ellipse.width / 2
            corners = [(x - half, y - HEIGHT / 2), (x + half, y + HEIGHT / 2)]
            around = Bbox(corners)
            if site in members:
                assert Bbox.union([boxes[name], around]).bounds == boxes[name].bounds, (name, site)
            else:
                assert not boxes[name].overlaps(around), (name, site)
    # everything is within the Axes
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for box in boxes.values():
        assert left < box.x0 < box.x1 < right
        assert bottom < box.y0 < box.y1 < top


@pytest.mark.parametrize("given", [TOPICS, LADDER, BESIDE], ids=["topics", "ladder", "beside"])
def test_edges_pass_no_site_and_point_downwards(given):
    layout = lay_out(given["sample_sample"], given["plate_sample"])
    for (source, target), curve in layout.curves.items():
        assert layout.centres[source][1] > layout.centres[target][1]
        t = np.linspace(0, 1, 200)[:, None]
        points = (1 - t) ** 2 * curve[0] + 2 * t * (1 - t) * curve[1] + t**2 * curve[2]
        for site, centre in layout.centres.items():
            away = np.hypot(*((points - centre) / [layout.widths[site] / 2, HEIGHT / 2]).T)
            assert away.min() > 1, (source, target, site)
        # from border to border
        for end, site in ((0, source), (-1, target)):
            half = [layout.widths[site] / 2, HEIGHT / 2]
            assert np.hypot(*((points[end] - layout.centres[site]) / half)) < 1.15


def test_bent_edges_are_on_both_sides_and_in_the_box():
    layout = lay_out(LADDER["sample_sample"], LADDER["plate_sample"])
    box, middle = layout.boxes["data"], layout.centres["layer1"][0]
    # halfway, where a bent edge is farthest out
    x = np.array([curve[:, 0] @ [0.25, 0.5, 0.25] for curve in layout.curves.values()])
    assert box.left < x.min() < middle - 0.7
    assert middle + 0.7 < x.max() < box.right


def test_sites_do_not_overlap():
    layout = lay_out(TOPICS["sample_sample"], TOPICS["plate_sample"])
    names = list(layout.centres)
    for i, a in enumerate(names):
        for b in names[:i]:
            apart = np.abs(layout.centres[a] - layout.centres[b])
            wide = (layout.widths[a] + layout.widths[b]) / 2
            assert apart[0] >= wide or apart[1] > HEIGHT, (a, b)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"sample_sample": {}}, ValueError, "no sample site"),
        ({}, TypeError, "get_model_relations"),
        ({"sample_sample": {"a": ["b"], "b": ["a"]}}, ValueError, "is a cycle"),
        ({"sample_sample": {"a": ["b"]}}, ValueError, "'a' depends on 'b', which is no site"),
        (
            {"sample_sample": {"a": []}, "plate_sample": {"p": ["b"]}},
            ValueError,
            "plate 'p' holds 'b', which is no site",
        ),
        (
            {
                "sample_sample": {"a": [], "b": [], "c": []},
                "plate_sample": {"p": ["a", "b"], "q": ["b", "c"]},
            },
            ValueError,
            "'q' and 'p' overlap",
        ),
    ],
)
def test_what_is_no_graph_is_refused(ax, given, error, message):
    with pytest.raises(error, match=message):
        plots.graph(given, ax=ax)
    assert not ax.patches


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(-0.04, "0.0"), (-1.26, "\N{MINUS SIGN}1.3"), (2.0, "2.0")]
)
def test_numbers(value, text):
    assert number(value) == text


@pytest.mark.parametrize("count", range(1, 60))
def test_some_are_symmetric_and_few(count):
    shown = some(count)
    assert shown[0] == 0
    assert shown[-1] == count - 1
    assert len(shown) <= 7
    np.testing.assert_array_equal(shown, count - 1 - shown[::-1])
    assert len(shown) >= min(count, 4)


def test_labels_disagree_with_z(ax):
    with pytest.raises(ValueError, match="labels must have 5 entries"):
        plots.latents(np.zeros((5, 2)), [0, 1], ax=ax)
    with pytest.raises(ValueError, match="z must be finite"):
        plots.latents([[np.nan, 0.0]], ax=ax)
    with pytest.raises(ValueError, match="z is empty"):
        plots.latents(np.zeros((0, 2)), ax=ax)
    with pytest.raises(ValueError, match="prior_draws 3"):
        plots.latents(np.zeros((5, 2)), prior_draws=np.zeros((4, 3)), ax=ax)
