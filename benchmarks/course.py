"""The Gaussian-mixture VAE of Stanford CS236, problem set 2, in plain PyTorch: no part of ppl_vae.

Table cs236 of docs/results.md has the library's, whose NELBO on the course's 100 test images is
above the staff's mean. This is the course's program, written anew from its definitions: variances
are softplus(.) + 1e-8, in the encoder as in the mixture, whose 500 components start at
N(0, 1/5000) and a variance near log 2; the KL is that of one draw. It shows whether the library is
what makes the difference.

    PPL_VAE_DATA=../shared/data .venv/bin/python benchmarks/course.py

prints the bound's terms over three seeds, in about ten minutes on one core.
"""

import argparse
import math
from statistics import fmean, stdev

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.data import load
from ppl_vae.reproduction.cs236 import evaluated_images

LATENT_DIM, HIDDEN, COMPONENTS = 10, 300, 500
BATCH, RATE = 100, 1e-3
DRAWS = {"the course's 100 images": 100, "the test set": 5}
"""Draws of z over which the terms are averaged."""


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Return the course's network, with torch's own initial weights."""
    hidden = (nn.Linear(inputs, HIDDEN), nn.ELU(), nn.Linear(HIDDEN, HIDDEN), nn.ELU())
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, outputs))


def moments(h: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance that are the halves of a dimension."""
    mean, raw = h.chunk(2, dim)
    return mean, F.softplus(raw) + 1e-8


def log_normal(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return log N(z; mean, variance), summed over the last dimension."""
    return -0.5 * ((z - mean).square() / variance + (2 * math.pi * variance).log()).sum(-1)


class MixtureVAE(nn.Module):
    """The course's program."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.encoder = network(pixels, 2 * LATENT_DIM)
        self.decoder = network(LATENT_DIM, pixels)
        start = torch.randn(2 * COMPONENTS, LATENT_DIM)
        self.components = nn.Parameter(start / math.sqrt(COMPONENTS * LATENT_DIM))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the KL and the reconstruction term at one draw of z for each datum."""
        mean, variance = moments(self.encoder(x), -1)
        z = mean + variance.sqrt() * torch.randn_like(mean)
        of_each = log_normal(z.unsqueeze(-2), *moments(self.components, 0))
        log_p = of_each.logsumexp(-1) - math.log(COMPONENTS)
        logits = self.decoder(z)
        cost = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        return log_normal(z, mean, variance) - log_p, cost


def trained(images: Tensor, seed: int, steps: int) -> MixtureVAE:
    """Return the program after ``steps`` batches, each binarised anew."""
    torch.manual_seed(seed)
    model = MixtureVAE(images.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    terms = torch.compile(model, dynamic=False)
    order = iter(())
    for _ in range(steps):
        index = next(order, None)
        if index is None:
            order = iter(torch.randperm(len(images)).split(BATCH))
            index = next(order)
        kl, cost = terms(torch.bernoulli(images[index]))
        optimizer.zero_grad()
        (kl + cost).mean().backward()
        optimizer.step()
    return model


@torch.no_grad()
def measured(model: MixtureVAE, x: Tensor, draws: int) -> tuple[float, float, float]:
    """Return NELBO, KL and reconstruction in nats per datum, each a mean over draws."""
    drawn = [model(x) for _ in range(draws)]
    kl, cost = (torch.stack(term).mean().item() for term in zip(*drawn, strict=True))
    return kl + cost, kl, cost


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--dataset", default="mnist")
    flags = parser.parse_args()
    train, test = load(flags.dataset), load(flags.dataset, split="test")
    sets = (evaluated_images(test), test.binarised(seed=0).tensor())
    images = train.tensor(binarise="none")
    found: list[list[tuple[float, float, float]]] = [[] for _ in DRAWS]
    for seed in range(flags.seeds):
        model = trained(images, seed, flags.steps)
        for terms, x, draws in zip(found, sets, DRAWS.values(), strict=True):
            terms.append(measured(model, x, draws))
    print(f"{flags.steps:,} steps, mean ± standard deviation over {flags.seeds} seeds")
    print(f"{'':24} {'NELBO':16} {'KL':16} reconstruction")
    for name, terms in zip(DRAWS, found, strict=True):
        cells = (f"{_cell(of_seeds):16}" for of_seeds in zip(*terms, strict=True))
        print(f"{name:24} {' '.join(cells)}".rstrip())


def _cell(values: tuple[float, ...]) -> str:
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
