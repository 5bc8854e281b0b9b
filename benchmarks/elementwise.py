"""Nanoseconds per element of the functions and densities that a step spends its time in.

    .venv/bin/python benchmarks/elementwise.py

times them on 512 x 784 numbers in float32 and on one thread, prints a table and writes
``elementwise.json`` and ``elementwise.md`` under ``benchmarks/results``. Columns:

- ``torch``: torch as it is imported, each function in a process of its own.
- ``mapped``: torch after one call of log1p that has its constants in memory, see ``hand.mapped``.
- ``compiled``: the same, compiled by Inductor with torch's own random numbers.
- ``ours``: the densities of ppl_vae.
- ``ours-compiled``: the same, compiled with the elementary functions and the draws that graphs of
  ppl_vae have in the place of torch's.

Where a gradient is asked for, the second number is that of the value's sum and its gradient in the
first argument, by autograd. Densities are those of torch.distributions, and of ppl_vae given the
output of a network.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import hand
import measure
import torch
from torch import Tensor, nn
from torch import distributions as dist
from torch.nn import functional as F

RESULTS = Path(__file__).parent / "results"
COLUMNS = {
    "torch": "torch, as imported",
    "mapped": "torch, constants mapped",
    "compiled": "the same, compiled",
    "ours": "ppl_vae",
    "ours-compiled": "ppl_vae, compiled",
}
PIXELS = 784
OF_GRAPHS = (
    *("sigmoid", "tanh", "softplus", "log-sigmoid", "ELU", "cross-entropy of logits"),
    *("uniform draws", "Bernoulli draws"),
)
"""Functions that graphs of ppl_vae have their own of."""
TOGETHER = 8
"""Numbers that a logsumexp or log_softmax runs over."""
DISPERSION = 3.0
LOG_2PI = math.log(2 * math.pi)


class Case(NamedTuple):
    """What is timed.

    Args:
        inputs: names of :func:`argument`.
        torch: torch's function of them, if it has one.
        gradient: whether the gradient is timed, too.
        share: of the rows that is enough, where there are many numbers to an element.
    """

    inputs: str
    torch: Callable[..., Tensor] | None
    gradient: bool = False
    share: float = 1.0


def argument(name: str, rows: int) -> Tensor:
    """Return an argument: none has 0 or -0, which would have log1p's constants in memory."""
    random = torch.Generator().manual_seed(sum(name.encode()))

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=random)

    def unit() -> Tensor:
        return 0.01 + 0.98 * torch.rand(rows, PIXELS, generator=random)

    return {
        "real": lambda: 4 * normal(PIXELS),
        "other": lambda: normal(PIXELS),
        "unit": unit,
        "positive": lambda: 0.1 + 10 * unit(),
        "binary": lambda: (unit() > 0.5).float(),
        "grey": lambda: (255 * unit()).round() / 255,
        "counts": lambda: (10 * unit()).round(),
        "twice": lambda: normal(2 * PIXELS),
        "some": lambda: normal(PIXELS // TOGETHER, TOGETHER),
        "levels": lambda: normal(256 * PIXELS),
        "logistics": lambda: normal(30 * PIXELS),
        "means": lambda: torch.randn(500, PIXELS, generator=random),
    }[name]()


def normal(loc: Tensor, scale: Tensor | float, value: Tensor) -> Tensor:
    """Return the log-density of a diagonal normal."""
    return dist.Independent(dist.Normal(loc, scale), 1).log_prob(value)


def diagonal_normal(outputs: Tensor, z: Tensor) -> Tensor:
    loc, unconstrained = outputs.chunk(2, -1)
    return normal(loc, F.softplus(unconstrained) + 1e-4, z)


def mixture(z: Tensor, means: Tensor) -> Tensor:
    """Return the log-density of normals, by a matrix product in float64 as in ``hand``."""
    loc, v = means.double(), z.double()
    precision = torch.ones_like(loc)
    of_each = torch.cat([-0.5 * precision, loc * precision], -1)
    constant = -(0.5 * loc.square() * precision).sum(-1) - 0.5 * LOG_2PI * loc.shape[-1]
    joint = torch.addmm(constant, torch.cat([v.square(), v], -1), of_each.mT)
    return joint.float().logsumexp(-1) - math.log(len(loc))


def of_events(density: Callable[[Tensor], dist.Distribution]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the log-density of rows, given the outputs of a network and values."""
    return lambda outputs, value: dist.Independent(density(outputs), 1).log_prob(value)


def positive(outputs: Tensor) -> Tensor:
    return F.softplus(outputs) + 1e-4


CASES = {
    "exp": Case("real", torch.exp),
    "log": Case("unit", torch.log),
    "log1p": Case("unit", torch.log1p),
    "expm1": Case("real", torch.expm1),
    "sigmoid": Case("real", torch.sigmoid, gradient=True),
    "tanh": Case("real", torch.tanh, gradient=True),
    "softplus": Case("real", F.softplus, gradient=True),
    "log-sigmoid": Case("real", F.logsigmoid, gradient=True),
    "ELU": Case("real", F.elu, gradient=True),
    "ReLU": Case("real", F.relu, gradient=True),
    "SiLU": Case("real", F.silu, gradient=True),
    "gated linear unit": Case("twice", F.glu, gradient=True),
    "lgamma": Case("positive", torch.lgamma, gradient=True),
    "digamma": Case("positive", torch.digamma),
    "erf": Case("real", torch.erf),
    "logsumexp of 8": Case("some", lambda s: s.logsumexp(-1), gradient=True),
    "log_softmax of 8": Case("some", lambda s: s.log_softmax(-1), gradient=True),
    "uniform draws": Case("unit", torch.rand_like),
    "normal draws": Case("unit", torch.randn_like),
    "Bernoulli draws": Case("unit", torch.bernoulli),
    "cross-entropy of logits": Case(
        "real binary",
        lambda s, x: F.binary_cross_entropy_with_logits(s, x, reduction="none"),
        gradient=True,
    ),
    "p(x|z): Bernoulli": Case(
        "real binary", of_events(lambda s: dist.Bernoulli(logits=s)), gradient=True
    ),
    "p(x|z): ContinuousBernoulli": Case(
        "real unit", of_events(lambda s: dist.ContinuousBernoulli(logits=s)), gradient=True
    ),
    "p(x|z): Normal": Case("other unit", lambda s, x: normal(s, 1.0, x), gradient=True),
    "p(x|z): Laplace": Case("other unit", of_events(lambda s: dist.Laplace(s, 1.0)), gradient=True),
    "p(x|z): Categorical, 256 levels": Case(
        "levels grey",
        lambda s, x: dist.Independent(
            dist.Categorical(logits=s.unflatten(-1, (256, -1)).mT), 1
        ).log_prob((255 * x).round()),
        gradient=True,
        share=1 / 16,
    ),
    "p(x|z): DiscretisedLogisticMixture, 10": Case(
        "logistics grey", None, gradient=True, share=1 / 16
    ),
    "p(x|z): Poisson": Case(
        "other counts", of_events(lambda s: dist.Poisson(positive(s))), gradient=True
    ),
    "p(x|z): NegativeBinomial": Case(
        "other counts",
        of_events(
            lambda s: dist.NegativeBinomial(
                DISPERSION, logits=positive(s).log() - math.log(DISPERSION)
            )
        ),
        gradient=True,
    ),
    "q(z|x): DiagonalNormal": Case("twice other", diagonal_normal, gradient=True),
    "p(z): StandardNormal": Case(
        "other", lambda z: normal(z.new_zeros(z.shape[-1]), 1.0, z), gradient=True
    ),
    "p(z): GaussianMixture, 500": Case("other means", mixture, gradient=True),
    "p(z): Flow, spline": Case("other", None, gradient=True, share=1 / 16),
}


def ours() -> dict[str, Callable[..., Tensor]]:
    """Return what ppl_vae has for cases, by name."""
    import pyro

    from ppl_vae import likelihoods, posteriors, priors

    pyro.distributions.enable_validation(False)
    network = nn.Identity()
    given = {
        "p(x|z): Bernoulli": likelihoods.Bernoulli(network),
        "p(x|z): ContinuousBernoulli": likelihoods.ContinuousBernoulli(network),
        "p(x|z): Normal": likelihoods.Normal(network),
        "p(x|z): Laplace": likelihoods.Laplace(network, 1.0),
        "p(x|z): Categorical, 256 levels": likelihoods.Categorical(network),
        "p(x|z): DiscretisedLogisticMixture, 10": likelihoods.DiscretisedLogisticMixture(network),
        "p(x|z): Poisson": likelihoods.Poisson(network),
        "p(x|z): NegativeBinomial": likelihoods.NegativeBinomial(network, DISPERSION),
        "q(z|x): DiagonalNormal": posteriors.DiagonalNormal(network),
    }
    mixture = priors.GaussianMixture(PIXELS, components=500)
    with torch.no_grad():
        mixture.loc.copy_(argument("means", 1))
        mixture.unconstrained_scale.fill_(math.log(math.expm1(1 - 1e-4)))
    free = {
        "p(z): StandardNormal": priors.StandardNormal(PIXELS),
        "p(z): GaussianMixture, 500": mixture,
        "p(z): Flow, spline": priors.Flow(PIXELS, "spline"),
    }
    found: dict[str, Callable[..., Tensor]] = {
        name: lambda outputs, value, p=p: p(outputs).log_prob(value) for name, p in given.items()
    }
    found |= {name: lambda value, *_, p=p: p().log_prob(value) for name, p in free.items()}
    return found


def nanoseconds(
    column: str, names: tuple[str, ...], rows: int, rounds: int
) -> dict[str, list[float]]:
    """Return the medians per element of cases, by name; to be called in a process of its own."""
    measure.begin(1, flush=False)
    warnings.simplefilter("ignore")
    dist.Distribution.set_default_validate_args(False)
    if column != "torch":
        torch.log1p(torch.tensor([-0.0]))
    functions = {name: case.torch for name, case in CASES.items()}
    if column.startswith("ours"):
        functions = {name: functions[name] for name in OF_GRAPHS if column == "ours-compiled"}
        functions |= ours()
    found: dict[str, list[float]] = {}
    for name in names:
        case, function = CASES[name], functions.get(name)
        if function is None:
            continue
        size = max(1, int(rows * case.share))
        inputs = [argument(one, size) for one in case.inputs.split()]
        calls = [_value(function, inputs, column)]
        if case.gradient:
            calls.append(_gradient(function, inputs, column))
        found[name] = [1e9 * _seconds(call, rounds) / (size * PIXELS) for call in calls]
    return found


def _value(
    function: Callable[..., Tensor], inputs: list[Tensor], column: str
) -> Callable[[], Tensor]:
    run = _compiled(function, column) if column.endswith("compiled") else function

    def call() -> Tensor:
        with torch.no_grad():
            return run(*inputs)

    return call


def _gradient(
    function: Callable[..., Tensor], inputs: list[Tensor], column: str
) -> Callable[[], Tensor]:
    if column == "ours-compiled":
        return partial(_as_graph(_with_gradient(function)), *inputs)

    def total(*inputs: Tensor) -> Tensor:
        return function(*inputs).sum()

    run = _compiled(total, column) if column.endswith("compiled") else total
    first = inputs[0].clone().requires_grad_()

    def call() -> Tensor:
        return torch.autograd.grad(run(first, *inputs[1:]), first)[0]

    return call


def _compiled(function: Callable[..., Tensor], column: str) -> Callable[..., Tensor]:
    torch.compiler.reset()  # or what is here would be compiled once more for each function

    def run(*inputs: Tensor) -> Tensor:  # torch's own functions are not compiled, calls are
        return function(*inputs)

    if column == "ours-compiled":
        return _as_graph(lambda *inputs: (function(*inputs),))
    return hand.compiled_as_is(run)


def _as_graph(function: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Tensor]:
    """Return a function that runs another as ppl_vae does, for the last of its results."""
    from ppl_vae.compilation import CompiledFunction

    graph = CompiledFunction(function, {}, num_persistent=0, name="a case")
    return lambda *inputs: graph(*inputs)[-1]


def _with_gradient(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    def both(first: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            first = first.detach().requires_grad_()
            total = function(first, *others).sum()
            return total.detach(), torch.autograd.grad(total, first)[0]

    return both


def _seconds(call: Callable[[], Tensor], rounds: int) -> float:
    times = []
    for turn in range(-3, rounds):
        start = time.perf_counter()
        call()
        if turn >= 0:
            times.append(time.perf_counter() - start)
    return median(times)


def markdown(results: dict[str, Any]) -> str:
    """Return the table: of the value, and of value and gradient."""
    used = [column for column in COLUMNS if column in results["columns"]]
    machine = results["machine"]
    lines = [
        f"{machine['processor']}, one thread; torch {machine['packages']['torch']}; "
        f"medians of {results['rounds']}.",
        "",
        "Nanoseconds per element, of the value / of value and gradient:",
        "",
        "| | " + " | ".join(COLUMNS[column] for column in used) + " |",
        "|---" * (len(used) + 1) + "|",
    ]
    for name in results["cases"]:
        cells = [" / ".join(f"{t:.3g}" for t in results["columns"][c].get(name, [])) for c in used]
        lines.append(f"| {name.replace('|', chr(92) + '|')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    add("--columns", nargs="+", choices=COLUMNS, default=list(COLUMNS), metavar="COLUMN")
    add("--rounds", type=int, default=100, help="calls of each")
    add("--tiny", action="store_true", help="sizes that take no time, to see that it runs")
    add("--out", type=Path, default=RESULTS)
    flags = parser.parse_args()
    rows, cases = 16 if flags.tiny else 512, tuple(flags.cases)
    results: dict[str, Any] = {
        "machine": measure.machine(1),
        "rounds": flags.rounds,
        "rows": rows,
        "cases": cases,
        "columns": {},
    }
    flags.out.mkdir(parents=True, exist_ok=True)
    for column in flags.columns:
        print(f"{column} ...", file=sys.stderr, flush=True)
        # One function may map what another needs.
        apart = [(name,) for name in cases] if column == "torch" else [cases]
        results["columns"][column] = {
            name: times
            for names in apart
            for name, times in measure.in_subprocess(
                nanoseconds, column, names, rows, flags.rounds
            ).items()
        }
        (flags.out / "elementwise.json").write_text(json.dumps(results, indent=1) + "\n")
    table = markdown(results)
    (flags.out / "elementwise.md").write_text(table)
    print(table)
    print(f"wrote elementwise.json and elementwise.md to {flags.out}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
