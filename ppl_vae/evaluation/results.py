"""How results are shown: as text, and as a table in notebooks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape

from ppl_vae.ascii import for_stdout


class Result(ABC):
    """A result of evaluation, shown as rows of a name and a value with its unit."""

    @abstractmethod
    def _rows(self) -> dict[str, object]:
        """Return the values to show by name, units included."""

    def __repr__(self) -> str:
        rows = self._rows()
        width = max(map(len, rows))
        lines = [
            type(self).__name__,
            *(f"  {name:{width}}  {value}" for name, value in rows.items()),
        ]
        return for_stdout("\n".join(lines))

    def _repr_html_(self) -> str:
        style = "text-align:left;white-space:pre"
        rows = "".join(
            f"<tr><th style='{style}'>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
            for name, value in self._rows().items()
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"
