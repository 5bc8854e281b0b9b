"""The options of a report, and where it is written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppl_vae.errors import flag, integer, path_of, positive_int, quoted, seed_of, sequence, sizes

SECTIONS = ("calibration", "predictive checks", "disentanglement")
"""Names of the sections that are left out unless asked for."""
FEWEST_REPLICATES = 19
"""With fewer replicated data sets no p-value is as small as 0.05."""


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
    sections: Sequence[str]
    num_simulations: int
    num_replicates: int
    seed: int
    progress: bool
    compile: bool

    def __post_init__(self) -> None:
        checked: dict[str, object] = {"seed": seed_of("report", self.seed)}
        positive = ("num_samples", "annealed_chains", "annealed_temperatures", "gap_steps")
        for name in (*positive, "num_simulations"):
            checked[name] = positive_int("report", name, getattr(self, name))
        checked["num_replicates"] = integer(
            "report", "num_replicates", self.num_replicates, FEWEST_REPLICATES
        )
        checked["sections"] = _sections(self.sections)
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


def _sections(given: object) -> tuple[str, ...]:
    """Return names of sections in the order of the page; raise ValueError for unknown ones."""
    names = sequence("report", "sections", given, "names, such as ('calibration',)")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise ValueError(
            f"report: sections must be among {quoted(SECTIONS)}, got {quoted(unknown)}"
        )
    return tuple(name for name in SECTIONS if name in names)


def destination(out: str | Path, owner: str = "report") -> tuple[Path, Path]:
    """Return the paths of the HTML page and the JSON file; raise OSError if not writable."""
    out = path_of(owner, "out", out)
    page = out if out.suffix.lower() == ".html" else out / "report.html"
    paths = page, page.with_suffix(".json")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=page.parent):
            pass
        for path in paths:
            if path.is_symlink():
                raise FileExistsError(None, "there is a link of that name", str(path))
            if path.is_dir():
                raise IsADirectoryError(None, "there is a folder of that name", str(path))
    except OSError as error:
        raise OSError(
            f"{owner}: cannot write to out={str(out)!r} ({error.strerror}: {error.filename}); give "
            f"a writable folder or a path ending in .html"
        ) from error
    return paths
