"""One HTML page with the evaluation of a pair, of several side by side, or of a table's VAE."""

from typing import TYPE_CHECKING, Any

from ppl_vae.report.builder import report
from ppl_vae.report.results import Report, TableReport

if TYPE_CHECKING:
    from ppl_vae.report.table import table_report

__all__ = ["Report", "TableReport", "report", "table_report"]

# Imported on first use: a report on pairs does not wait for scikit-learn, nor for what trains.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name != "table_report":
            raise AttributeError(f"module 'ppl_vae.report' has no attribute {name!r}")
        from ppl_vae.report.table import table_report

        globals()[name] = table_report
        return table_report

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
