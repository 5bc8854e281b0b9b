"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ppl_vae.errors import describe, positive_int


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when minus the validation bound has not improved for some time.

    Source: Prechelt 1998 (Early stopping: but when?), criterion UP, with the best weights kept.

    Args:
        patience: how many validations without an improvement end the training.
        min_delta: by how many nats per datum the bound must improve to count.

    Example:
        >>> EarlyStopping(patience=5)
        EarlyStopping(patience=5, min_delta=0.0)
    """

    patience: int
    min_delta: float | int = 0.0

    def __post_init__(self) -> None:
        positive_int("EarlyStopping", "patience", self.patience)
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(
                f"EarlyStopping: min_delta must be finite and at least 0 nats per datum, got "
                f"{describe(self.min_delta)}"
            )


class Best:
    """The best validation so far."""

    def __init__(self) -> None:
        self.loss = math.inf
        self.step = -1
        self.since = 0

    def improved(self, step: int, loss: float, min_delta: float | int) -> bool:
        """Take a validation in, and tell whether it is the best so far."""
        # The first one counts whatever it is; after one that was NaN, whatever is not.
        if (
            self.step < 0
            or loss < self.loss - min_delta
            or math.isnan(self.loss) > math.isnan(loss)
        ):
            self.loss, self.step, self.since = loss, step, 0
            return True
        self.since += 1
        return False

    def state_dict(self) -> dict[str, float | int]:
        """Return the state: plain numbers."""
        return {"loss": self.loss, "step": self.step, "since": self.since}

    def load_state_dict(self, state: Mapping[str, float | int]) -> None:
        """Take a state."""
        self.loss = float(state["loss"])
        self.step, self.since = int(state["step"]), int(state["since"])
