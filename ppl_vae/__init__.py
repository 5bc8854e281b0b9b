"""Variational autoencoders as probabilistic programs in Pyro.

A VAE is five independent choices: prior, posterior, likelihood, networks and estimator. See
:class:`ppl_vae.VAE` for the shortest example.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ppl_vae.version import __version__

if TYPE_CHECKING:
    from ppl_vae import (
        columns,
        data,
        distributions,
        estimators,
        evaluation,
        explorer,
        export,
        io,
        likelihoods,
        models,
        nets,
        plots,
        posteriors,
        priors,
        report,
        reproduction,
        tables,
        testing,
        training,
        zoo,
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
    "columns",
    "data",
    "distributions",
    "estimators",
    "evaluation",
    "explorer",
    "export",
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
    "reproduction",
    "save",
    "tables",
    "testing",
    "to_config",
    "training",
    "zoo",
]

# Names are imported on first use: `ppl-vae --help` does not wait for torch, nor training for
# matplotlib. These are in the packages named here; other names that are not packages in models.
_PACKAGE_OF = {
    "ConditionalDistribution": "conditional",
    **dict.fromkeys(("from_config", "load", "save", "to_config"), "io"),
}

# Former names of packages, to be removed in version 0.4.
_MOVED = {"config": "io", "oracles": "testing", "storage": "io"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _MOVED:
            place = f"ppl_vae.{_MOVED[name]}"
            text = f"ppl_vae.{name} is deprecated; use {place}"
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return import_module(place)
        if name not in __all__:
            raise AttributeError(f"module 'ppl_vae' has no attribute {name!r}")
        package = _PACKAGE_OF.get(name, name if name.islower() else "models")
        found = import_module(f"ppl_vae.{package}")
        value = globals()[name] = found if package == name else getattr(found, name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
