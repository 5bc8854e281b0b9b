"""Probabilistic programs as graphs."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch

from ppl_vae.errors import describe
from ppl_vae.plots.arguments import axes_of
from ppl_vae.plots.graph_layout import CAPTION, HEIGHT, lay_out

# The distribution of a Pyro factor, which has a log-density and no value.
FACTOR = "Unit"


def graph(
    relations: Mapping[str, Mapping | list],
    *,
    distributions: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a program's graph as ``pyro.render_model`` does, without graphviz.

    Ellipses are sites, grey if observed and black if factors; arrows lead from a site to the sites
    whose distributions depend on it; boxes are plates.

    Args:
        relations: the result of :func:`ppl_vae.evaluation.relations` or
            ``pyro.infer.inspect.get_model_relations``: ``"sample_sample"``, site -> the sites it
            depends on, and optionally ``"plate_sample"``, plate -> its sites, ``"observed"``, the
            observed sites, and ``"sample_dist"``, site -> the name of its distribution.
        distributions: list the distributions beside the graph.

    Raises:
        ValueError: if there is no site, a cycle or an unknown site, or two plates overlap without
            one containing the other.

    Example:
        >>> plots.graph(evaluation.relations(vae.model, x))  # doctest: +SKIP
    """
    if not isinstance(relations, Mapping) or "sample_sample" not in relations:
        raise TypeError(
            f"graph: relations must have the key sample_sample, got {describe(relations)}; use "
            f"evaluation.relations"
        )
    parents = dict(relations["sample_sample"])
    if not parents:
        raise ValueError("graph: the program must have a sample site, got none")
    plates = dict(relations.get("plate_sample", {}))
    kinds = dict(relations.get("sample_dist", {}))
    observed = set(relations.get("observed", ()))
    layout = lay_out(parents, plates)
    ax = axes_of(ax)
    listed = [f"{site} ~ {kinds[site]}" for site in parents if kinds.get(site, FACTOR) != FACTOR]
    listed = listed if distributions else []
    bounds = layout.bounds()
    # In data units, for text of the size of the sites' names.
    text_width = 0.5 + 0.16 * max(map(len, listed)) if listed else 0.0
    height = max(bounds.height, 0.45 * len(listed))
    middle = (bounds.y0 + bounds.y1) / 2
    ax.set_xlim(bounds.x0 - 0.15, bounds.x1 + 0.15 + text_width)
    ax.set_ylim(middle - height / 2 - 0.15, middle + height / 2 + 0.15)
    ax.set_aspect("equal")
    ax.set_axis_off()
    size = _font_size(ax)
    for name, box in layout.boxes.items():
        style = "round,pad=0,rounding_size=0.12"
        ax.add_patch(
            FancyBboxPatch(
                box.min, box.width, box.height, boxstyle=style, fc="none", ec="0.4", label=name
            )
        )
        # Pyro marks copies of a plate that it draws as two boxes.
        caption, x, y = name.split("__CLONE")[0], box.x1 - 0.1, box.y0 + 0.4 * CAPTION
        ax.text(x, y, caption, ha="right", va="center", fontsize=0.8 * size, color="0.3")
    nodes = {}
    for site, (x, y) in layout.centres.items():
        fill, ink = ("0.8" if site in observed else "white"), "black"
        if kinds.get(site) == FACTOR:
            fill, ink = "black", "white"
        nodes[site] = Ellipse(
            (x, y), layout.widths[site], HEIGHT, fc=fill, ec="black", label=site, zorder=2
        )
        ax.add_patch(nodes[site])
        ax.text(x, y, site, ha="center", va="center", fontsize=size, color=ink, zorder=3)
    for (source, target), bend in layout.bends.items():
        arrow = FancyArrowPatch(
            nodes[source].center,
            nodes[target].center,
            patchA=nodes[source],
            patchB=nodes[target],
            shrinkA=0,
            shrinkB=0,
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>",
            mutation_scale=max(size, 4),
            color="black",
            label=f"{source} -> {target}",
        )
        ax.add_patch(arrow)
    if listed:
        text = "\n".join(listed)
        ax.text(bounds.x1 + 0.4, middle, text, va="center", fontsize=0.9 * size, linespacing=1.5)
    return ax


def _font_size(ax: Axes) -> float:
    """Return the size in points of text that is 0.33 data units high, at most 12."""
    window, (left, right), (bottom, top) = ax.get_window_extent(), ax.get_xlim(), ax.get_ylim()
    pixels = min(window.width / (right - left), window.height / (top - bottom))
    return float(min(12.0, 0.33 * pixels * 72 / ax.figure.dpi))
