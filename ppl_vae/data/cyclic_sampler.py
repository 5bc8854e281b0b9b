"""Items that go round: one shuffled pass after another, cut into batches of one size."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_vae.data.loader_state import check_state, in_state, place, random_state


class Cycle:
    """Batches without end of the numbers 0, ..., ``count - 1``, each equally often, up to one.

    A batch that a pass does not fill begins the next pass: all have one size, and an item may come
    twice in such a batch.

    Args:
        count: how many items.
        batch_size: items per batch; at most ``count`` are used.
        generator: of the order of every pass, on the device where the batches are to be.
    """

    def __init__(self, count: int, batch_size: int, generator: torch.Generator) -> None:
        self.count = count
        self.batch_size = min(batch_size, count)
        self.generator = generator
        # Of the pass under way: its order, how much of it was drawn, and where it began. A pass
        # begins when an item of it is needed.
        self._order = torch.empty(0, dtype=torch.int64)
        self._position = 0
        self._start = generator.get_state()

    def draw(self) -> Tensor:
        """Return the next batch, shape ``(batch_size,)``."""
        batch = self._order[self._position : self._position + self.batch_size]
        self._position += len(batch)
        if missing := self.batch_size - len(batch):
            self._start = self.generator.get_state()
            self._order = self._permutation(self.generator)
            batch = torch.cat([batch.to(self._order.device), self._order[:missing]])
            self._position = missing
        return batch

    def state_dict(self) -> dict[str, object]:
        """Return the place in the pass, and the random states where it began and of now."""
        return {
            "position": self._position,
            "start": self._start.clone(),
            "generator": self.generator.get_state(),
            "settings": {"items": self.count, "device": self.generator.device.type},
        }

    def checked(self, state: object) -> tuple[int, Tensor, Tensor]:
        """Return what `restore` takes; raise TypeError or ValueError for a state of another."""
        owner = "SemiSupervised, labelled"
        check_state(owner, state, self.state_dict())  # type: ignore[arg-type]
        assert isinstance(state, Mapping)
        start, now = (
            random_state(owner, state, key, self.generator) for key in ("start", "generator")
        )
        return place(owner, state, "position", self.count), start, now

    def restore(self, position: int, start: Tensor, now: Tensor) -> None:
        """Go on from there: the order is made again, no batch is drawn again."""
        # Before the first batch there is no pass.
        order = self._permutation(in_state(self.generator, start)) if position else None
        self._order = torch.empty(0, dtype=torch.int64) if order is None else order
        self._position, self._start = position, start
        self.generator.set_state(now)

    def _permutation(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.count, generator=generator, device=generator.device)
