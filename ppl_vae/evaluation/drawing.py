"""How a data set is drawn for a pair: in training, in validation, in evaluation and in reports."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ppl_vae.data import Batch, Dataset, MaskedBatch
from ppl_vae.data.checks import check_exact, observed
from ppl_vae.evaluation.bounds import ModelAndGuide
from ppl_vae.models.observation import Observation


@dataclass(frozen=True, eq=False)
class Drawing:
    """A data set as a pair takes it.

    Programs of a user's own, which do not say what they observe, get it flat and grey.

    Args:
        data: in the shape that the pair declares, counts as they are.
        binarise: ``"dynamic"`` where grey values come to a likelihood of 0 and 1, else ``"none"``.
        flat: whether the pair takes them flat.
    """

    data: Dataset
    binarise: str
    flat: bool

    @classmethod
    def of(cls, pair: ModelAndGuide, data: Dataset) -> Drawing:
        """Return how data are drawn for a pair; whether they suit it is ``pair.check``'s to say.

        Raises:
            ValueError: if counts would be rounded in the dtype of the pair.
        """
        observation = getattr(pair, "observation", None)
        if not isinstance(observation, Observation):
            return cls(data, "none", True)
        data = observation.suited(data)
        if observation.is_integer:
            for dtype in (torch.get_default_dtype(), _dtype(pair)):
                check_exact(observed(data.values, data.mask), dtype, data.name)
        of_bits = data.scale == 1 and not data.values.is_floating_point()
        grey = not of_bits or bool(observed(data.values, data.mask).max() > 1)
        binarise = "dynamic" if observation.is_boolean and grey else "none"
        return cls(data, binarise, len(observation.event_shape) == 1)

    def once(self, seed: int) -> Batch | MaskedBatch:
        """Return all of the data: grey values drawn as 0 and 1 once, the same for the same seed.

        As in training x is NaN where it is missing.
        """
        data = self.data.binarised(seed) if self.binarise == "dynamic" else self.data
        index = torch.arange(len(data))
        x = data.draw(index, binarise="none", flat=self.flat)
        mask = data.mask_at(index, flat=self.flat)
        return Batch(x, data.labels) if mask is None else MaskedBatch(x, data.labels, mask)


def _dtype(pair: ModelAndGuide) -> torch.dtype:
    """Return the dtype of a pair's parameters, torch's default where it has none."""
    modules: tuple[nn.Module, ...] = (pair.model, pair.guide)
    found = (p.dtype for m in modules for p in m.parameters() if p.is_floating_point())
    return next(found, torch.get_default_dtype())
