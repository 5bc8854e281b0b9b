"""Terms of a training objective that are no part of the model."""

from __future__ import annotations

from collections.abc import Callable

from pyro.poutine.messenger import Messenger

from ppl_vae.registration import IgnoresParameters

TRAINING_TERM = "training_term"
"""Marks an observed site, ``infer={"training_term": True}``: estimators add its log-density to the
objective, and evaluation leaves it out."""


def is_training_term(site: dict) -> bool:
    """Return whether an observed site belongs to the training objective alone."""
    return bool(site["infer"].get(TRAINING_TERM)) and site["is_observed"]


class WithoutTrainingTerms(IgnoresParameters, Messenger):
    """Hide training terms from all handlers around a program."""

    def _pyro_sample(self, msg: dict) -> None:
        if is_training_term(msg):
            msg["stop"] = True


def without_training_terms(*programs: Callable) -> tuple[Callable, ...]:
    """Return programs without their training terms, such as the classification term of M2."""
    handler = WithoutTrainingTerms()
    return tuple(handler(program) for program in programs)
