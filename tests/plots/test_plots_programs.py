"""Pictures of programs: what lands on the Axes."""

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
from ppl_vae.plots.layout import HEIGHT, lay_out

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
