"""The folder of an exported pair: a file for each program, and what they take and return."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyro
import torch
from torch import Tensor

from ppl_vae.errors import describe, path_of, quoted, reason, seed_of
from ppl_vae.export.graphs import Runner, libraries, onnx_file, torch_file, traced
from ppl_vae.export.programs import Program, ProgramModule, inputs_of, programs_of
from ppl_vae.io.atomic import make_folder, write_files
from ppl_vae.models import Pair, StackedVAE
from ppl_vae.process_state import exclusively, seeded
from ppl_vae.tables import TableVAE
from ppl_vae.version import __version__

CARD = "export.json"
FORMAT = 1
_TRACED, _CHECKED = 3, (1, 3, 8)
"""The batch that is traced, and those that are compared."""
_SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}
"""Largest difference from the pair, in units of 1 and of the value itself."""

_Writer: TypeAlias = Callable[[Any, Sequence[str], Sequence[str]], tuple[bytes, Runner]]


class ExportError(ValueError):
    """A program of a pair has no graph, or one that computes something else; says why."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: where.
        files: by program: its file.
        differences: by program: the largest difference of an output from the pair's, of batches of
            1, 3 and 8 data drawn from the model, run by what will run the file.
        refused: by program that was not written: the reason.
    """

    folder: Path
    files: dict[str, Path]
    differences: dict[str, float]
    refused: dict[str, str]

    def __repr__(self) -> str:
        lines = [f"Exported({str(self.folder)!r}"]
        lines += [f"  {name}: {said}" for name, said in self.rows()]
        return "\n".join(lines) + ")"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(name)}</th><td>{escape(said)}</td></tr>"
            for name, said in [("folder", str(self.folder)), *self.rows()]
        )
        return f"<table>{rows}</table>"

    def rows(self) -> list[tuple[str, str]]:
        """Return the name of each program, and what became of it."""
        return [
            (name, f"{file.name}, largest difference from the pair {self.differences[name]:.2g}")
            for name, file in self.files.items()
        ] + [(name, f"not exported: {why}") for name, why in self.refused.items()]


def to_onnx(
    pair: Pair | TableVAE,
    folder: str | os.PathLike[str],
    *,
    programs: Sequence[str] | None = None,
    seed: int = 0,
) -> Exported:
    """Write the programs of a pair as ONNX files, which onnxruntime runs without this package.

    - ``encoder.onnx``: x -> the parameters of q(z | x), by their names in Pyro: ``mean`` and
      ``scale`` of a normal, ``mean`` and ``scale_tril`` of one of full rank. A conditional pair
      takes ``c``, a semi-supervised one ``y``, -1 for the most probable label; a hierarchical one
      returns ``z1_mean``, ``z1_scale``, ``z2_mean``, ..., each layer at the mean of the one before.
    - ``decoder.onnx``: z (of a hierarchical pair those that the likelihood sees) -> ``mean``,
      E[x | z], and the other parameters of p(x | z).
    - ``log_prob.onnx``: x, z -> ``log_prob``, log p(x | z), nats per datum, ``(batch,)``.
    - ``classifier.onnx`` of a semi-supervised pair: x -> ``probs``, q(y | x).
    - ``conditional1.onnx``, ... of a hierarchical pair: z2 -> the parameters of p(z1 | z2), ...
    - ``export.json``: what each takes and returns, of which shape and dtype; of a table its schema.

    Batches may be of any size. Values are not checked, unlike by the pair itself. Of a table x is
    numbers, ``schema.encode(frame)[0]``: codes of categories, and NaN where a cell is missing,
    which the encoder reads and ``log_prob`` leaves out; ``best_guess`` of the decoder is the most
    probable category or median level. In other data, missing entries are the value ``filling`` of
    ``export.json`` to the encoder, and ``log_prob`` is of all.

    Each file is run by onnxruntime before it is written, and compared with the pair on data that
    its model draws. Files that were there are replaced, each atomically.

    Args:
        pair: a VAE, ConditionalVAE, SemiSupervisedVAE, HierarchicalVAE, or a trained TableVAE.
            Stays as it is; graphs are made in evaluation mode, on the CPU.
        folder: made if it does not exist.
        programs: names of those to write; all that there are if not given, and what cannot be
            exported is then left out and named in the result.
        seed: of the data that are compared.

    Returns:
        The files, their differences from the pair, and what was refused, with the reason.

    Raises:
        ExportError: if one of ``programs`` cannot be exported, or none can; nothing was written.
            An encoder needs a posterior with a mean in closed form, which flows have not.
        ImportError: if onnx, onnxscript or onnxruntime is missing.
        OSError: if a file cannot be written.
        TypeError: if it is another pair, or programs is not a list of names.
        ValueError: if a program has another name.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(5, 2 * 2)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 5)),
        ... )
        >>> exported = to_onnx(vae, "runs/onnx")  # doctest: +SKIP
        >>> sorted(exported.files)  # doctest: +SKIP
        ['decoder', 'encoder', 'log_prob']
    """
    libraries()
    return _export("to_onnx", pair, folder, programs, seed, "onnx", onnx_file)


def to_torch(
    pair: Pair | TableVAE,
    folder: str | os.PathLike[str],
    *,
    programs: Sequence[str] | None = None,
    seed: int = 0,
) -> Exported:
    """Write the programs of a pair as ``.pt2`` files, which ``torch.export.load`` reads.

    As :func:`to_onnx`, in torch's own format: ``encoder.pt2``, ``decoder.pt2``, ``log_prob.pt2``.
    They run with torch alone, ``torch.export.load("encoder.pt2").module()(x)``, and return a tuple
    in the order of ``export.json``. Read files of people you trust: unlike a saved pair, they are
    read by torch.

    Example:
        >>> import tempfile
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(5, 2 * 2)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 5)),
        ... )
        >>> with tempfile.TemporaryDirectory() as name:
        ...     exported = to_torch(vae, name, programs=["decoder"])
        ...     decoder = torch.export.load(exported.files["decoder"]).module()
        >>> mean, logits = decoder(torch.zeros(3, 2))
        >>> torch.allclose(mean, vae.decode(torch.zeros(3, 2)))
        True
    """
    return _export(
        "to_torch",
        pair,
        folder,
        programs,
        seed,
        "torch",
        lambda graph, _, out: torch_file(graph, out),
    )


def _export(
    owner: str,
    given: object,
    folder: str | os.PathLike[str],
    names: Sequence[str] | None,
    seed: int,
    to: Literal["onnx", "torch"],
    write: _Writer,
) -> Exported:
    schema, pair = None, given
    if isinstance(given, TableVAE):
        if not hasattr(given, "pair_"):
            raise ValueError(f"{owner}: the TableVAE is not trained; call fit first")
        schema, pair = given.schema_.to_dict(), given.pair_
    if isinstance(pair, StackedVAE):
        raise TypeError(
            f"{owner}: pair must be one pair, got a StackedVAE; export its first and its second"
        )
    if not isinstance(pair, Pair):
        raise TypeError(
            f"{owner}: pair must be a pair, such as a ppl_vae.VAE, got {describe(given)}"
        )
    path = path_of(owner, "folder", folder)
    seed = seed_of(owner, seed)
    with exclusively(), seeded(owner, seed), pyro.validation_enabled(False), torch.no_grad():
        copy = deepcopy(pair).cpu().eval().requires_grad_(False)
        todo = _chosen(owner, programs_of(copy), names)
        batches = [inputs_of(copy, number) for number in (_TRACED, *_CHECKED)]
        contents: dict[str, bytes] = {}
        cards: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for name, program in todo.items():
            try:
                contents[name], cards[name] = _made(copy, program, batches, write)
            except ExportError as error:
                if names is not None:
                    raise ExportError(f"{owner}: {name}: {error}") from error
                refused[name] = str(error)
    if not contents:
        raise ExportError(f"{owner}: no program can be exported: {_listed(refused)}")
    files = {name: path / f"{name}{_SUFFIXES[to]}" for name in contents}
    for name, file in files.items():
        cards[name] = {"file": file.name, **cards[name]}
    card = {
        "format": FORMAT,
        "ppl_vae": __version__,
        "pair": type(pair).__name__,
        "to": to,
        "filling": pair.observation.filling,
        "programs": cards,
        "refused": refused,
        **({} if schema is None else {"schema": schema}),
    }
    _refuse_others(owner, path, files)
    make_folder(path)
    text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
    write_files({path / CARD: text} | {files[name]: content for name, content in contents.items()})
    differences = {name: cards[name]["largest_difference"] for name in files}
    return Exported(path, files, differences, refused)


def _refuse_others(owner: str, folder: Path, files: Mapping[str, Path]) -> None:
    """Raise FileExistsError if a folder has programs that its card would no longer describe."""
    card = folder / CARD
    if not card.is_file():
        return
    try:
        programs = json.loads(card.read_text(encoding="utf-8"))["programs"]
        listed = {str(program["file"]) for program in programs.values()}
    except (ValueError, LookupError, TypeError, AttributeError):  # of somebody else
        return
    left = sorted(listed - {file.name for file in files.values()})
    left = [name for name in left if (folder / name).is_file()]
    if left:
        raise FileExistsError(
            errno.EEXIST,
            f"{owner}: {', '.join(left)} of an earlier export would be left without a card; "
            f"give another folder, or delete this one",
            str(folder),
        )


def _chosen(
    owner: str, known: Mapping[str, Program], names: Sequence[str] | None
) -> Mapping[str, Program]:
    if names is None:
        return known
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(
            f"{owner}: programs must be a list of names, such as ['decoder'], got {describe(names)}"
        )
    for name in names:
        if name not in known:
            raise ValueError(
                f"{owner}: programs must be among {', '.join(known)}, got {quoted(name)}"
            )
    if not names:
        raise ValueError(f"{owner}: programs must be among {', '.join(known)}, got none")
    return {name: known[name] for name in names}


def _made(
    pair: Pair, program: Program, batches: Sequence[Mapping[str, Tensor]], write: _Writer
) -> tuple[bytes, dict[str, Any]]:
    """Return a program's file and its entry of the card; raise ExportError with the reason."""
    first, *others = ({name: b[name] for name in program.inputs} for b in batches)
    try:
        outputs = program.function(*first.values())
        graph = traced(ProgramModule(pair, program), first)
        content, run = write(graph, list(program.inputs), list(outputs))
    except ImportError:
        raise
    except Exception as error:  # torch's exporters raise errors of a dozen classes
        raise ExportError(_why(error)) from error
    largest = 0.0
    for inputs in others:
        expected = program.function(*inputs.values())
        found = run(list(inputs.values()))
        for (name, right), value in zip(expected.items(), found, strict=True):
            largest = max(largest, _difference(name, value, right))
    return content, {
        "meaning": program.meaning,
        "inputs": {name: _described(t) for name, t in first.items()},
        "outputs": {name: _described(t) for name, t in outputs.items()},
        "largest_difference": largest,
    }


def _difference(name: str, value: Tensor, right: Tensor) -> float:
    """Return the largest difference of two tensors; raise ExportError if it is no rounding."""
    if value.shape != right.shape:
        raise ExportError(
            f"its {name} has the shape {tuple(value.shape)}, not {tuple(right.shape)}"
        )
    difference = (value - right).abs().double()
    largest = float(difference.max())
    tolerance = _TOLERANCE.get(right.dtype, 1e-3)
    if not bool((difference <= tolerance * (1 + right.abs())).all()):  # False of NaN
        raise ExportError(f"its {name} differs from the pair's by {largest:.2g}")
    return largest


def _described(tensor: Tensor) -> dict[str, Any]:
    return {
        "shape": ["batch", *tensor.shape[1:]],
        "dtype": str(tensor.dtype).removeprefix("torch."),
    }


def _why(error: BaseException) -> str:
    """Return the reason of a failure in one line: the innermost, of errors that wrap others."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return reason(lines[0] if lines else type(error).__name__, 300)


def _listed(refused: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in refused.items())
