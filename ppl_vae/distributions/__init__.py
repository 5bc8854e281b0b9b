"""What Pyro's and torch's distributions lack."""

from ppl_vae.distributions import kl  # noqa: F401  (registers closed forms)
