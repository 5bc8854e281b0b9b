"""What depends on what in a program."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from pyro.infer.inspect import get_model_relations
from torch import nn

from ppl_vae.errors import describe
from ppl_vae.models import Pair
from ppl_vae.module_modes import evaluating
from ppl_vae.random_state import restored


def relations(program: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return which sites of a program depend on which, and what they are.

    What ``pyro.infer.inspect.get_model_relations``, on which ``pyro.render_model`` rests, finds by
    running the program once and following each value to the log-densities it enters.
    :func:`ppl_vae.plots.graph` draws it, without graphviz.

    Args:
        program: a model or a guide, such as ``vae.model``.
        args: what it is called with: ``x``, ``x, y`` and so on.
        kwargs: its keyword arguments: ``relations(vae.model, size=3)`` shows x unobserved.

    Returns:
        ``"sample_sample"``, site -> the sites it depends on; ``"sample_dist"``, site -> the name of
        its distribution; ``"plate_sample"``, plate -> its sites; ``"observed"``, a list of sites.

    Example:
        >>> relations(vae.model, x)["sample_sample"]  # doctest: +SKIP
        {'z': [], 'x': ['z']}
    """
    if not isinstance(program, nn.Module) or isinstance(program, Pair):
        what = type(program).__name__ if isinstance(program, Pair) else describe(program)
        raise TypeError(
            f"relations: program must be a model or a guide, such as vae.model, got {what}"
        )
    # Pyro would mark parameters, too, by other tensors in their place. A program that checks that
    # its parameters are those in Pyro's store refuses them, and they are not drawn.
    without_parameters = poutine.block(program, hide_types=["param"])
    with evaluating(program), restored():
        found = get_model_relations(without_parameters, args, kwargs)
    return {key: found[key] for key in ("sample_sample", "sample_dist", "plate_sample", "observed")}
