"""The folder of a training: its lock, its checkpoints, and its history as CSV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from ppl_vae.process_state import exclusively
from ppl_vae.random_state import random_state
from ppl_vae.training.checkpoint_checks import check_entries
from ppl_vae.training.checkpoints import Checkpoint, Checkpoints
from ppl_vae.training.distributed import any_process, max_over_processes, sharing_failures
from ppl_vae.training.folder_lock import locked
from ppl_vae.training.settings import Declaration, with_current_names
from ppl_vae.training.trainer import Trainer


class OutputFolder:
    """The folder of a training; the first process writes to it."""

    def __init__(self, folder: Path, keep: int, declaration: Declaration, trainer: Trainer) -> None:
        self.folder = folder
        self._checkpoints = Checkpoints(folder / "checkpoints", keep)
        self._declaration = declaration
        self._trainer = trainer
        self._fabric = trainer.fabric
        self._saved = -1

    @contextmanager
    def opened(self, total: int, resume: bool) -> Iterator[None]:
        """Lock the folder; load the newest checkpoint, or check that there is none."""
        trainer, is_first = self._trainer, self._fabric.is_global_zero
        with ExitStack() as stack:
            with sharing_failures(self._fabric):
                if is_first:
                    self._check(resume)
                    stack.enter_context(locked(self.folder))
                    self._check(resume)  # another training may have written to it meanwhile
            found = self._newest()
            with sharing_failures(self._fabric):
                if found is not None:
                    self._load(found, total)
            self._note(-1 if found is None else found.step)
            with sharing_failures(self._fabric), _named_errors(self.folder):
                if is_first:
                    # A state that cannot be written must fail now, not after hours.
                    self._checkpoints.try_out(self._state())
                    if trainer.step:
                        self._write_history()  # if killed between checkpoint and history
            yield

    @exclusively()
    def save(self) -> None:
        """Write a checkpoint and the history, unless that was done at this step."""
        trainer, fabric = self._trainer, self._fabric
        if self._saved == trainer.step:
            return
        own = random_state()
        states: list[Any] = [own] * fabric.world_size
        if fabric.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        with _named_errors(self.folder), sharing_failures(fabric):
            if fabric.is_global_zero:
                state = {**self._state(), "random": states}
                self._checkpoints.save(trainer.step, trainer.objective, state, trainer.best_weights)
                self._write_history()
        self._note(trainer.step)

    def _check(self, resume: bool) -> None:
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise NotADirectoryError(f"fit: out must be a folder, and {self.folder} is a file")
        self._checkpoints.refuse_links(self.folder)
        steps = self._checkpoints.steps()
        if steps and not resume:
            raise FileExistsError(
                f"fit: {self.folder} has checkpoints, the last of step {steps[-1]}; give "
                f"resume=True to continue, or another folder"
            )

    def _newest(self) -> Checkpoint | None:
        """Read the newest checkpoint, the same in all processes."""
        fabric, found = self._fabric, None
        # The first process sets damaged checkpoints aside before the others look.
        for first in (True, False) if fabric.world_size > 1 else (True,):
            with sharing_failures(fabric):
                if fabric.is_global_zero == first:
                    found = self._checkpoints.newest()
        step = -1 if found is None else found.step
        if any_process(fabric, step != max_over_processes(fabric, step)):
            raise RuntimeError(
                f"fit: the newest checkpoint in {self._checkpoints.folder} is of step {step} for "
                f"process {fabric.global_rank} (-1: none), of another for another process; all "
                f"need the same folder"
            )
        return found

    def _load(self, found: Checkpoint, total: int) -> None:
        state, folder = with_current_names(found.state), found.folder
        check_entries(state, found.step, folder)
        self._declaration.check(state["declaration"], folder)
        if found.step > total:
            raise ValueError(
                f"fit: steps={total} ends before step {found.step} of the checkpoint {folder}\n"
                f"Give {found.step} or more, or another folder as out"
            )
        self._trainer.load(found, state)

    def _state(self) -> dict[str, Any]:
        return {"declaration": self._declaration.words(), **self._trainer.state_dict()}

    def write_history(self) -> None:
        """Write the history, as it is now."""
        with _named_errors(self.folder), sharing_failures(self._fabric):
            if self._fabric.is_global_zero:
                self._write_history()

    def _write_history(self) -> None:
        self._trainer.history.write(self.folder / "history.csv")
        if len(self._trainer.validated):
            self._trainer.validated.write(self.folder / "validation.csv")

    def _note(self, step: int) -> None:
        """Record of which step the last checkpoint is, also for the trainer's errors."""
        self._saved = step
        self._trainer.saved = (
            f"There is no checkpoint in {self.folder} yet"
            if step < 0
            else f"The last checkpoint is of step {step}, in {self.folder}; resume=True continues"
        )


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """Add the folder's name to system errors without a file name, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error
