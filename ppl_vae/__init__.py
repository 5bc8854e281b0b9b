"""Variational autoencoders as probabilistic programs in Pyro.

A VAE is five independent choices (prior, posterior, likelihood, networks, estimator), each made on
its own. See :class:`ppl_vae.VAE` for the shortest example.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ppl_vae import (
        config,
        data,
        estimators,
        evaluation,
        likelihoods,
        models,
        nets,
        oracles,
        plots,
        posteriors,
        priors,
        storage,
        training,
    )
    from ppl_vae.conditional import ConditionalDistribution
    from ppl_vae.config import from_config, to_config
    from ppl_vae.models import (
        VAE,
        ConditionalVAE,
        HierarchicalVAE,
        Pair,
        SemiSupervisedVAE,
        StackedVAE,
    )
    from ppl_vae.storage import load

__all__ = [
    "VAE",
    "ConditionalDistribution",
    "ConditionalVAE",
    "HierarchicalVAE",
    "Pair",
    "SemiSupervisedVAE",
    "StackedVAE",
    "config",
    "data",
    "estimators",
    "evaluation",
    "from_config",
    "likelihoods",
    "load",
    "models",
    "nets",
    "oracles",
    "plots",
    "posteriors",
    "priors",
    "storage",
    "to_config",
    "training",
]
__version__ = "0.1.0"

# Where a name is from, if it is no package: each is imported when it is first used, so that
# `ppl-vae --help` does not wait for torch, nor a training for matplotlib.
_ROOM = {"from_config": "config", "to_config": "config", "load": "storage"}
_ROOM |= {"ConditionalDistribution": "conditional"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")
        room = _ROOM.get(name, name if name.islower() else "models")
        found = import_module(f"ppl_vae.{room}")
        value = globals()[name] = found if room == name else getattr(found, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
