"""Seconds of training until the validation NELBO of a VAE passes a bound, system by system.

    .venv/bin/python benchmarks/time_to_bound.py

trains the VAE of CS236 (784-300-300 ELU, z of 10, Adam at 1e-3, batches of 100 of MNIST, binarised
anew at each step) in ppl_vae, by hand, in stock Pyro, pythae and NumPyro (both where installed),
each in a process of its own. Those of a seed take turns of 250 steps, in an order that is drawn
anew each time, so that a machine that is slow for a while is slow for all of them. They start from
the same weights and see the same images.

The clock runs while a system is made, compiled and trained; not for imports and data. It stops
after each turn, when another process evaluates the weights on 5,000 images that were held out. A
training ends when it has passed the last bound, but not before 20,000 steps, or at 30,000.

Each training is written to ``time_to_bound.json`` under ``benchmarks/results`` as it ends, and what
is there is not run again. A command that was stopped trains the rest of a seed at the speed that
the machine has then: run a seed in one go. ``time_to_bound.md`` and ``time_to_bound.png`` are made
of all that is there; ``--page docs/speed.md`` puts the tables into the page. docs/speed.md says
more.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

import measure
import numpy as np
import processes
import torch
from curves import Point, at, milliseconds, nelbo, passing, smooth, start_up
from matplotlib import pyplot as plt
from rows import Problem, Unavailable
from systems import SYSTEMS, problem_of, start

RESULTS = Path(__file__).parent / "results"
MARKS = ("<!-- time to bound -->\n", "<!-- end of time to bound -->\n")
"""What the tables stand between in a page."""
REFERENCES = [name for name, system in SYSTEMS.items() if system.reference]
FIXED = ("processor", "cores", "threads", "system", "python")
"""What times of one table have in common, besides the versions of packages."""


class Settings(NamedTuple):
    """What is measured.

    Args:
        bounds: to be passed, in nats per datum, the lowest last.
        every: steps between evaluations.
        compared: steps after which NELBOs are compared; a multiple of ``every``.
        most: steps after which a training ends in any case.
    """

    bounds: tuple[float, ...] = (103.0, 101.0, 100.0)
    every: int = 250
    compared: int = 20_000
    most: int = 30_000


TINY = Settings(bounds=(44.0, 0.0), every=5, compared=25, most=30)

Runs = dict[str, dict[int, list[Point]]]


def train(
    names: Sequence[str], seed: int, threads: int, tiny: bool
) -> Iterator[tuple[str, list[Point] | Unavailable]]:
    """Train systems in turns; yield each with its curve as it ends, or with why there is none."""
    settings = TINY if tiny else Settings()
    given, validation = problem_of(seed, tiny)
    generator, order = torch.Generator().manual_seed(seed), random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        columns = {name: partial(_remote, name, seed, threads, given, folder) for name in names}
        with processes.started(columns, at_once=1) as (remotes, absent):
            yield from ((name, Unavailable(why)) for name, why in absent.items())
            untrained = nelbo(given.layers, *validation, given.row.activation)
            curves = {name: [Point(0, 0.0, untrained)] for name in remotes}
            for steps in range(settings.every, settings.most + 1, settings.every):
                indices = given.batches(settings.every, generator)
                for name in order.sample(list(curves), len(curves)):
                    curve = curves[name]
                    try:
                        seconds = remotes[name].turn(indices)[0] * len(indices)
                        layers = remotes[name].weights()
                        found = nelbo(layers, *validation, given.row.activation)
                        if not math.isfinite(found):
                            raise Unavailable(f"its NELBO is {found} after {steps} steps")
                    except Unavailable as reason:
                        del curves[name]
                        yield name, reason
                        continue
                    curve.append(Point(steps, curve[-1].seconds + seconds, found))
                    passed = passing(curve, settings.bounds[-1])
                    if steps == settings.most or (steps >= settings.compared and passed):
                        yield name, curves.pop(name)


def _remote(name: str, seed: int, threads: int, given: Problem, folder: str) -> processes.Remote:
    """Return a system in a process of its own, and a folder of its own for its compiler."""
    path = Path(folder) / name / "problem.pt"
    path.parent.mkdir()
    torch.save(given, path)
    without = () if SYSTEMS[name].library else ("ppl_vae",)
    return processes.Remote(start, name, path, seed, threads, without=without)


def tables(results: dict[str, Any]) -> str:
    """Return the tables: seconds to the bounds, and what they are made of."""
    runs, machine, settings = _runs(results), results["machine"], results["settings"]
    bounds, compared = settings["bounds"], settings["compared"]
    seconds = {name: [_to(of, bound).seconds for bound in bounds] for name, of in runs.items()}
    references = [name for name in REFERENCES if name in runs]
    best = [min(times, default=math.inf) for times in _columns(seconds, references, len(bounds))]
    pyro = seconds.get("pyro", [math.inf] * len(bounds))
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    seeds = ", ".join(map(str, sorted(set().union(*runs.values()))))
    lines = [
        f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores; {packages}; "
        f"seeds {seeds}.",
        "",
        "Seconds until the validation NELBO passes a bound, median over seeds, and in brackets how "
        "many times as fast that is as the best hand-written float32 / as stock Pyro:",
        "",
        "| |" + "".join(f" {bound:g} nats |" for bound in bounds),
        "|---" * (len(bounds) + 1) + "|",
    ]
    for name, of_seeds in runs.items():
        cells = [
            f" {found:.1f} ({_ratio(by_hand, found)} / {_ratio(stock, found)}) |"
            if math.isfinite(found)
            else f" not passed: {_median(of_seeds, lambda c: smooth(c)[-1].nelbo):.2f} |"
            for found, by_hand, stock in zip(seconds[name], best, pyro, strict=True)
        ]
        lines.append(f"| {SYSTEMS[name].label} |" + "".join(cells))
    lines += [
        "",
        f"What this is made of, medians over seeds; the NELBO after {compared:,} steps as mean ± "
        "standard error over seeds, and its difference, seed by seed, from the best hand-written "
        "float32:",
        "",
        "| | start, s | ms per step |"
        + "".join(f" steps to {bound:g} |" for bound in bounds)
        + f" NELBO after {compared:,} steps | difference |",
        "|---" * (len(bounds) + 5) + "|",
    ]
    reference = min(references, key=lambda n: _median(runs[n], milliseconds), default=None)
    for name, of_seeds in runs.items():
        steps = [_to(of_seeds, bound).steps for bound in bounds]
        nelbos = {seed: at(curve, compared) for seed, curve in of_seeds.items()}
        others = {seed: at(curve, compared) for seed, curve in runs.get(reference, {}).items()}
        differences = [nelbos[seed] - others[seed] for seed in nelbos if seed in others]
        cells = [
            f"{_positive_zero(_median(of_seeds, start_up), 1):.1f}",
            f"{_median(of_seeds, milliseconds):.2f}",
            *(f"{s:,.0f}" if math.isfinite(s) else "" for s in steps),
            _mean(list(nelbos.values())),
            _mean(differences) if name != reference else "",
        ]
        lines.append(f"| {SYSTEMS[name].label} | {' | '.join(cells)} |")
    absent = [f"- {SYSTEMS[name].label}: {why}" for name, why in results["absent"].items()]
    return "\n".join([*lines, "", *absent]).rstrip() + "\n"


def draw(results: dict[str, Any]) -> plt.Figure:
    """Return the picture: the NELBO against seconds, medians and extremes over seeds."""
    figure, ax = plt.subplots(figsize=(9, 5), layout="constrained")
    bounds = results["settings"]["bounds"]
    lowest, runs = min(bounds), _runs(results)
    for k, (name, of_seeds) in enumerate(runs.items()):
        points = [list(zip(*smooth(curve), strict=True)) for curve in of_seeds.values()]
        grid = np.linspace(
            max(seconds[0] for _, seconds, _ in points),
            min(seconds[-1] for _, seconds, _ in points),
            400,
        )
        values = np.array([np.interp(grid, seconds, found) for _, seconds, found in points])
        style = {"color": f"C{k}", "linestyle": "-" if name.startswith("ours") else "--"}
        ax.plot(grid, np.median(values, 0), label=SYSTEMS[name].label, **style)
        ax.fill_between(grid, values.min(0), values.max(0), color=f"C{k}", alpha=0.2, linewidth=0)
        lowest = min(lowest, values.min())
    for bound in bounds:
        ax.axhline(bound, color="0.6", linewidth=0.8, zorder=0)
    ax.set(xlabel="seconds", ylabel="validation NELBO, nats per datum")
    if not results["tiny"]:
        ax.set_ylim(lowest - 0.3, max(bounds) + 7)
    ax.set_xlim(left=0)
    ax.legend(fontsize=8)
    return figure


def for_page(results: dict[str, Any]) -> str:
    """Return what stands between the marks of a page: the tables and the picture."""
    picture = "![The NELBO against seconds](../benchmarks/results/time_to_bound.png)"
    return f"{tables(results)}\n{picture}\n"


def between_marks(page: str) -> str:
    """Return what stands between the marks of a page."""
    return page.partition(MARKS[0])[2].partition(MARKS[1])[0]


def paste(page: str, text: str) -> str:
    """Return a page with a text between its marks."""
    before, _, rest = page.partition(MARKS[0])
    return before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2]


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    flags = _flags(arguments)
    torch.set_num_threads(flags.threads)
    flags.out.mkdir(parents=True, exist_ok=True)
    path = flags.out / "time_to_bound.json"
    for seed in flags.seeds:
        there = _read(path, flags)["runs"]
        names = [n for n in flags.systems if flags.again or _key(n, seed) not in there]
        for name, found in train(names, seed, flags.threads, flags.tiny) if names else ():
            if isinstance(found, Unavailable):
                print(f"{_key(name, seed)}: {found}", file=sys.stderr)
                _write(path, flags, "absent", name, str(found))
                continue
            last = found[-1]
            print(
                f"{_key(name, seed)}: {last.nelbo:.2f} nats after {last.steps:,} steps, "
                f"{last.seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            _write(path, flags, "runs", _key(name, seed), [list(point) for point in found])
    results = _read(path, flags)
    if not results["runs"]:
        return 1
    table = tables(results)
    (flags.out / "time_to_bound.md").write_text(table)
    draw(results).savefig(flags.out / "time_to_bound.png", dpi=120)
    print(table)
    print(f"wrote time_to_bound.json, .md and .png to {flags.out}", file=sys.stderr)
    if flags.page:
        flags.page.write_text(paste(flags.page.read_text(), for_page(results)))
    return 0


def _to(of_seeds: dict[int, list[Point]], bound: float) -> Point:
    """Return the medians of steps and seconds to a bound; infinite where it is not passed."""
    never = Point(math.inf, math.inf, math.inf)
    found = [passing(curve, bound) or never for curve in of_seeds.values()]
    return Point(*(median(values) for values in zip(*found, strict=True)))


def _key(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def _columns(rows: dict[str, list[float]], names: list[str], number: int) -> list[list[float]]:
    return [[rows[name][i] for name in names] for i in range(number)]


def _ratio(theirs: float, ours: float) -> str:
    return f"{theirs / ours:.2f}" if math.isfinite(theirs) else "-"


def _median(of_seeds: dict[int, list[Point]], of: Callable[[list[Point]], float]) -> float:
    return median(of(curve) for curve in of_seeds.values())


def _mean(values: list[float]) -> str:
    if len(values) < 2:
        return "".join(f"{_positive_zero(value, 2):.2f}" for value in values)
    return f"{_positive_zero(fmean(values), 2):.2f} ± {stdev(values) / math.sqrt(len(values)):.2f}"


def _positive_zero(value: float, digits: int) -> float:
    """Return a value rounded, but 0 for a small negative one: "-0.0" would be printed."""
    return round(value, digits) + 0.0


def _runs(results: dict[str, Any]) -> dict[str, dict[int, list[Point]]]:
    """Return the curves by system, in the order of `SYSTEMS`, and by seed."""
    found: dict[str, dict[int, list[Point]]] = {name: {} for name in SYSTEMS}
    for key, curve in results["runs"].items():
        name, _, seed = key.partition(", seed ")
        found[name][int(seed)] = [Point(*values) for values in curve]
    return {name: dict(sorted(of.items())) for name, of in found.items() if of}


def _read(path: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Return what the file has, which is of the same settings and machine, or nothing yet."""
    settings = (TINY if flags.tiny else Settings())._asdict()
    # As JSON has it: bounds are a list.
    settings = json.loads(json.dumps(settings))
    machine = measure.machine(flags.threads)
    if not path.exists():
        return {
            "machine": machine,
            "settings": settings,
            "tiny": flags.tiny,
            "runs": {},
            "absent": {},
        }
    results = json.loads(path.read_text())
    there, here = results["machine"], machine
    packages = {name: there["packages"].get(name, v) for name, v in here["packages"].items()}
    if (results["settings"], results["tiny"]) != (settings, flags.tiny):
        raise SystemExit(f"{path} has runs of other settings; give another --out")
    if packages != here["packages"] or any(there[name] != here[name] for name in FIXED):
        raise SystemExit(f"{path} has runs of another machine, {there}; give another --out")
    there["packages"] |= here["packages"]
    return results


def _write(path: Path, flags: argparse.Namespace, part: str, key: str, value: Any) -> None:
    """Add a run, or why there is none."""
    from ppl_vae.io import atomic  # which processes of other systems must not import

    results = _read(path, flags)
    results[part][key] = value
    if part == "runs":
        results["absent"].pop(key.partition(",")[0], None)
    atomic.write_file(path, json.dumps(results, indent=1) + "\n")


def _flags(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    names = ", ".join(SYSTEMS)
    systems = {"nargs": "+", "choices": SYSTEMS, "default": list(SYSTEMS), "metavar": "SYSTEM"}
    add("--systems", **systems, help=names)
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="SEED")
    add("--threads", type=_positive, default=2)
    add("--again", action="store_true", help="run also what is there")
    add("--tiny", action="store_true", help="sizes that take no time, to see that it runs")
    add("--page", type=Path, help="a page to put the tables into, between its marks")
    add("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
