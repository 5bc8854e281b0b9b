"""Statistics of the data beside those of replicated data."""

import numpy as np
import pytest

from ppl_vae import plots

NAMES = ["inside", "far", "$alike"]


def test_each_statistic_has_a_line(ax):
    replicated = np.stack([np.linspace(-1, 1, 101), np.linspace(9, 11, 101), np.full(101, 2.0)], 1)
    plots.predictive_checks(NAMES, [0.0, 99.0, 2.0], replicated, ax=ax)
    markers = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    assert [line.get_marker() for line in markers] == ["o", ">", "o"]
    np.testing.assert_allclose([line.get_xdata()[0] for line in markers], [0, 6, 0], atol=1e-12)
    colours = [line.get_color() for line in markers]
    assert colours[0] == colours[2] != colours[1]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["inside", "far", r"\$alike"]
    assert [text.get_text() for text in ax.texts] == ["0", "99", "2"]
    box, sd = ax.patches[0], replicated[:, 0].std()
    np.testing.assert_allclose(box.get_x(), -0.5 / sd)
    np.testing.assert_allclose(box.get_width(), 1 / sd)


def test_data_other_than_replicates_that_are_all_alike_are_at_the_limit(ax):
    plots.predictive_checks(["a"], [1.0], np.full((5, 1), 2.0), limit=3, ax=ax)
    (marker,) = (line for line in ax.lines if line.get_marker() == "<")
    assert marker.get_xdata()[0] == -3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], [[]]), "names must not be empty"),
        ((["a"], [1.0, 2.0], [[1.0]]), "observed must have 1 entries"),
        ((["a"], [1.0], [[1.0, 2.0]]), "replicated must have 1 entries"),
        ((["a"], [np.nan], [[1.0]]), "observed must be finite"),
    ],
)
def test_wrong_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.predictive_checks(*arguments)
