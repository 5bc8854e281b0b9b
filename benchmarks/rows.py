"""The rows of the benchmark: what is trained or evaluated, on which data, from which weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

CLASSIFICATION_WEIGHT = 10.0


class Unavailable(Exception):  # noqa: N818  (a reason, no failure)
    """Why a row has no such column; without a reason where none needs to be told."""


@dataclass(frozen=True)
class Row:
    """One problem, and how much of it is one turn.

    Args:
        name: of the row.
        kind: ``"vae"`` and ``"iwae"``, ``"gmvae"``, ``"ssvae"`` or ``"likelihood"``.
        batch: data per step, those without labels where there are some with.
        turn: steps that a column takes one after another when it is its turn.
        rest: turns at fixed weights, before the timing: so many that six standard errors are half a
            nat per datum (0.1 to 0.6), where two columns draw other numbers.
        latent: dimensions of z.
        hidden: width of the hidden layers of every network.
        depth: hidden layers of every network.
        activation: class of ``torch.nn`` between them.
        components: of the mixture prior.
        particles: K of the importance-weighted bound, S of the likelihood.
        classes: values of y.
        labelled: data with labels per step.
        late: start with a classifier that is as sure as one is late in training.
        flush: have numbers below the smallest normal one taken as zero.
        pixels: of an image.
    """

    name: str
    kind: str
    batch: int
    turn: int = 1
    rest: int = 20
    latent: int = 50
    hidden: int = 400
    depth: int = 1
    activation: str = "Softplus"
    components: int = 500
    particles: int = 50
    classes: int = 10
    labelled: int = 20
    late: bool = False
    flush: bool = False
    pixels: int = 784

    @property
    def in_a_step(self) -> int:
        """The number of images per step."""
        return self.batch + (self.labelled if self.kind == "ssvae" else 0)


ROWS = {
    row.name: row
    for row in (
        Row("vae-32", "vae", 32, turn=50),
        Row("vae-128", "vae", 128, turn=40),
        Row("vae-512", "vae", 512, turn=15),
        Row("gmvae-128", "gmvae", 128, turn=25),
        Row("gmvae-512", "gmvae", 512, turn=10),
        Row("iwae-50", "iwae", 128, turn=3),
        Row("ssvae-100", "ssvae", 100, turn=8, rest=40),
        Row("ssvae-late", "ssvae", 100, turn=8, rest=40, late=True),
        Row("ssvae-late-flushed", "ssvae", 100, turn=8, rest=40, late=True, flush=True),
        Row("likelihood", "likelihood", 10, particles=5000),
    )
}

TINY = {
    "hidden": 16,
    "latent": 4,
    "components": 5,
    "particles": 5,
    "pixels": 64,
    "turn": 2,
    "rest": 20,
}


def row_of(name: str, tiny: bool) -> Row:
    """Return a row, or one like it that takes no time."""
    row = ROWS[name]
    return replace(row, batch=min(row.batch, 16), labelled=4, **TINY) if tiny else row


Layers = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Problem:
    """What all columns of a row are given.

    Args:
        row: the sizes.
        images: grey values in [0, 1], shape ``(N, pixels)``, binarised at each step.
        labels: of the images.
        layers: weight and bias of each layer, by network.
        components: μ and unconstrained σ of the mixture prior, shape ``(C, latent)`` each.
        rate: of learning.
    """

    row: Row
    images: Tensor
    labels: Tensor
    layers: dict[str, Layers] = field(repr=False)
    components: tuple[Tensor, Tensor] = field(repr=False)
    rate: float = 1e-3

    def at_rest(self) -> Problem:
        """Return the problem with weights that stay as they are, and images that are binary.

        Losses of the same images then differ from column to column by the draws of z alone, and are
        independent from step to step: drawn by each column on its own, the images would be most of
        the noise.
        """
        return replace(self, rate=0.0, images=self.images.round())

    def network(self, name: str) -> nn.Sequential:
        """Return a network of its own, with the weights of the start."""
        modules: list[nn.Module] = []
        activation = getattr(nn, self.row.activation)
        for weight, _ in self.layers[name]:
            modules += [nn.Linear(weight.shape[1], weight.shape[0]), activation()]
        network = nn.Sequential(*modules[:-1])
        self.load(name, network)
        return network

    def load(self, name: str, network: nn.Module) -> None:
        """Put the weights of the start into the linear layers of a network."""
        linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
        with torch.no_grad():
            for layer, (weight, bias) in zip(linear, self.layers[name], strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)

    def batches(self, steps: int, generator: torch.Generator) -> Tensor:
        """Return the indices of steps, shape ``(steps, images in a step)``."""
        shape = (steps, self.row.in_a_step)
        return torch.randint(len(self.images), shape, generator=generator)


def problem(row: Row, seed: int = 0) -> Problem:
    """Return a row's problem: the same for every column, and for every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images, labels = _images(row.pixels)
        labels = labels % row.classes
        y = row.classes if row.kind == "ssvae" else 0
        layers = {
            "encoder": _layers(row, row.pixels + y, 2 * row.latent),
            "decoder": _layers(row, row.latent + y, row.pixels),
            "classifier": _layers(row, row.pixels, row.classes),
        }
        loc = torch.randn(row.components, row.latent)
    if row.late:
        # The likeliest label is certain, and the others have probabilities of e^-12, e^-24, ...:
        # some of them are denormal numbers, and so are products with those that are just not.
        # Labels agree with it, so that no gradient leads away from there.
        _, bias = layers["classifier"][-1]
        bias.copy_(torch.linspace(0, -110, row.classes))
        labels = torch.zeros_like(labels)
    return Problem(row, images, labels, layers, (loc, torch.full_like(loc, math.log(math.e - 1))))


@dataclass(frozen=True)
class Column:
    """One way to take the steps of a row.

    Args:
        run: takes the steps of a turn, given the indices of each, shape ``(steps, batch)``; returns
            their losses, numbers or tensors that hold one, in nats per datum.
        weights: returns weight and bias of each layer as they are now, by network; of VAEs alone.
    """

    run: Callable[[Tensor], Sequence[Any]]
    weights: Callable[[], dict[str, Layers]] | None = None

    def turn(self, indices: Tensor) -> tuple[float, list[float]]:
        """Take the steps of a turn; return seconds per step, and their losses."""
        start = time.perf_counter()
        losses = self.run(indices)
        seconds = (time.perf_counter() - start) / len(indices)
        return seconds, [float(loss) for loss in losses]


def one_by_one(step: Callable[[Tensor], Any]) -> Callable[[Tensor], list[Any]]:
    """Return what takes the steps of a turn, from what takes one."""
    return lambda indices: [step(index) for index in indices]


def layers_of(**networks: nn.Module) -> dict[str, Layers]:
    """Return copies of the linear layers of networks, by the names they are given."""
    return {
        name: [
            (layer.weight.detach().clone(), layer.bias.detach().clone())
            for layer in network.modules()
            if isinstance(layer, nn.Linear)
        ]
        for name, network in networks.items()
    }


def adam(parameters: Any, rate: float) -> torch.optim.Adam:
    """Return the optimiser of all columns that are free to choose."""
    return torch.optim.Adam(parameters, lr=rate, fused=True)


def _layers(row: Row, features: int, out: int) -> Layers:
    widths = [features, *[row.hidden] * row.depth, out]
    linear = [nn.Linear(a, b) for a, b in pairwise(widths)]
    return [(layer.weight.detach(), layer.bias.detach()) for layer in linear]


def _images(pixels: int, number: int = 20_000) -> tuple[Tensor, Tensor]:
    """Return MNIST where it is at hand, and numbers like it where not; of any other width too."""
    from ppl_vae import data  # which other columns' processes must not import

    try:
        train = data.load("mnist") if pixels == 784 else None
    except FileNotFoundError:
        train = None
    if train is None:
        return torch.rand(number, pixels) ** 3, torch.arange(number) % 10
    chosen = torch.arange(number)
    return train.subset(chosen).tensor().reshape(number, pixels), train.labels[chosen]
