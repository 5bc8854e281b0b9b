"""Making a report."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ppl_vae.ascii import for_stdout
from ppl_vae.data import Dataset
from ppl_vae.errors import describe, listed, reason, sizes
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.io.atomic import write_files
from ppl_vae.module_modes import evaluating
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.report.evaluated_pair import Data, Subject, subjects, training
from ppl_vae.report.numbers import ELBO_DRAWS, Measured, measure
from ppl_vae.report.options import Options
from ppl_vae.report.output import destination
from ppl_vae.report.program_runs import Runs
from ppl_vae.report.target import incomparable

FORMAT = 1


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Args:
        page: path of the HTML page.
        numbers: path of the JSON file.
        results: what the JSON file holds.
    """

    page: Path
    numbers: Path
    results: dict[str, Any]

    def __str__(self) -> str:
        """Return the table, one column per pair, and what to beware of."""
        names = list(self.results["pairs"])
        tables = [self.results["pairs"][name]["quantities"] for name in names]
        labels = list(dict.fromkeys(label for table in tables for label in table))
        warnings = [*self.results["warnings"]]
        warnings += [
            f"{name}: {text}" for name in names for text in self.results["pairs"][name]["warnings"]
        ]
        lines = [["per datum", *names]]
        lines += [[k, *(t[k]["text"] if k in t else "" for t in tables)] for k in labels]
        widths = [max(map(len, column)) + 2 for column in zip(*lines, strict=True)]
        return for_stdout(
            "\n".join(
                "".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
                for line in lines
            )
            + "".join(f"\nbeware: {warning}" for warning in warnings)
        )


def report(
    pairs: ModelAndGuide | Mapping[str, ModelAndGuide],
    data: Dataset | Tensor,
    out: str | Path,
    *,
    labels: Tensor | None = None,
    mask: Tensor | None = None,
    train: Dataset | None = None,
    context: Sequence[Tensor] = (),
    image_shape: Sequence[int] | None = None,
    history: Mapping[str, Any] | None = None,
    num_data: int | None = 1000,
    num_train: int | None = 5000,
    num_samples: int = 5000,
    num_particles: Sequence[int] = (1, 10, 100, 1000),
    annealed_data: int = 0,
    annealed_chains: int = 16,
    annealed_temperatures: int = 1000,
    gap_data: int = 0,
    gap_steps: int = 1000,
    seed: int = 0,
    progress: bool = False,
    compile: bool = False,
) -> Report:
    """Evaluate one pair, or several side by side, and write all of it on one HTML page.

    The page holds its style and pictures, runs no script, and asks nothing of a network. Beside it
    lies a JSON file with the same numbers, unrounded, with their standard errors. Both are written
    when all is computed, and replace what was there at once. What does not apply to a pair is left
    out, and the page says why.

    Grey values of a :class:`ppl_vae.data.Dataset` are binarised, once and with ``seed``, for pairs
    whose likelihood is of 0 and 1, and taken as they are by others. Give a data set dequantised,
    ``test.dequantised(seed)``, if a density was trained so: only then it has bits per dimension.
    Masses are given the levels without the noise. Pairs whose nats cannot be compared, such as a
    mass and a density, are never drawn on one axis of nats. A tensor is taken as it is. A
    classifier, and nothing else, sees the grey values.

    The costs are those of importance sampling, ``num_data × num_samples`` rows in the networks, and
    of annealing, ``annealed_data × chains × temperatures × 11`` gradients.

    Args:
        pairs: a pair, or name -> pair.
        data: what to evaluate on, such as a test set: a data set, or a tensor ``(N, *event)``.
        out: a folder, for ``report.html`` and ``report.json``, or a path ending in ``.html``.
        labels: integers ``(N,)``, -1 where unknown; those of the data set if not given. A
            ``ConditionalVAE`` of labels is given them, and all else is only compared with them.
        mask: boolean, of the shape of a tensor ``data``, True where it is observed; a data set has
            its own. All numbers and pictures are then of what is observed.
        train: a data set with labels, such as the training set: linear probe and k-NN are fitted on
            its latents and tested on those of ``data``. Without it they are fitted on one half of
            ``data`` and tested on the other.
        context: further arguments, of N entries each, for a ``ConditionalVAE`` of vectors and for
            programs of your own.
        image_shape: ``(H, W)`` or ``(C, H, W)``, for flat tensors that are images.
        history: name -> training curve, as for :func:`ppl_vae.plots.curves`.
        num_data: evaluate on so many of the data, chosen at random by ``seed``; None for all. All
            numbers are of these data, unless they say otherwise.
        num_train: fit probe and k-NN on so many of ``train``, chosen likewise; None for all.
        num_samples: of importance sampling, per datum.
        num_particles: the values of K of the importance-weighted bounds.
        annealed_data: estimate log p(x) of the first so many by annealed importance sampling, too;
            none by default, as it takes long.
        annealed_chains: for each datum.
        annealed_temperatures: how many.
        gap_data: split the inference gap of the first so many; none by default, likewise.
        gap_steps: of the optimisation of each datum's posterior.
        seed: of all draws; the global random state is left as it was.
        progress: show progress bars.
        compile: run importance sampling as compiled graphs, see
            :func:`ppl_vae.evaluation.log_likelihood`; some seconds more for each pair at first.

    Returns:
        Where the report is, and its numbers; ``print`` shows the table.

    Raises:
        OSError: before anything is computed, if ``out`` cannot be written.
        TypeError: if an argument is of another type.
        ValueError: if the data do not suit a pair or the arguments, or a weight is not finite.

    Example:
        >>> from ppl_vae import VAE, data, evaluation
        >>> report.report({"VAE": vae, "GMVAE": gmvae}, data.load("digits", split="test"),
        ...     "runs/report")  # doctest: +SKIP
    """
    started = time.perf_counter()
    named = _named(pairs)
    paths = destination(out)
    options = Options(
        num_samples=num_samples,
        num_particles=num_particles,  # type: ignore[arg-type]
        num_data=num_data,
        num_train=num_train,
        annealed_data=annealed_data,
        annealed_chains=annealed_chains,
        annealed_temperatures=annealed_temperatures,
        gap_data=gap_data,
        gap_steps=gap_steps,
        seed=seed,
        progress=progress,
        compile=compile,
    )
    if not isinstance(data, (Dataset, Tensor)):
        raise TypeError(
            f"report: data must be a ppl_vae.data.Dataset or a tensor, got {describe(data)}"
        )
    if image_shape is not None:
        image_shape = sizes("report", "image_shape", image_shape)
    context = listed("report", "context", context, "tensors")
    if not (history is None or isinstance(history, Mapping)):
        raise TypeError(
            f"report: history must map names to training curves, got {describe(history)}"
        )
    chosen = Data.of(data, labels, image_shape, options.num_data, options.seed, mask)
    fitted = None if train is None else Data.to_fit(train, chosen, options.num_train)
    # Matplotlib is imported here, and so by nobody who makes no report.
    from ppl_vae.report.page import page
    from ppl_vae.report.pictures import Drawn, sections

    prepared = subjects(named, chosen, context)
    trained = [None if fitted is None else training(subject, fitted) for subject in prepared]
    drawn = []
    for subject, of_train in zip(prepared, trained, strict=True):
        with _quietly(subject, seed):
            with torch.no_grad():
                runs = Runs(subject)
            drawn.append(Drawn(subject, runs, measure(subject, runs, of_train, options)))
    with tqdm(desc="pictures", disable=not progress, leave=False) as bar, torch.no_grad():

        def step(what: str) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update()

        programs = [program for of in drawn for program in _programs(of.subject)]
        with evaluating(*programs), seeded("report", seed):
            shown = list(sections(drawn, history, step))
    measured = {of.subject.name: of.measured for of in drawn}
    apart: list[str] = incomparable(
        {name: m.target for name, m in measured.items() if m.target is not None}
    )
    facts = _facts(chosen, fitted, prepared, options)
    facts["time"] = f"{time.perf_counter() - started:.0f} s"
    results = {
        "format": FORMAT,
        "data": {
            "name": chosen.name,
            "number": len(chosen),
            "of": len(data),
            "event_shape": list(chosen.event_shape),
            "prepared": {subject.name: subject.prepared for subject in prepared},
        },
        "train": None
        if fitted is None
        else {"name": fitted.name, "number": len(fitted), "of": len(fitted.source)},
        "options": {**asdict(options), "num_particles": list(options.num_particles)},
        "versions": _versions(),
        "made": facts["made"],
        "seconds": time.perf_counter() - started,
        "warnings": apart,
        "pairs": {name: _as_json(found) for name, found in measured.items()},
    }
    title = f"{', '.join(named)} on {chosen.name}"
    html = page(
        title=title,
        facts=facts,
        tables={name: found.quantities for name, found in measured.items()},
        warnings={
            ", ".join(named): apart,
            **{name: found.warnings for name, found in measured.items()},
        },
        missing={name: found.missing for name, found in measured.items()},
        sections=shown,
        notes=_notes(chosen, fitted, options),
        programs={name: repr(pair) for name, pair in named.items()},
        call=_call(options, fitted),
    )
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_files({paths[0]: html, paths[1]: text})
    return Report(*paths, results)


def _named(pairs: ModelAndGuide | Mapping[str, ModelAndGuide]) -> dict[str, ModelAndGuide]:
    named = dict(pairs) if isinstance(pairs, Mapping) else {type(pairs).__name__: pairs}
    if not named:
        raise ValueError("report: pairs must hold one pair or more, got none")
    for name, pair in named.items():
        if not isinstance(name, str) or not isinstance(pair, ModelAndGuide):
            raise TypeError(
                f"report: pairs must be an object with .model and .guide, or map names to such, "
                f"got {name!r}: {type(pair).__name__}"
            )
    return named


@contextmanager
def _quietly(subject: Subject, seed: int) -> Iterator[None]:
    """Evaluation mode and a seed of its own for what a pair draws."""
    with evaluating(*_programs(subject)), seeded("report", seed):
        yield


def _programs(subject: Subject) -> tuple[torch.nn.Module, torch.nn.Module]:
    return subject.pair.model, subject.pair.guide


def _as_json(found: Measured) -> dict[str, Any]:
    return {
        "quantities": {label: q.as_json() for label, q in found.quantities.items()},
        "latents": {
            site: {
                "active": units.active.tolist(),
                "activity": units.activity.tolist(),
                "kl": None if units.kl_missing else units.kl.tolist(),
            }
            for site, units in found.units.items()
        },
        "warnings": found.warnings,
        "missing": found.missing,
    }


def _facts(
    data: Data, fitted: Data | None, subjects_: list[Subject], options: Options
) -> dict[str, str]:
    prepared: dict[str, list[str]] = {}
    for subject in subjects_:
        prepared.setdefault(subject.prepared, []).append(subject.name)
    words = "; ".join(
        how if len(prepared) == 1 else f"{', '.join(names)}: {how}"
        for how, names in prepared.items()
    )
    return {
        "data": f"{data.name}: {data.extent}, of shape {data.event_shape}",
        "values": words,
        "labels": _labels(data),
        "training data": "none" if fitted is None else f"{fitted.name}: {fitted.extent}",
        "seed": str(options.seed),
        "versions": ", ".join(f"{name} {number}" for name, number in _versions().items()),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _labels(data: Data) -> str:
    """Return in words what labels there are."""
    if data.labels is None or not data.num_labelled:
        return "none"
    different = [data.called(int(y)) for y in data.labels[data.labels >= 0].unique()]
    words = f"{len(different)} different"
    words += "" if data.classes is None else f" ({reason(', '.join(different))})"
    missing = len(data) - data.num_labelled
    return words + (f"; {missing} data have none, and are left out of shares" if missing else "")


def _notes(data: Data, fitted: Data | None, options: Options) -> list[str]:
    notes = [
        f"All are of the same {len(data)} data unless they say otherwise; ± is the standard error "
        f"over data: how far another sample of as many would differ. NELBO, KL and reconstruction "
        f"are averages over {ELBO_DRAWS} draws of z per datum. IWAE-K is minus the "
        f"importance-weighted bound with K draws, and IS-{options.num_samples} minus log p(x) by "
        f"importance sampling; lower is better. IWAE-1 is the NELBO, the same number; all others "
        f"have draws of their own.",
        "Terms of the split of the KL have the standard error of the draws of z, the data fixed; "
        "mutual information and marginal KL add up to the KL but for the noise of both.",
    ]
    if data.dequantised_levels is not None:
        notes.append(
            f"Of a density, bits per dimension are a bound on those of {data.dequantised_levels} "
            f"levels, with log2({data.dequantised_levels}) added for the noise."
        )
    if data.num_labelled:
        how = "one half of these data and tested on the other"
        if fitted is not None:
            how = f"training data ({fitted.extent}) and tested on these data"
        notes.append(
            f"Linear probe and k-NN are fitted on the latents of {how}; shares have 95 % intervals "
            f"by Wilson's formula in brackets."
        )
    return notes


def _call(options: Options, fitted: Data | None) -> str:
    given = {name: value for name, value in asdict(options).items() if name != "progress"}
    lines = ["pairs", "data", "out", *(["train=train"] if fitted is not None else [])]
    lines += [f"{name}={value!r}" for name, value in given.items()]
    return f"report.report(\n{''.join(f'    {line},' + chr(10) for line in lines)})"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name, package in (("torch", "torch"), ("pyro", "pyro-ppl"), ("ppl_vae", "ppl-vae")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            found[name] = "unknown"
    return found
