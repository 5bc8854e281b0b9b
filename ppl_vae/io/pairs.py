"""A pair as a folder: its configuration and its weights."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import describe, device_of, folder_of, integer, path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.atomic import make_folder, sync_folder, write_files
from ppl_vae.io.config import dump, from_config
from ppl_vae.io.config.files import read_file
from ppl_vae.io.config.reader import building, rebuilt, refuse
from ppl_vae.io.errors import ConfigError, DamagedError, MismatchError
from ppl_vae.io.format import FORMAT, LOAD_BYTES, LOAD_FACTOR, check_format
from ppl_vae.io.outputs import different_outputs, recorded
from ppl_vae.io.tensors import assign, identity, packed, state_tensors, unpacked
from ppl_vae.models import Pair, StackedVAE
from ppl_vae.process_state import exclusively
from ppl_vae.version import __version__

CONFIG, WEIGHTS = "config.yaml", "model.safetensors"
_SHOWN = 3
"""How many names of tensors a result shows."""
_REQUIRES_GRAD = "requires_grad must map names of parameters to true or false"


def save(pair: Pair | StackedVAE, folder: str | os.PathLike[str]) -> Path:
    """Save a pair in a folder, from which :func:`load` returns it.

    - ``config.yaml``: the ``format``, the version of ``ppl_vae``, the SHA-256 of the ``weights``,
      the ``dtype`` of the pair's constants, ``requires_grad`` of the parameters where it differs
      from the constructors', and ``model``, which is :func:`ppl_vae.to_config`;
    - ``model.safetensors``: the ``state_dict``.

    Before anything is written, what :func:`load` will return is built and compared with the pair:
    the modules' structure, constants, attributes, and their outputs for the same random numbers, in
    evaluation and in training mode.

    Each file is replaced atomically, and an older pair stays until both are on the disk. If the
    process is killed between the two renames, :func:`load` says so. Other files are left alone.

    Args:
        pair: the pair.
        folder: made if it does not exist.

    Returns:
        The folder.

    Raises:
        ConfigError: if the pair cannot be written as a configuration, or is no longer what its
            constructors build, for instance with a layer replaced or wrapped; the message names the
            module. Nothing was written.
        TypeError: if it is not a pair, or its ``state_dict`` contains anything but tensors.
        OSError: if the files cannot be written; an older pair stays.

    Example:
        >>> import tempfile
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(5, 2 * 2)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 5)),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = load(save(vae, folder))
        >>> torch.equal(again.prior().mean, vae.prior().mean)
        True
    """
    if not isinstance(pair, (Pair, StackedVAE)):
        fix = "ppl_vae.io.save_weights takes any module"
        raise TypeError(
            f"save: pair must be a pair, such as a ppl_vae.VAE, got {describe(pair)}; {fix}"
        )
    folder = path_of("save", "folder", folder)
    # Exclusively: the pair takes no training step between its comparison and its writing, and other
    # threads' random numbers are not disturbed.
    with exclusively():
        tensors, dtype = state_tensors(pair), _dtype_of_constants(pair)
        with recorded() as calls:
            model, again = rebuilt(pair, dtype)
        changed = _changed_requires_grad(pair, again)
        _copy_into(again, tensors, pair)
        refuse(different_outputs(pair, again, calls))
        weights = packed(tensors)
    config = {
        "format": FORMAT,
        "ppl_vae": __version__,
        "weights": hashlib.sha256(weights).hexdigest(),
        "dtype": str(dtype).removeprefix("torch."),
        **({"requires_grad": changed} if changed else {}),
        "model": model,
    }
    text = dump(config)
    make_folder(folder)
    sync_folder(folder.parent)
    write_files({folder / CONFIG: text, folder / WEIGHTS: weights})
    return folder


def load(
    folder: str | os.PathLike[str],
    *,
    allow: Collection[str] = (),
    device: torch.device | str | int | None = None,
    max_bytes: int | None = None,
) -> Any:  # of the class that was saved, each with methods of its own
    """Load the pair that was saved in a folder, bit for bit.

    It has the dtype in which it was saved, frozen parameters are frozen, and it is in training
    mode, like every new module. The random state is unchanged. No code in the folder is run: a
    configuration names classes of the package, and weights are numbers.

    Args:
        folder: where :func:`save` wrote it.
        allow: top-level packages of your own that may be imported, as for
            :func:`ppl_vae.from_config`.
        device: for its tensors; torch's default device if not given.
        max_bytes: limit on the bytes of the tensors made while it is built, plus 128 KiB for each
            operation; by default 256 MiB and ten times the size of the weights.

    Raises:
        FileNotFoundError: if there is no such folder, or no pair in it.
        DamagedError: if a file is missing, incomplete or corrupt, or if the two do not belong
            together, as after an interrupted save.
        NewerFormatError: if a newer version wrote it.
        ConfigError: if the configuration is invalid, or names a package that is not allowed.
        MismatchError: if the weights are incompatible with the configuration.
    """
    folder = path_of("load", "folder", folder)
    device = device_of("load", device)
    if max_bytes is not None:
        max_bytes = integer("load", "max_bytes", max_bytes, 0)
    config = _config(folder)
    data = _weights(folder, config)
    tensors = unpacked(data, str(folder / WEIGHTS))
    # A pair is as large as its weights, but for constants and temporary tensors.
    most = LOAD_BYTES + LOAD_FACTOR * len(data) if max_bytes is None else max_bytes
    with building(getattr(torch, config["dtype"])):
        pair = from_config(config["model"], allow=allow, max_bytes=most)
    _convert(pair, tensors)
    pair.to(torch.get_default_device() if device is None else device)
    try:
        assign(pair, tensors, WEIGHTS)
    except (MismatchError, TypeError) as error:
        problem = "the weights are incompatible with the configuration"
        raise MismatchError(f"{folder}: {problem}: {error}") from error
    parameters = dict(pair.named_parameters())
    for name, value in config.get("requires_grad", {}).items():
        if name not in parameters or not isinstance(value, bool):
            got = f"{describe(name)[:60]}: {describe(value)[:60]}"
            raise DamagedError(f"{folder}: {CONFIG}: {_REQUIRES_GRAD}, got {got}")
        parameters[name].requires_grad_(value)
    return pair


@dataclass(frozen=True)
class Matched:
    """What :func:`load_matching` did, by names in the ``state_dict``.

    Args:
        taken: entries of the pair that have the saved values now.
        new: entries of the pair that keep their own values.
        left: entries of the saved pair that were not loaded.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join(["Matched", *(f"  {name:5}  {some}" for name, some in self._rows())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{escape(some)}</td></tr>"
            for name, some in self._rows()
        )
        return f"<table><caption>Matched</caption>{rows}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        """Return how many names there are of each kind, and the first of them."""
        rows = []
        for kind in ("taken", "new", "left"):
            names = getattr(self, kind)
            more = ", ..." if len(names) > _SHOWN else ""
            shown = f": {', '.join(names[:_SHOWN])}{more}" if names else ""
            rows.append((kind, f"{len(names)} tensors{shown}"))
        return rows


def load_matching(pair: nn.Module, folder: str | os.PathLike[str]) -> Matched:
    """Load the weights of a saved pair whose name and shape match, into a pair of another kind.

    For training that starts from another result, with another prior, likelihood or learning rate.
    Values are converted to the pair's own dtypes, where both are floating-point. A tensor with
    several names is loaded by the first that matches.

    Args:
        pair: changed in place.
        folder: where :func:`save` wrote the other pair.

    Returns:
        What was loaded and what was not.

    Raises:
        FileNotFoundError: if there is no such folder, or no pair in it.
        DamagedError: if a file is missing, incomplete or corrupt.
        NewerFormatError: if a newer version wrote it.
        MismatchError: if nothing matches; the pair is then unchanged.

    Example:
        >>> import tempfile
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(5, 2 * 2, hidden=[])),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 5, hidden=[])),
        ... )
        >>> other = vae.replace(prior=priors.GaussianMixture(2, components=3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     matched = load_matching(other, save(vae, folder))
        >>> len(matched.taken), matched.left
        (4, ())
    """
    folder = path_of("load_matching", "folder", folder)
    data = _weights(folder, _config(folder))
    saved = unpacked(data, str(folder / WEIGHTS))
    own = state_tensors(pair)
    kinds = {name: _kind(tensor) for name, tensor in own.items()}
    matching = {name for name, tensor in saved.items() if kinds.get(name) == _kind(tensor)}
    # Bounds of a VampPrior are those of its pseudo-inputs.
    changed = {name.rpartition(".")[0] for name in own.keys() - matching}
    matching -= {f"{part}._extra_state" for part in changed}
    if not matching:
        raise MismatchError(
            f"{folder}: nothing in it has the name and shape of a tensor of this pair; give one "
            f"with parts of the same classes and sizes"
        )
    taken: dict[tuple, str] = {}
    for name in own:
        if name in matching:
            taken.setdefault(identity(own[name]), name)
    pair.load_state_dict({name: saved[name] for name in taken.values()}, strict=False)
    return Matched(
        taken=tuple(name for name in own if identity(own[name]) in taken),
        new=tuple(name for name in own if identity(own[name]) not in taken),
        left=tuple(name for name in saved if name not in matching),
    )


def _kind(tensor: Tensor) -> tuple:
    return tensor.shape, tensor.is_floating_point() or tensor.dtype


def _weights(folder: Path, config: Mapping[str, Any]) -> bytes:
    """Return the bytes of the weights that belong to a configuration."""
    data = read_bytes(_file(folder, WEIGHTS), error=DamagedError)
    if hashlib.sha256(data).hexdigest() != config["weights"]:
        raise DamagedError(
            f"{folder}: {WEIGHTS} is not the file that {CONFIG} was written with: it is corrupt, "
            f"or saving was interrupted; save the pair again"
        )
    return data


def _config(folder: Path) -> dict[str, Any]:
    where = reason(str(folder_of("", folder)), 500)
    if not (folder / CONFIG).exists() and not (folder / WEIGHTS).exists():
        missing = f"{CONFIG} and {WEIGHTS} are missing"
        raise FileNotFoundError(f"{where} holds no pair: {missing}; give one that save wrote")
    path = _file(folder, CONFIG)
    try:
        config = read_file(path, aliases=False)
    except ConfigError as error:
        raise DamagedError(error) from error
    if not isinstance(config, dict):
        raise DamagedError(f"{path} must hold a mapping, got {describe(config)}")
    if "weights" not in config and (folder / "model" / CONFIG).exists():
        raise FileNotFoundError(f"{where} is a run; its pair is in {folder / 'model'}")
    check_format(path, config.get("format"), config.get("ppl_vae"))
    for name, kind in (("weights", str), ("dtype", str), ("model", dict)):
        if not isinstance(config.get(name), kind):
            raise DamagedError(f"{path}: {name} is missing, got {describe(config.get(name))}")
    if config["dtype"] not in ("float32", "float64"):
        dtype = quoted(config["dtype"])
        raise DamagedError(f"{path}: dtype must be float32 or float64, got {dtype}")
    if not isinstance(config.get("requires_grad", {}), dict):
        raise DamagedError(f"{path}: {_REQUIRES_GRAD}")
    return config


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise DamagedError(
            f"{folder}: {name} is missing; saving was interrupted, or the copy is incomplete"
        )
    return path


def _dtype_of_constants(pair: nn.Module) -> torch.dtype:
    """Return the default dtype in which building the pair again gives the same constants.

    Constants, such as a fixed scale, are not in the ``state_dict``. A pair in float64 may have been
    built in float64, or built in float32 and converted; its constants tell, as 0.7 differs.
    """
    saved = pair.state_dict().keys()
    constants = [buffer for name, buffer in pair.named_buffers() if name not in saved]
    exact = (b for b in constants if b.dtype == torch.float64)
    same = all(torch.equal(b, b.float().double()) for b in exact)
    return torch.float32 if same else torch.float64


def _changed_requires_grad(pair: nn.Module, again: nn.Module) -> dict[str, bool]:
    """Return ``requires_grad`` of the parameters where it is not what the constructors set."""
    made = dict(again.named_parameters())
    return {
        name: p.requires_grad
        for name, p in pair.named_parameters()
        if p.requires_grad != made[name].requires_grad
    }


def _copy_into(again: nn.Module, tensors: Mapping[str, Tensor], pair: nn.Module) -> None:
    """Give a pair the values, dtypes and devices of another of the same structure."""
    _convert(again, tensors)
    try:
        assign(again, tensors, "save")
    except (MismatchError, TypeError) as error:
        raise ConfigError(f"the pair could not be loaded again: {error}") from error
    for (_, new), (_, live) in zip(again.named_modules(), pair.named_modules(), strict=True):
        for name, parameter in new._parameters.items():
            if parameter is not None:
                parameter.data = parameter.data.to(live.get_parameter(name).device)
        for name, buffer in new._buffers.items():
            if buffer is not None:
                new._buffers[name] = buffer.to(live.get_buffer(name).device)


def _convert(pair: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Convert a pair to the floating-point dtypes of the tensors that will be loaded."""
    dtypes = Counter(t.dtype for t in tensors.values() if t.is_floating_point())
    if not dtypes:
        return
    pair.to(dtypes.most_common(1)[0][0])  # constants, too
    if len(dtypes) == 1:
        return
    for name, own in pair.state_dict(keep_vars=True).items():
        there = tensors.get(name)
        if there is not None and there.is_floating_point() and own.is_floating_point():
            own.data = own.data.to(there.dtype)
