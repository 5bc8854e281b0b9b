"""Latents of guides, with the terms that a posterior adds to the training objective."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.distributions import Unit
from torch.distributions import Distribution

from ppl_vae.estimators.training_terms import TRAINING_TERM


def sample_latent(name: str, q: Distribution) -> Any:
    """Draw a guide's latent, and observe the training terms of its posterior.

    A posterior's distribution may have ``training_terms``, tensors of its batch shape by name, in
    nats: losses to be minimised besides minus the bound, such as those of
    ``posteriors.VectorQuantised``. Each is a site ``{name}_{term}`` of the guide, whose log-density
    is the loss: estimators subtract the guide's densities. Evaluation leaves them out.
    """
    value = pyro.sample(name, q)
    terms = getattr(q, "training_terms", {})
    for term, loss in terms.items():
        infer = {TRAINING_TERM: True, "is_auxiliary": True}  # no site of the model
        fn = Unit(loss, has_rsample=True)
        pyro.sample(f"{name}_{term}", fn, obs=torch.empty(0, device=loss.device), infer=infer)
    return value
