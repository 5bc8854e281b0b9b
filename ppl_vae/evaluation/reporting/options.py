"""What a report was asked for."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.errors import describe, positive_int


@dataclass(frozen=True, kw_only=True)
class Options:
    """What :func:`ppl_vae.evaluation.report` was asked for, apart from pairs and data.

    All of it is checked as soon as it is there: nothing is computed for hours and then refused.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if a number is too small.
    """

    num_samples: int
    num_particles: tuple[int, ...]
    num_data: int | None
    num_train: int | None
    annealed_data: int
    annealed_chains: int
    annealed_temperatures: int
    gap_data: int
    gap_steps: int
    seed: int
    progress: bool
    compile: bool

    def __post_init__(self) -> None:
        for name in ("num_samples", "annealed_chains", "annealed_temperatures", "gap_steps"):
            positive_int("report", name, getattr(self, name))
        for k in self.num_particles:
            positive_int("report", "each of num_particles", k)
        for name in ("annealed_data", "gap_data"):
            if getattr(self, name) != 0:
                positive_int("report", name, getattr(self, name))
        for name in ("num_data", "num_train"):
            number = getattr(self, name)
            if number is not None and positive_int("report", name, number) < 2:
                raise ValueError(f"report: {name} must be 2 or more, or None for all, got 1")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"report: seed must be an integer, got {describe(self.seed)}")
