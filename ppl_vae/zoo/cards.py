"""What is known of the trained pairs, and how their numbers are computed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from typing import Any

from ppl_vae import data, evaluation
from ppl_vae.files import read_bytes
from ppl_vae.models import ConditionalVAE, Pair, SemiSupervisedVAE
from ppl_vae.process_state import exclusively, seeded
from ppl_vae.zoo.folder import folder

NUMBERS = (
    "of the 360 test scans, grey values drawn as 0 or 1 once with seed 0; nats per datum with the "
    "standard error of the mean over scans; latents with seed 0; of a conditional pair given the "
    "class"
)
"""What the numbers on a card are."""


@dataclass(frozen=True)
class Card:
    """What is known of a trained pair.

    Args:
        name: of the pair.
        description: what it is.
        data: what it was trained on.
        command: what was typed.
        numbers: by name: the value, and its standard error.
        numbers_are: of which data.
        trained_with: versions.
    """

    name: str
    description: str
    data: str
    command: str
    numbers: dict[str, tuple[float, float]]
    numbers_are: str
    trained_with: dict[str, str]

    def __repr__(self) -> str:
        return "\n".join([self.name, *(f"  {name:12}  {said}" for name, said in self._rows())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(said)}</td></tr>"
            for name, said in self._rows()
        )
        return f"<table><caption>{escape(self.name)}</caption>{rows}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        rows = [("what", self.description), ("data", self.data), ("command", self.command)]
        for name, (value, error) in self.numbers.items():
            shown = (
                f"{value:.1%} ± {error:.1%}" if name == "accuracy" else f"{value:.2f} ± {error:.2f}"
            )
            rows.append((name, shown))
        return [*rows, ("numbers", self.numbers_are)]


def card(name: str) -> Card:
    """Return the card of a pair; TypeError or ValueError for another name."""
    found: dict[str, Any] = json.loads(read_bytes(folder(name) / "card.json"))
    found["numbers"] = {n: (value, error) for n, (value, error) in found["numbers"].items()}
    return Card(**found)


def evaluated(pair: Pair) -> dict[str, tuple[float, float]]:
    """Return the numbers that a card has of a pair of the digits, with their standard errors.

    ``NELBO``, its ``KL`` and ``reconstruction``, minus the importance-weighted bound ``IWAE-100``,
    and of a semi-supervised pair the ``accuracy`` on grey values.
    """
    test = data.load("digits", split="test")
    drawn = test.binarised(seed=0)
    inputs: tuple[Any, ...] = (drawn.tensor(),)
    if isinstance(pair, ConditionalVAE):
        inputs = (*inputs, drawn.labels)
    with exclusively(), seeded("zoo", 0):
        terms = evaluation.elbo_terms(pair, *inputs)
        bound = evaluation.importance_bounds(pair, *inputs, num_particles=(100,))[100]
    found = {
        "NELBO": (terms.nelbo.mean, terms.nelbo.standard_error),
        "KL": (terms.kl.mean, terms.kl.standard_error),
        "reconstruction": (terms.reconstruction.mean, terms.reconstruction.standard_error),
        "IWAE-100": (bound.mean, bound.standard_error),
    }
    if isinstance(pair, SemiSupervisedVAE):
        accuracy = evaluation.accuracy(pair, test.tensor(), test.labels)
        found["accuracy"] = (accuracy.mean, accuracy.standard_error)
    return {name: (round(value, 4), round(error, 4)) for name, (value, error) in found.items()}
