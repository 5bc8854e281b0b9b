"""One HTML page with the evaluation of a pair, or of several side by side."""

from ppl_vae.report.builder import report
from ppl_vae.report.results import Report

__all__ = ["Report", "report"]
