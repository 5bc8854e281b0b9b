"""Draws of q(z | x) and what each refinement makes of them, beside long chains.

    .venv/bin/python benchmarks/refinement.py

trains a VAE of eight latents on the bundled digits and compares 1,000 draws for each of 100 test
scans with 4,000 of long chains, in posterior standard deviations. Then it shows what weights do
without the gate: of 100 independent latents that q misses by half a standard deviation each, how
many true values lie in intervals of 80 %.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor

from ppl_vae import VAE, data, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.evaluation import PosteriorDraws
from ppl_vae.io import atomic
from ppl_vae.training import fit

RESULTS = Path(__file__).parent / "results"
LATENTS = 8
REFINEMENTS = (None, "importance", "optimise", "hmc")
LEVEL, SHIFT, DIMENSIONS = 0.8, 0.5, 100


class Sizes:
    """Of the whole benchmark, or of one that takes no time."""

    def __init__(self, tiny: bool) -> None:
        self.steps = 20 if tiny else 3000
        self.scans = 4 if tiny else 100
        self.draws = 40 if tiny else 1000
        self.data = 50 if tiny else 2000
        self.chains = (
            evaluation.HamiltonianMonteCarlo(num_chains=4, warm_up=10, leapfrog_steps=2)
            if tiny
            else evaluation.HamiltonianMonteCarlo(num_chains=4, warm_up=500, leapfrog_steps=8)
        )


def errors(found: PosteriorDraws, reference: PosteriorDraws) -> dict[str, float]:
    """Return the error of the mean and the ratio of standard deviations, over scans and latents."""
    draws, exact = found.draws["z"].double(), reference.draws["z"].double()
    scale = exact.std(0)
    return {
        "mean": float(((draws.mean(0) - exact.mean(0)) / scale).square().mean().sqrt()),
        "ratio": float((draws.std(0) / scale).mean()),
    }


def refinements(sizes: Sizes) -> dict[str, Any]:
    """Return errors and seconds of each refinement."""
    torch.manual_seed(0)
    vae = VAE(
        prior=priors.StandardNormal(LATENTS),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 2 * LATENTS)),
        likelihood=likelihoods.Bernoulli(nets.MLP(LATENTS, 64)),
    )
    fit(vae, data.load("digits"), steps=sizes.steps, progress=False)
    x = data.load("digits", split="test").binarised(seed=0)[: sizes.scans]
    reference = evaluation.posterior_draws(
        vae, x, refine=sizes.chains, num_samples=4 * sizes.draws, seed=1
    )
    rows: dict[str, Any] = {}
    for refine in REFINEMENTS:
        start = time.perf_counter()
        found = evaluation.posterior_draws(vae, x, refine=refine, num_samples=sizes.draws)
        seconds = time.perf_counter() - start
        rows[str(refine)] = errors(found, reference) | {
            "seconds": seconds,
            "refined": float(found.refined.double().mean()),
        }
    return {
        "rows": rows,
        "not mixed": int(reference.unreliable.sum()),  # scans whose long chains have R-hat > 1.05
        # what chance leaves of as many draws of the posterior
        "independent": math.sqrt(1 / sizes.draws + 1 / float(reference.ess.mean())),
    }


def coverage(draws: Tensor, truth: Tensor) -> float:
    """Return how many of the true values lie in the central intervals of their draws."""
    tail = (1 - LEVEL) / 2
    low, high = draws.quantile(torch.tensor([tail, 1 - tail]).to(draws), dim=0)
    return float(((low <= truth) & (truth <= high)).double().mean())


def coverages(sizes: Sizes) -> dict[str, float]:
    """Return the coverage of draws of q, and of the same resampled with ungated weights."""
    torch.manual_seed(0)
    truth = torch.randn(sizes.data, DIMENSIONS)  # of the posterior N(0, I)
    kept: dict[str, list[float]] = {"draws of q": [], "ungated weights": []}
    for z in truth:
        draws = SHIFT + torch.randn(sizes.draws, DIMENSIONS)
        log_w = ((draws - SHIFT).square() - draws.square()).sum(-1) / 2
        index = torch.distributions.Categorical(logits=log_w).sample((sizes.draws,))
        kept["draws of q"].append(coverage(draws, z))
        kept["ungated weights"].append(coverage(draws[index], z))
    return {name: sum(values) / len(values) for name, values in kept.items()}


def markdown(results: dict[str, Any]) -> str:
    """Return the table."""
    machine = results["machine"]
    lines = [
        "| `refine` | error of the mean | mean ratio of standard deviations "
        "| seconds, one thread |",
        "|---|---|---|---|",
    ]
    for name, row in results["rows"].items():
        shown = name if name == "None" else f'"{name}"'
        lines.append(
            f"| `{shown}` | {row['mean']:.2f} | {row['ratio']:.2f} | {row['seconds']:.2g} |"
        )
    q, weighted = (f"{100 * share:.0f} %" for share in results["coverage"].values())
    return "\n".join(
        [
            *lines,
            "",
            f"{machine['processor']}; torch {machine['packages']['torch']}. Independent draws of "
            f"the posterior would have an error of {results['independent']:.2f}. Of 100 latents, "
            f"each off by half a standard deviation, intervals of 80 % cover {q} with 1,000 draws "
            f"of q, and {weighted} with weights that no gate checks.",
            "",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="sizes that take no time")
    parser.add_argument("--out", type=Path, default=RESULTS)
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = Sizes(flags.tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of data that the gate leaves
        found = refinements(sizes)
    results = {"machine": measure.machine(1)} | found | {"coverage": coverages(sizes)}
    flags.out.mkdir(parents=True, exist_ok=True)
    atomic.write_file(flags.out / "refinement.json", json.dumps(results, indent=1) + "\n")
    table = markdown(results)
    atomic.write_file(flags.out / "refinement.md", table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
