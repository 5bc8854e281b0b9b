"""One page that says all that there is to say about a pair, or several side by side."""

from ppl_vae.report.builder import Report, report

__all__ = ["Report", "report"]
