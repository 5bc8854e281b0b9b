"""The options of a report, and where it is written."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ppl_vae.errors import flag, integer, path_of, positive_int, seed_of, sizes


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


def destination(out: str | Path, owner: str = "report") -> tuple[Path, Path]:
    """Return the paths of the HTML page and the JSON file; raise OSError if not writable."""
    out = path_of(owner, "out", out)
    page = out if out.suffix == ".html" else out / "report.html"
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
