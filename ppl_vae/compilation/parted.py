"""A graph in two: what no draw reaches, to be run once, and what is run for each new draw."""

from __future__ import annotations

import torch
from torch import fx

from ppl_vae.compilation.operations import draws, is_view, value_of, written


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
    found = {node for node in operations if draws(node)}
    # New memory that random numbers are written to: nothing else is known of it.
    found |= {target for node in found for target in written(node) if _is_new(target)}
    for node in operations:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
        if not found.issuperset(written(node)):  # something else may know of this memory
            return set(operations)
    return found


def _cheap(nodes: list[fx.Node]) -> set[fx.Node]:
    """Return the views, the constants, and what is larger than what it is computed from."""
    found = set()
    memory: dict[fx.Node, int] = {}
    for node in nodes:
        value = value_of(node)
        size = 0 if value is None else value.numel()
        behind = sum(map(memory.__getitem__, node.all_input_nodes))
        is_broadcast = size > behind and not _is_product(node)
        if node.op == "get_attr" or not node.all_input_nodes or is_view(node) or is_broadcast:
            found.add(node)
        memory[node] = behind if node in found and node.op == "call_function" else size
    return found


def _is_new(node: fx.Node) -> bool:
    """Tell whether a result is memory whose values are not set yet, or are constant."""
    like = (torch.ops.aten.empty_like.default, torch.ops.aten.new_empty.default)
    return node.op == "call_function" and (node.target in like or not node.all_input_nodes)


def _is_product(node: fx.Node) -> bool:
    """Tell whether an operation is a matrix product, a convolution or the like."""
    from torch.utils.flop_counter import flop_registry  # not above: slow to import

    return getattr(node.target, "overloadpacket", None) in flop_registry
