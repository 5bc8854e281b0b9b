"""Ways to refine a guide's draws of the posterior of each datum, as objects with their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ppl_vae.errors import describe, number, positive_int


@dataclass(frozen=True)
class ImportanceResampling:
    """Draws of the guide, resampled with Pareto-smoothed importance weights.

    Args:
        num_particles: S, draws of the guide per datum that are resampled.
    """

    num_particles: int = 1000

    def __post_init__(self) -> None:
        _keep(self, num_particles=positive_int(*_named(self, "num_particles")))


@dataclass(frozen=True)
class LocalOptimisation:
    """A posterior for each datum: the outputs of the guide's network, optimised by Adam.

    Args:
        steps: of the optimisation, each with 10 draws.
        learning_rate: initial one; an output can move by about half of it times ``steps``.
    """

    steps: int = 200
    learning_rate: int | float = 0.05

    def __post_init__(self) -> None:
        _keep(
            self,
            steps=positive_int(*_named(self, "steps")),
            learning_rate=number(*_named(self, "learning_rate"), above=0),
        )


@dataclass(frozen=True)
class HamiltonianMonteCarlo:
    """Chains that start at draws of the guide.

    Args:
        num_chains: per datum.
        warm_up: transitions that tune step sizes and are left out.
        leapfrog_steps: L, of a transition on average: each takes 1 to 2 L - 1, all as probable,
            since trajectories of one length go round a normal and hardly change its radius. Few
            suffice: steps are in units of the guide's scales, about one long each. Take more where
            the posterior's latents are correlated and the guide's are not.
    """

    num_chains: int = 4
    warm_up: int = 100
    leapfrog_steps: int = 4

    def __post_init__(self) -> None:
        names = ("num_chains", "warm_up", "leapfrog_steps")
        _keep(self, **{name: positive_int(*_named(self, name)) for name in names})


Refinement: TypeAlias = ImportanceResampling | LocalOptimisation | HamiltonianMonteCarlo

BY_NAME: dict[str, type[Refinement]] = {
    "importance": ImportanceResampling,
    "optimise": LocalOptimisation,
    "hmc": HamiltonianMonteCarlo,
}
"""The refinements with their default settings, by the names that stand for them."""


def refinement_of(owner: str, refine: object) -> Refinement | None:
    """Return a refinement, also of a name, or None; raise an error for anything else."""
    if refine is None or isinstance(refine, Refinement):
        return refine
    expected = (
        f"{owner}: refine must be None, {', '.join(map(repr, BY_NAME))} or one of "
        f"{', '.join(f'evaluation.{kind.__name__}' for kind in BY_NAME.values())}"
    )
    if not isinstance(refine, str):
        raise TypeError(f"{expected}, got {describe(refine)}")
    if refine not in BY_NAME:
        raise ValueError(f"{expected}, got {refine!r}")
    return BY_NAME[refine]()


def _named(refinement: Refinement, name: str) -> tuple[str, str, object]:
    return type(refinement).__name__, name, getattr(refinement, name)


def _keep(refinement: Refinement, **values: int | float) -> None:
    """Set fields of a frozen object, once, to their checked values."""
    for name, value in values.items():
        object.__setattr__(refinement, name, value)
