"""Distributions that Pyro and torch lack."""

from ppl_vae.distributions import kl  # noqa: F401  (registers closed forms)
