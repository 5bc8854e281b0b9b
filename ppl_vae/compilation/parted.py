"""A graph in two: what no draw reaches, to be run once, and what is run for each new draw."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry


def parted(traced: fx.GraphModule) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Return ``first`` and ``rest``, ``traced(*inputs)`` being ``rest(*inputs, *first(*inputs))``.

    ``first`` has what depends on the inputs and the modules' tensors alone, such as an encoding of
    the data or what a prior computes of its parameters; ``rest`` has all random numbers, in the
    order in which they were. What takes memory and no time (views, constants, numbers that are
    broadcast) is left to ``rest``.

    Args:
        traced: a graph of aten operations with one input or more, and each one's value in its
            ``meta["val"]``.
    """
    nodes = list(traced.graph.nodes)
    drawn, cheap = _drawn(nodes), _cheap(nodes)
    first, rest = fx.Graph(), fx.Graph()
    in_first: dict[fx.Node, fx.Node] = {}
    in_rest: dict[fx.Node, fx.Node] = {}
    handed_over: list[fx.Node] = []
    last_input = nodes[0]

    def copied(node: fx.Node) -> fx.Node:
        for needed in node.all_input_nodes:
            if needed not in in_rest:
                in_rest[needed] = copied(needed) if needed in cheap else handed(needed)
        return rest.node_copy(node, in_rest.__getitem__)

    def handed(node: fx.Node) -> fx.Node:
        nonlocal last_input
        handed_over.append(node)
        with rest.inserting_after(last_input):
            last_input = rest.placeholder(f"first_{len(handed_over)}")
        return last_input

    for node in nodes:
        if node.op == "placeholder":
            in_first[node] = first.node_copy(node)
            in_rest[node] = last_input = rest.node_copy(node)
        elif node in drawn or node.op == "output":
            in_rest[node] = copied(node)
        else:
            in_first[node] = first.node_copy(node, in_first.__getitem__)
    first.output(tuple(map(in_first.__getitem__, handed_over)))
    first.eliminate_dead_code()
    return fx.GraphModule(traced, first), fx.GraphModule(traced, rest)


def _drawn(nodes: list[fx.Node]) -> set[fx.Node]:
    """Return the operations that draw, and those that draws reach; all of them, if in doubt."""
    operations = [node for node in nodes if node.op == "call_function"]
    found = {n for n in operations if torch.Tag.nondeterministic_seeded in _tags(n)}
    # New memory, for random numbers to be written to.
    written = {changed for node in found for changed in _written(node)}
    found |= {n for n in written if n.op == "call_function" and not n.all_input_nodes}
    for node in operations:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
        if not found.issuperset(_written(node)):  # what else knows of this memory?
            return set(operations)
    return found


def _cheap(nodes: list[fx.Node]) -> set[fx.Node]:
    """Return the views, the constants, and what is larger than what it is computed from."""
    found = set()
    memory: dict[fx.Node, int] = {}
    for node in nodes:
        size = _size(node)
        behind = sum(map(memory.__getitem__, node.all_input_nodes))
        is_broadcast = size > behind and not _is_product(node)
        if node.op == "get_attr" or not node.all_input_nodes or _is_view(node) or is_broadcast:
            found.add(node)
        memory[node] = behind if node in found and node.op == "call_function" else size
    return found


def _size(node: fx.Node) -> int:
    value = node.meta.get("val")
    return math.prod(value.shape) if isinstance(value, Tensor) else 0


def _is_product(node: fx.Node) -> bool:
    """Tell whether an operation is a matrix product, a convolution or the like."""
    return getattr(node.target, "overloadpacket", None) in flop_registry


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(value.alias_info for value in schema.returns)


def _written(node: fx.Node) -> list[fx.Node]:
    """Return the inputs that an operation changes in their place."""
    schema = getattr(node.target, "_schema", None)
    found: list[Any] = []
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs[argument.name]
            found += value if isinstance(value, (list, tuple)) else [value]
    return found


def _tags(node: fx.Node) -> list:
    return getattr(node.target, "tags", [])
