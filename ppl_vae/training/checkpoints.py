"""Checkpoints: whole or not there, the newest whole one found again."""

from __future__ import annotations

import errno
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
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
    """A checkpoint that was read.

    Args:
        step: steps taken so far.
        state: of everything but the weights.
        best: the weights of the best validation, if they are kept.
        folder: where it is.
    """

    step: int
    state: dict[str, Any]
    best: dict[str, Tensor] | None
    folder: Path

    def weights(self) -> dict[str, Tensor]:
        """Read the weights."""
        return read_tensors(self.folder / _WEIGHTS)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints in a folder, one folder each.

    A checkpoint holds ``weights.safetensors``, ``state.safetensors`` (all else, see
    :func:`ppl_vae.io.save_state`), ``best.safetensors`` where the best weights are kept, and
    ``manifest.json`` with the size and SHA-256 of each. It is written beside its place, brought to
    the disk, and renamed. Links are not followed.

    Args:
        folder: where they are.
        keep: how many to keep, the newest; the one before the newest serves if it is damaged.
    """

    folder: Path
    keep: int = 2

    def refuse_links(self, run: Path) -> None:
        """Raise an error if there is a link in the folder of a run, before it is written to.

        Only what has the name of a checkpoint may be one: it is set aside, and not followed.

        Raises:
            UnsafeError: if there is another one.
        """
        refuse_links(run, but=lambda p: p.parent == self.folder and p.name.startswith(_PREFIX))

    def save(
        self,
        step: int,
        module: nn.Module,
        state: Mapping[str, Any],
        best: Mapping[str, Tensor] | None,
    ) -> Path:
        """Write a checkpoint, then remove those that are too old.

        Raises:
            OSError: if it cannot be written; nothing is left of it, and the others stay.
            TypeError: if the state holds something else than tensors, numbers and strings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{_PREFIX}{step:09d}"
        if _is_folder(target):  # written by this very run, which resumed from it
            return target
        if os.path.lexists(target):
            _set_aside(target, "is no folder of this training's")
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
        """Write a state, and leave nothing of it.

        Raises:
            OSError: if it cannot be written.
            TypeError: if it holds something else than tensors, numbers and strings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # What a kill leaves is removed as any leftover of a checkpoint.
        with TemporaryDirectory(prefix=PREFIX, dir=self.folder) as folder:
            save_state(state, Path(folder) / _STATE)

    def steps(self) -> list[int]:
        """Return the steps of which there is a checkpoint, ascending."""
        found = [path for path in self._named() if _is_folder(path)]
        return sorted(int(path.name.removeprefix(_PREFIX)) for path in found)

    def _named(self) -> list[Path]:
        """Return what has the name of a checkpoint, as it is written here and in no other way."""
        try:
            paths = sorted(self.folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [path for path in paths if _NAME.fullmatch(path.name)]

    def newest(self) -> Checkpoint | None:
        """Read the newest whole checkpoint; None where there is none.

        Those that are damaged are reported by a warning, and set aside.

        Raises:
            DamagedError: if there are checkpoints and all are damaged.
            NewerFormatError: if a newer version wrote it.
        """
        clear_leftovers(self.folder)
        for path in self._named():
            if not _is_folder(path):
                _set_aside(path, "is a link or no folder")
        self._warn_of_others()
        found: DamagedError | None = None
        for step in reversed(self.steps()):
            folder = self._at(step)
            try:
                _whole(folder)
            except DamagedError as error:
                found = error
                _set_aside(folder, f"is damaged ({error})")
                continue
            except OSError as error:
                if error.errno not in _UNREADABLE:
                    raise
                found = DamagedError(f"{folder} cannot be read: {error}")
                _set_aside(folder, f"cannot be read ({error.strerror})")
                continue
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

    def _warn_of_others(self) -> None:
        """Say what is there and looks like a checkpoint, and is left alone."""
        others = [
            path.name
            for path in sorted(self.folder.glob(f"{_PREFIX}*"))
            if not _NAME.fullmatch(path.name) and _DAMAGED not in path.name
        ]
        if others:
            told = ", ".join(ascii(name[:40]) for name in others[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            warnings.warn(
                f"fit: {self.folder}: {told}{more}: no name of a checkpoint, and left alone",
                stacklevel=3,
            )

    def _at(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:09d}"


def _whole(folder: Path) -> None:
    """Raise DamagedError unless all is there, and as it was written; OSError if not to be read."""
    listed = set(check(folder))
    if _PICKLED in listed and _STATE not in listed:
        raise StorageError(
            f"{folder}: {_PICKLED} is the pickle of an older version, which is not read: it might "
            f"run code. Train anew, in another folder"
        )
    if missing := {_WEIGHTS, _STATE} - listed:
        raise DamagedError(
            f"{folder}: its manifest does not list {min(missing)}; it is no checkpoint"
        )


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _set_aside(path: Path, why: str) -> None:
    """Rename what cannot be gone on from, a link itself and not what it leads to, and say so."""
    names = (f"{path.name}{_DAMAGED}{f'-{i}' if i else ''}" for i in count())
    aside = next(path.with_name(name) for name in names if not os.path.lexists(path.parent / name))
    path.rename(aside)
    warnings.warn(
        f"fit: {path} {why}: set aside as {aside.name}; going back to the one before", stacklevel=3
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's weights."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


@torch.no_grad()
def put_back(module: nn.Module, copy: Mapping[str, Tensor]) -> None:
    """Give a module the weights of a copy."""
    module.load_state_dict(dict(copy))
