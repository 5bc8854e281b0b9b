"""Data sets in words: one line for ``repr``, a table for notebooks."""

from __future__ import annotations

from html import escape

from ppl_vae.data.columns import Columns
from ppl_vae.errors import reason


def one_line(data: Columns) -> str:
    """Return the ``repr`` of a data set."""
    parts = [
        repr(data.name),
        f"{len(data)} x {data.event_shape}",
        f"{data.values.dtype} / {data.scale:g}",
        _classes(data),
    ]
    if data.is_sparse:
        parts.append(_stored(data))
    if data.context is not None:
        parts.append(f"context of {data.context.shape[1]}")
    if data.factors is not None:
        parts.append(f"{len(data.factors.names)} factors")
    if data.mask is not None:
        parts.append(f"{_missing(data)} missing")
    if data.dequantised_levels is not None:
        parts.append(f"dequantised from {data.dequantised_levels} levels")
    if data.is_memory_mapped:
        parts.append("memory-mapped")
    if data.augmentation is not None:
        parts.append("augmented")
    conversions = "".join(f"; {conversion}" for conversion in data.conversions)
    return f"Dataset({', '.join(parts)}{conversions})"


def html_table(data: Columns) -> str:
    """Return the table that a notebook shows for a data set."""
    rows = {
        "items": f"{len(data):,}",
        "shape": str(data.event_shape),
        "values": f"{str(data.values.dtype).removeprefix('torch.')} / {data.scale:g}",
        "labels": _classes(data),
        "missing": _missing(data),
    }
    if data.is_sparse:
        rows["sparse"] = _stored(data)
    if data.context is not None:
        rows["context"] = f"{data.context.shape[1]} numbers"
    if data.factors is not None:
        rows["factors"] = ", ".join(data.factors.names)
    if data.dequantised_levels is not None:
        rows["dequantised"] = f"from {data.dequantised_levels} levels"
    if data.conversions:
        rows["conversions"] = "; ".join(data.conversions)
    cells = "".join(
        f"<tr><th style='text-align:left'>{name}</th>"
        f"<td style='text-align:left'>{escape(reason(text))}</td></tr>"
        for name, text in rows.items()
    )
    return f"<table><caption>Dataset {escape(reason(repr(data.name)))}</caption>{cells}</table>"


def _stored(data: Columns) -> str:
    entries, (rows, columns) = data.values.values(), data.values.shape
    return f"{100 * len(entries) / rows / columns:.3g} % held"


def _missing(data: Columns) -> str:
    if data.mask is None:
        return "none"
    return f"{100 * (1 - data.mask.double().mean().item()):.3g} %"


def _classes(data: Columns) -> str:
    unlabelled = len(data) - int(data.labelled.sum())
    if unlabelled == len(data) and data.classes is None:
        return "no labels"
    text = f"{data.num_classes} classes"
    if data.classes is not None:
        text += f" ({reason(', '.join(data.classes))})"
    return text + (f", {unlabelled} without a label" if unlabelled else "")
