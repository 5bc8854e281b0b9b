"""The HTML page and its summary, rendered from templates."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from ppl_vae.report.measurements import Measurements

if TYPE_CHECKING:  # matplotlib is imported only when a report is made
    from ppl_vae.report.figures import Section


def page(
    *,
    title: str,
    facts: Mapping[str, str],
    measurements: Mapping[str, Measurements],
    incomparable: Sequence[str],
    sections: Sequence[Section],
    notes: Sequence[str],
    programs: Mapping[str, str],
    call: str,
) -> str:
    """Return the page.

    Args:
        title: its heading.
        facts: data and settings: name -> words.
        measurements: name of a pair -> its numbers.
        incomparable: warnings about all pairs together.
        sections: the pictures.
        notes: how to read the table.
        programs: name of a pair -> its parts.
        call: the call that reproduces the report.
    """
    tables = {name: found.quantities for name, found in measurements.items()}
    labels = dict.fromkeys(label for table in tables.values() for label in table)
    warnings = [(", ".join(measurements), text) for text in incomparable]
    warnings += [(name, text) for name, found in measurements.items() for text in found.warnings]
    return _ENVIRONMENT.get_template("report.html").render(
        title=title,
        facts=facts,
        tables=tables,
        rows={k: [table.get(k) for table in tables.values()] for k in labels},
        warnings=warnings,
        left_out=[*_missing_numbers(measurements), *_missing_sections(sections)],
        sections=sections,
        notes=notes,
        programs=programs,
        call=call,
    )


def summary(
    *,
    page: str,
    numbers: str,
    names: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str]]],
    warnings: Sequence[str],
) -> str:
    """Return HTML with links to page and numbers, and a table with a column for each name."""
    return _ENVIRONMENT.get_template("summary.html").render(
        page=page, numbers=numbers, names=names, rows=rows, warnings=warnings
    )


def _missing_numbers(measurements: Mapping[str, Measurements]) -> list[str]:
    return [
        f"{name}: no {what}: {reason}"
        for name, found in measurements.items()
        for what, reason in found.missing.items()
    ]


def _missing_sections(sections: Sequence[Section]) -> list[str]:
    """Say which sections have no picture at all, and why, each reason once."""
    titles: dict[str, list[str]] = {}
    for section in sections:
        if not any(picture.png for picture in section.pictures):
            reasons = "; ".join(dict.fromkeys(picture.reason for picture in section.pictures))
            titles.setdefault(reasons, []).append(section.title)
    return [f"Not drawn: {', '.join(names)}: {reason}" for reason, names in titles.items()]


def _png_size(png: bytes) -> dict[str, int]:
    """Return width and height from a PNG's header, so that the page does not jump on loading."""
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    return {"width": width, "height": height}


_ENVIRONMENT = Environment(
    loader=PackageLoader("ppl_vae.report"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "base64": lambda data: base64.b64encode(data).decode(),
    "is_finite": math.isfinite,
    "png_size": _png_size,
}
