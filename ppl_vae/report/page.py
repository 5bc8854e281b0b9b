"""The page: HTML5 that needs nothing but itself."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

from ppl_vae.report.pictures import Picture, Section
from ppl_vae.report.quantities import Quantity

# Nothing may be fetched: the page says so to the browser, too.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fdfdfc; --faint: #666;
  --line: #d8d8d4; --warn: #fff3d6; --warn-ink: #5c3d00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --paper: #17181a; --faint: #a3a3a0;
  --line: #3a3b3e; --warn: #3b2f12; --warn-ink: #ffe3a3; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 76rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .4rem 0; }
.note, figcaption, .reason { color: var(--faint); font-size: .9rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; font-weight: normal; }
thead th { font-weight: 600; }
td { white-space: nowrap; }
td.words { white-space: normal; }
.figures { display: grid; gap: 1.2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
figure { margin: .5rem 0; }
figcaption { font-weight: 600; }
img { display: block; max-width: 100%; height: auto; padding: .4rem; background: #fff;
  border-radius: 4px; }
.warnings { background: var(--warn); color: var(--warn-ink); border-radius: 4px;
  padding: .6rem 1rem; }
.warnings ul { margin: .2rem 0; padding-left: 1.2rem; }
pre { overflow-x: auto; white-space: pre-wrap; font-size: .85rem; }
summary { cursor: pointer; }
@media print { body { max-width: none; color: #000; background: #fff; font-size: 10pt; }
  figure, tr { break-inside: avoid; } h2, figcaption { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; } details > * { display: block; } }
"""


def page(
    *,
    title: str,
    facts: Mapping[str, str],
    tables: Mapping[str, Mapping[str, Quantity]],
    warnings: Mapping[str, Sequence[str]],
    missing: Mapping[str, Mapping[str, str]],
    sections: Sequence[Section],
    notes: Sequence[str],
    programs: Mapping[str, str],
    call: str,
) -> str:
    """Return the page.

    Args:
        title: its heading.
        facts: what was evaluated, and with what: name -> words.
        tables: pair -> label -> number.
        warnings: pair -> what to beware of.
        missing: pair -> what there is not -> why.
        sections: the pictures.
        notes: how to read the table.
        programs: pair -> its parts.
        call: how to get the same again.
    """
    drawn = [section for section in sections if any(p.png for p in section.pictures)]
    body = [
        f"<h1>{escape(title)}</h1>",
        _warnings(warnings),
        "<h2>Numbers</h2>",
        _numbers(tables),
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        *map(_section, drawn),
        _left_out(missing, [section for section in sections if section not in drawn]),
        "<h2>What was evaluated, and how</h2>",
        _facts(facts),
        "<h2>To reproduce</h2>",
        f"<pre>{escape(call)}</pre>",
        *(
            f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>"
            for name, text in programs.items()
        ),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<main>",
            *filter(None, body),
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _numbers(tables: Mapping[str, Mapping[str, Quantity]]) -> str:
    labels = list(dict.fromkeys(label for table in tables.values() for label in table))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in tables)
    lines = []
    for label in labels:
        unit = next(table[label].unit for table in tables.values() if label in table)
        unit = f' <span class="note">{escape(unit)}</span>' if unit in ("nats",) else ""
        cells = "".join(f"<td>{_cell(table.get(label))}</td>" for table in tables.values())
        lines.append(f'<tr><th scope="row">{escape(label)}{unit}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table><thead><tr><th scope="col">per datum</th>{head}</tr></thead>\n'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def _cell(quantity: Quantity | None) -> str:
    if quantity is None:
        return '<span class="reason">not available</span>'
    if not math.isfinite(quantity.value):
        return f'<span class="reason">{escape(quantity.text)}</span>'
    return f'<data value="{quantity.value!r}">{escape(quantity.text)}</data>'


def _warnings(warnings: Mapping[str, Sequence[str]]) -> str:
    items = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(text)}</li>"
        for name, texts in warnings.items()
        for text in texts
    )
    if not items:
        return ""
    return f'<div class="warnings" role="note">Beware:<ul>{items}</ul></div>'


def _section(section: Section) -> str:
    reasons: dict[str, list[str]] = {}
    for picture in section.pictures:
        if picture.reason:
            reasons.setdefault(picture.reason, []).append(picture.title)
    words = "".join(
        f'<p class="reason">Not drawn for {escape(", ".join(titles))}: {escape(reason)}.</p>'
        for reason, titles in reasons.items()
    )
    figures = "".join(_figure(picture) for picture in section.pictures if picture.png)
    return (
        f'<section><h2>{escape(section.title)}</h2><p class="note">{escape(section.caption)}</p>'
        f'<div class="figures">{figures}</div>{words}</section>'
    )


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    # A PNG's header has its size: with it the page does not jump while it loads.
    width, height = (int.from_bytes(picture.png[at : at + 4], "big") for at in (16, 20))
    return (
        f"<figure><figcaption>{escape(picture.title)}</figcaption>"
        f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
        f'alt="{escape(picture.alt)}"></figure>'
    )


def _left_out(missing: Mapping[str, Mapping[str, str]], empty: Sequence[Section]) -> str:
    """Say which numbers and which whole sections there are not, and why."""
    lines = [
        f"{name}: no {what}: {reason}"
        for name, reasons in missing.items()
        for what, reason in reasons.items()
    ]
    titles: dict[str, list[str]] = {}
    for section in empty:
        reasons = "; ".join(dict.fromkeys(picture.reason for picture in section.pictures))
        titles.setdefault(reasons, []).append(section.title)
    lines += [f"Not drawn: {', '.join(names)}: {reason}" for reason, names in titles.items()]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>What is left out</h2><ul>{items}</ul>" if items else ""


def _facts(facts: Mapping[str, str]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="words">{escape(text)}</td></tr>'
        for name, text in facts.items()
    )
    return f'<div class="wide"><table><tbody>{lines}</tbody></table></div>'
