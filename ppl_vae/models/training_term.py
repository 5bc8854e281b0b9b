"""Terms of a training objective that are no part of the model."""

from __future__ import annotations

from pyro.poutine.messenger import Messenger

TRAINING_TERM = "training_term"
"""A site says so by ``infer={"training_term": True}``: estimators add its log-density to what is
trained, and whatever evaluates the model leaves it out."""


def is_training_term(site: dict) -> bool:
    """Tell whether an observed site is a term of training alone."""
    return bool(site["infer"].get(TRAINING_TERM)) and site["is_observed"]


class WithoutTrainingTerms(Messenger):
    """Run a program as the model that it is, without the terms that only training has.

    ``WithoutTrainingTerms()(pair.model)`` is a program; the sites are hidden from all handlers
    around it.
    """

    ignores_parameters = True

    def _pyro_sample(self, msg: dict) -> None:
        if is_training_term(msg):
            msg["stop"] = True
