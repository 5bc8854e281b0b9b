"""The training loop: steps, and what happens between them."""

from __future__ import annotations

import signal

from ppl_vae.training.callbacks import Callbacks
from ppl_vae.training.distributed import max_over_processes
from ppl_vae.training.output_folder import OutputFolder
from ppl_vae.training.progress import progress_bar
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

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int, int, str]]:
        return type(self), (self.step, self.signal, self.saved)


def loop(
    trainer: Trainer,
    total: int,
    folder: OutputFolder | None,
    *,
    validate_every: int,
    checkpoint_every: int,
    log_every: int,
    progress: bool,
    callbacks: Callbacks,
) -> str:
    """Take all steps; return why they ended: ``"steps"``, ``"patience"`` or ``"callback"``."""
    fabric = trainer.fabric

    def due(every: int) -> bool:
        return trainer.step == total or trainer.step % every == 0

    def ended(why: str) -> str:
        """Save, then add what the history lacks: a resumption goes on without that entry."""
        trainer.check_finite()
        if folder is not None:
            folder.save()
        trainer.log_rest()
        if folder is not None:
            folder.write_history()
        return why

    bar = progress_bar(total, trainer.step, progress and fabric.is_global_zero)
    with bar, Interrupts() as interrupts:
        while trainer.step < total:
            if trainer.out_of_patience:
                return ended("patience")
            trainer.take_step()
            bar.update()
            logs = due(log_every)
            validates = trainer.validation is not None and due(validate_every)
            saves = folder is not None and due(checkpoint_every)
            if logs or validates or saves:
                trainer.check_finite()
            row = trainer.log() if logs else None
            if row is not None:
                loss = row["loss"]
                bar.set_postfix_str(f"loss {loss:.2f} nats per datum", refresh=False)
            if validates:
                bar.set_description_str(f"fit (validation {trainer.validate():.2f})", refresh=False)
            callbacks.after_step(row, validates)
            if saves:
                assert folder is not None
                folder.save()
            # Processes must stop at the same step, and communicating at each one is expensive.
            if fabric.world_size == 1 or logs:
                number = max_over_processes(fabric, interrupts.received or 0)
                if number:
                    trainer.check_finite()
                    if folder is not None:
                        folder.save()
                    raise Interrupted(trainer.step, number, trainer.saved)
            if callbacks.should_stop(folder, communicate=logs):
                return ended("callback")
    return ended("patience" if trainer.out_of_patience else "steps")
