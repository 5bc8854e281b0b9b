"""The pair that a :class:`ppl_vae.tables.TableVAE` trains, made from its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import nn

from ppl_vae import likelihoods, nets, priors
from ppl_vae.columns import ColumnFamily, Encoder, num_features
from ppl_vae.errors import describe, device_of, flag, number, positive_int, reason, seed_of, sizes
from ppl_vae.models import VAE

_OWNER = "TableVAE"
_OF_NETWORKS = ("latent_dim", "prior", "posterior", "hidden", "cell_dropout")
"""Settings that ``make_pair`` takes the place of."""
OF_PAIR = (*_OF_NETWORKS, "make_pair")
"""Settings that the pair is made from."""


def check_settings(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError for a wrong setting."""
    for name in ("latent_dim", "steps", "batch_size", "patience", "validate_every"):
        positive_int(_OWNER, name, given[name])
    for name in ("compile", "progress"):
        flag(_OWNER, name, given[name])
    sizes(_OWNER, "hidden", given["hidden"])
    number(_OWNER, "learning_rate", given["learning_rate"], above=0)
    number(_OWNER, "validation_fraction", given["validation_fraction"], least=0, below=1)
    number(_OWNER, "cell_dropout", given["cell_dropout"], least=0, most=1)
    device = device_of(_OWNER, given["device"])
    if device is not None and torch.device(device).type == "meta":
        raise ValueError(f"{_OWNER}: device must hold numbers, such as 'cpu' or 'cuda', got 'meta'")
    seed_of(_OWNER, given["seed"])
    prior, latent_dim, make_pair = (given[name] for name in ("prior", "latent_dim", "make_pair"))
    if given["families"] is not None and not isinstance(given["families"], Mapping):
        raise TypeError(
            f"{_OWNER}: families must be a mapping such as {{'real': 'StudentT'}}, got "
            f"{describe(given['families'])}"
        )
    if prior is not None and not isinstance(prior, nn.Module):
        raise TypeError(
            f"{_OWNER}: prior must be a module such as priors.StandardNormal({latent_dim}),"
            f" got {describe(prior)}"
        )
    dims = getattr(prior, "latent_dim", latent_dim)
    if dims != latent_dim and make_pair is None:
        raise ValueError(
            f"{_OWNER}: prior must have latent_dim={latent_dim} dimensions, got one of {dims}"
        )
    kind = _class_of(given["posterior"])
    if not (inspect.isclass(kind) and hasattr(kind, "net_features")):
        raise TypeError(
            f"{_OWNER}: posterior must be a class such as posteriors.DiagonalNormal, with "
            f"net_features(latent_dim), got {describe(given['posterior'])}; make_pair= takes others"
        )
    if make_pair is None:
        return
    if not callable(make_pair):
        raise TypeError(
            f"{_OWNER}: make_pair must be a function of the columns, got {describe(make_pair)}"
        )
    for name in _OF_NETWORKS:
        if given[name] != defaults[name]:
            raise ValueError(
                f"{_OWNER}: make_pair makes the pair without {name}, got "
                f"{describe(given[name])}; leave it out, and use it in make_pair"
            )


def made_pair(
    columns: Sequence[ColumnFamily],
    *,
    latent_dim: int,
    prior: nn.Module | None,
    posterior: Any,
    hidden: Sequence[int],
    cell_dropout: int | float,
    make_pair: Callable[[Sequence[ColumnFamily]], VAE] | None,
) -> VAE:
    """Return a new pair of some columns, from settings that were checked."""
    if make_pair is not None:
        return _checked(make_pair(columns), columns)
    prior = priors.StandardNormal(latent_dim) if prior is None else prior
    (outputs,) = likelihoods.Columns.net_shape(columns=columns)

    def encoder(features: int) -> Encoder:
        net = nets.MLP(num_features(columns), features, hidden=tuple(hidden))
        return Encoder(net, columns, cell_dropout=cell_dropout)

    guide = _posterior(posterior, latent_dim, encoder)
    decoder = nets.MLP(_latent_features(posterior, latent_dim), outputs, hidden=tuple(hidden))
    return VAE(
        prior=deepcopy(prior),  # parameters of estimators stay as they were given
        posterior=guide,
        likelihood=likelihoods.Columns(decoder, columns),
    )


def _posterior(posterior: Any, latent_dim: int, encoder: Callable[[int], nn.Module]) -> nn.Module:
    """Return the posterior over a network of as many outputs as it says, from its options."""
    kind = _class_of(posterior)
    options = posterior.keywords if isinstance(posterior, partial) else {}
    takes = inspect.signature(kind.net_features).parameters
    own = {"latent_dim": latent_dim} if "latent_dim" in inspect.signature(kind).parameters else {}
    try:
        features = kind.net_features(
            latent_dim, **{name: value for name, value in options.items() if name in takes}
        )
        made: nn.Module = posterior(encoder(features), **own)
    except TypeError as error:  # options that it needs, or does not have
        raise TypeError(
            f"{_OWNER}: posterior {kind.__name__} cannot be made: {reason(error)}; give its "
            f"options by functools.partial(posteriors.{kind.__name__}, ...)"
        ) from error
    return made


def _latent_features(posterior: Any, latent_dim: int) -> int:
    """Return the number of entries of z, ``latent_dim`` unless the posterior's class says more."""
    method = getattr(_class_of(posterior), "latent_features", None)
    if method is None:
        return latent_dim
    options = posterior.keywords if isinstance(posterior, partial) else {}
    takes = inspect.signature(method).parameters
    return int(method(latent_dim, **{n: value for n, value in options.items() if n in takes}))


def _class_of(posterior: Any) -> Any:
    return posterior.func if isinstance(posterior, partial) else posterior


def _checked(pair: object, columns: Sequence[ColumnFamily]) -> VAE:
    """Return what ``make_pair`` returned, if it is a VAE of these columns."""
    likelihood = getattr(pair, "likelihood", None)
    if not isinstance(pair, VAE) or not isinstance(likelihood, likelihoods.Columns):
        raise TypeError(
            f"TableVAE: make_pair must return a VAE with likelihoods.Columns(net, columns), got "
            f"{describe(pair)}"
        )
    if len(likelihood.columns) != len(columns):
        raise ValueError(
            f"TableVAE: make_pair must return a VAE of the {len(columns)} columns that it was "
            f"given, got one of {len(likelihood.columns)}"
        )
    return pair
