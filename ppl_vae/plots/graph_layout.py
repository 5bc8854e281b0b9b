"""Layout of a small directed graph with plates.

networkx sorts the sites into layers. It has no notion of plates, nor of edges that avoid nodes, so
the positions within a layer and the bends of the edges are found here. Meant for the dozen sites of
a probabilistic program, not for large graphs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import networkx as nx
import numpy as np
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

HEIGHT = 0.7  # of a node
LAYER = 1.5  # between layers
SPACE = 0.5  # between nodes
MARGIN = 0.25  # around the contents of a plate
CAPTION = 0.3  # below them, for the plate's name
CLEARANCE = 1.25  # of edges from the centres of other nodes, in radii

Block = tuple[dict[str, float], float]  # x of each site about the block's middle, and its width


@dataclass(frozen=True)
class Layout:
    """The positions of nodes, edges and plates.

    Args:
        centres: site -> x and y.
        widths: site -> width of its ellipse; all ellipses are ``HEIGHT`` high.
        bends: (parent, child) -> the ``rad`` of matplotlib's connection style ``arc3``.
        boxes: plate -> its box.
    """

    centres: dict[str, NDArray]
    widths: dict[str, float]
    bends: dict[tuple[str, str], float]
    boxes: dict[str, Bbox] = field(default_factory=dict)

    def node(self, site: str) -> Bbox:
        """Return the box around a site's ellipse."""
        half = np.array([self.widths[site], HEIGHT]) / 2
        return Bbox([self.centres[site] - half, self.centres[site] + half])

    def edge(self, source: str, target: str) -> Bbox:
        """Return the box around an edge."""
        ends = self.centres[source], self.centres[target]
        points = _curve(*ends, self.bends[source, target])
        return Bbox([points.min(0), points.max(0)])

    def bounds(self) -> Bbox:
        """Return the box around everything."""
        edges = (self.edge(*edge) for edge in self.bends)
        return Bbox.union([*self.boxes.values(), *map(self.node, self.centres), *edges])


def lay_out(parents: Mapping[str, Sequence[str]], plates: Mapping[str, Sequence[str]]) -> Layout:
    """Return a layout with parents above children and nothing foreign in a plate's box.

    Args:
        parents: site -> the sites that it depends on, in program order.
        plates: plate -> its sites.

    Raises:
        ValueError: if there is a cycle, an unknown name, or two plates overlap without one
            containing the other.
    """
    layers = _layers(parents)
    members = {name: set(sites) for name, sites in plates.items() if sites}
    outer = _outer_plates(members, layers)
    home = {s: next((p for p in reversed(outer) if s in members[p]), None) for s in parents}
    widths = {site: max(HEIGHT, 0.2 * len(site) + 0.35) for site in parents}

    def block(plate: str | None) -> Block:
        """Place a plate's own sites and the plates in it."""
        own = [site for site in parents if home[site] == plate]
        inner = [p for p in outer if outer[p] == plate]
        inner.sort(key=lambda p: min(map(list(parents).index, members[p])))
        occupied = {layers[site] for p in inner for site in members[p]}
        rows = [
            (layer, _side_by_side([({s: 0.0}, widths[s]) for s in own if layers[s] == layer]))
            for layer in sorted({layers[site] for site in own})
        ]
        # Sites in the layers that inner plates span stand beside these, the rest above or below.
        beside = [r for n, r in rows if inner and min(occupied) <= n <= max(occupied)]
        apart = [row for _, row in rows if row not in beside]
        columns = [_stacked(beside)] if beside else []
        for p in inner:
            x, width = block(p)
            columns.append((x, width + 2 * MARGIN))
        return _stacked([*([_side_by_side(columns)] if columns else []), *apart])

    x, _ = block(None)
    centres = {site: np.array([x[site], LAYER * layers[site]]) for site in parents}
    bends = _bends(parents, centres, widths)
    layout = Layout(centres, widths, bends)
    for plate in reversed(outer):  # inner plates first
        contents = [layout.node(site) for site in members[plate]]
        contents += [layout.boxes[p] for p in outer if outer[p] == plate]
        contents += [layout.edge(*edge) for edge in bends if members[plate].issuperset(edge)]
        (left, bottom), (right, top) = Bbox.union(contents).get_points()
        layout.boxes[plate] = Bbox.from_extents(
            left - MARGIN, bottom - CAPTION, right + MARGIN, top + 0.6 * MARGIN
        )
    return layout


def _layers(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the layer of each site, 0 at the bottom: the longest path to a site without child."""
    graph = nx.DiGraph()
    graph.add_edges_from((child, parent) for child, above in parents.items() for parent in above)
    graph.add_nodes_from(parents)
    for child, parent in graph.edges:
        if parent not in parents:
            raise ValueError(f"graph: {child!r} depends on {parent!r}, which is not a site")
    if not nx.is_directed_acyclic_graph(graph):
        cycle = [child for child, _ in nx.find_cycle(graph)]
        raise ValueError(f"graph: {' -> '.join([*cycle, cycle[0]])} is a cycle")
    generations = enumerate(nx.topological_generations(graph))
    return {site: layer for layer, sites in generations for site in sites}


def _outer_plates(
    members: Mapping[str, set[str]], sites: Mapping[str, int]
) -> dict[str, str | None]:
    """Return plate -> the smallest plate around it or None, outer plates first."""
    outer: dict[str, str | None] = {}
    for name in sorted(members, key=lambda p: -len(members[p])):
        for site in members[name] - sites.keys():
            raise ValueError(f"graph: plate {name!r} contains {site!r}, which is not a site")
        around = [p for p in outer if members[p] & members[name]]
        for other in around:
            if not members[name] <= members[other]:
                raise ValueError(
                    f"graph: plates {name!r} and {other!r} overlap, and neither contains the "
                    f"other; boxes cannot show that"
                )
        outer[name] = around[-1] if around else None
    return outer


def _side_by_side(blocks: Sequence[Block]) -> Block:
    width = sum(w for _, w in blocks) + SPACE * (len(blocks) - 1)
    x: dict[str, float] = {}
    left = -width / 2
    for inside, w in blocks:
        x |= {site: left + w / 2 + at for site, at in inside.items()}
        left += w + SPACE
    return x, width


def _stacked(blocks: Sequence[Block]) -> Block:
    x = dict(chain.from_iterable(inside.items() for inside, _ in blocks))
    return x, max((width for _, width in blocks), default=0.0)


def _bends(
    parents: Mapping[str, Sequence[str]],
    centres: Mapping[str, NDArray],
    widths: Mapping[str, float],
) -> dict[tuple[str, str], float]:
    """Return the smallest bend with which each edge stays clear of other sites."""
    bends, side = {}, 1.0
    for target, sources in parents.items():
        for source in sources:
            start, end = centres[source], centres[target]
            others = [site for site in centres if site not in (source, target)]
            centre = np.array([centres[site] for site in others]).reshape(-1, 1, 2)
            half = np.array([(widths[site] / 2, HEIGHT / 2) for site in others]).reshape(-1, 1, 2)
            length = np.hypot(*(end - start))
            sizes = [s * b / length for b in (1.0, 1.6, 2.4, 3.2, 4.0) for s in (side, -side)]
            clearances = [
                np.linalg.norm((_curve(start, end, bend) - centre) / half, axis=-1).min(
                    initial=CLEARANCE
                )
                for bend in (0.0, *sizes)
            ]
            # argmax returns the first, and so the smallest, of the bends that are clear.
            bends[source, target] = (0.0, *sizes)[int(np.argmax(clearances))]
            side = -side if bends[source, target] else side  # bent edges take turns
    return bends


def _curve(start: NDArray, end: NDArray, bend: float) -> NDArray:
    """Return points of the quadratic Bézier curve that ``arc3,rad=bend`` draws."""
    along = end - start
    middle = (start + end) / 2 + bend * np.array([along[1], -along[0]])
    t = np.linspace(0, 1, 60)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
