"""The training loop: steps, and what happens between them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ppl_vae.training.checkpoints import Checkpoints
from ppl_vae.training.distributed import max_over_processes, sharing_failures
from ppl_vae.training.folder_lock import locked
from ppl_vae.training.progress import progress_bar
from ppl_vae.training.settings import Declaration
from ppl_vae.training.signals import Interrupts
from ppl_vae.training.trainer import Trainer


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP ended a training between two steps.

    ``step`` is the number of steps taken, ``signal`` the signal's number, and ``saved`` says where
    the checkpoint is.
    """

    def __init__(self, step: int, number: int, saved: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"fit: {name} after step {step}. {saved}")
        self.step = step
        self.signal = number
        self.saved = saved


@dataclass(frozen=True)
class Intervals:
    """Numbers of steps between validations (None: never), checkpoints and rows of the history."""

    validation: int | None
    checkpoint: int
    log: int


class OutputFolder:
    """The folder of a training: its checkpoints, and its history as CSV."""

    def __init__(self, folder: Path, keep: int, declaration: Declaration) -> None:
        self.folder = folder
        self._checkpoints = Checkpoints(folder / "checkpoints", keep)
        self._declaration = declaration
        self._saved = -1

    @contextmanager
    def opened(self, trainer: Trainer, total: int, resume: bool) -> Iterator[None]:
        """Lock the folder; load the newest checkpoint, or check that there is none."""
        fabric, is_first = trainer.fabric, trainer.processes.rank == 0
        with ExitStack() as stack:
            with sharing_failures(fabric):
                if is_first:
                    self._check(resume)
                    stack.enter_context(locked(self.folder))
                    self._check(resume)  # another training may have written to it meanwhile
            if trainer.resume(self._checkpoints, self._declaration, total):
                self._saved = trainer.step
            with sharing_failures(fabric):
                if is_first:
                    # A state that cannot be written must fail now, not after hours.
                    with _named_errors(self.folder):
                        self._checkpoints.try_out(trainer.state_dict(self._declaration))
                        if trainer.step:
                            trainer.write(self.folder)  # if killed between checkpoint and history
            yield

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

    def save(self, trainer: Trainer) -> None:
        """Write a checkpoint and the history, unless that was done at this step."""
        if self._saved != trainer.step:
            with _named_errors(self.folder):
                trainer.save(self._checkpoints, self._declaration)
            self._saved = trainer.step

    @property
    def saved(self) -> str:
        """Where the last checkpoint is, in words."""
        if self._saved < 0:
            return f"There is no checkpoint in {self.folder} yet"
        return (
            f"The last checkpoint is of step {self._saved}, in {self.folder}; resume=True continues"
        )


def loop(
    trainer: Trainer, total: int, every: Intervals, folder: OutputFolder | None, progress: bool
) -> str:
    """Take all steps; return why they ended, ``"steps"`` or ``"patience"``."""
    nowhere = "Nothing was saved; give out= to be able to resume"
    bar = progress_bar(total, trainer.step, progress and trainer.processes.rank == 0)
    with bar, Interrupts() as interrupts:
        while trainer.step < total:
            if trainer.out_of_patience:
                return "patience"
            saved = nowhere if folder is None else folder.saved
            trainer.take_step(saved)
            bar.update()
            last = trainer.step == total
            logs = last or trainer.step % every.log == 0
            validates = every.validation and (last or trainer.step % every.validation == 0)
            saves = folder is not None and (last or trainer.step % every.checkpoint == 0)
            if logs or validates or saves:
                trainer.check_finite(saved)
            if logs:
                trainer.log()
                bar.set_postfix_str(f"loss {trainer.loss:.2f} nats per datum", refresh=False)
            if validates:
                bar.set_description_str(f"fit (validation {trainer.validate():.2f})", refresh=False)
            if saves:
                assert folder is not None
                folder.save(trainer)
            # Processes must stop at the same step, and communicating at each one is expensive.
            if trainer.processes.number == 1 or logs:
                number = max_over_processes(trainer.fabric, interrupts.received or 0)
                if number:
                    trainer.check_finite(saved)
                    if folder is not None:
                        folder.save(trainer)
                        saved = folder.saved
                    raise Interrupted(trainer.step, number, saved)
    return "patience" if trainer.out_of_patience else "steps"


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """Add the folder's name to system errors without a file name, such as of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error
