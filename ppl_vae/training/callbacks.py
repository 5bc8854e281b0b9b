"""Callbacks: code of yours that is called during a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import describe
from ppl_vae.process_state import restored
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.training.distributed import max_over_processes

if TYPE_CHECKING:
    from ppl_vae.training.output_folder import OutputFolder
    from ppl_vae.training.trainer import Trainer

HOOKS = ("step", "validation", "end")
_STOP, _FAILED = 1, 2


@dataclass(eq=False)
class TrainingState:
    """What a callback receives.

    Args:
        pair: what is trained. Its methods, ``generate`` or ``decode``, run in evaluation mode.
        total: how many steps the training has.
        step: how many were taken.
        row: the history's row of this step by column, such as ``loss``; None between entries.
        validation: the last row of the validation, such as ``loss`` and ``standard_error``; None
            before the first.
        result: what ``fit`` is about to return, for ``end``; None before.
    """

    pair: ModelAndGuide
    total: int
    step: int
    row: Mapping[str, float | int] | None = None
    validation: Mapping[str, float | int] | None = None
    result: Any = None
    _loss: Callable[[], float] | None = None
    _stopped: bool = False

    @property
    def loss(self) -> float:
        """What this step minimised, in nats per datum; on a GPU, reading it waits for the step."""
        assert self._loss is not None
        return self._loss()

    def stop(self) -> None:
        """End the training after this step; ``FitResult.stopped`` is then ``"callback"``."""
        self._stopped = True


class Callback:
    """Code that is called during a training: subclass it and define the methods that you need.

    What a callback draws does not change the training, which is the same, bit for bit, with and
    without callbacks, as long as they leave weights, gradients, buffers and modes alone: networks
    of the pair are in training mode, and calling them moves the statistics of batch normalisation.
    Methods of the pair, and functions of ``ppl_vae.evaluation``, move none. Methods that are not
    overridden cost nothing.

    An exception ends the training and leaves ``fit`` as it is, after a checkpoint is written to
    ``out`` if there is one. ``state.stop()`` ends it without one. A training that is resumed goes
    on after the last step in its newest checkpoint: methods are then called from there, again for
    steps after it. A callback's own attributes are not saved.

    With several processes, methods are called in the first alone, and a stop or an exception takes
    effect at the next entry of the history, every ``log_every`` steps; the other processes then
    raise RuntimeError.

    Example:
        >>> from ppl_vae import VAE, data, likelihoods, nets, posteriors, priors
        >>> from ppl_vae.training import fit
        >>> class Printed(Callback):
        ...     def step(self, state):
        ...         if state.row is not None:
        ...             print(state.step, sorted(state.row)[:3])
        ...             state.stop()
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> digits = data.load("digits")
        >>> fit(vae, digits, steps=9, log_every=5, callbacks=[Printed()], progress=False).stopped
        5 ['epoch', 'gradient_norm', 'learning_rate']
        'callback'
    """

    def step(self, state: TrainingState) -> None:
        """Called after each step, its entry in the history and its validation."""

    def validation(self, state: TrainingState) -> None:
        """Called after each validation, before ``step``."""

    def end(self, state: TrainingState) -> None:
        """Called once, when a training has ended without an exception, with its result.

        The pair has the weights that ``fit`` leaves, the best ones after an early stop.
        """


def checked_callbacks(owner: str, given: object) -> tuple[Callback, ...]:
    """Return callbacks; raise TypeError for anything else."""
    expected = f"{owner}: callbacks must be a list of training.Callback objects"
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"{expected}, got {describe(given)}")
    for callback in given:
        if not isinstance(callback, Callback):
            what = describe(callback)
            if isinstance(callback, type):
                what = f"the class {callback.__name__}; make an object of it"
            raise TypeError(f"{expected}, got {what}")
    return tuple(given)


class Callbacks:
    """The callbacks of a training, called in its first process.

    Args:
        given: by all processes alike.
        pair: what is trained.
        total: steps of the training.
        trainer: its state.
    """

    def __init__(
        self, given: Sequence[Callback], pair: ModelAndGuide, total: int, trainer: Trainer
    ) -> None:
        self._any = bool(given)
        self._trainer = trainer
        self._hooks: dict[str, list[Callable[[TrainingState], None]]] = {
            hook: [
                getattr(callback, hook)
                for callback in given
                if getattr(type(callback), hook) is not getattr(Callback, hook)
            ]
            for hook in HOOKS
        }
        self._state = TrainingState(pair, total, trainer.step, _loss=lambda: trainer.last_loss)
        self._state.validation = trainer.validated.last() or None  # of a training that resumes
        self._error: Exception | None = None

    def after_step(self, row: Mapping[str, float | int] | None, validated: bool) -> None:
        """Call what is due after a step."""
        if not self._any:
            return
        state, trainer = self._state, self._trainer
        state.step, state.row = trainer.step, row
        if validated:
            state.validation = trainer.validated.last()
            self._call("validation")
        self._call("step")

    def should_stop(self, folder: OutputFolder | None, *, communicate: bool) -> bool:
        """Return whether the training is to end; raise what a callback raised, all of it saved."""
        if not self._any:
            return False
        fabric = self._trainer.fabric
        number = _FAILED if self._error is not None else _STOP * self._state._stopped
        if fabric.world_size > 1:
            number = max_over_processes(fabric, number) if communicate else 0
        if not number:
            return False
        self._trainer.check_finite()
        if folder is not None:
            folder.save()
        if number == _FAILED:
            raise self._error or RuntimeError(
                "fit: a callback of the first process failed; see its own error"
            )
        return True

    def end(self, result: object) -> None:
        """Call what is due at the end."""
        if self._any:
            self._state.step, self._state.result = self._trainer.step, result
            self._call("end")
            if self._error is not None:
                raise self._error

    def _call(self, hook: str) -> None:
        """Call a method of each; what they draw is not taken from the training's numbers."""
        hooks = self._hooks[hook]
        if not hooks or self._error is not None or not self._trainer.fabric.is_global_zero:
            return
        with restored():
            for call in hooks:
                try:
                    call(self._state)
                except Exception as error:
                    self._error = error
                    return
