"""Gradients for a VAE of 200 Bernoulli latents: their variances, and what they train.

    .venv/bin/python benchmarks/discrete_gradients.py

follows Dong et al. 2020 (DisARM, arXiv 2006.10680, section 5), shortened: encoder and decoder of
two layers of 200 units with leaky ReLUs, dynamically binarised MNIST, batches of 50, Adam with rate
1e-4, 20,000 steps for the paper's million, three seeds.

- *Variance*: along a training with DisARM, the variance of the encoder's gradient on one batch of
  50, over 200 draws of each estimator, mean over parameters. REINFORCE (without a baseline) and ARM
  (Yin & Zhou 2019, arXiv 1807.11143) are written out here; all of a group see the decoder as often.
- *Training*: the bound on the test set that each reaches.

Each run is written to ``discrete_gradients.json`` under ``benchmarks/results`` as it ends, and what
is there is not run again. Figure and table are made of all that is there.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import measure
import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn

from ppl_vae import VAE, data, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.io import atomic
from ppl_vae.training import compile_step, fit

RESULTS = Path(__file__).parent / "results"
BITS, UNITS, BATCH, RATE = 200, (200, 200), 50, 1e-4
SEEDS = (0, 1, 2)

TRAINED: dict[str, dict[str, Any]] = {
    "REINFORCE, leave-one-out": {"num_particles": 2, "gradient": "loo", "alpha": 1.0},
    "DisARM": {"num_particles": 1, "gradient": "disarm"},
    "VIMCO, K = 4": {"num_particles": 4, "gradient": "vimco"},
    "DisARM, K = 2": {"num_particles": 2, "gradient": "disarm"},
}
"""What is trained; the first two look at the decoder twice per datum, the last two four times."""


class Sizes:
    """Of the whole benchmark, or of one that takes no time."""

    def __init__(self, tiny: bool) -> None:
        self.tiny = tiny
        self.steps = 30 if tiny else 20_000
        self.checkpoints = (0, 20) if tiny else (0, 1000, 3000, 10_000, 20_000)
        self.draws = 20 if tiny else 200
        self.seeds = SEEDS[:1] if tiny else SEEDS
        self.test = 20 if tiny else 10_000
        self.importance_samples = 10 if tiny else 100


def bernoulli_vae(seed: int) -> VAE:
    """Return an untrained VAE of 200 Bernoulli latents."""
    torch.manual_seed(seed)
    hidden = {"hidden": UNITS, "activation": nn.LeakyReLU}
    return VAE(
        prior=priors.Bernoulli(BITS, learn_logits=True),
        posterior=posteriors.Bernoulli(nets.MLP(784, BITS, **hidden)),
        likelihood=likelihoods.Bernoulli(nets.MLP(BITS, 784, **hidden)),
    )


def log_weight(vae: VAE, x: Tensor, z: Tensor, q_z: Any) -> Tensor:
    """Return log p(x, z) - log q(z | x), of the shape of z without its last dimension."""
    log_p = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    return log_p - q_z.log_prob(z)


def reinforce(vae: VAE, x: Tensor, particles: int, several: bool) -> Tensor:
    """Return a loss with REINFORCE's gradient of the ELBO, or of the bound of all particles."""
    q_z = vae.posterior(x)
    z = q_z.sample((particles,))
    log_w, log_q = log_weight(vae, x, z, q_z), q_z.log_prob(z)
    if several:
        bound = log_w.logsumexp(0) - math.log(particles)
        return -(bound + bound.detach() * log_q.sum(0)).sum()
    return -(log_w + log_w.detach() * log_q).mean(0).sum()


def arm(vae: VAE, x: Tensor) -> Tensor:
    """Return a loss with ARM's gradient of the ELBO: f(1[u > σ(-α)]) - f(1[u < σ(α)]), u - 1/2."""
    q_z = vae.posterior(x)
    logits = q_z.base_dist.logits
    u = torch.rand_like(logits)
    pair = torch.stack([u > (-logits).sigmoid(), u < logits.sigmoid()]).to(x)
    with torch.no_grad():
        first, second = log_weight(vae, x, pair, q_z)
    slope = (first - second).unsqueeze(-1) * (u - 0.5)
    return -(slope * logits).sum()


def losses(vae: VAE) -> dict[str, dict[str, Any]]:
    """Return the estimators by how often they see the decoder, and in what bound."""

    def ours(*args: Any, **options: Any) -> Any:
        estimator = ImportanceWeightedELBO(*args, max_plate_nesting=1, **options)
        return lambda x: estimator.differentiable_loss(vae.model, vae.guide, x)

    return {
        "the ELBO, two looks": {
            "REINFORCE": lambda x: reinforce(vae, x, 2, several=False),
            "ARM": lambda x: arm(vae, x),
            "leave-one-out": ours(2, "loo", alpha=1.0),
            "DisARM": ours(1, "disarm"),
        },
        "K = 4, four looks": {
            "REINFORCE, K = 4": lambda x: reinforce(vae, x, 4, several=True),
            "VIMCO, K = 4": ours(4, "vimco"),
            "leave-one-out, K = 4": ours(4, "loo"),
            "DisARM, K = 2": ours(2, "disarm"),
        },
    }


def variance(vae: VAE, loss: Any, x: Tensor, draws: int) -> float:
    """Return the variance of the encoder's gradient per datum, mean over its parameters."""
    parameters = list(vae.posterior.parameters())
    total, square = 0.0, 0.0
    for _ in range(draws):
        gradients = torch.autograd.grad(loss(x) / len(x), parameters)
        flat = torch.cat([g.flatten() for g in gradients]).double()
        total, square = total + flat, square + flat.square()
    mean = total / draws
    unbiased = (square / draws - mean.square()) * draws / (draws - 1)
    return float(unbiased.mean())


def measure_variances(seed: int, sizes: Sizes, images: Any) -> dict[str, Any]:
    """Train with DisARM and return the variances at each checkpoint, by estimator."""
    vae = bernoulli_vae(seed)
    batches = images.train.batches(BATCH, seed=seed, drop_last=True)
    x = next(iter(batches)).x
    optimizer = torch.optim.Adam(vae.parameters(), lr=RATE, fused=True)
    elbo = ImportanceWeightedELBO(1, "disarm", max_plate_nesting=1)

    def plain(x: Tensor) -> None:
        optimizer.zero_grad()
        elbo.differentiable_loss(vae.model, vae.guide, x).backward()
        optimizer.step()

    step = plain if sizes.tiny else compile_step(vae, elbo, optimizer)
    endless = (batch for _ in iter(int, 1) for batch in batches)
    found: dict[str, dict[str, float]] = {}
    taken = 0
    for checkpoint in sizes.checkpoints:
        for batch in islice(endless, checkpoint - taken):
            step(batch.x)
        taken = checkpoint
        torch.manual_seed(seed)
        found[str(checkpoint)] = {
            name: variance(vae, loss, x, sizes.draws)
            for group in losses(vae).values()
            for name, loss in group.items()
        }
    return found


def train(name: str, seed: int, sizes: Sizes, images: Any) -> dict[str, float]:
    """Return the bounds on the test set, in nats per datum, after training with an estimator."""
    vae = bernoulli_vae(seed)
    optimizer = partial(torch.optim.Adam, lr=RATE, fused=True)
    estimator = ImportanceWeightedELBO(**TRAINED[name])
    fit(
        vae,
        images.train,
        steps=sizes.steps,
        batch_size=BATCH,
        estimator=estimator,
        optimizer=optimizer,
        compile=not sizes.tiny,
        seed=seed,
        progress=False,
    )
    torch.manual_seed(seed)
    bounds = evaluation.importance_bounds(
        vae, images.test, num_particles=(1, sizes.importance_samples)
    )
    return {f"-L_{k}": bound.mean for k, bound in bounds.items()}


class Images(NamedTuple):
    """MNIST, or the digits of scikit-learn scaled up where only a look is wanted."""

    train: Any
    test: Any


def load(sizes: Sizes) -> Images:
    """Return the data sets."""
    if not sizes.tiny:
        return Images(data.load("mnist"), data.load("mnist", split="test"))
    pixels = torch.rand(100, 784, generator=torch.Generator().manual_seed(0))
    return Images(data.Dataset(pixels), data.Dataset(pixels[: sizes.test]))


def markdown(results: dict[str, Any]) -> str:
    """Return the variances at the last checkpoint, and the table of what was trained."""
    machine, runs = results["machine"], list(results["variances"].values())
    lines = [
        f"{machine['processor']}, one thread; torch {machine['packages']['torch']}. "
        f"Means ± standard errors over seeds (how many).",
        "",
    ]
    if runs:
        last = max(runs[0], key=int)
        lines += [
            f"Variance of the encoder's gradient after {int(last):,} steps:",
            "",
            "| gradient | variance |",
            "|---|---|",
            *(
                f"| {name} | {_spread([run[last][name] for run in runs])} |"
                for name in runs[0][last]
            ),
            "",
        ]
    lines += [
        "Trained with each, on the test set:",
        "",
        "| trained with | looks at the decoder | NELBO, nats | -L_100, nats |",
        "|---|---|---|---|",
    ]
    trained = results["trained"]
    for name, options in TRAINED.items():
        runs = [trained[key] for key in sorted(trained) if key.rpartition(" ")[0] == name]
        if not runs:
            continue
        looks = options["num_particles"] * (2 if options["gradient"] == "disarm" else 1)
        last = max(runs[0]["bounds"], key=lambda k: int(k[3:]))
        cells = [_spread([run["bounds"][k] for run in runs]) for k in ("-L_1", last)]
        lines.append(f"| {name} | {looks} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Any]) -> Any:
    """Draw the variances along the training, with standard errors over seeds."""
    runs = list(results["variances"].values())
    groups = losses(bernoulli_vae(0))
    figure, axes = plt.subplots(1, len(groups), figsize=(10, 4), sharey=True, layout="constrained")
    for ax, (title, group) in zip(axes, groups.items(), strict=True):
        for name in group:
            checkpoints = list(runs[0])
            values = torch.tensor([[run[c][name] for run in runs] for c in checkpoints])
            error = values.std(1) / math.sqrt(len(runs)) if len(runs) > 1 else None
            steps = [int(c) for c in checkpoints]
            ax.errorbar(steps, values.mean(1), yerr=error, label=name, marker="o", ms=4, capsize=3)
        ax.set(yscale="log", xlabel="steps trained", title=title)
        ax.legend()
    axes[0].set_ylabel("variance of the encoder's gradient")
    return figure


def _spread(values: list[float]) -> str:
    digits = 2 if fmean(values) > 1 else 4
    mean = f"{fmean(values):.{digits}f}"
    if len(values) == 1:
        return f"{mean} (1)"
    return f"{mean} ± {stdev(values) / math.sqrt(len(values)):.{digits}f} ({len(values)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--seeds", nargs="+", type=int, help=f"of initial weights and data; {SEEDS}")
    add("--only", choices=["variances", "training"], help="one of the two")
    add("--tiny", action="store_true", help="sizes that take no time, to see that it runs")
    add("--out", type=Path, default=RESULTS)
    flags = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sizes = Sizes(flags.tiny)
    path = flags.out / "discrete_gradients.json"
    flags.out.mkdir(parents=True, exist_ok=True)
    images = load(sizes)
    seeds = flags.seeds or sizes.seeds
    names = ["variances", *TRAINED] if flags.only != "variances" else ["variances"]
    for seed in seeds:
        for name in names[1:] if flags.only == "training" else names:
            kind, key = (
                ("variances", str(seed)) if name == "variances" else ("trained", f"{name} {seed}")
            )
            if key in _read(path, flags.tiny)[kind]:
                continue
            print(f"{name}, seed {seed} ...", end=" ", file=sys.stderr, flush=True)
            start = time.perf_counter()
            found: Any
            if name == "variances":
                found = measure_variances(seed, sizes, images)
            else:
                found = {"bounds": train(name, seed, sizes, images)}
            print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
            results = _read(path, flags.tiny)  # anew: another process may have written meanwhile
            results[kind][key] = found
            atomic.write_file(path, json.dumps(results, indent=1) + "\n")
    results = _read(path, flags.tiny)
    table = markdown(results)
    (flags.out / "discrete_gradients.md").write_text(table)
    if results["variances"]:
        draw(results).savefig(flags.out / "discrete_gradients.png", dpi=120)
    print(table)
    return 0


def _read(path: Path, tiny: bool) -> dict[str, Any]:
    """Return what the file has, which is of the same sizes, or nothing yet."""
    if not path.exists():
        return {"machine": measure.machine(threads=1), "tiny": tiny, "variances": {}, "trained": {}}
    results: dict[str, Any] = json.loads(path.read_text())
    if results["tiny"] != tiny:
        raise SystemExit(f"{path} has runs of other sizes; give another --out")
    return results


if __name__ == "__main__":
    sys.exit(main())
