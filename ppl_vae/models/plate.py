"""The plate over the data in the programs of pairs."""

from __future__ import annotations

from typing import Any

import pyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.util import is_validation_enabled
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.subsample_messenger import SubsampleMessenger

from ppl_vae.registration import IgnoresParameters


def data_plate(size: int) -> pyro.plate:
    """Return ``pyro.plate("data", size)``.

    The statement by which a plate draws its subsample, here all indices, takes longer than the
    plate itself: it is left out where every handler in effect is one of this package, none of which
    looks at it. Validation does, to compare the plates of model and guide.
    """
    ours = all(isinstance(handler, IgnoresParameters) for handler in _PYRO_STACK)
    return (_WholePlate if ours and not is_validation_enabled() else pyro.plate)("data", size)


class _WholePlate(pyro.plate):
    """A plate without subsampling that leaves distributions of its shape as they are."""

    @staticmethod
    def _subsample(name: str, size: int, *_: Any) -> tuple[int, int, None]:
        return size, size, None

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or not isinstance(msg["fn"], TorchDistributionMixin):
            super()._process_message(msg)
            return
        SubsampleMessenger._process_message(self, msg)
        shape = msg["fn"].batch_shape
        if not all(
            len(shape) >= -frame.dim and shape[frame.dim] == frame.size
            for frame in msg["cond_indep_stack"]
            if frame.vectorized
        ):
            BroadcastMessenger._pyro_sample(msg)
