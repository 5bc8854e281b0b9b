"""Checkpoints, written atomically; reading returns the newest that is intact."""

from __future__ import annotations

import errno
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from ppl_vae.io.atomic import PREFIX, clear_leftovers, new_folder, refuse_links
from ppl_vae.io.errors import DamagedError, StorageError
from ppl_vae.io.manifest import check, seal
from ppl_vae.io.state import load_state, save_state
from ppl_vae.io.tensors import read_tensors, save_weights, write_tensors

_PREFIX, _DAMAGED = "step-", ".damaged"
_NAME = re.compile(rf"{_PREFIX}([0-9]{{9}}|[1-9][0-9]{{9,17}})")
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.ENOTDIR)
_WEIGHTS, _BEST = "weights.safetensors", "best.safetensors"
_STATE, _PICKLED = "state.safetensors", "state.pt"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, read except for its weights."""

    step: int
    state: dict[str, Any]
    best: dict[str, Tensor] | None  # the weights of the best validation
    folder: Path

    def weights(self) -> dict[str, Tensor]:
        """Read the weights."""
        return read_tensors(self.folder / _WEIGHTS)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder, one subfolder each.

    A checkpoint holds ``weights.safetensors``, ``state.safetensors`` (everything else, see
    :func:`ppl_vae.io.save_state`), ``best.safetensors`` if the best weights are kept, and
    ``manifest.json`` with the size and SHA-256 of each. It is written to a temporary folder, synced
    to disk, and renamed. Links are not followed.
    """

    folder: Path
    keep: int = 2  # the newest; if one is damaged, the one before it is used

    def refuse_links(self, run: Path) -> None:
        """Raise UnsafeError if a run's folder has a link, except in the place of a checkpoint.

        Such a link is later set aside, and not followed.
        """
        refuse_links(run, but=lambda p: p.parent == self.folder and p.name.startswith(_PREFIX))

    def save(
        self,
        step: int,
        module: nn.Module,
        state: Mapping[str, Any],
        best: Mapping[str, Tensor] | None,
    ) -> Path:
        """Write a checkpoint, then remove the oldest; if it cannot be written, nothing changes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{_PREFIX}{step:09d}"
        if _is_folder(target):  # this run resumed from it
            return target
        if os.path.lexists(target):
            _set_aside(target, "is not a checkpoint's folder")
        with new_folder(target) as folder:
            save_weights(module, folder / _WEIGHTS)
            save_state(state, folder / _STATE)
            if best is not None:
                write_tensors(best, folder / _BEST)
            seal(folder)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self._at(old))
        return target

    def try_out(self, state: Mapping[str, Any]) -> None:
        """Write a state and remove it again, to raise the errors of :meth:`save` early."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # With the prefix of leftovers, which are removed if the process is killed here.
        with TemporaryDirectory(prefix=PREFIX, dir=self.folder) as folder:
            save_state(state, Path(folder) / _STATE)

    def steps(self) -> list[int]:
        """Return the steps with a checkpoint, ascending."""
        found = [path for path in self._named() if _is_folder(path)]
        return sorted(int(path.name.removeprefix(_PREFIX)) for path in found)

    def _named(self) -> list[Path]:
        """Return the paths that have exactly the name of a checkpoint."""
        try:
            paths = sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [path for path in paths if _NAME.fullmatch(path.name)]

    def newest(self) -> Checkpoint | None:
        """Read the newest intact checkpoint; None if there are none.

        Damaged ones are set aside, with a warning; if all are, the error is raised.
        """
        clear_leftovers(self.folder)
        for path in self._named():
            if not _is_folder(path):
                _set_aside(path, "is a link or not a folder")
        self._warn_of_unknown_names()
        found: DamagedError | None = None
        for step in reversed(self.steps()):
            folder = self._at(step)
            try:
                _check_intact(folder)
            except DamagedError as error:
                found = error
                _set_aside(folder, f"is damaged ({error})")
            except OSError as error:
                if error.errno not in _UNREADABLE:
                    raise
                found = DamagedError(f"{folder} cannot be read: {error}")
                _set_aside(folder, f"cannot be read ({error.strerror})")
            else:
                best = folder / _BEST
                return Checkpoint(
                    step=step,
                    state=load_state(folder / _STATE),
                    best=read_tensors(best) if best.exists() else None,
                    folder=folder,
                )
        if found is not None:
            raise found
        return None

    def _warn_of_unknown_names(self) -> None:
        """Warn of names that resemble a checkpoint's and are ignored."""
        others = [
            path.name
            for path in sorted(self.folder.glob(f"{_PREFIX}*"))
            if not _NAME.fullmatch(path.name) and _DAMAGED not in path.name
        ]
        if others:
            names = ", ".join(ascii(name[:40]) for name in others[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            warnings.warn(
                f"fit: {self.folder}: {names}{more}: ignored, not the name of a checkpoint",
                stacklevel=3,
            )

    def _at(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:09d}"


def _check_intact(folder: Path) -> None:
    """Raise DamagedError if a checkpoint is incomplete or changed, OSError if unreadable."""
    listed = set(check(folder))
    if _PICKLED in listed and _STATE not in listed:
        raise StorageError(
            f"{folder}: {_PICKLED} is a pickle of an older version, which could run code, and is "
            f"not read; train again, in another folder"
        )
    if missing := {_WEIGHTS, _STATE} - listed:
        raise DamagedError(
            f"{folder} is not a checkpoint: its manifest does not list {min(missing)}"
        )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _set_aside(path: Path, why: str) -> None:
    """Rename what cannot be resumed from (of a link, the link itself), with a warning."""
    names = (f"{path.name}{_DAMAGED}{f'-{i}' if i else ''}" for i in count())
    aside = next(path.with_name(name) for name in names if not os.path.lexists(path.parent / name))
    path.rename(aside)
    warnings.warn(
        f"fit: {path} {why}: set aside as {aside.name}; the previous one is used", stacklevel=3
    )


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights, and of any further state that it has."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else deepcopy(value)
        for name, value in module.state_dict().items()
    }
