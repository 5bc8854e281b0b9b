"""The effect handlers that the estimators run programs under.

None of them listens to ``pyro.param``: they carry ``ignores_parameters``, by which programs know
that there is nobody to tell of their parameters. Under Pyro's own (``SVI`` has one) they do.
"""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.trace_messenger import TraceMessenger
from pyro.poutine.util import is_validation_enabled, site_is_subsample
from torch import Tensor

from ppl_vae.estimators.masks import both, without_mask
from ppl_vae.estimators.support import as_drawn, inner_value, leaves_support

PARTICLES = "num_particles_vectorized"
"""The name of the particles' plate, as in Pyro's own estimators."""


class Recording(TraceMessenger):
    """Pyro's trace."""

    ignores_parameters = True


class Unmasking(Messenger):
    """Move masks from distributions, ``fn.mask(m)``, to their sites, where ``poutine.mask`` is."""

    ignores_parameters = True

    def _pyro_sample(self, msg: dict) -> None:
        unmask(msg)


def unmask(site: dict) -> None:
    """Move masks on a site's distribution to the site."""
    fn, mask = without_mask(site["fn"])
    if fn is site["fn"]:
        return
    site["mask"] = both(site["mask"], mask)
    if not (site["is_observed"] and mask is False):  # such a value may be anything
        site["fn"] = fn


class Replaying(ReplayMessenger):
    """Pyro's replay, for values that the program's own density may not reach.

    A value outside the support of its distribution has density 0, whatever the formula says there
    and whatever a program would make of it. An inner value goes on in its place, so that neither
    values nor gradients are NaN, and the site's ``infer["_outside"]`` tells which these are. Where
    distributions check their values they raise their error.
    """

    ignores_parameters = True

    def _pyro_sample(self, msg: dict) -> None:
        source = self.trace.nodes.get(msg["name"])
        given = msg["value"]
        super()._pyro_sample(msg)
        if source is None or msg["is_observed"]:
            return
        if site_is_subsample(msg):
            _check_same_subsample(msg, given)
            return
        msg["value"] = as_drawn(msg["fn"], msg["value"])
        outside = leaves_support(msg["fn"], msg["value"], source.get("fn"))
        if outside is None or msg["mask"] is False:
            return
        if msg["mask"] is not None:
            outside = outside & msg["mask"]
        msg["value"] = inner_value(msg["fn"], msg["value"], outside)
        msg["infer"] = {**msg["infer"], "_outside": outside}


class Enumerating(EnumMessenger):
    """Pyro's parallel enumeration, of all values.

    Raises:
        NotImplementedError: if a site asks for another kind of enumeration, or cannot be
            enumerated; the message names it.
    """

    ignores_parameters = True

    def _pyro_sample(self, msg: dict) -> None:
        if msg["done"] or msg["is_observed"]:
            super()._pyro_sample(msg)
            return
        check_enumeration(msg)
        super()._pyro_sample(msg)
        if msg["done"]:
            # Pyro tags values by the id of their distribution, which lives no longer than these.
            msg["value"].enumerated_from = msg["fn"]


def check_enumeration(site: dict) -> None:
    """Raise an error unless a latent site is to be sampled, or enumerated in parallel and in full.

    Raises:
        NotImplementedError: naming the site.
    """
    how, number = site["infer"].get("enumerate"), site["infer"].get("num_samples")
    if how is None:
        return
    if how != "parallel":
        raise NotImplementedError(
            f"site {site['name']!r} has infer={{'enumerate': {how!r}}}, and values are enumerated "
            f"'parallel' alone: mark it so, or leave it out to sample"
        )
    if number is not None:
        raise NotImplementedError(
            f"site {site['name']!r} has infer={{'enumerate': 'parallel', 'num_samples': {number}}},"
            f" which is {number} draws and not all values; leave out num_samples to enumerate, or "
            f"both to sample"
        )
    if not getattr(site["fn"], "has_enumerate_support", False):
        raise NotImplementedError(
            f"site {site['name']!r} is marked infer={{'enumerate': 'parallel'}}, but the values of "
            f"its {type(site['fn']).__name__} cannot be enumerated; leave the mark out to sample it"
        )


class Particles(IndepMessenger):
    """A plate of particles, left of all others; masks are moved to their sites, too.

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
        unmask(msg)
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


def _check_same_subsample(site: dict, given: Tensor | list[int] | None) -> None:
    """Raise an error if a program's own subsample is not that of the run it follows."""
    taken = site["value"]
    if given is None or given is taken or not is_validation_enabled():
        return
    if not torch.equal(torch.as_tensor(given).cpu(), torch.as_tensor(taken).cpu()):
        raise ValueError(
            f"plate {site['name']!r} has a subsample= in the model that is not the guide's; give "
            f"both the same indices, or name one plate otherwise"
        )
