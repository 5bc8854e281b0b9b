"""Columns of a table: histograms, shares, associations, and the coverage of intervals."""

import itertools

import numpy as np
import pytest

from ppl_vae import plots
from ppl_vae.report.figures.picture import new_axes

RNG = np.random.default_rng(0)


def heights(ax):
    """Return the heights of the two histograms, and their edges."""
    (real, edges, _), (synthetic, other, _) = (patch.get_data() for patch in ax.patches)
    np.testing.assert_array_equal(edges, other)
    return real, synthetic, edges


@pytest.mark.parametrize("log", [False, True])
def test_histograms_are_shares_in_common_bins(ax, log):
    real, synthetic = np.exp(RNG.normal(size=300)), np.exp(RNG.normal(size=500))
    plots.histograms(real, synthetic, log=log, ax=ax)
    shares, others, edges = heights(ax)
    assert shares.sum() == pytest.approx(1)
    assert others.sum() == pytest.approx(1)  # what lies beyond is in the outermost bars
    np.testing.assert_allclose(shares, np.histogram(real, edges)[0] / 300)
    assert len(edges) == 31
    assert ax.get_xscale() == ("log" if log else "linear")
    widths = np.diff(np.log(edges) if log else edges)
    np.testing.assert_allclose(widths, widths[0])


@pytest.mark.parametrize("mean", [0, 3, 8, 12])
@pytest.mark.parametrize("spread", [0.03, 0.1, 0.2, 0.35, 0.5, 0.8, 1.5, 3])
def test_the_labels_of_a_logarithmic_axis_do_not_overlap(mean, spread):
    ax = new_axes(3.4, 2.3)  # as in a report
    real = np.exp(mean + spread * np.random.default_rng(1).normal(size=300))
    plots.histograms(real, real, log=True, ax=ax)
    ax.figure.draw_without_rendering()
    low, high = ax.get_xlim()
    texts = [t for t in ax.get_xticklabels() if t.get_text() and low <= t.get_position()[0] <= high]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize(
    "names", [["a"], ["a long name of a category", "b"], ["a", "b", "c"], [*"abcdefghij"]]
)
def test_the_legend_of_shares_covers_no_bar(names):
    ax = new_axes(3.4, 2.3)  # as in a report
    equal = [1 / len(names)] * len(names)
    plots.shares(equal, equal, names, ax=ax)
    ax.figure.draw_without_rendering()
    legend = ax.get_legend().get_window_extent()
    assert not any(legend.overlaps(bar.get_window_extent()) for bar in ax.patches)


def test_few_whole_numbers_have_a_bar_each(ax):
    plots.histograms([0, 0, 1, 3], [1, 2], ax=ax)
    real, synthetic, edges = heights(ax)
    np.testing.assert_allclose(edges, [-0.5, 0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(real, [0.5, 0.25, 0, 0.25])
    np.testing.assert_allclose(synthetic, [0, 0.5, 0.5, 0])


def test_a_synthetic_value_far_away_does_not_hide_the_real_ones(ax):
    plots.histograms(RNG.random(100), [0.5, 0.6, 1e6], ax=ax)
    _, synthetic, edges = heights(ax)
    assert edges[-1] < 2
    assert synthetic[-1] == pytest.approx(1 / 3)


def test_a_column_of_one_value_is_drawn(ax):
    plots.histograms([2.5, 2.5], [2.5], ax=ax)
    real, _, edges = heights(ax)
    assert real.sum() == 1
    assert edges[0] < 2.5 < edges[-1]


def test_shares_stand_beside_each_other_by_name(ax):
    plots.shares([0.75, 0.25], [0.5, 0.5], ["a", "$b"], ax=ax)
    assert [bar.get_width() for bar in ax.patches] == [0.75, 0.25, 0.5, 0.5]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", r"\$b"]
    bottom, top = ax.get_ylim()
    assert bottom == 1.5  # the first on top
    assert top < -0.5


def test_associations_are_written_in_and_grey_where_there_are_none(ax):
    matrix = [[1.0, -0.25, np.nan], [-0.25, 1.0, 0.5], [np.nan, 0.5, 1.0]]
    plots.associations(matrix, ["a", "b", "c"], ax=ax)
    (image,) = ax.images
    np.testing.assert_array_equal(np.ma.getmaskarray(image.get_array()), np.isnan(matrix))
    assert image.get_clim() == (-1, 1)
    texts = {tuple(t.get_position()): t.get_text() for t in ax.texts}
    assert texts[1, 0] == texts[0, 1] == "\N{MINUS SIGN}.25"
    assert texts[2, 1] == ".50"
    assert len(texts) == 4  # neither the diagonal nor what is not there


def test_associations_of_any_size_are_written_in(ax):
    plots.associations([[0, 10.5], [-0.25, 0]], ["a", "b"], limit=25, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["10.50", "\N{MINUS SIGN}.25"]


def test_many_columns_have_no_numbers(ax):
    plots.associations(np.eye(15), [str(i) for i in range(15)], ax=ax)
    assert not ax.texts


def test_coverage_has_wilsons_intervals(ax):
    plots.coverage([0.5, 0.9], [0.4, 0.9], [100, 10], level=0.99, ax=ax)
    (points,) = (line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_xydata(), [[0.5, 0.4], [0.9, 0.9]])
    (bars,) = ax.containers
    low, high = np.array([segment[:, 1] for segment in bars[2][0].get_segments()]).T
    z = 2.5758293
    for n, p, a, b in zip([100, 10], [0.4, 0.9], low, high, strict=True):
        # The ends solve (p - x)² = z² x (1 - x) / n.
        for end in (a, b):
            assert (p - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / n, rel=1e-5)
        assert a < p < b
