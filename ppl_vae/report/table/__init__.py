"""One HTML page with the evaluation of a VAE of a table."""

from ppl_vae.report.table.builder import table_report

__all__ = ["table_report"]
