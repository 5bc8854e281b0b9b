"""One matrix product in the place of several with one matrix, such as those of a step's parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import fx

from ppl_vae.compilation.operations import draws, is_view, value_of, written

_ADD = torch.ops.aten.add.Tensor
_ADDMM = torch.ops.aten.addmm.default
_CAT = torch.ops.aten.cat.default
_MM = torch.ops.aten.mm.default
_SLICE = torch.ops.aten.slice.Tensor
_T = torch.ops.aten.t.default


def joined(traced: fx.GraphModule) -> fx.GraphModule:
    r"""Return a graph in which a matrix of the modules meets all of its rows at once.

    A network that runs on two parts of the data, with labels and without, meets each in a product
    of its own, forwards and backwards. But rows do not depend on each other:

        X_1 W, X_2 W            are parts of  [X_1; X_2] W
        G_1ᵀ X_1 + G_2ᵀ X_2     is            [G_1; G_2]ᵀ [X_1; X_2]

    One product takes less time than two, each of which goes through the whole of the matrix, and
    putting rows together takes time and memory: it is done where the rows are smaller than the
    matrix. Draws are in the order in which they were; where they would not be, the graph stays as
    it is, and so does one that changes tensors in their place.

    Args:
        traced: a graph of aten operations, with the value of each in ``meta["val"]``.
    """
    nodes = list(traced.graph.nodes)
    if not all(_is_private(target) for node in nodes for target in written(node)):
        return traced
    work = fx.GraphModule(traced, deepcopy(traced.graph))
    joins = _Joins(work.graph)
    joins.share()
    joins.join_sums()
    joins.join_products()
    if not joins.number:
        return traced
    from torch.fx.passes.tools_common import stable_topological_sort  # not above: slow to import

    try:
        work = stable_topological_sort(work)
    except AssertionError:  # there is no order: each of the joins can be made, but not all
        return traced
    if [n.name for n in work.graph.nodes if draws(n)] != [n.name for n in nodes if draws(n)]:
        return traced
    work.graph.eliminate_dead_code()
    work.recompile()
    return work


class _Joins:
    """What is done to a graph, whose nodes are to be put in order afterwards.

    Args:
        graph: is changed.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self._place = {node: i for i, node in enumerate(graph.nodes)}
        self._made: dict[Any, Any] = {}
        self._parts: dict[Any, tuple[Any, ...]] = {}
        self._orders: dict[frozenset[Any], tuple[Any, ...]] = {}
        self.number = 0
        """How many products there are in the place of others."""

    def share(self) -> None:
        """Compute once what is computed several times, and do not transpose twice."""
        changed = {target for node in self._graph.nodes for target in written(node)}
        first: dict[tuple[Any, str, str], fx.Node] = {}
        for node in self._graph.nodes:
            if node.op not in ("call_function", "get_attr"):
                continue
            if draws(node) or written(node) or node in changed:
                continue
            same = first.setdefault(_key(node.target, node.args, node.kwargs), node)
            if _is(_T, node) and _is(_T, node.args[0]):
                same = node.args[0].args[0]
            if same is not node:
                node.replace_all_uses_with(same)
        self._graph.eliminate_dead_code()

    def join_sums(self) -> None:
        """Join products that are summed, as the parts of a matrix's gradient are."""
        waiting = [node for node in self._graph.nodes if _is(_ADD, node)]
        for node in waiting:
            one: Any
            other: Any
            one, other = node.args
            if node.kwargs or not _alike(one, other) or max(len(one.users), len(other.users)) > 1:
                continue
            if _is(_CAT, one, other) and one.args[1:] == other.args[1:]:
                # Of a matrix that was split: its parts have sums of their own.
                pairs = list(zip(one.args[0], other.args[0], strict=False))
                if len(one.args[0]) == len(other.args[0]) and all(_alike(*pair) for pair in pairs):
                    sums = [self._new(node, pair[0], _ADD, *pair) for pair in pairs]
                    waiting += sums
                    self._replace(node, self._new(node, node, _CAT, sums, *one.args[1:]))
            elif _is(_MM, one, other) and _is(_T, one.args[0], other.args[0]):
                pairs = [*self._rows(one), *self._rows(other)]
                left_of = dict(pairs)
                stacked = sum(_shape(part).numel() for pair in pairs for part in pair)
                if len(left_of) == len(pairs) and stacked <= _shape(one).numel():
                    order = self._order(left_of)
                    rows = self._stack(node, order)
                    left = self._stack(node, [left_of[part] for part in order])
                    turned = self._new(node, None, _T, left)
                    self._replace(node, self._new(node, node, _MM, turned, rows))
                    self.number += 1

    def join_products(self) -> None:
        """Join products with one matrix, which is a parameter or made of parameters alone."""
        fixed: set[Any] = set()
        groups: dict[Any, list[Any]] = defaultdict(list)
        for node in self._graph.nodes:
            inputs = node.all_input_nodes
            if node.op == "get_attr" or (inputs and fixed.issuperset(inputs) and not draws(node)):
                fixed.add(node)
            elif (_is(_MM, node) or _is(_ADDMM, node)) and not node.kwargs:
                *bias, _, matrix = node.args
                if fixed.issuperset([*bias, matrix]):
                    groups[(node.target, *bias, matrix)].append(node)
        for group in groups.values():
            self._join(group)

    def _join(self, group: Sequence[Any]) -> None:
        """Put one product in the place of several, if it can be and is worth it."""
        product_of = {node.args[-2]: node for node in group}
        last = group[-1]
        *bias, _, matrix = last.args
        stacked = sum(_shape(part).numel() for part in product_of)
        if not 1 < len(group) == len(product_of) or stacked > _shape(matrix).numel():
            return
        if not _ancestors(group).isdisjoint(group):
            return
        order = self._order(product_of)
        rows = self._stack(last, order)
        product = self._new(last, None, last.target, *bias, rows, matrix)
        end, replaced = 0, []
        for part in order:
            start, end = end, end + _shape(part)[0]
            sliced = self._new(last, product_of[part], _SLICE, product, 0, start, end)
            replaced.append((product_of[part], sliced))
        for node, by in replaced:
            self._replace(node, by)
        self.number += 1

    def _rows(self, product: Any) -> Iterator[tuple[Any, Any]]:
        """Return X and G of each part of a product Gᵀ X."""
        left, right = product.args[0].args[0], product.args[1]
        return zip(self._parts.get(right, (right,)), self._parts.get(left, (left,)), strict=True)

    def _order(self, parts: Collection[Any]) -> Sequence[Any]:
        """Return the order in which parts have been put together before, if they have."""
        known = self._orders.get(frozenset(parts))
        return known or sorted(parts, key=self._place.__getitem__)

    def _stack(self, place: fx.Node, parts: Sequence[Any]) -> Any:
        """Return rows put together."""
        stack = self._new(place, None, _CAT, list(parts), 0)
        self._parts[stack] = tuple(parts)
        self._orders.setdefault(frozenset(parts), tuple(parts))
        return stack

    def _new(self, place: fx.Node, like: fx.Node | None, target: Any, *args: Any) -> Any:
        """Return a node, made before another where there is none such yet."""
        key = _key(target, args, {})
        if key not in self._made:
            with self._graph.inserting_before(place):
                node = self._made[key] = self._graph.call_function(target, args)
            self._place[node] = self._place[place]
            if like is not None:
                node.meta["val"] = value_of(like)
        return self._made[key]

    def _replace(self, node: fx.Node, by: fx.Node) -> None:
        """Use another node in a node's place, and remove what is not used any more."""
        node.replace_all_uses_with(by)
        unused = [node]
        while unused:
            last = unused.pop()
            if not last.users and last.target in (_ADD, _ADDMM, _CAT, _MM, _T):
                inputs = last.all_input_nodes
                self._graph.erase_node(last)
                unused += inputs


def _is_private(node: fx.Node) -> bool:
    """Tell whether the memory of what is changed in its place is known to nothing else."""
    others = is_view(node) and not written(node)
    return node.op == "call_function" and len(node.users) == 1 and not others


def _is(target: Any, *nodes: Any) -> bool:
    return all(isinstance(node, fx.Node) and node.target is target for node in nodes)


def _alike(one: Any, other: Any) -> bool:
    """Tell whether two nodes have tensors of the same shape and dtype."""
    values = [value_of(node) if isinstance(node, fx.Node) else None for node in (one, other)]
    if values[0] is None or values[1] is None:
        return False
    return values[0].shape == values[1].shape and values[0].dtype == values[1].dtype


def _shape(node: fx.Node) -> torch.Size:
    value = value_of(node)
    assert value is not None, f"{node} is no tensor"
    return value.shape


def _key(target: Any, args: Any, kwargs: Any) -> tuple[Any, str, str]:
    # Nodes are written by their names; 1, 1.0 and True are not the same.
    return target, repr(args), repr(kwargs)


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [needed for node in nodes for needed in node.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found
