"""Training curves, comparisons, reliability diagrams: what they draw on the Axes."""

import numpy as np
import pytest
import torch
from scipy import stats
from sheets import labels_of

from ppl_vae import plots
from ppl_vae.plots.text import number, tick_indices

RNG = np.random.default_rng(0)


# --- training -------------------------------------------------------------------------------------


def test_curves_of_values_and_of_pairs(ax):
    plots.curves({"train": [3.0, 2.0, 1.0], "test": [(0, 4.0), (10, 2.0)]}, ax=ax)
    train, test = ax.lines
    np.testing.assert_allclose(train.get_xydata(), [[0, 3], [1, 2], [2, 1]])
    np.testing.assert_allclose(test.get_xydata(), [[0, 4], [10, 2]])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["train", "test"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "nats per datum")


def test_a_name_with_an_underscore_is_in_the_legend(ax):
    plots.curves({"_run": [2.0, 1.0]}, ax=ax)
    assert [text.get_text().strip() for text in ax.get_legend().get_texts()] == ["_run"]


def test_a_curve_that_diverges_has_gaps_and_says_so(ax):
    plots.curves({"loss": [3.0, np.nan, 1.0, np.inf, 5.0, 6.0]}, ax=ax)
    drawn, alone = ax.lines
    np.testing.assert_array_equal(drawn.get_ydata(), [3.0, np.nan, 1.0, np.nan, 5.0, 6.0])
    np.testing.assert_allclose(alone.get_xydata(), [[0, 3.0], [2, 1.0]])
    assert drawn.get_label() == "loss (2 not finite)"


@pytest.mark.parametrize(("steps", "whole"), [([0, 1, 2], True), ([0.5, 1.5, 2.5], False)])
def test_ticks_are_at_whole_steps_if_all_steps_are_whole(ax, steps, whole):
    plots.curves({"a": np.column_stack([steps, [3.0, 2.0, 1.0]])}, ax=ax)
    assert all(tick == round(tick) for tick in ax.get_xticks()) == whole


def test_the_eleventh_curve_has_another_line_style(ax):
    plots.curves({str(i): [1.0, 2.0] for i in range(11)}, ax=ax)
    first, last = ax.lines[0], ax.lines[10]
    assert first.get_color() == last.get_color()
    assert first.get_linestyle() != last.get_linestyle()


@pytest.mark.parametrize(
    ("history", "error", "message"),
    [
        ({}, ValueError, "history must not be empty"),
        ([1.0], TypeError, "must map names to values"),
        ({"a": []}, ValueError, r"history\['a'\] must not be empty"),
        ({"a": np.zeros((3, 3))}, ValueError, r"must have shape \(T,\) or \(T, 2\)"),
        ({"a": [np.nan, np.nan]}, ValueError, "must have a finite value"),
        ({"a": [(np.nan, 1.0)]}, ValueError, r"steps of history\['a'\] must be finite"),
    ],
)
def test_invalid_curves_are_refused(ax, as_users_see_it, history, error, message):
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


def test_negative_terms_are_stacked_downwards(ax):
    plots.stack({"a": [-1.0, -2.0], "b": [3.0, 3.0], "c": [-1.0, -1.0]}, ax=ax)
    areas = list(ax.collections)  # upwards and downwards for each term
    assert heights(areas[1], 1) == pytest.approx((-2, 0))
    assert heights(areas[2], 1) == pytest.approx((0, 3))
    assert heights(areas[5], 1) == pytest.approx((-3, -2))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [1, 0])
    assert ax.get_ylim()[0] < -3


def test_a_single_epoch_is_visible(ax):
    plots.stack({"a": [2.0]}, ax=ax)
    vertices = ax.collections[0].get_paths()[0].vertices
    assert np.ptp(vertices, axis=0).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("terms", "steps", "message"),
    [
        ({}, None, "terms must not be empty"),
        ({"a": [1.0], "b": [1.0, 2.0]}, None, r"terms\['b'\] must have 1 entries"),
        ({"a": [1.0, np.nan]}, None, r"terms\['a'\] must be finite"),
        ({"a": [1.0, 2.0]}, [1], "steps must have 2 entries"),
        ({"a": [1.0, 2.0]}, [1, 0], "steps must ascend"),
    ],
)
def test_invalid_stacks_are_refused(ax, terms, steps, message):
    with pytest.raises(ValueError, match=message):
        plots.stack(terms, steps, ax=ax)


# --- scores ---------------------------------------------------------------------------------------


def test_comparison_draws_each_quantity_of_each_model(ax):
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


def test_comparison_of_a_single_quantity_has_no_legend(ax):
    plots.comparison(["A"], {"accuracy": torch.tensor([0.9])}, xlabel="share", ax=ax)
    assert ax.get_xlabel() == "accuracy, share"
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], {"a": []}), "names must not be empty"),
        ((["A"], {}), "estimates must not be empty"),
        ((["A"], {"a": [1.0, 2.0]}), r"estimates\['a'\] must have 1 entries"),
        ((["A"], {"a": [np.inf]}), "infinite"),
        ((["A"], {"a": [np.nan]}), "estimates must not all be NaN"),
        ((["A"], {"a": [1.0]}, {"b": [1.0]}), "errors must be of a, as estimates, got 'b'"),
        ((["A"], {"a": [1.0]}, {"a": [-1.0]}), "must be at least 0"),
    ],
)
def test_invalid_comparisons_are_refused(ax, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.comparison(*arguments, ax=ax)


def test_reliability_draws_accuracies_with_wilson_intervals(ax):
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


def test_reliability_of_a_certain_classifier(ax):
    plots.reliability([1.0], [1.0], [3], ax=ax)
    low, high = ax.containers[0][2][0].get_segments()[0][:, 1]
    assert 0 < low < high == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5], [0.5], [0]), "counts must not all be 0"),
        (([0.5], [0.5], [1.5]), "whole numbers"),
        (([0.5], [0.5], [-1]), "whole numbers"),
        (([0.5], [0.5, 0.6], [1]), "accuracy must have 1 entries"),
        (([np.nan], [0.5], [1]), "confidence must be in"),
        (([0.5], [50.0], [1]), "accuracy must be in"),
        (([], [], []), "confidence must not be empty"),
    ],
)
def test_invalid_reliability_is_refused(ax, arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.reliability(*arguments, ax=ax)


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"), [(-0.04, "0.0"), (-1.26, "\N{MINUS SIGN}1.3"), (2.0, "2.0")]
)
def test_numbers_have_a_proper_minus_sign(value, text):
    assert number(value) == text


@pytest.mark.parametrize("count", range(1, 60))
def test_ticks_are_few_and_symmetric(count):
    shown = tick_indices(count)
    assert shown[0] == 0
    assert shown[-1] == count - 1
    assert len(shown) <= 7
    np.testing.assert_array_equal(shown, count - 1 - shown[::-1])
    assert len(shown) >= min(count, 4)
