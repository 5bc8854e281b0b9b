"""Steps one after another, and what happens between them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ppl_vae.training.checkpoints import Checkpoints
from ppl_vae.training.distributed import greatest, together
from ppl_vae.training.folder_lock import locked
from ppl_vae.training.progress import progress_bar
from ppl_vae.training.run import Run
from ppl_vae.training.settings import Declaration
from ppl_vae.training.signals import Interrupts


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP ended a training between two steps.

    Args:
        step: how many steps were taken.
        number: of the signal.
        saved: where the checkpoint is, in words.
    """

    def __init__(self, step: int, number: int, saved: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"fit: {name} after step {step}. {saved}")
        self.step = step
        self.signal = number
        self.saved = saved


@dataclass(frozen=True)
class Every:
    """How many steps lie between two of each.

    Args:
        validation: None for no validation.
        checkpoint: of the training.
        log: of the history.
    """

    validation: int | None
    checkpoint: int
    log: int


class RunFolder:
    """The folder of a training: its checkpoints, and its history as CSV.

    Args:
        folder: where; made if it is not there.
        keep: how many checkpoints to keep.
        declaration: what must be the same when it goes on.
    """

    def __init__(self, folder: Path, keep: int, declaration: Declaration) -> None:
        self.folder = folder
        self._checkpoints = Checkpoints(folder / "checkpoints", keep)
        self._declaration = declaration
        self._saved = -1

    @contextmanager
    def opened(self, run: Run, total: int, resume: bool) -> Iterator[None]:
        """Go on from the newest checkpoint, or see that there is none; hold the folder meanwhile.

        Raises:
            BlockingIOError: if another training holds it.
            FileExistsError: if there are checkpoints, and they are not to be gone on from.
            NotADirectoryError: if there is a file in the folder's place.
            OSError: if nothing can be written there.
            TypeError: if a schedule or an optimiser has a state that cannot be saved.
            UnsafeError: if there is a link in the folder.
            ValueError: if it is another training.
        """
        with ExitStack() as stack:
            with together(run.parts.fabric):
                if run.processes.rank == 0:
                    self._refuse(resume)
                    stack.enter_context(locked(self.folder))
                    self._refuse(resume)  # what another training has left in the meantime
            if run.resume(self._checkpoints, self._declaration, total):
                self._saved = run.step
            with together(run.parts.fabric):
                if run.processes.rank == 0:
                    # What cannot be written should be known before the training, not after hours.
                    with _named(self.folder):
                        self._checkpoints.try_out(run.state_dict(self._declaration))
                        if run.step:
                            run.write(self.folder)  # a kill may have come before the history
            yield

    def _refuse(self, resume: bool) -> None:
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise NotADirectoryError(f"fit: out must be a folder, and {self.folder} is a file")
        self._checkpoints.refuse_links(self.folder)
        there = self._checkpoints.steps()
        if there and not resume:
            raise FileExistsError(
                f"fit: {self.folder} has checkpoints, the last of step {there[-1]}; give "
                f"resume=True to go on from there, or another folder"
            )

    def save(self, run: Run) -> None:
        """Write a checkpoint and the history, unless that of this step is there."""
        if self._saved != run.step:
            with _named(self.folder):
                run.save(self._checkpoints, self._declaration)
            self._saved = run.step

    @property
    def saved(self) -> str:
        """Where the last checkpoint is, in words."""
        if self._saved < 0:
            return f"There is no checkpoint in {self.folder} yet"
        return (
            f"The last checkpoint is of step {self._saved}, in {self.folder}: resume=True goes on"
        )


def loop(run: Run, total: int, every: Every, folder: RunFolder | None, progress: bool) -> str:
    """Take all steps, and return why they ended: ``"steps"`` or ``"patience"``."""
    nowhere = "Nothing was saved; give out= to be able to go on"
    bar = progress_bar(total, run.step, progress and run.processes.rank == 0)
    with bar, Interrupts() as interrupts:
        while run.step < total:
            if run.out_of_patience:
                return "patience"
            saved = nowhere if folder is None else folder.saved
            run.train(saved)
            bar.update()
            last = run.step == total
            logs = last or run.step % every.log == 0
            validates = every.validation and (last or run.step % every.validation == 0)
            saves = folder is not None and (last or run.step % every.checkpoint == 0)
            if logs or validates or saves:
                run.look(saved)
            if logs:
                run.log()
                bar.set_postfix_str(f"loss {run.loss:.2f} nats per datum", refresh=False)
            if validates:
                bar.set_description_str(f"fit (validation {run.validate():.2f})", refresh=False)
            if saves:
                assert folder is not None
                folder.save(run)
            # Processes must stop at the same step; asking each other at every step would cost more.
            if run.processes.number == 1 or logs:
                number = greatest(run.parts.fabric, interrupts.received or 0)
                if number:
                    run.look(saved)
                    if folder is not None:
                        folder.save(run)
                    raise Interrupted(run.step, number, nowhere if folder is None else folder.saved)
    return "patience" if run.out_of_patience else "steps"


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Give the system's errors the name of the folder, where they have none: of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error
