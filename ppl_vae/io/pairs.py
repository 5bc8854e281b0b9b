"""A pair as a folder: its configuration and its weights."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.errors import describe, device_of, integer, path_of, quoted, reason
from ppl_vae.files import read_bytes
from ppl_vae.io.atomic import make_folder, replaced_file, sync_folder
from ppl_vae.io.config import ConfigError, dump, from_config
from ppl_vae.io.config.files import read_file
from ppl_vae.io.config.rebuilt import building, rebuilt, refuse
from ppl_vae.io.errors import DamagedError, MismatchError
from ppl_vae.io.outputs import different_outputs, recorded
from ppl_vae.io.tensors import assign, identity, packed, tensors_of, unpacked
from ppl_vae.io.versions import FORMAT, check_format
from ppl_vae.models import Pair, StackedVAE
from ppl_vae.process_state import exclusively
from ppl_vae.version import __version__

CONFIG, WEIGHTS = "config.yaml", "model.safetensors"
_LEAST = 2**28


def save(pair: Pair | StackedVAE, folder: str | os.PathLike[str]) -> Path:
    """Write a pair into a folder, from which :func:`load` returns it.

    - ``config.yaml``: ``format``, the version of ``ppl_vae``, the SHA-256 of the ``weights``, the
      ``dtype`` of the pair's constants, ``requires_grad`` of the parameters where it is not the
      constructors', and ``model``, which is :func:`ppl_vae.to_config`;
    - ``model.safetensors``: the ``state_dict``.

    What :func:`load` will return is built before anything is written, and its modules are compared
    with the pair's: their structure, constants, attributes, and their outputs for the same random
    numbers, in evaluation and in training mode.

    Each file is there whole or not at all, and an older pair in the folder stays until both are
    written. If the process is killed between putting the one and the other in its place,
    :func:`load` says so. Other files in the folder stay.

    Args:
        pair: the pair.
        folder: made if it is not there.

    Returns:
        The folder.

    Raises:
        ConfigError: if the pair cannot be written as a configuration, or is no longer what its
            constructors make, such as one with a layer replaced or wrapped, or an activation
            swapped; the message names the module. Nothing was written.
        TypeError: if it is no pair, or its ``state_dict`` holds something else than tensors;
            likewise.
        OSError: if the files cannot be written; an older pair in the folder stays.

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
        raise TypeError(
            f"save: pair must be a pair, such as a ppl_vae.VAE, got {describe(pair)}; "
            f"ppl_vae.io.save_weights writes those of any module"
        )
    folder = path_of("save", "folder", folder)
    # One turn: other threads' random numbers are not disturbed, and the pair takes no step between
    # its comparison and its writing.
    with exclusively():
        tensors, dtype = tensors_of(pair), _dtype_of_constants(pair)
        with recorded() as calls:
            model, again = rebuilt(pair, dtype)
        changed = _requires_grad(pair, again)
        _fill(again, tensors, pair)
        refuse(different_outputs(pair, again, calls))
        weights = packed(tensors)
    written = {
        "format": FORMAT,
        "ppl_vae": __version__,
        "weights": hashlib.sha256(weights).hexdigest(),
        "dtype": _name(dtype),
        **({"requires_grad": changed} if changed else {}),
        "model": model,
    }
    config = dump(written).encode("utf-8")
    make_folder(folder)
    sync_folder(folder.parent)
    # Both are written before either is put in its place, so that a full disk changes nothing; the
    # weights, the inner one, are put there first.
    with replaced_file(folder / CONFIG) as first, replaced_file(folder / WEIGHTS) as second:
        first.write_bytes(config)
        second.write_bytes(weights)
    return folder


def load(
    folder: str | os.PathLike[str],
    *,
    allow: Collection[str] = (),
    device: torch.device | str | int | None = None,
    max_bytes: int | None = None,
) -> Pair | Any:  # "Any" for a StackedVAE, whose parts have other names
    """Return the pair that was saved in a folder, every bit of it.

    It has the dtype that it was saved in, parameters that were frozen are, and it is in training
    mode, as every new module: call ``.eval()`` where that matters, for the whole or for a part that
    was. The random state stays as it was. Nothing in the folder is run:
    a configuration names classes of the package, and weights are numbers.

    Args:
        folder: where :func:`save` wrote it.
        allow: top-level packages of your own that may be imported, as for
            :func:`ppl_vae.from_config`.
        device: where its tensors go; torch's default device if not given.
        max_bytes: of the tensors that are made as it is built, at most, with 128 KiB more for each
            operation; 256 MiB and 10 times the bytes of the weights if not given.

    Raises:
        FileNotFoundError: if there is no such folder, or no pair in it.
        DamagedError: if a file is missing, cut short or changed, or if the two are not of one
            writing, as after an interrupted one.
        NewerFormatError: if a newer version wrote it.
        ConfigError: if the configuration is wrong, or names a package that is not allowed.
        MismatchError: if the weights do not suit the configuration.
    """
    folder = path_of("load", "folder", folder)
    device = device_of("load", device)
    if max_bytes is not None:
        max_bytes = integer("load", "max_bytes", max_bytes, 0)
    config = _config(folder)
    data = _weights(folder, config)
    tensors = unpacked(data, str(folder / WEIGHTS))
    with _building(config["dtype"], folder):
        # What is built is no greater than what was read, but for constants and what is passing.
        most = _LEAST + 10 * len(data) if max_bytes is None else max_bytes
        pair = from_config(config["model"], allow=allow, max_bytes=most)
    _convert(pair, tensors)
    pair.to(torch.get_default_device() if device is None else device)
    try:
        assign(pair, tensors, WEIGHTS)
    except (MismatchError, TypeError) as error:
        raise MismatchError(
            f"{folder}: the weights do not suit the configuration: {error}"
        ) from error
    parameters = dict(pair.named_parameters())
    for name, value in config.get("requires_grad", {}).items():
        if name not in parameters or not isinstance(value, bool):
            raise DamagedError(
                f"{folder}: {CONFIG}: requires_grad must have parameters' names and true or false, "
                f"got {describe(name)[:60]}: {describe(value)[:60]}"
            )
        parameters[name].requires_grad_(value)
    return pair


@dataclass(frozen=True)
class Matched:
    """What :func:`load_matching` did, by names of the ``state_dict``.

    Args:
        taken: of the pair, what has the saved values now.
        new: of the pair, what has its own, since nothing saved has that name and shape.
        left: of the saved pair, what was not taken over.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]


def load_matching(pair: nn.Module, folder: str | os.PathLike[str]) -> Matched:
    """Give a pair, in place, the weights of a saved one where name and shape are the same.

    For a training that starts from another's result, under another prior, likelihood or rate. The
    numbers are taken in the pair's own dtypes, where both are floating. A tensor that the pair has
    under several names is taken under the first that matches.

    Args:
        pair: to be changed.
        folder: where :func:`save` wrote the other.

    Returns:
        What was taken over and what was not.

    Raises:
        FileNotFoundError: if there is no such folder, or no pair in it.
        DamagedError: if a file is missing, cut short or changed.
        NewerFormatError: if a newer version wrote it.
        MismatchError: if nothing matches; the pair is then as it was.

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
    folder = Path(folder)
    data = _weights(folder, _config(folder))
    saved = unpacked(data, str(folder / WEIGHTS))
    own = tensors_of(pair)
    kinds = {name: (t.shape, t.is_floating_point() or t.dtype) for name, t in own.items()}
    matching = {
        name
        for name, t in saved.items()
        if kinds.get(name) == (t.shape, t.is_floating_point() or t.dtype)
    }
    if not matching:
        raise MismatchError(
            f"{folder}: nothing in it has the name and the shape of a tensor of this pair; give "
            f"one whose parts are of the same classes and sizes"
        )
    taken: dict[tuple, str] = {}
    for name in own:
        if name in matching:
            taken.setdefault(identity(own[name]), name)
    with torch.no_grad():
        for name in taken.values():
            own[name].copy_(saved[name])
    return Matched(
        taken=tuple(name for name in own if identity(own[name]) in taken),
        new=tuple(name for name in own if identity(own[name]) not in taken),
        left=tuple(name for name in saved if name not in matching),
    )


def _weights(folder: Path, config: Mapping[str, Any]) -> bytes:
    """Return the bytes of the weights that a configuration is of."""
    data = read_bytes(_file(folder, WEIGHTS), error=DamagedError)
    if hashlib.sha256(data).hexdigest() != config["weights"]:
        raise DamagedError(
            f"{folder}: {WEIGHTS} is not the file that {CONFIG} was written with: it is damaged, "
            f"or writing over an older pair was interrupted between the two; save the pair again"
        )
    return data


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {reason(str(folder), 500)}")
    if not (folder / CONFIG).exists() and not (folder / WEIGHTS).exists():
        raise FileNotFoundError(
            f"{reason(str(folder), 500)} holds no pair: {CONFIG} and {WEIGHTS} are missing; "
            f"give the folder that save wrote"
        )
    path = _file(folder, CONFIG)
    try:
        config = read_file(path, aliases=False)
    except ConfigError as error:
        raise DamagedError(error) from error
    if not isinstance(config, dict):
        raise DamagedError(f"{path} holds no mapping, got {describe(config)}")
    if "weights" not in config and (folder / "model" / CONFIG).exists():
        raise FileNotFoundError(
            f"{reason(str(folder), 500)} is the folder of a run; its pair is {folder / 'model'}"
        )
    check_format(path, config.get("format"), config.get("ppl_vae"))
    for name, kind in (("weights", str), ("dtype", str), ("model", dict)):
        if not isinstance(config.get(name), kind):
            raise DamagedError(f"{path}: {name} is missing, got {describe(config.get(name))}")
    if not isinstance(config.get("requires_grad", {}), dict):
        raise DamagedError(f"{path}: requires_grad must be a mapping of parameters' names")
    return config


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        raise DamagedError(
            f"{folder}: {name} is missing; writing was interrupted, or not all was copied"
        )
    return path


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype_of_constants(pair: nn.Module) -> torch.dtype:
    """Return the default dtype under which building the pair again gives the same constants.

    Constants, such as a fixed scale, are not in the ``state_dict``. Whether a pair in float64 was
    made so, or made in float32 and converted, shows in its constants: 0.7 is another number.
    """
    kept = {name for name, _ in pair.named_buffers() if name in pair.state_dict()}
    constants = [b for name, b in pair.named_buffers() if name not in kept]
    exact = (b for b in constants if b.dtype == torch.float64)
    same = all(torch.equal(b, b.float().double()) for b in exact)
    return torch.float32 if same else torch.float64


@contextmanager
def _building(dtype: str, folder: Path) -> Iterator[None]:
    if dtype not in ("float32", "float64"):
        raise DamagedError(
            f"{folder}: {CONFIG}: dtype must be float32 or float64, got {quoted(dtype)}"
        )
    with building(getattr(torch, dtype)):
        yield


def _requires_grad(pair: nn.Module, again: nn.Module) -> dict[str, bool]:
    """Return by name which parameters are trained, where it is not as the constructors make it."""
    made = dict(again.named_parameters())
    return {
        name: p.requires_grad
        for name, p in pair.named_parameters()
        if p.requires_grad != made[name].requires_grad
    }


def _fill(again: nn.Module, tensors: Mapping[str, Tensor], pair: nn.Module) -> None:
    """Give a pair the numbers, the dtypes and the devices of one of the same structure."""
    _convert(again, tensors)
    try:
        assign(again, tensors, "save")
    except (MismatchError, TypeError) as error:
        raise ConfigError(f"the pair would not come back: {error}") from error
    for (_, new), (_, live) in zip(again.named_modules(), pair.named_modules(), strict=True):
        for name, parameter in new._parameters.items():
            if parameter is not None:
                parameter.data = parameter.data.to(live.get_parameter(name).device)
        for name, buffer in new._buffers.items():
            if buffer is not None:
                new._buffers[name] = buffer.to(live.get_buffer(name).device)


def _convert(pair: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give a pair the floating-point dtypes of the tensors that will be copied into it."""
    dtypes = Counter(t.dtype for t in tensors.values() if t.is_floating_point())
    if not dtypes:
        return
    pair.to(dtypes.most_common(1)[0][0])  # its constants too
    if len(dtypes) == 1:
        return
    for name, own in pair.state_dict(keep_vars=True).items():
        there = tensors.get(name)
        if there is not None and there.is_floating_point() and own.is_floating_point():
            own.data = own.data.to(there.dtype)
