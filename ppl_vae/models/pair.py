"""What every model/guide pair has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeVar

from torch import nn

P = TypeVar("P", bound="Pair")


class Pair(nn.Module, ABC):
    """A Pyro ``model`` and ``guide`` built from parts that are swapped on their own.

    ``model`` holds the generative parameters θ and ``guide`` the variational parameters φ; both are
    modules, called with the same arguments, with the batch in one plate named ``data``.
    """

    model: nn.Module
    guide: nn.Module

    @property
    def prior(self) -> nn.Module:
        """``prior()`` is p(z)."""
        return self.model.get_submodule("prior")

    @property
    def posterior(self) -> nn.Module:
        """``posterior(x, ...)`` is q(z | x, ...)."""
        return self.guide.get_submodule("posterior")

    @property
    def likelihood(self) -> nn.Module:
        """``likelihood(z, ...)`` is p(x | z, ...)."""
        return self.model.get_submodule("likelihood")

    @abstractmethod
    def parts(self) -> dict[str, object]:
        """Return the constructor's arguments by name."""

    def replace(self: P, **changes: object) -> P:
        """Return a new pair with some parts changed and all others shared with this one.

        Args:
            changes: new values for any of the constructor's arguments, such as
                ``prior=priors.GaussianMixture(10, components=500)``.

        Raises:
            TypeError: if a name is not one of the constructor's arguments.
        """
        parts = self.parts()
        unknown = sorted(changes.keys() - parts.keys())
        if unknown:
            raise TypeError(
                f"{type(self).__name__}.replace: unknown part {unknown[0]!r}; "
                f"the parts are {', '.join(parts)}"
            )
        return type(self)(**{**parts, **changes}).train(self.training)
