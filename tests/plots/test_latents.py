"""The latent space, its density and its dimensions: what they draw on the Axes."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from scipy import stats
from sheets import KIND, as_seen, labels_of, pixels, tile_at

from ppl_vae import plots
from ppl_vae.plots import colours

RNG = np.random.default_rng(0)


# --- the latent space -----------------------------------------------------------------------------


@pytest.mark.parametrize("latent_dim", [1, 2, 5])
def test_latents_of_any_number_of_dimensions(ax, latent_dim):
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


def test_principal_components_are_of_the_centred_latents(ax):
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


def test_the_colour_of_a_label_does_not_depend_on_the_others(ax):
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


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([0.0, 1.0, np.nan, np.nan, 1.0]), ["no label", "0", "1"]),
        (np.array(["a", None, "b", None, "a"], object), ["a", "b", "no label"]),
        (np.array([0, None, 1, None, 1], object), ["no label", "0", "1"]),
        (np.array([0.5, np.nan, 1.5, 0.5, 1.5]), ["0.5", "1.5", "no label"]),
    ],
)
def test_data_without_a_label_are_black(ax, labels, names):
    plots.latents(np.random.default_rng(0).normal(size=(5, 2)), labels, ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == names
    assert sum(len(points.get_offsets()) for points in ax.collections) == 5


def test_classes_name_numbers_alone(ax):
    z = np.zeros((4, 2))
    plots.latents(z, np.array([0.0, 1.0, 1.0, 0.0]), classes=["cat", "dog"], ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["cat", "dog"]
    with pytest.raises(ValueError, match=r"classes are the names of the labels 0, 1, .*got labels"):
        plots.latents(z, ["a", "b", "b", "a"], classes=["cat", "dog"], ax=ax)


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
def test_prior_density_needs_two_dimensions(ax, latent_dim):
    with pytest.raises(ValueError, match=f"needs z of two dimensions, got {latent_dim};"):
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
def test_invalid_densities_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        plots.density(np.arange(3), np.arange(4), values)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_quantile_grid_has_equal_steps_of_mass(n):
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


def test_arguments_incompatible_with_z_are_refused(ax):
    with pytest.raises(ValueError, match="labels must have 5 entries"):
        plots.latents(np.zeros((5, 2)), [0, 1], ax=ax)
    with pytest.raises(ValueError, match="z must be finite"):
        plots.latents([[np.nan, 0.0]], ax=ax)
    with pytest.raises(ValueError, match="z must not be empty"):
        plots.latents(np.zeros((0, 2)), ax=ax)
    with pytest.raises(ValueError, match="prior_draws must have 2 dimensions, as z, got 3"):
        plots.latents(np.zeros((5, 2)), prior_draws=np.zeros((4, 3)), ax=ax)


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
        ({"loc": [0.0, 1.0], "scale": [1.0]}, "must have the same shape"),
        ({"loc": [0.0], "scale": [-1.0]}, "scale must be above 0, got -1"),
        ({"loc": [np.nan], "scale": [1.0]}, "loc must be finite"),
        ({"loc": [], "scale": []}, "loc must not be empty"),
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
def test_invalid_intervals_are_refused(ax, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.intervals(**arguments, ax=ax)


def test_kl_bars_are_sorted_with_active_units_marked(ax):
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
    ax.figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.xaxis.get_ticklabels()]
    assert len(boxes) >= 10
    assert all(a.x1 < b.x0 for a, b in pairwise(boxes))


def test_only_visible_letters_of_names_are_counted(ax):
    plots.intervals(np.zeros(10), np.ones(10), names=[f"$z_{{{d}}}$" for d in range(10, 20)], ax=ax)
    assert {text.get_rotation() for text in ax.get_xticklabels()} == {0}
    ax.clear()
    plots.intervals(np.zeros(10), np.ones(10), names=10 * ["z_{123}"], ax=ax)
    assert {text.get_rotation() for text in ax.get_xticklabels()} == {90}


def test_invalid_kl_bars_are_refused(ax):
    with pytest.raises(ValueError, match="kl must be finite"):
        plots.kl_per_dimension([1.0, np.nan], ax=ax)
    with pytest.raises(ValueError, match="active must have 2 entries"):
        plots.kl_per_dimension([1.0, 2.0], [True], ax=ax)
    with pytest.raises(TypeError, match="active must be boolean"):
        plots.kl_per_dimension([1.0, 2.0], [1, 0], ax=ax)
    with pytest.raises(ValueError, match=r"kl must have ndim 1, got shape \(1, 2\)"):
        plots.kl_per_dimension([[1.0, 2.0]], ax=ax)
