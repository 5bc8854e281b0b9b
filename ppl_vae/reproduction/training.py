"""One training of a row: a folder from which it goes on after any interruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric

from ppl_vae import io, training
from ppl_vae.data import Dataset
from ppl_vae.io.atomic import clear_leftovers, new_folder
from ppl_vae.models import Pair
from ppl_vae.process_state import seeded
from ppl_vae.training.folder_lock import locked

EXTENTS = ("whole", "shortened", "smoke")
"""How much of a protocol is run: all of it; what two cores can do; sizes that take no time."""

STAGE, MODEL = "training", "model"
TRAINED = Path(STAGE, MODEL)
"""The trained pair in the folder of a run."""

T = TypeVar("T")


@dataclass(frozen=True)
class Data:
    """The data of a table.

    Args:
        train: to train on.
        test: to measure on.
        validation: to select on, where a protocol selects.
    """

    train: Dataset
    test: Dataset
    validation: Dataset | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a row is given to train with.

    Args:
        data: the table's.
        folder: for checkpoints and the trained pair.
        seed: of everything random.
        extent: one of ``EXTENTS``.
        precision: ``"32-true"`` or ``"bf16-mixed"``.
        compile: compile steps and importance sampling.
        device: of Fabric: ``"auto"``, ``"cpu"``, ``"cuda"``.
        progress: show progress bars.
        say: called with what begins.
    """

    data: Data
    folder: Path
    seed: int
    extent: str = "whole"
    precision: str = "32-true"
    compile: bool = True
    device: str = "auto"
    progress: bool = True
    say: Callable[[str], None] = print

    def choose(self, whole: T, *, shortened: T | None = None, smoke: T) -> T:
        """Return the value of an extent; that of the whole protocol serves for a shortened one."""
        values = (whole, whole if shortened is None else shortened, smoke)
        return dict(zip(EXTENTS, values, strict=True))[self.extent]

    def pair(
        self, model: Mapping[str, Any] | Callable[[Dataset], Pair], *, of_data: bool = True
    ) -> Pair:
        """Return the pair that a configuration describes, or a function of the training data makes.

        Its weights are drawn by the seed. Unless it is ``of_data``, a configuration has all sizes.
        """
        with seeded("reproduce", self.seed):
            if callable(model):
                return model(self.data.train)
            made = io.from_config(dict(model), data=self.data.train if of_data else None)
        assert isinstance(made, Pair)
        return made

    def fit(
        self,
        pair: Pair,
        data: Any,
        *,
        stage: str = STAGE,
        shared: bool = False,
        **arguments: Any,
    ) -> None:
        """Train a pair by :func:`ppl_vae.training.fit`, or load it where that was done.

        Args:
            pair: the pair, trained in place.
            data: what ``fit`` takes.
            stage: the folder of this training, where a row has several.
            shared: the stage is the same in all rows that have it, and is trained once for each
                seed and precision; while another process trains it, this one waits.
            arguments: others of ``fit``.
        """
        if not shared:
            self._fit(pair, data, self.folder / stage, arguments)
            return
        # The folder of a run is OUT / row and precision / seed.
        name = f"{stage}-{self.precision}"
        run = self.folder.parent.parent / "shared" / name / self.folder.name
        waiting = f"{stage}, seed {self.seed}: waiting for its training by "
        with locked(run, wait=lambda holder: self.say(waiting + holder)):
            self._fit(pair, data, run / stage, arguments)

    def _fit(self, pair: Pair, data: Any, folder: Path, arguments: Mapping[str, Any]) -> None:
        """Train a pair in a folder that no other process trains in."""
        if (folder / MODEL).is_dir():
            pair.load_state_dict(io.load(folder / MODEL).state_dict())
            return
        training.fit(
            pair,
            data,
            out=folder,
            resume=True,
            fabric=Fabric(accelerator=self.device, devices=1, precision=self.precision),  # type: ignore[arg-type]
            compile=self.compile,
            seed=self.seed,
            progress=self.progress,
            keep=1,
            **arguments,
        )
        clear_leftovers(folder)
        with new_folder(folder / MODEL) as whole:
            io.save(pair, whole)

    def binarised_test(self, number: int | None = None) -> torch.Tensor:
        """Return the first ``number`` test data, flat, binarised once with seed 0; all if None."""
        test = self.data.test if number is None else self.data.test[:number]
        return test.binarised(seed=0).tensor()
