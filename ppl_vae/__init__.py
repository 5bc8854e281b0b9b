"""Variational autoencoders as probabilistic programs in Pyro.

A VAE is five independent choices (prior, posterior, likelihood, networks, estimator), each made on
its own. See :class:`ppl_vae.VAE` for the shortest example.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ppl_vae.version import __version__

if TYPE_CHECKING:
    from ppl_vae import (
        data,
        distributions,
        estimators,
        evaluation,
        io,
        likelihoods,
        models,
        nets,
        plots,
        posteriors,
        priors,
        report,
        testing,
        training,
    )
    from ppl_vae.conditional import ConditionalDistribution
    from ppl_vae.io import from_config, load, save, to_config
    from ppl_vae.models import (
        VAE,
        ConditionalVAE,
        HierarchicalVAE,
        Pair,
        SemiSupervisedVAE,
        StackedVAE,
    )

__all__ = [
    "VAE",
    "ConditionalDistribution",
    "ConditionalVAE",
    "HierarchicalVAE",
    "Pair",
    "SemiSupervisedVAE",
    "StackedVAE",
    "__version__",
    "data",
    "distributions",
    "estimators",
    "evaluation",
    "from_config",
    "io",
    "likelihoods",
    "load",
    "models",
    "nets",
    "plots",
    "posteriors",
    "priors",
    "report",
    "save",
    "testing",
    "to_config",
    "training",
]

# Where a name is from, if it is not a package: each is imported on first use, so that
# `ppl-vae --help` does not wait for torch, nor a training run for matplotlib.
_PACKAGE_OF = {
    "ConditionalDistribution": "conditional",
    **dict.fromkeys(("from_config", "load", "save", "to_config"), "io"),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")
        package = _PACKAGE_OF.get(name, name if name.islower() else "models")
        found = import_module(f"ppl_vae.{package}")
        value = globals()[name] = found if package == name else getattr(found, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
