"""Graphs of programs: what they draw on the Axes."""

import numpy as np
import pyro
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from matplotlib.transforms import Bbox
from pairs import binary, ssvae, vae
from pyro.infer.inspect import get_model_relations

from ppl_vae import plots
from ppl_vae.evaluation.dependencies import relations
from ppl_vae.plots.graph_layout import HEIGHT, lay_out

RNG = np.random.default_rng(0)


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


def test_relations_from_pyro_are_drawn(ax):
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


# Latent Dirichlet allocation, with plates of topics and documents side by side.
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
# "shared" is in the plate's first layer, and outside it.
BESIDE = {
    "sample_sample": {"top": [], "shared": ["top"], "z": ["top"], "x": ["z", "shared"]},
    "plate_sample": {"data": ["z", "x"]},
}
LONE = {"sample_sample": {"z": []}}


@pytest.mark.parametrize(
    "given", [TOPICS, LADDER, BESIDE, LONE], ids=["topics", "ladder", "beside", "lone"]
)
def test_a_plate_contains_its_sites_and_no_others(ax, given):
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


def drawn_curves(ax):
    """Return the points of each arrow as drawn: (parent, child) -> (200, 2)."""
    ax.figure.draw_without_rendering()
    t = np.linspace(0, 1, 200)[:, None]
    curves = {}
    for arrow in (p for p in ax.patches if isinstance(p, FancyArrowPatch)):
        (path, *_), _ = arrow._get_path_in_displaycoord()
        start, middle, end = ax.transData.inverted().transform(path.vertices)
        points = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
        curves[tuple(arrow.get_label().split(" -> "))] = points
    return curves


@pytest.mark.parametrize("given", [TOPICS, LADDER, BESIDE], ids=["topics", "ladder", "beside"])
def test_edges_pass_no_site_and_point_downwards(ax, given):
    plots.graph(given, ax=ax)
    drawn = sites(ax)

    def radius(points, site):
        """Return the distance from a site, 1 on its border."""
        half = [drawn[site].width / 2, HEIGHT / 2]
        return np.linalg.norm((points - np.array(drawn[site].center)) / half, axis=-1)

    for (source, target), points in drawn_curves(ax).items():
        assert drawn[source].center[1] > drawn[target].center[1]
        for site in drawn.keys() - {source, target}:
            assert radius(points, site).min() > 1, (source, target, site)
        # from border to border, where the arrow's head ends
        assert 0.95 < radius(points[0], source) < 1.15
        assert 0.95 < radius(points[-1], target) < 1.25


def test_bent_edges_are_on_both_sides_and_within_the_box(ax):
    plots.graph(LADDER, ax=ax)
    box, middle = plates(ax)["data"], sites(ax)["layer1"].center[0]
    x = np.concatenate([points[:, 0] for points in drawn_curves(ax).values()])
    assert box.x0 < x.min() < middle - 0.7
    assert middle + 0.7 < x.max() < box.x1


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
        ({"sample_sample": {}}, ValueError, "must have a sample site"),
        ({}, TypeError, "evaluation.relations"),
        ({"sample_sample": {"a": ["b"], "b": ["a"]}}, ValueError, "is a cycle"),
        ({"sample_sample": {"a": ["b"]}}, ValueError, "'a' depends on 'b', which is not a site"),
        (
            {"sample_sample": {"a": []}, "plate_sample": {"p": ["b"]}},
            ValueError,
            "plate 'p' contains 'b', which is not a site",
        ),
        (
            {
                "sample_sample": {"a": [], "b": [], "c": []},
                "plate_sample": {"p": ["a", "b"], "q": ["b", "c"]},
            },
            ValueError,
            "must not overlap .*'q' and 'p'",
        ),
    ],
)
def test_invalid_graphs_are_refused(ax, given, error, message):
    with pytest.raises(error, match=message):
        plots.graph(given, ax=ax)
    assert not ax.patches
