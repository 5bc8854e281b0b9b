"""A pair with everything known about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppl_vae.report.latents import Latents
from ppl_vae.report.measurements import Measurements
from ppl_vae.report.pair_data import PairData


@dataclass(frozen=True, eq=False)
class EvaluatedPair:
    """A pair, its data, its latents and its numbers: what figures are drawn from."""

    inputs: PairData
    latents: Latents
    measurements: Measurements

    @property
    def name(self) -> str:
        """Name of the pair."""
        return self.inputs.name

    def images(self, x: Tensor, leading: int = 1) -> Any:
        """Return x as images on the CPU, after ``leading`` batch dimensions."""
        shape = self.inputs.data.image_shape
        if shape is None:
            raise NotImplementedError(
                f"the data, of shape {self.inputs.data.event_shape}, are not images; give "
                f"image_shape= if they are"
            )
        return x.detach().cpu().reshape(*x.shape[:leading], *shape).numpy()

    @property
    def aspect_ratio(self) -> float:
        """Width / height of an image; 1 if the data are not images."""
        shape = self.inputs.data.image_shape
        return 1.0 if shape is None else shape[-1] / shape[-2]
