"""The HTML page, rendered from a template."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.evaluation_data import EvaluationData
from ppl_vae.report.metrics import ELBO_DRAWS
from ppl_vae.report.options import Options

if TYPE_CHECKING:  # matplotlib is imported only when a report is made
    from ppl_vae.report.figures import Section


def page(
    pairs: Sequence[EvaluatedPair],
    data: EvaluationData,
    train: EvaluationData | None,
    options: Options,
    *,
    facts: Mapping[str, str],
    incomparable: Sequence[str],
    sections: Sequence[Section],
) -> str:
    """Return the page: ``facts`` in words, ``incomparable`` about all pairs together."""
    names = ", ".join(pair.name for pair in pairs)
    tables = [pair.quantities for pair in pairs]
    labels = dict.fromkeys(label for table in tables for label in table)
    warnings = [(names, text) for text in incomparable]
    warnings += [(pair.name, text) for pair in pairs for text in pair.warnings]
    left_out = [f"{p.name}, {what}: {why}" for p in pairs for what, why in p.missing.items()]
    return render(
        "report.html",
        title=f"{names} on {data.name}",
        pairs=pairs,
        data=data,
        train=train,
        options=asdict(options),
        elbo_draws=ELBO_DRAWS,
        facts=facts,
        rows={label: [table.get(label) for table in tables] for label in labels},
        warnings=warnings,
        left_out=[*left_out, *_missing_sections(sections)],
        sections=sections,
    )


def render(template: str, **values: Any) -> str:
    """Return a template of this package with values filled in, and escaped."""
    return _ENVIRONMENT.get_template(template).render(values)


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
