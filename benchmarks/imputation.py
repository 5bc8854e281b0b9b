"""Errors of imputation on tables with cells hidden: ppl_vae beside what is used today.

    .venv/bin/python benchmarks/imputation.py

reads tables and masks of the HI-VAE paper (Nazábal et al. 2020, arXiv 1807.03653) from
``$PPL_VAE_DATA/tables``, fills the hidden cells by each method and prints the mean over columns of

- numbers: the root mean squared error, over (largest - smallest value) of the column,
- categories: the share of cells that are wrong,
- ordinals: the mean distance to the true level, over the number of levels,

all over hidden cells only. That is ``error_computation`` of the authors' code, in
``read_functions.py`` of probabilistic-learning/HI-VAE, but for the range, which is of observed
values there and so differs from mask to mask. Of the numbers, it also prints how many hidden ones
lie in the central 90 % interval of 100 imputations, where a method draws.

    .venv/bin/python benchmarks/imputation.py --miwae

follows MIWAE (Mattei & Frellsen 2019, arXiv 1812.02633) instead: 50 % of the cells of continuous
tables hidden completely at random, five times; the mean squared error of standardised columns.

Each run is written to ``imputation.json`` under ``benchmarks/results`` as it ends, and what is
there is not run again, so that the command goes on where it was stopped. ``imputation.md`` and
``imputation.png`` are made of all that is there.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import measure
import numpy as np
import sklearn
from matplotlib import pyplot as plt
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import BayesianRidge

from ppl_vae.io import atomic

RESULTS = Path(__file__).parent / "results"
TABLES = ("wine", "adult", "letter", "spam")
RATES = (50, 20)
MASKS = (1, 2, 3, 4, 5)
KINDS = {
    "real": "real",
    "pos": "positive",
    "count": "count",
    "cat": "categorical",
    "ordinal": "ordinal",
}
"""Words of ``data_types.csv``, and ours."""
MIWAE = 0
"""What stands for a rate where the protocol of MIWAE is followed."""
ROWS_OF_TINY = 200
NUMBERS = ("real", "positive", "count")
DRAWS = 100
LEVEL = 0.9

MIWAE_TABLES = {
    "banknote": ("banknote_authentication.csv", 4),
    "concrete": ("concrete.txt", 9),
    "red": ("winequality-red.csv", 12),
    "white": ("winequality-white.csv", 12),
}
"""Files, and how many of their columns count: of banknote the authors leave out the class, of wine
they keep the quality (``MIWAE_demo_UCI.ipynb`` in their repository, pamattei/miwae)."""


class Table(NamedTuple):
    """A table whose cells are numbers; of categories and levels, codes from 0."""

    values: np.ndarray
    """Shape (rows, columns), NaN where missing in the source."""
    kinds: tuple[str, ...]
    sizes: tuple[int, ...]
    """Numbers of categories or levels; 0 for numbers."""


class Options(NamedTuple):
    """What methods are told."""

    seed: int
    tiny: bool


class Filled(NamedTuple):
    """What a method makes of a table with missing cells."""

    best: np.ndarray
    """One value for each cell."""
    draws: np.ndarray | None = None
    """Shape (draws, rows, columns)."""


def read_table(folder: Path, name: str) -> Table:
    """Return a table of the HI-VAE paper."""
    values = np.genfromtxt(folder / name / "data.csv", delimiter=",", ndmin=2)
    with (folder / name / "data_types.csv").open() as file:
        types = list(csv.DictReader(file))
    sizes = [0] * len(types)
    for j, column in enumerate(types):
        if column["type"] in ("cat", "ordinal"):
            sizes[j] = int(column["nclass"] or column["dim"])
            codes = values[:, j]
            values[:, j] = codes - np.nanmin(codes)
    kinds = [KINDS[column["type"]] for column in types]
    kinds = ["binary" if size == 2 else kind for kind, size in zip(kinds, sizes, strict=True)]
    return Table(values, tuple(kinds), tuple(sizes))


def read_mask(folder: Path, name: str, rate: int, mask: int, shape: tuple[int, int]) -> np.ndarray:
    """Return which cells the paper's mask hides: True where hidden."""
    path = folder / name / f"Missing{rate}_{mask}.csv"
    rows, columns = np.loadtxt(path, delimiter=",", dtype=int, ndmin=2).T - 1
    hidden = np.zeros(shape, dtype=bool)
    hidden[rows, columns] = True
    return hidden


def read_miwae(folder: Path, name: str, seed: int) -> tuple[Table, np.ndarray]:
    """Return a table of the MIWAE paper, standardised, and which half of its cells is hidden."""
    file, columns = MIWAE_TABLES[name]
    delimiter = "," if file.endswith(".csv") else None
    values = np.genfromtxt(folder / file, delimiter=delimiter, ndmin=2)[:, :columns]
    values = (values - values.mean(0)) / values.std(0)
    hidden = np.zeros(values.size, dtype=bool)
    chosen = np.random.default_rng(seed).choice(values.size, values.size // 2, replace=False)
    hidden[chosen] = True
    table = Table(values, ("real",) * columns, (0,) * columns)
    return table, hidden.reshape(values.shape)


def column_errors(table: Table, hidden: np.ndarray, best: np.ndarray) -> list[float]:
    """Return the error of each column over its hidden cells, NaN where none is hidden.

    Cells missing in the source do not count: nobody knows them.
    """
    found = []
    for j, (kind, size) in enumerate(zip(table.kinds, table.sizes, strict=True)):
        truth, known = table.values[:, j], ~np.isnan(table.values[:, j])
        at = hidden[:, j] & known
        if not at.any():
            found.append(math.nan)
            continue
        difference = best[at, j] - truth[at]
        if kind in NUMBERS:
            found.append(math.sqrt(np.mean(difference**2)) / (np.ptp(truth[known]) or 1))
        elif kind == "ordinal":
            found.append(np.mean(np.abs(difference)) / size)
        else:
            found.append(np.mean(difference != 0))
    return [float(error) for error in found]


def squared_error(table: Table, hidden: np.ndarray, best: np.ndarray) -> float:
    """Return the mean squared error of all hidden cells."""
    return float(np.mean((best - table.values)[hidden] ** 2))


def coverage(
    table: Table, hidden: np.ndarray, draws: np.ndarray, level: float = LEVEL
) -> dict[str, float]:
    """Return the share of hidden numbers in the central interval of their imputations.

    With ``weibull``, the interval of m draws from the cell's own distribution covers it with the
    very probability `level`, where that is continuous. An interval that ends in an atom, such as
    one at 0, covers more, so "ranks" counts a cell by its rank among the draws instead, ties broken
    at random: its share is `level` for any distribution.
    """
    numbers = [j for j, kind in enumerate(table.kinds) if kind in NUMBERS]
    truth = table.values[:, numbers]
    at = hidden[:, numbers] & ~np.isnan(truth)
    x, of_cell = truth[at], draws[:, :, numbers][:, at]
    tails = (1 - level) / 2, (1 + level) / 2
    low, high = np.quantile(of_cell, tails, axis=0, method="weibull")
    below, ties = (of_cell < x).sum(0), (of_cell == x).sum(0)
    within = np.random.default_rng(0).uniform(size=x.shape)
    ranks = (below + within * (ties + 1)) / (len(of_cell) + 1)
    return {
        "interval": float(np.mean((low <= x) & (x <= high))),
        "ranks": float(np.mean((tails[0] <= ranks) & (ranks <= tails[1]))),
        "cells": int(at.sum()),
    }


def constants(values: np.ndarray, table: Table, options: Options) -> Filled:
    """Fill by the column's mean, median level or most frequent category."""
    best = values.copy()
    for j, kind in enumerate(table.kinds):
        missing = np.isnan(values[:, j])
        best[missing, j] = _centre(values[~missing, j], kind)
    return Filled(best)


def bayesian_ridge(values: np.ndarray, table: Table, options: Options) -> Filled:
    """Fill by scikit-learn's ``IterativeImputer`` as it comes, codes as numbers.

    Values stay in the range of the observed ones, and codes are rounded.
    """
    low, high = np.nanmin(values, 0), np.nanmax(values, 0)
    # It wants bounds that differ; a constant column is clipped to its constant afterwards.
    imputer = IterativeImputer(
        BayesianRidge(),
        max_iter=2 if options.tiny else 10,
        min_value=low,
        max_value=np.where(high > low, high, low + 1),
        random_state=options.seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        best = imputer.fit_transform(values)
    best = np.clip(best, low, high)
    coded = [j for j, size in enumerate(table.sizes) if size]
    best[:, coded] = np.round(best[:, coded])
    return Filled(best)


def miss_forest(values: np.ndarray, table: Table, options: Options) -> Filled:
    """Fill by missForest (Stekhoven & Bühlmann 2012, algorithm 1, as its R package has it).

    Forests of 100 trees that try ⌊√p⌋ columns at a split; columns in the order of how much is
    missing; at most ten rounds, and the last but one where all changes grow. Ordinals are levels
    by regression, rounded: their error is in levels, and classes do worse.
    """
    missing = np.isnan(values)
    order = [j for j in np.argsort(missing.sum(0), kind="stable") if missing[:, j].any()]
    nominal = np.array([size > 0 and k != "ordinal" for k, size in zip(*table[1:], strict=True)])
    best = constants(values, table, options).best
    changes: list[float] = []
    for _ in range(2 if options.tiny else 10):
        before = best.copy()
        for j in order:
            at = missing[:, j]
            others = np.delete(best, j, axis=1)
            forest = _forest(nominal[j], best.shape[1], options)
            forest.fit(others[~at], best[~at, j])
            best[at, j] = forest.predict(others[at])
            if table.kinds[j] == "ordinal":
                best[at, j] = np.round(best[at, j])
        new = []
        if not nominal.all():
            now, then = best[:, ~nominal], before[:, ~nominal]
            new.append(float(np.sum((now - then) ** 2) / np.sum(now**2)))
        if nominal.any():
            new.append(float(np.mean(best[:, nominal] != before[:, nominal])))
        if changes and all(now >= then for now, then in zip(new, changes, strict=True)):
            return Filled(before)
        changes = new
    return Filled(best)


def ppl_vae(values: np.ndarray, table: Table, options: Options) -> Filled:
    """Fill by ``tables.TableVAE``."""
    from ppl_vae.tables import TableVAE

    kinds = {f"x{j}": _kind(kind, values[:, j]) for j, kind in enumerate(table.kinds)}
    sizes = {"steps": 20, "hidden": (8,), "latent_dim": 2} if options.tiny else {}
    model = TableVAE(kinds=kinds, seed=options.seed, **sizes).fit(values)
    draws = None
    if any(kind in NUMBERS for kind in table.kinds):
        draws = np.stack(model.impute(values, draws=10 if options.tiny else DRAWS))
    return Filled(np.asarray(model.impute(values)), draws)


METHODS: dict[str, Callable[[np.ndarray, Table, Options], Filled]] = {
    "mean": constants,
    "ridge": bayesian_ridge,
    "missForest": miss_forest,
    "ppl_vae": ppl_vae,
}
LABELS = {
    "mean": "mean, median, mode",
    "ridge": "IterativeImputer",
    "missForest": "missForest",
    "ppl_vae": "ppl_vae",
}


class Run(NamedTuple):
    """One method on one table with one mask; rate `MIWAE` for its protocol."""

    table: str
    rate: int
    mask: int
    method: str

    @property
    def key(self) -> str:
        """Return its name in the file."""
        return " ".join(map(str, self))


def measure_run(run: Run, folder: Path, options: Options) -> dict[str, Any]:
    """Fill the hidden cells of a table; return the errors, coverage and seconds."""
    if run.rate == MIWAE:
        table, hidden = read_miwae(folder, run.table, run.mask)
    else:
        table = read_table(folder, run.table)
        hidden = read_mask(folder, run.table, run.rate, run.mask, table.values.shape)
    if options.tiny:
        rows = slice(None, None, math.ceil(len(hidden) / ROWS_OF_TINY))  # some are in an order
        table, hidden = table._replace(values=table.values[rows]), hidden[rows]
    values = np.where(hidden, np.nan, table.values)
    start = time.perf_counter()
    filled = METHODS[run.method](values, table, options)
    found: dict[str, Any] = {"seconds": time.perf_counter() - start}
    if not np.isfinite(filled.best[hidden]).all():
        raise ValueError(f"{run.key}: not all hidden cells are filled with finite values")
    if run.rate == MIWAE:
        found["error"] = squared_error(table, hidden, filled.best)
    else:
        columns = column_errors(table, hidden, filled.best)
        found |= {"error": float(np.nanmean(columns)), "columns": columns}
    if filled.draws is not None:
        found["coverage"] = coverage(table, hidden, filled.draws)
    return found


def markdown(results: dict[str, Any]) -> str:
    """Return the tables."""
    machine, found = results["machine"], grouped(results["runs"])
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    methods = [m for m in METHODS if any(method == m for *_, method in found)]
    labels = [LABELS[m] for m in methods]
    lines = [
        f"{machine['processor']}, one thread; {packages}; seed {results['seed']}. "
        "Means over masks ± standard deviations (masks).",
    ]

    def table(names: Iterable[str], rate: int) -> list[str]:
        rows = ["", "| | " + " | ".join(labels) + " |", "|" + "---|" * (len(labels) + 1)]
        for name in names:
            runs = [found.get((name, rate, method), []) for method in methods]
            if any(runs):
                cells = [_spread([run["error"] for run in of]) for of in runs]
                rows.append(f"| {name} | " + " | ".join(cells) + " |")
        return rows

    for rate in (rate for rate in RATES if any(rate == of for _, of, _ in found)):
        lines += ["", f"Error of imputation, {rate} % missing, mean over columns:"]
        lines += table(TABLES, rate)
    if any(rate == MIWAE for _, rate, _ in found):
        lines += ["", "Mean squared error, half of the cells missing, standardised columns:"]
        lines += table(MIWAE_TABLES, MIWAE)
    covered = [(of, [r["coverage"] for r in runs if "coverage" in r]) for of, runs in found.items()]
    if any(shares for _, shares in covered):
        lines += [
            "",
            f"Hidden numbers in the central {LEVEL:.0%} interval of {DRAWS} imputations:",
            "",
            "| | in the interval | by rank, ties at random |",
            "|---|---|---|",
        ]
    for (name, rate, method), shares in covered:
        if shares:
            cells = [_spread([share[k] for share in shares]) for k in ("interval", "ranks")]
            of = f"{rate} %" if rate else "MIWAE"
            lines.append(f"| {name}, {of}, {LABELS[method]} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any]) -> plt.Figure:
    """Return the picture: means over masks, and their standard deviations."""
    found = grouped(results["runs"])
    rates = sorted({rate for _, rate, _ in found}, reverse=True)
    figure, axes = plt.subplots(
        1, len(rates), figsize=(1 + 4 * len(rates), 3.5), squeeze=False, layout="constrained"
    )
    width = 0.8 / len(METHODS)
    for ax, rate in zip(axes[0], rates, strict=True):
        names = [n for n in (TABLES if rate else MIWAE_TABLES) if any(n == f[0] for f in found)]
        for k, method in enumerate(METHODS):
            for i, name in enumerate(names):
                errors = [run["error"] for run in found.get((name, rate, method), [])]
                if errors:
                    at = i + (k + 0.5) * width - 0.4
                    spread = stdev(errors) if len(errors) > 1 else None
                    ax.bar(at, fmean(errors), width * 0.9, yerr=spread, color=f"C{k}")
        ax.set_xticks(range(len(names)), names)
        ax.set_ylim(bottom=0)
        ax.set_title(f"{rate} % missing" if rate else "MIWAE's protocol", fontsize=10)
        ax.set_ylabel("error" if rate else "mean squared error")
    bars = [plt.Rectangle((0, 0), 1, 1, color=f"C{k}") for k in range(len(METHODS))]
    figure.legend(bars, [LABELS[m] for m in METHODS], loc="outside lower center", ncols=4)
    return figure


def grouped(runs: dict[str, dict[str, Any]]) -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """Return what was found for each table, rate and method, over the masks."""
    found: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for key in sorted(runs):
        name, rate, _, method = key.split()
        found.setdefault((name, int(rate), method), []).append(runs[key])
    return found


def main() -> int:
    """Run the command."""
    flags = _flags()
    options = Options(flags.seed, flags.tiny)
    flags.out.mkdir(parents=True, exist_ok=True)
    rates = [MIWAE] if flags.miwae else flags.rates
    tables = flags.tables or list(MIWAE_TABLES if flags.miwae else TABLES)
    path = flags.out / "imputation.json"
    failed = False
    for rate, method, mask, name in product(rates, flags.methods, flags.masks, tables):
        run = Run(name, rate, mask, method)
        if run.key in _read(path, flags)["runs"] and not flags.again:
            continue
        print(f"{run.key} ...", end=" ", file=sys.stderr, flush=True)
        try:
            found = measure_run(run, flags.data / "tables", options)
        except ImportError as error:
            failed = True
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            continue
        print(f"{found['error']:.4f} in {found['seconds']:.0f} s", file=sys.stderr)
        results = _read(path, flags)  # anew: another process may have written in the meantime
        results["runs"][run.key] = found
        atomic.write_file(path, json.dumps(results, indent=1) + "\n")
    results = _read(path, flags)
    table = markdown(results)
    (flags.out / "imputation.md").write_text(table)
    if results["runs"]:
        draw(results).savefig(flags.out / "imputation.png", dpi=120)
    print(table)
    print(
        f"wrote imputation.json, imputation.md and imputation.png to {flags.out}", file=sys.stderr
    )
    return int(failed)


def _centre(observed: np.ndarray, kind: str) -> float:
    """Return the one value that has the least error."""
    if kind in NUMBERS:
        return float(observed.mean())
    if kind == "ordinal":
        return float(np.quantile(observed, 0.5, method="inverted_cdf"))
    codes, counts = np.unique(observed, return_counts=True)
    return float(codes[counts.argmax()])


def _forest(nominal: bool, columns: int, options: Options) -> Any:
    """Return a forest with the settings of missForest's R package."""
    settings = {
        "n_estimators": 5 if options.tiny else 100,
        "max_features": math.isqrt(columns),
        "random_state": options.seed,
    }
    if nominal:  # nodesize = 5: nodes of up to five cells are not split
        return RandomForestClassifier(min_samples_split=6, **settings)
    return RandomForestRegressor(**settings)


def _kind(kind: str, values: np.ndarray) -> str:
    """Return the kind that ppl_vae is told: positive columns have no zeros there."""
    return "nonnegative" if kind == "positive" and np.nanmin(values) <= 0 else kind


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.4f} (1)"
    return f"{fmean(values):.4f} ± {stdev(values):.4f} ({len(values)})"


def _read(path: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Return what the file has, which is of the same settings, or nothing yet."""
    settings = {"seed": flags.seed, "tiny": flags.tiny}
    if not path.exists():
        machine = measure.machine(threads=1)
        machine["packages"]["scikit-learn"] = sklearn.__version__
        return {"machine": machine, **settings, "runs": {}}
    results = json.loads(path.read_text())
    there = {name: results[name] for name in settings}
    if there != settings:
        raise SystemExit(f"{path} has runs of {there}, not of {settings}; give another --out")
    return results


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    names = [*TABLES, *MIWAE_TABLES]
    add("--miwae", action="store_true", help="the protocol of MIWAE, on " + ", ".join(MIWAE_TABLES))
    add("--tables", nargs="+", choices=names, metavar="TABLE", help=", ".join(TABLES))
    add("--rates", nargs="+", type=int, choices=RATES, default=list(RATES), metavar="PERCENT")
    add("--masks", nargs="+", type=int, choices=MASKS, default=list(MASKS), metavar="MASK")
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        metavar="METHOD",
        help=", ".join(METHODS),
    )
    add("--again", action="store_true", help="run also what is there")
    add("--seed", type=int, default=0)
    add("--tiny", action="store_true", help="sizes that take no time, to see that it runs")
    add("--data", type=Path, default=os.environ.get("PPL_VAE_DATA"), help="or $PPL_VAE_DATA")
    add("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    if flags.data is None:
        parser.error("give --data, or set PPL_VAE_DATA")
    of = MIWAE_TABLES if flags.miwae else TABLES
    if wrong := [name for name in flags.tables or () if name not in of]:
        parser.error(f"--tables must be of {', '.join(of)} here, got {', '.join(wrong)}")
    return flags


if __name__ == "__main__":
    sys.exit(main())
