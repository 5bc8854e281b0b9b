"""The effect handlers that the estimators run programs under.

None of them listens to ``pyro.param``: they carry ``ignores_parameters``, by which programs know
that there is nobody to tell of their parameters. Under Pyro's own (``SVI`` has one) they do.
"""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.trace_messenger import TraceMessenger

PARTICLES = "num_particles_vectorized"
"""The name of the particles' plate, as in Pyro's own estimators."""


class Recording(TraceMessenger):
    """Pyro's trace."""

    ignores_parameters = True


class Replaying(ReplayMessenger):
    """Pyro's replay."""

    ignores_parameters = True


class Enumerating(EnumMessenger):
    """Pyro's parallel enumeration."""

    ignores_parameters = True


class Particles(IndepMessenger):
    """A plate of particles, left of all others.

    ``pyro.plate`` is for subsampling, too: it draws the indices as a sample statement of its own,
    and expands distributions that have the shape already.

    Args:
        size: how many.
        dim: where.
    """

    ignores_parameters = True

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(PARTICLES, size, dim)

    def _pyro_sample(self, msg: dict) -> None:
        fn = msg["fn"]
        if msg["done"] or not isinstance(fn, TorchDistributionMixin):
            return
        assert self.dim is not None
        shape = [1] * (-self.dim - len(fn.batch_shape)) + list(fn.batch_shape)
        if shape[self.dim] not in (1, self.size):
            raise ValueError(
                f"site {msg['name']!r} has batch shape {tuple(fn.batch_shape)}, of size "
                f"{shape[self.dim]} in dimension {self.dim}, where its {self.size} particles are; "
                f"dimensions left of the plates are the particles' and those of enumerated values"
            )
        shape[self.dim] = self.size
        if tuple(shape) != fn.batch_shape:
            msg["fn"] = fn.expand(shape)
            if msg["fn"].has_rsample != fn.has_rsample:  # some have it as an attribute
                msg["fn"].has_rsample = fn.has_rsample

    def _process_message(self, msg: dict) -> None:
        super()._process_message(msg)
        if msg["type"] == "sample":
            self._pyro_sample(msg)
