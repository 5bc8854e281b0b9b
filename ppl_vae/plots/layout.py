"""Where the nodes, edges and plates of a small directed graph are drawn.

Sites lie in layers, parents above children, and each plate has columns of its own, so that its box
holds nothing else. Meant for the dozen sites of a probabilistic program, not for large graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HEIGHT = 0.7  # of a node
LAYER = 1.5  # from one layer to the next
SPACE = 0.5  # between nodes
MARGIN = 0.25  # around what is in a plate
CAPTION = 0.3  # below it, for its name


@dataclass(frozen=True)
class Box:
    """A plate's box, or the whole drawing's."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class Layout:
    """Where everything is.

    Args:
        centres: site -> x and y.
        widths: site -> width of its ellipse; all are ``HEIGHT`` high.
        curves: (parent, child) -> the three control points of a quadratic Bézier curve from border
            to border, shape ``(3, 2)``.
        boxes: plate -> its box, outer plates first.
    """

    centres: dict[str, NDArray]
    widths: dict[str, float]
    curves: dict[tuple[str, str], NDArray]
    boxes: dict[str, Box]

    def bounds(self) -> Box:
        """Return the box around everything."""
        corners = [
            *((b.left, b.bottom) for b in self.boxes.values()),
            *((b.right, b.top) for b in self.boxes.values()),
        ]
        for site, centre in self.centres.items():
            half = np.array([self.widths[site], HEIGHT]) / 2
            corners += [tuple(centre - half), tuple(centre + half)]
        for curve in self.curves.values():
            corners += [tuple(point) for point in _bezier(curve)]
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        return Box(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def lay_out(parents: Mapping[str, Sequence[str]], plates: Mapping[str, Sequence[str]]) -> Layout:
    """Return a drawing of the graph.

    Args:
        parents: site -> the sites on which it depends, in the order of the program.
        plates: plate -> its sites.

    Raises:
        ValueError: if there is a cycle, an unknown name, or two plates overlap without one holding
            the other.
    """
    layers = _layers(parents)
    outermost = _nested(parents, plates)
    widths = {site: max(HEIGHT, 0.15 * len(site) + 0.35) for site in parents}
    centres: dict[str, NDArray] = {}
    _place(outermost, layers, widths, 0.0, centres)
    curves, side = {}, 1
    for target, sources in parents.items():
        for source in sources:
            curve, bend = _curve(source, target, centres, widths, side)
            curves[source, target] = curve
            side = -side if bend else side  # bent edges take turns
    boxes: dict[str, Box] = {}
    for group in outermost.inner:
        _enclose(group, centres, widths, curves, boxes)
    return Layout(centres, widths, curves, dict(reversed(boxes.items())))


@dataclass
class _Group:
    """A plate: the sites that are in it and in no plate inside it, and the plates inside it."""

    name: str
    sites: list[str]
    inner: list[_Group] = field(default_factory=list)

    def all_sites(self) -> list[str]:
        return [*self.sites, *(s for group in self.inner for s in group.all_sites())]


def _layers(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return each site's layer, 0 at the top: right above its first child, where it has one."""
    layers: dict[str, int] = {}

    def layer(site: str, below: tuple[str, ...]) -> int:
        if site in below:
            raise ValueError(f"graph: {' -> '.join([*below, site])} is a cycle")
        if site not in parents:
            raise ValueError(f"graph: {below[-1]!r} depends on {site!r}, which is no site")
        if site not in layers:
            layers[site] = max((1 + layer(p, (*below, site)) for p in parents[site]), default=0)
        return layers[site]

    for site in parents:
        layer(site, ())
    children: dict[str, list[str]] = {site: [] for site in parents}
    for site, sources in parents.items():
        for source in sources:
            children[source].append(site)
    for site in sorted(layers, key=layers.__getitem__, reverse=True):
        if children[site]:
            layers[site] = min(layers[child] for child in children[site]) - 1
    return layers


def _nested(parents: Mapping[str, Sequence[str]], plates: Mapping[str, Sequence[str]]) -> _Group:
    """Return what is in no plate, with the plates inside one another."""
    root, order = _Group("", list(parents)), {site: i for i, site in enumerate(parents)}
    for name, sites in sorted(plates.items(), key=lambda item: -len(set(item[1]))):
        unknown = [site for site in sites if site not in parents]
        if unknown:
            raise ValueError(f"graph: plate {name!r} holds {unknown[0]!r}, which is no site")
        outer, wanted = root, set(sites)
        while True:
            around = [g for g in outer.inner if wanted & set(g.all_sites())]
            if not around:
                break
            if len(around) > 1 or not wanted <= set(around[0].all_sites()):
                raise ValueError(
                    f"graph: plates {name!r} and {around[0].name!r} overlap, and neither holds the "
                    f"other; such a graph cannot be drawn with boxes"
                )
            outer = around[0]
        if wanted:
            group = _Group(name, [s for s in outer.sites if s in wanted])
            outer.sites = [s for s in outer.sites if s not in wanted]
            outer.inner.append(group)
            outer.inner.sort(key=lambda g: min(order[s] for s in g.all_sites()))
    return root


def _place(
    group: _Group,
    layers: Mapping[str, int],
    widths: Mapping[str, float],
    left: float,
    centres: dict[str, NDArray],
) -> float:
    """Place a group's sites to the right of ``left`` and return its width."""
    spans = [{layers[s] for s in inner.all_sites()} for inner in group.inner]
    low, high = min(map(min, spans), default=0), max(map(max, spans), default=-1)
    # Sites above or below all inner plates share their columns; others stand beside them.
    beside = [s for s in group.sites if low <= layers[s] <= high]
    apart = [s for s in group.sites if s not in beside]
    right = left
    if beside:
        right += _line_up(beside, layers, widths, right, centres) + SPACE
    for inner in group.inner:
        right += MARGIN
        right += _place(inner, layers, widths, right, centres) + MARGIN + SPACE
    width = max(right - SPACE - left, 0.0)
    needed = _line_up(apart, layers, widths, left, centres) if apart else 0.0
    # Whichever is narrower is moved to the middle of the other.
    moved = apart if needed < width else [s for s in group.all_sites() if s not in apart]
    for site in moved:
        centres[site] = centres[site] + [abs(width - needed) / 2, 0.0]
    return max(width, needed)


def _line_up(
    sites: Sequence[str],
    layers: Mapping[str, int],
    widths: Mapping[str, float],
    left: float,
    centres: dict[str, NDArray],
) -> float:
    """Place sites in their layers, each layer centred, and return the width of the widest."""
    lines = [[s for s in sites if layers[s] == n] for n in sorted({layers[s] for s in sites})]
    across = [sum(widths[s] + SPACE for s in line) - SPACE for line in lines]
    for line, width in zip(lines, across, strict=True):
        x = left + (max(across) - width) / 2
        for site in line:
            centres[site] = np.array([x + widths[site] / 2, -LAYER * layers[site]])
            x += widths[site] + SPACE
    return max(across)


def _curve(
    source: str,
    target: str,
    centres: Mapping[str, NDArray],
    widths: Mapping[str, float],
    side: int,
) -> tuple[NDArray, float]:
    """Return the straightest curve that passes no other site, from border to border, and its bend.

    Of two bends that are the same but for the side, that on the given side is tried first.
    """
    start, end = centres[source], centres[target]
    along = end - start
    across = np.array([-along[1], along[0]]) / np.hypot(*along)
    others = [s for s in centres if s not in (source, target)]
    best, best_bend, best_room = start[None], 0.0, -np.inf
    for bend in [0.0, *(s * b for b in (1.0, 1.6, 2.4, 3.2, 4.0) for s in (side, -side))]:
        curve = np.stack([start, (start + end) / 2 + bend * across, end])
        points = _bezier(curve)
        # 1 on the border of an ellipse; beyond 1.25 there is room for the eye.
        room = min(
            (
                np.hypot(*((points - centres[s]) / [widths[s] / 2, HEIGHT / 2]).T).min()
                for s in others
            ),
            default=np.inf,
        )
        if room > best_room:
            best, best_bend, best_room = curve, bend, room
        if room > 1.25:
            break
    steps = np.linspace(0, 1, 400)
    points = _bezier(best, steps)
    outside = np.ones(len(points), bool)
    for site in (source, target):
        half = np.array([widths[site] / 2, HEIGHT / 2]) + 0.02
        outside &= np.hypot(*((points - centres[site]) / half).T) > 1
    kept = steps[outside]
    return _part(best, kept[0], kept[-1]), best_bend


def _bezier(curve: NDArray, steps: NDArray | None = None) -> NDArray:
    """Return points of a quadratic Bézier curve, shape ``(steps, 2)``."""
    t = (np.linspace(0, 1, 60) if steps is None else steps)[:, None]
    return (1 - t) ** 2 * curve[0] + 2 * t * (1 - t) * curve[1] + t**2 * curve[2]


def _part(curve: NDArray, start: float, end: float) -> NDArray:
    """Return the control points of the curve between two parameters (its blossom)."""

    def blossom(a: float, b: float) -> NDArray:
        return (
            (1 - a) * (1 - b) * curve[0] + (a * (1 - b) + b * (1 - a)) * curve[1] + a * b * curve[2]
        )

    return np.stack([blossom(start, start), blossom(start, end), blossom(end, end)])


def _enclose(
    group: _Group,
    centres: Mapping[str, NDArray],
    widths: Mapping[str, float],
    curves: Mapping[tuple[str, str], NDArray],
    boxes: dict[str, Box],
) -> Box:
    """Box a plate's sites, the edges between them and the plates inside it; inner plates first."""
    inside = [_enclose(inner, centres, widths, curves, boxes) for inner in group.inner]
    corners = [*((b.left, b.bottom) for b in inside), *((b.right, b.top) for b in inside)]
    for site in group.sites:
        half = np.array([widths[site], HEIGHT]) / 2
        corners += [tuple(centres[site] - half), tuple(centres[site] + half)]
    held = set(group.all_sites())
    for (source, target), curve in curves.items():
        if source in held and target in held:
            corners += [tuple(point) for point in _bezier(curve)]
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    boxes[group.name] = Box(
        float(low[0]) - MARGIN,
        float(low[1]) - CAPTION,
        float(high[0]) + MARGIN,
        float(high[1]) + MARGIN * 0.6,
    )
    return boxes[group.name]
