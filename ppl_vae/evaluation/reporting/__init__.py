"""One page that says all that there is to say about a pair, or several side by side."""

from ppl_vae.evaluation.reporting.making import Report, report

__all__ = ["Report", "report"]
