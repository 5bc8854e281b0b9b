"""One HTML page with the evaluation of a pair, of several side by side, or of a table's VAE."""

from ppl_vae.report.builder import report
from ppl_vae.report.results import Report, TableReport
from ppl_vae.report.table import table_report

__all__ = ["Report", "TableReport", "report", "table_report"]
