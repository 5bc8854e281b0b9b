"""Effect handlers that the estimators run programs under.

None of them handles ``pyro.param``: they are ``IgnoresParameters``, so that programs need not
register their parameters, as they do under Pyro's own handlers (``SVI`` has one).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from pyro.distributions import Independent, Normal
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
from ppl_vae.registration import IgnoresParameters

PARTICLES = "num_particles_vectorized"
"""The name of the particles' plate, as in Pyro's own estimators."""


class KeepsPlates:
    """A handler that leaves the plates of programs unchanged."""


class NestingError(ValueError):
    """Plates take more dimensions than are kept for them, so that they meet the particles."""


class PlatesWithin(IgnoresParameters, Messenger):
    """Raises :class:`NestingError` for a plate left of the dimensions that are kept for plates.

    Pyro notices such plates only with validation on.
    """

    def __init__(self, nesting: int) -> None:
        super().__init__()
        self._nesting = nesting

    def _pyro_post_sample(self, msg: dict) -> None:
        for frame in msg["cond_indep_stack"]:
            if frame.vectorized and frame.name != PARTICLES and frame.dim < -self._nesting:
                raise NestingError(
                    f"site {msg['name']!r} is in the plate {frame.name!r}, left of the "
                    f"{self._nesting} dimensions of max_plate_nesting; give those of all plates"
                )


class Recording(IgnoresParameters, TraceMessenger):
    """Pyro's trace messenger."""


class Cutting(IgnoresParameters, Messenger):
    """Cuts the graph at each reparameterised value that a guide draws.

    The value is replaced by a leaf, which the rest of the guide, and the densities, then see. It
    must be outside of the trace. (Stopping the gradient in the densities, site by site, would be
    wrong for q(z2|z1), whose parameters depend on z1; a second run at the leaves, too, for a guide
    that draws dropout's masks anew.)

    ``paths`` has, in the order of sampling, the leaf and the value that it was cut from, which may
    depend on the leaves before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[tuple[Tensor, Tensor]] = []

    def _pyro_post_sample(self, msg: dict) -> None:
        if msg["is_observed"] or site_is_subsample(msg) or not msg["fn"].has_rsample:
            return
        check_value(msg)
        value = msg["value"]
        if value.requires_grad and msg["infer"].get("_enumerate_dim") is None:
            msg["value"] = value.detach().requires_grad_()
            self.paths.append((msg["value"], value))


def check_value(site: dict) -> None:
    """Raise NotImplementedError for a value that hides the one that its density is of."""
    if hasattr(site["value"], "_unquantize"):
        raise NotImplementedError(
            f"site {site['name']!r} of the guide: Pyro's straight-through relaxations keep the "
            f"relaxed value in an attribute, which is lost among particles; use "
            f"ppl_vae.posteriors.RelaxedBernoulli or RelaxedOneHotCategorical"
        )


class Unmasking(IgnoresParameters, Messenger):
    """Move masks from distributions, ``fn.mask(m)``, to their sites, as ``poutine.mask`` does."""

    def _pyro_sample(self, msg: dict) -> None:
        unmask(msg)


def unmask(site: dict) -> None:
    """Move masks on a site's distribution to the site."""
    fn, mask = without_mask(site["fn"])
    if fn is site["fn"]:
        return
    site["mask"] = both(site["mask"], mask)
    if not (site["is_observed"] and mask is False):  # such a value may be outside the support
        site["fn"] = fn


class Replaying(IgnoresParameters, ReplayMessenger):
    """Pyro's replay, for values that may be outside the support of the program's distributions.

    Such a value has density 0, whatever the formula gives. A value inside the support replaces it,
    so that neither values nor gradients are NaN, and ``infer["_outside"]`` of the site marks it.
    Distributions that validate their values raise their own error.
    """

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


class Enumerating(IgnoresParameters, EnumMessenger):
    """Pyro's parallel enumeration, which refuses any other kind by an error naming the site."""

    def _pyro_sample(self, msg: dict) -> None:
        drawn = not (msg["done"] or msg["is_observed"])
        if drawn:
            check_enumeration(msg)
        if "_markov_scope" in msg["infer"] or (drawn and msg["infer"].get("enumerate")):
            super()._pyro_sample(msg)
            if drawn and msg["done"]:
                # Pyro tags values by the id of their distribution, which must live as long.
                msg["value"].enumerated_from = msg["fn"]

    def _pyro_post_sample(self, msg: dict) -> None:
        # Which dimensions a value has matters to later sites within pyro.markov alone.
        if msg["name"] in self._markov_depths:
            super()._pyro_post_sample(msg)


def check_enumeration(site: dict) -> None:
    """Raise NotImplementedError unless a latent is sampled, or enumerated in parallel and fully."""
    how, number = site["infer"].get("enumerate"), site["infer"].get("num_samples")
    if how is None:
        return
    name, kind = site["name"], type(site["fn"]).__name__
    if how != "parallel":
        raise NotImplementedError(
            f"site {name!r} has infer={{'enumerate': {how!r}}}, but only 'parallel' is supported; "
            f"mark it so, or leave it out to sample"
        )
    if number is not None:
        raise NotImplementedError(
            f"site {name!r} has infer={{'enumerate': 'parallel', 'num_samples': {number}}}, which "
            f"is {number} draws, not all values; leave out num_samples, or both to sample"
        )
    if not getattr(site["fn"], "has_enumerate_support", False):
        raise NotImplementedError(
            f"site {name!r} is marked infer={{'enumerate': 'parallel'}}, but the values of its "
            f"{kind} cannot be enumerated; leave the mark out to sample it"
        )


class EnumerationMark(IgnoresParameters, Messenger):
    """Override how some sites, or all, are enumerated: ``"parallel"``, or None to sample them."""

    def __init__(self, how: str | None, names: Collection[str] | None = None) -> None:
        super().__init__()
        self._how = how
        self._names = names

    def _pyro_sample(self, msg: dict) -> None:
        if self._names is None or msg["name"] in self._names:
            # A new dictionary, since the program may share its own between runs.
            msg["infer"] = {**msg["infer"], "enumerate": self._how}


class Particles(IgnoresParameters, IndepMessenger):
    """A plate of particles, left of all others, that also moves masks to their sites.

    Unlike ``pyro.plate`` it has no subsampling statement and leaves distributions that already have
    its shape alone. Expanded normals keep what they are for one particle, ``of_one_particle``, from
    which their densities are computed: log σ and σ² once, not for each particle.
    """

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
                f"site {msg['name']!r} has batch shape {tuple(fn.batch_shape)}, with dimension "
                f"{self.dim} of size {shape[self.dim]}; it must be left to {self.size} particles"
            )
        shape[self.dim] = self.size
        if tuple(shape) != fn.batch_shape:
            msg["fn"] = fn.expand(shape)
            if _is_normal(fn):
                msg["fn"].of_one_particle = fn
            if msg["fn"].has_rsample != fn.has_rsample:  # an instance attribute of some
                _innermost(msg["fn"]).has_rsample = fn.has_rsample

    def _process_message(self, msg: dict) -> None:
        super()._process_message(msg)
        if msg["type"] == "sample":
            self._pyro_sample(msg)


def _innermost(fn: Any) -> Any:
    """Return the distribution whose attribute ``has_rsample`` wrappers such as Independent read."""
    while isinstance(type(fn).has_rsample, property):
        fn = fn.base_dist
    return fn


def _is_normal(fn: Any) -> bool:
    while type(fn) is Independent:
        fn = fn.base_dist
    return type(fn) is Normal


def _check_same_subsample(site: dict, given: Tensor | list[int] | None) -> None:
    """Raise ValueError if a program's own subsample differs from that of the replayed run."""
    taken = site["value"]
    if given is None or given is taken or not is_validation_enabled():
        return
    if not torch.equal(torch.as_tensor(given).cpu(), torch.as_tensor(taken).cpu()):
        difference = "has another subsample= in the model than in the guide"
        raise ValueError(f"plate {site['name']!r} {difference}; give both the same indices")
