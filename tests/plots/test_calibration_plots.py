"""Plots of calibration draw the differences, bands and words that they are given."""

import numpy as np
import pytest
import torch

from ppl_vae import plots

POINTS = np.array([0.25, 0.5, 0.75])
LOW, HIGH = POINTS - 0.1, POINTS + 0.1
ECDF = torch.tensor([[0.3, 0.5, 0.7], [0.5, 0.55, 0.75], [0.2, 0.45, 0.4]])


def test_differences_of_quantities_outside_are_named(ax):
    plots.rank_ecdf(
        POINTS, ECDF, LOW, HIGH, names=["z_1", "z_2", "_$a$"], words="z_2 too $narrow$", ax=ax
    )
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(drawn["1 inside"], [0.05, 0, -0.05], atol=1e-6)
    np.testing.assert_allclose(drawn["z_2"], [0.25, 0.05, 0], atol=1e-6)
    np.testing.assert_allclose(drawn[r" _\$a\$"], [-0.05, -0.05, -0.35], atol=1e-6)
    # the furthest first
    assert [t.get_text() for t in ax.get_legend().get_texts()][-2:] == [r" _\$a\$", "z_2"]
    band = ax.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((-0.1, 0.1))
    assert ax.get_title(loc="left") == r"z_2 too \$narrow\$"


def test_many_quantities_outside_are_drawn_but_not_all_named(ax):
    many = np.tile([[0.9, 0.95, 1.0]], (20, 1))
    plots.rank_ecdf(POINTS, many, LOW, HIGH, names=[f"z_{i}" for i in range(20)], ax=ax)
    named = [line for line in ax.lines if line.get_label().startswith("z_")]
    assert len(named) == 12
    assert sum(len(line.get_xdata()) == 3 for line in ax.lines) == 20


def test_expected_coverage_is_drawn_against_credibility(ax):
    plots.expected_coverage(POINTS, [0.2, 0.4, 0.9], LOW, HIGH, words="word " * 40, ax=ax)
    (curve,) = (line for line in ax.lines if line.get_label() == "expected coverage")
    np.testing.assert_allclose(curve.get_xydata(), np.stack([POINTS, [0.2, 0.4, 0.9]], 1))
    (diagonal,) = (line for line in ax.lines if line.get_label() == "calibrated")
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    title = ax.get_title(loc="left").splitlines()
    assert 1 < len(title) < 5
    assert max(map(len, title)) <= 90
