"""One shuffled pass after another, cut into batches of one size."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.data.loader_state import SavedState, generator_at


class CyclicSampler:
    """Endless batches of the indices 0, ..., ``count - 1``, drawn equally often, up to one.

    A batch of at most ``count`` that a pass does not fill is completed by the next pass, so that
    all have one size; an item may come twice in such a batch.
    """

    def __init__(
        self, count: int, batch_size: int, generator: torch.Generator, owner: str = "CyclicSampler"
    ) -> None:
        self.count = count
        self.batch_size = min(batch_size, count)
        self.generator = generator
        self._owner = owner
        # Of the current pass: its order, how much of it was drawn, the random state at its start.
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
        """Return the position in the pass, and the random states at its start and of now."""
        return {
            "position": self._position,
            "start": self._start.clone(),
            "generator": self.generator.get_state(),
            "settings": {"items": self.count, "device": self.generator.device.type},
        }

    def parsed(self, state: object) -> tuple[int, Tensor, Tensor]:
        """Return what `restore` takes; raise TypeError or ValueError for an incompatible state."""
        saved = SavedState(self._owner, state, self.state_dict())
        start, now = (saved.random_state(k, self.generator) for k in ("start", "generator"))
        return saved.count("position", self.count), start, now

    def restore(self, position: int, start: Tensor, now: Tensor) -> None:
        """Resume there: the order is drawn again, batches are not."""
        self._order = torch.empty(0, dtype=torch.int64)
        if position:  # before the first batch there is no pass
            self._order = self._permutation(generator_at(self.generator, start))
        self._position, self._start = position, start
        self.generator.set_state(now)

    def _permutation(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(self.count, generator=generator, device=generator.device)
