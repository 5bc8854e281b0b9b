"""Where the trained pairs are."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import torch

from ppl_vae import io
from ppl_vae.errors import describe, quoted


def names() -> list[str]:
    """Return the names of all pairs."""
    return sorted(path.parent.name for path in _pairs().glob("*/card.json"))


def folder(name: str) -> Path:
    """Return the folder of a pair, as :func:`ppl_vae.save` wrote it; for ``ppl-vae encode``, say.

    Raises TypeError or ValueError for another name.
    """
    known = names()
    if not isinstance(name, str):
        raise TypeError(f"zoo: name must be one of {', '.join(known)}, got {describe(name)}")
    if name not in known:
        close = get_close_matches(name[:100].lower(), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"zoo: there is no {quoted(name)}; {hint}The names are {', '.join(known)}")
    return _pairs() / name


def load(name: str, *, device: torch.device | str | int | None = None) -> Any:
    """Return a trained pair, in evaluation mode.

    Args:
        name: one of :func:`names`.
        device: for its tensors; torch's default device if not given.

    Raises TypeError or ValueError for another name.
    """
    return io.load(folder(name), device=device).eval()


def _pairs() -> Path:
    return Path(str(resources("ppl_vae.zoo"))) / "pairs"
