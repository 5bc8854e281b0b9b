"""Dependencies between the sites of a program."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from pyro.infer.inspect import get_model_relations
from torch import nn

from ppl_vae.errors import describe
from ppl_vae.models import Pair
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import restored


def relations(program: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the dependencies between the sites of a program, with their distributions and plates.

    ``pyro.infer.inspect.get_model_relations``, as in ``pyro.render_model``, with random state and
    module modes preserved. :func:`ppl_vae.plots.graph` draws it without graphviz.

    Args:
        program: a model or a guide, such as ``vae.model``.
        args: its arguments, such as ``x``.
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
    # Pyro would replace parameters by tracked tensors, which programs that compare theirs with
    # Pyro's store reject.
    without_parameters = poutine.block(program, hide_types=["param"])
    with evaluating(program), restored():
        found = get_model_relations(without_parameters, args, kwargs)
    return {key: found[key] for key in ("sample_sample", "sample_dist", "plate_sample", "observed")}
