"""Probabilistic programs as graphs."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Ellipse, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from ppl_vae.plots.axes import axes_of
from ppl_vae.plots.layout import CAPTION, HEIGHT, lay_out

# What Pyro calls the distribution of a factor: it scores and has no value.
FACTOR = "Unit"


def graph(
    relations: Mapping[str, Mapping | list],
    *,
    distributions: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a program's graph as ``pyro.render_model`` does, without graphviz.

    Sites are ellipses, grey where observed and black where they are factors; an arrow says that
    the child's distribution depends on the parent's value; boxes are plates.

    Args:
        relations: what :func:`ppl_vae.evaluation.relations` or
            ``pyro.infer.inspect.get_model_relations`` return, of which these are used:
            ``"sample_sample"`` maps each site to the sites it depends on, ``"plate_sample"`` each
            plate to its sites, ``"observed"`` lists the observed sites and ``"sample_dist"`` maps
            each site to the name of its distribution.
        distributions: list the distributions beside the graph.
        ax: where to draw; the current Axes if not given.

    Raises:
        ValueError: if there is no site, or the relations cannot be drawn: a cycle, a name that is
            no site, plates that overlap without one holding the other.

    Example:
        >>> plots.graph(evaluation.relations(vae.model, x))  # doctest: +SKIP
    """
    if not isinstance(relations, Mapping) or "sample_sample" not in relations:
        raise TypeError(
            f"graph: relations must be what pyro.infer.inspect.get_model_relations returns, "
            f"with its key sample_sample, got {type(relations).__name__}; see "
            f"ppl_vae.evaluation.relations"
        )
    parents = dict(relations["sample_sample"])
    if not parents:
        raise ValueError("graph: the program has no sample site; there is nothing to draw")
    # "observed" is a list and the others are mappings; none of them but the first is needed.
    plates = dict(relations.get("plate_sample", {}))
    kinds = dict(relations.get("sample_dist", {}))
    observed = set(relations.get("observed", ()))
    layout = lay_out(parents, plates)
    ax = axes_of(ax)
    lines = [f"{site} ~ {kinds[site]}" for site in parents if kinds.get(site, FACTOR) != FACTOR]
    listed = lines if distributions else []
    bounds = layout.bounds()
    # In data units, for a text of the size of the sites' names.
    beside = 0.5 + 0.16 * max(map(len, listed)) if listed else 0.0
    tall = max(bounds.top - bounds.bottom, 0.45 * len(listed))
    middle = (bounds.top + bounds.bottom) / 2
    ax.set_xlim(bounds.left - 0.15, bounds.right + 0.15 + beside)
    ax.set_ylim(middle - tall / 2 - 0.15, middle + tall / 2 + 0.15)
    ax.set_aspect("equal")
    ax.set_axis_off()
    size = _font_size(ax)
    for name, box in layout.boxes.items():
        ax.add_patch(
            FancyBboxPatch(
                (box.left, box.bottom),
                box.right - box.left,
                box.top - box.bottom,
                boxstyle="round,pad=0,rounding_size=0.12",
                facecolor="none",
                edgecolor="0.4",
                label=name,
            )
        )
        # Pyro clones a plate's name where it draws it as two boxes.
        caption = name.split("__CLONE")[0]
        at = box.right - 0.1, box.bottom + 0.4 * CAPTION
        ax.text(*at, caption, ha="right", va="center", fontsize=0.8 * size, color="0.3")
    for (source, target), points in layout.curves.items():
        path = Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        ax.add_patch(
            FancyArrowPatch(
                path=path,
                arrowstyle="-|>",
                mutation_scale=max(size, 4),
                color="black",
                label=f"{source} -> {target}",
            )
        )
    for site, (x, y) in layout.centres.items():
        fill, ink = ("0.8" if site in observed else "white"), "black"
        if kinds.get(site) == FACTOR:
            fill, ink = "black", "white"
        ax.add_patch(
            Ellipse(
                (x, y),
                layout.widths[site],
                HEIGHT,
                facecolor=fill,
                edgecolor="black",
                label=site,
                zorder=2,
            )
        )
        ax.text(x, y, site, ha="center", va="center", fontsize=size, color=ink, zorder=3)
    if listed:
        ax.text(
            bounds.right + 0.4,
            middle,
            "\n".join(listed),
            ha="left",
            va="center",
            fontsize=0.9 * size,
            linespacing=1.5,
        )
    return ax


def _font_size(ax: Axes) -> float:
    """Return the size in points of a text that is 0.33 data units high, at most 12."""
    window, (left, right), (bottom, top) = ax.get_window_extent(), ax.get_xlim(), ax.get_ylim()
    pixels = min(window.width / (right - left), window.height / (top - bottom))
    return float(min(12.0, 0.33 * pixels * 72 / ax.figure.dpi))
