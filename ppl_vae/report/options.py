"""The options of a report."""

from __future__ import annotations

from dataclasses import dataclass

from ppl_vae.errors import flag, integer, positive_int, seed_of, sizes


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of :func:`ppl_vae.report.report` that are numbers and flags, checked."""

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
        checked: dict[str, object] = {"seed": seed_of("report", self.seed)}
        for name in ("num_samples", "annealed_chains", "annealed_temperatures", "gap_steps"):
            checked[name] = positive_int("report", name, getattr(self, name))
        checked["num_particles"] = sizes("report", "num_particles", self.num_particles)
        for name in ("annealed_data", "gap_data"):
            checked[name] = integer("report", name, getattr(self, name), 0)
        for name in ("num_data", "num_train"):
            if getattr(self, name) is not None:
                fix = "give None for all"
                checked[name] = integer("report", name, getattr(self, name), 2, fix)
        for name in ("progress", "compile"):
            checked[name] = flag("report", name, getattr(self, name))
        for name, value in checked.items():
            object.__setattr__(self, name, value)
