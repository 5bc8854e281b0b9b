"""Evaluating pairs and writing the report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import Dataset
from ppl_vae.errors import describe, flag, reason, sequence, sizes
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.report.comparability import incomparable
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.evaluation_data import EvaluationData
from ppl_vae.report.files import made_now, versions, versions_in_words, write
from ppl_vae.report.latents import Latents
from ppl_vae.report.metrics import measure
from ppl_vae.report.options import Options, destination
from ppl_vae.report.page import page
from ppl_vae.report.pair_data import PairData, pair_data
from ppl_vae.report.results import Report
from ppl_vae.tensors import as_tensor

FORMAT = 1


def report(
    pairs: ModelAndGuide | Mapping[str, ModelAndGuide],
    data: Dataset | Tensor | np.ndarray,
    out: str | Path,
    *,
    labels: Tensor | np.ndarray | None = None,
    mask: Tensor | np.ndarray | None = None,
    train: Dataset | None = None,
    context: Sequence[Tensor | np.ndarray] = (),
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
    sections: Sequence[str] = (),
    num_simulations: int = 500,
    num_replicates: int = 100,
    seed: int = 0,
    progress: bool = False,
    compile: bool = False,
    figures: bool = True,
) -> Report:
    """Evaluate one pair, or several side by side, and write an HTML page and a JSON file.

    The page embeds its style and pictures, and needs neither scripts nor a network. The JSON file
    beside it has the same numbers, unrounded, with their standard errors. Both files are written
    at the end, atomically. What does not apply to a pair is left out, and the page says why.

    Grey values of a :class:`ppl_vae.data.Dataset` are binarised, once and with ``seed``, for pairs
    with a Bernoulli likelihood, and left as they are for others; classifiers see the grey values.
    For bits per dimension of a density, give a dequantised data set, ``test.dequantised(seed)``;
    masses then see the levels without the noise. Pairs whose nats are incomparable, such as a mass
    and a density, never share an axis in nats. A tensor is used as it is.

    Importance sampling costs ``num_data × num_samples`` rows in the networks, annealing
    ``annealed_data × annealed_chains × annealed_temperatures × 11`` gradients, calibration
    ``num_simulations × 100`` rows, predictive checks ``num_replicates × num_data``.

    Args:
        pairs: a pair, or name -> pair.
        data: the data to evaluate on, such as a test set: a data set, a tensor or an array
            ``(N, *event)``.
        out: a folder, for ``report.html`` and ``report.json``, or a path ending in ``.html``.
        labels: integers ``(N,)``, -1 if unknown; those of the data set if not given. They are the
            condition of a ``ConditionalVAE`` of labels, and are only compared with otherwise.
        mask: boolean, of the shape of a tensor ``data``, True where it is observed; a data set has
            its own. All numbers and pictures are then of the observed elements.
        train: a labelled data set, such as the training set, to fit linear probe and k-NN on. If
            not given, they are fitted on one half of ``data`` and tested on the other.
        context: further arguments, of N entries each, for a ``ConditionalVAE`` of vectors and for
            other programs. If not given, that of the data set, to a ``ConditionalVAE`` and to
            programs whose second argument is ``c``.
        image_shape: ``(H, W)`` or ``(C, H, W)``, if the data are flat images.
        history: name -> training curve, as for :func:`ppl_vae.plots.curves`.
        num_data: size of a random subset of the data to evaluate on; None for all.
        num_train: size of a random subset of ``train`` to fit on; None for all.
        num_samples: of importance sampling, per datum.
        num_particles: the values of K of the importance-weighted bounds.
        annealed_data: estimate log p(x) of so many data, the first, by annealed importance
            sampling, too; none by default, since it is slow.
        annealed_chains: for each datum.
        annealed_temperatures: number of intermediate distributions.
        gap_data: split the inference gap of so many data, the first; none by default, since it is
            slow.
        gap_steps: of the optimisation of each datum's posterior.
        sections: names of further sections, none by default, since they take time:
            ``"calibration"`` of q(z | x), :func:`ppl_vae.evaluation.calibration`;
            ``"predictive checks"``, :func:`ppl_vae.evaluation.predictive_checks` from the prior;
            ``"disentanglement"``, :func:`ppl_vae.evaluation.disentanglement`, for a data set with
            factors. Each has a verdict in words.
        num_simulations: data that the model draws for the calibration.
        num_replicates: data sets that the model draws for the predictive checks, at least 19.
        seed: of all draws; the global random state is restored.
        progress: show progress bars.
        compile: compile importance sampling, see :func:`ppl_vae.evaluation.log_likelihood`.
        figures: draw figures; without them the page has the tables alone.

    Returns:
        The paths of the files, and the numbers; ``print`` shows the table.

    Raises:
        OSError: if ``out`` cannot be written; checked before anything is computed.
        TypeError: if an argument has another type.
        ValueError: if the data are incompatible with a pair or the arguments, a weight is not
            finite, or a section is unknown.

    Example:
        >>> from ppl_vae.report import report
        >>> test = data.load("digits", split="test")  # doctest: +SKIP
        >>> report({"VAE": vae, "GMVAE": gmvae}, test, "runs/report")  # doctest: +SKIP
        Report('runs/report/report.html', pairs=['VAE', 'GMVAE'])
    """
    started = time.perf_counter()
    named = _named(pairs)
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
        sections=sections,
        num_simulations=num_simulations,
        num_replicates=num_replicates,
        seed=seed,
        progress=progress,
        compile=compile,
    )
    given = _tensor("data", data)
    if not isinstance(given, (Dataset, Tensor)):
        raise TypeError(f"report: data must be a Dataset or a tensor, got {describe(given)}")
    if image_shape is not None:
        image_shape = sizes("report", "image_shape", image_shape)
    further = [_tensor("context", c) for c in sequence("report", "context", context, "tensors")]
    if not (history is None or isinstance(history, Mapping)):
        raise TypeError(f"report: history must map names to curves, got {describe(history)}")
    chosen = EvaluationData.of(
        given,
        _tensor("labels", labels),
        image_shape,
        num_data=options.num_data,
        seed=options.seed,
        mask=_tensor("mask", mask),
    )
    if "disentanglement" in options.sections and chosen.factors is None:
        raise ValueError(
            f"report: disentanglement is of data with known factors, got {describe(data)}; give "
            f"data.Dataset(x, factors=f), or leave it out of sections"
        )
    fitted = None if train is None else chosen.training_data(train, options.num_train)
    figures = flag("report", "figures", figures)
    if history and figures:
        from ppl_vae.plots.training_curves import checked_history  # imports matplotlib

        checked_history("report", history)
    inputs = [pair_data(name, pair, chosen, further) for name, pair in named.items()]
    if further and not any(one.context for one in inputs):
        raise ValueError(
            f"report: context is for conditional pairs, and there is none, got "
            f"{describe(further[0])}; leave it out"
        )
    # Training data are checked for all pairs before anything is computed.
    training = [None if fitted is None else one.training_data(fitted) for one in inputs]
    page_path, json_path = destination(out)
    evaluated = [_evaluate(one, fit, options) for one, fit in zip(inputs, training, strict=True)]
    drawn = _figures(evaluated, history, options) if figures else []
    spaces = {pair.name: pair.data_space for pair in evaluated if pair.data_space is not None}
    warnings = incomparable(spaces)
    facts = _facts(chosen, fitted, inputs, options)
    facts["time"] = f"{time.perf_counter() - started:.0f} s"
    results = {
        "format": FORMAT,
        "data": {
            "name": chosen.name,
            "number": len(chosen),
            "of": len(data),
            "event_shape": list(chosen.event_shape),
            "prepared": {one.name: one.preparation for one in inputs},
        },
        "train": None
        if fitted is None
        else {"name": fitted.name, "number": len(fitted), "of": len(fitted.source)},
        "options": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(options).items()
        },
        "versions": versions(),
        "made": facts["made"],
        "seconds": time.perf_counter() - started,
        "warnings": warnings,
        "pairs": {pair.name: pair.as_json() for pair in evaluated},
    }
    html = page(
        evaluated, chosen, fitted, options, facts=facts, incomparable=warnings, sections=drawn
    )
    write(page_path, json_path, html, results)
    return Report(page_path, json_path, results)


def _tensor(name: str, value: Any) -> Any:
    """Return an array as a tensor, anything else unchanged."""
    return as_tensor(f"report: {name}", value) if isinstance(value, np.ndarray) else value


def _named(pairs: ModelAndGuide | Mapping[str, ModelAndGuide]) -> dict[str, ModelAndGuide]:
    named = dict(pairs) if isinstance(pairs, Mapping) else {type(pairs).__name__: pairs}
    if not named:
        raise ValueError("report: pairs must have one pair or more, got none")
    for name, pair in named.items():
        if not isinstance(name, str) or not isinstance(pair, ModelAndGuide):
            raise TypeError(
                f"report: pairs must have .model and .guide, or map names to such, got "
                f"{name!r}: {type(pair).__name__}"
            )
    return named


def _evaluate(inputs: PairData, train: PairData | None, options: Options) -> EvaluatedPair:
    with evaluating(inputs.pair.model, inputs.pair.guide), seeded("report", options.seed):
        with torch.no_grad():
            latents = Latents(inputs)
        return measure(latents, train, options)


def _figures(
    evaluated: list[EvaluatedPair], history: Mapping[str, Any] | None, options: Options
) -> list[Any]:
    from ppl_vae.report.figures import sections  # imports matplotlib

    programs = [p for one in evaluated for p in (one.inputs.pair.model, one.inputs.pair.guide)]
    with evaluating(*programs), seeded("report", options.seed), torch.no_grad():
        drawn = sections(evaluated, history, options.sections)
        return list(tqdm(drawn, "sections", disable=not options.progress, leave=False))


def _facts(
    data: EvaluationData, fitted: EvaluationData | None, inputs: list[PairData], options: Options
) -> dict[str, str]:
    names = defaultdict(list)
    for one in inputs:
        names[one.preparation].append(one.name)
    values = [how if len(names) == 1 else f"{', '.join(n)}: {how}" for how, n in names.items()]
    return {
        "data": f"{data.name}: {data}, of shape {data.event_shape}",
        "values": "; ".join(values),
        "labels": _labels(data),
        **_pictures(data, inputs),
        "training data": "none" if fitted is None else f"{fitted.name}: {fitted}",
        "seed": str(options.seed),
        "versions": versions_in_words(),
        "made": made_now(),
    }


def _pictures(data: EvaluationData, inputs: list[PairData]) -> dict[str, str]:
    """Return what is black and white, if that is not 0 and 1."""
    found = {one.black_and_white for one in inputs if data.image_shape is not None}
    words = [f"black is {a:g}, white {b:g}" for a, b in sorted(found - {(0.0, 1.0)})]
    return {"pictures": "; ".join(words)} if words else {}


def _labels(data: EvaluationData) -> str:
    if data.labels is None or not data.num_labelled:
        return "none"
    classes = [data.class_name(int(y)) for y in data.labels[data.labels >= 0].unique()]
    words = f"{len(classes)} different"
    words += "" if data.classes is None else f" ({reason(', '.join(classes))})"
    missing = len(data) - data.num_labelled
    return words + (f"; {missing} data are unlabelled, and left out of shares" if missing else "")
