"""Images on sheets and along paths: what they draw on the Axes."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from sheets import KIND, as_seen, labels_of, pixels, tile_at

from ppl_vae import plots
from ppl_vae.plots import colours

RNG = np.random.default_rng(0)


# --- sheets ---------------------------------------------------------------------------------------


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


def test_tensors_are_drawn_as_arrays(ax):
    x = torch.rand(4, 8, 8)
    plots.images(x, columns=2, ax=ax)
    np.testing.assert_allclose(tile_at(ax, 1, 0, (8, 8)), x[2])
    with pytest.raises(TypeError, match=r"x must be an array of numbers.*x\.detach\(\)\.cpu\(\)"):
        plots.images(x.requires_grad_(), ax=ax)


@KIND
def test_missing_pixels_have_a_colour_of_their_own(ax, event, shape, tile):
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


def test_values_out_of_range_are_clipped(ax):
    plots.images([[[-1.0, 0.5], [2.0, 1.0]]], ax=ax)
    np.testing.assert_array_equal(tile_at(ax, 0, 0, (2, 2)), [[0, 0.5], [1, 1]])


def test_reconstructions_lie_below_the_data(ax):
    x = np.arange(4).reshape(4, 1, 1) / 10 * np.ones((4, 2, 2))
    plots.reconstructions(x, x + 0.5, columns=2, ax=ax)
    sheet = np.asarray(ax.images[0].get_array())[1::3, 1::3]
    np.testing.assert_allclose(sheet, [[0, 0.1], [0.5, 0.6], [0.2, 0.3], [0.7, 0.8]])


@KIND
def test_reconstructions_of_every_kind_of_image(ax, event, shape, tile):
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


def test_a_shape_that_is_none_of_images_is_refused(ax):
    with pytest.raises(ValueError, match=r"shape must be \(H, W\) or \(C, H, W\), got \(64,\)"):
        plots.images(np.zeros((4, 64)), shape=(64,), ax=ax)


def test_data_other_than_images_are_refused(ax):
    with pytest.raises(ValueError, match=r"must be square images, or give shape=, got \(50,\)"):
        plots.images(np.zeros((6, 50)), ax=ax)
    with pytest.raises(ValueError, match="must hold images of shape"):
        plots.images(np.zeros((6, 5, 8, 8)), ax=ax)
    with pytest.raises(ValueError, match="must have the same shape"):
        plots.reconstructions(np.zeros((6, 64)), np.zeros((5, 64)), ax=ax)


@pytest.mark.parametrize("name", ["images", "rows", "manifold", "interpolation", "traversals"])
@pytest.mark.parametrize(
    ("event", "shape", "message"),
    [
        ((50,), None, r"must be square images, or give shape=, got \(50,\)"),
        ((64,), (7, 8), r"must hold images of shape \(7, 8\)"),
        ((2, 8, 8), None, "1 or 3 channels"),
        ((8, 8, 3), None, "1 or 3 channels"),
        ((1, 3, 8, 8), None, "must hold images"),
        ((), None, "must hold images"),
        ((0,), None, "must not be empty"),
    ],
)
def test_shapes_other_than_images_are_refused_by_name(ax, name, event, shape, message):
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


# --- paths ----------------------------------------------------------------------------------------


@KIND
def test_interpolation_lies_between_its_ends(ax, event, shape, tile):
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


def test_interpolation_without_ends(ax):
    plots.interpolation(np.zeros((1, 1, 64)), names=["a"], ax=ax)
    assert (labels_of(ax.xaxis), labels_of(ax.yaxis)) == (["$t = 0$"], ["a"])


def test_invalid_ends_of_an_interpolation_are_refused(ax, as_users_see_it):
    x = np.zeros((2, 5, 64))
    with pytest.raises(ValueError, match=r"ends\[1\] must be an image for each row"):
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


def test_close_values_are_told_apart(ax):
    values = np.linspace(-0.04, 0.04, 5)
    plots.traversals(np.zeros((2, 5, 4, 4)), values=values, ax=ax)
    minus = "\N{MINUS SIGN}"
    found = [text.get_text() for text in ax.get_xticklabels()]
    assert found == [f"{minus}0.04", f"{minus}0.02", "0.00", "0.02", "0.04"]


def test_invalid_traversals_are_refused(ax):
    x = np.zeros((3, 2, 64))
    with pytest.raises(ValueError, match="kl must have 3 entries"):
        plots.traversals(x, [1.0], ax=ax)
    with pytest.raises(ValueError, match=r"kl must be finite, got nan at index \(1,\)"):
        plots.traversals(x, [1.0, np.nan, 0.0], ax=ax)
    with pytest.raises(ValueError, match="values must have 2 entries"):
        plots.traversals(x, values=[1.0], ax=ax)
    with pytest.raises(ValueError, match="most must be 1 or more"):
        plots.traversals(x, most=0, ax=ax)
