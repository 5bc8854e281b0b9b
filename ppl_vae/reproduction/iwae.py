"""Importance-weighted autoencoders, and the bounds that grew from them, on MNIST."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from ppl_vae import likelihoods, nets, posteriors, priors
from ppl_vae.data import Dataset
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.models import VAE, HierarchicalVAE, Pair
from ppl_vae.reproduction import measurements
from ppl_vae.reproduction.datasets import mnist
from ppl_vae.reproduction.table import Published, Row, Table
from ppl_vae.reproduction.training import Training

STAGES = 8
BATCH, RATE = 20, 1e-3
SHORT_EPOCHS, SHORT_BATCH = 50, 100
"""Of a shortened training."""


def one_layer(train: Dataset) -> VAE:
    """Return the paper's VAE of 50 latents, two layers of 200 tanh units on each side."""
    pixels = math.prod(train.event_shape)
    net = partial(nets.MLP, hidden=(200, 200), activation=nn.Tanh)
    return VAE(
        prior=priors.StandardNormal(50),
        posterior=posteriors.DiagonalNormal(net(pixels, 2 * 50)),
        likelihood=likelihoods.Bernoulli(net(50, pixels)),
    )


def two_layers(train: Dataset) -> HierarchicalVAE:
    """Return the paper's VAE of 100 and 50 latents, layers of 200 units below and 100 above."""
    pixels = math.prod(train.event_shape)
    below = partial(nets.MLP, hidden=(200, 200), activation=nn.Tanh)
    above = partial(nets.MLP, hidden=(100, 100), activation=nn.Tanh)
    return HierarchicalVAE(
        prior=priors.StandardNormal(50),
        conditionals=[priors.ConditionalNormal(above(50, 2 * 100))],
        posteriors=[
            posteriors.DiagonalNormal(below(pixels, 2 * 100)),
            posteriors.DiagonalNormal(above(100, 2 * 50)),
        ],
        likelihood=likelihoods.Bernoulli(below(100, pixels)),
    )


SHORT_RATES: Mapping[Callable[[Dataset], Pair], float] = {one_layer: 4e-3, two_layers: 2e-3}
"""First rates of shortened trainings, chosen on training images that were held out."""


def initialised(pair: Pair, train: Dataset) -> Pair:
    """Return the pair with weights drawn as in the paper, and biases as in its program.

    Weights are uniform on ±√(6 / (inputs + outputs)) (Glorot & Bengio 2010); biases are 0, but
    those of the last layer are the logits of the mean image, whose values are kept 0.001 off 0
    and 1.
    """
    layers = [module for module in pair.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    mean = train.tensor(binarise="none").mean(0).clamp(0.001, 0.999)
    (last,) = (layer for layer in layers if layer.out_features == len(mean))
    with torch.no_grad():
        last.bias.copy_(mean.logit())
    return pair


def train(make: Callable[[Dataset], Pair], estimator: dict[str, Any], training: Training) -> Pair:
    """Train by the paper's schedule: 3^i epochs at a rate of 1e-3 · 10^(-i/7), i = 0 to 7.

    Shortened, the eight rates have as many steps each, and are higher.
    """
    pair = training.pair(lambda data: initialised(make(data), data))
    whole = [3.0**i for i in range(STAGES)]
    epochs = training.choose(whole, shortened=[SHORT_EPOCHS / STAGES] * STAGES, smoke=[0.5, 0.5])
    batch = training.choose(BATCH, shortened=SHORT_BATCH, smoke=500)
    in_epoch = len(training.data.train) // batch
    *milestones, steps = (round(in_epoch * passed) for passed in accumulate(epochs))
    training.fit(
        pair,
        training.data.train,
        steps=steps,
        batch_size=batch,
        estimator=ImportanceWeightedELBO(**estimator),
        # The program's loss is the sum over a batch, ours the mean.
        optimizer=partial(
            torch.optim.Adam,
            lr=training.choose(RATE, shortened=SHORT_RATES[make], smoke=RATE),
            eps=1e-4 / BATCH,
            fused=True,
        ),
        lr_schedule=partial(_falling, milestones=milestones),
    )
    return pair


def _falling(optimizer: Optimizer, milestones: list[int]) -> MultiStepLR:
    return MultiStepLR(optimizer, milestones, gamma=10 ** (-1 / 7))


_MEASURE = {
    "log-likelihood": measurements.log_likelihood(5000),
    "active units": measurements.active_units,
    "bound": measurements.terms,
}


def _row(
    name: str,
    make: Callable[[Dataset], Pair],
    published: Mapping[str, Sequence[Published]],
    *against: str,
    **estimator: Any,
) -> Row:
    return Row(
        name=name,
        train=partial(train, make, estimator),
        measure=_MEASURE,
        published=published,
        against=against,
        shortened=f"{SHORT_EPOCHS} epochs in batches of {SHORT_BATCH}, an eighth of them at each "
        f"rate, and learning rates {SHORT_RATES[make] / RATE:g} times as high, tuned on held-out "
        "training images",
    )


def _of(
    paper: str | None = None, *, rerun: str | None = None, units: int | None = None
) -> dict[str, list[Published]]:
    """Return -log p(x) in the paper and in the re-run, and the paper's active units."""
    both = {"1": paper, "2": rerun}
    found = {"IS-5000": [Published(v, source) for source, v in both.items() if v is not None]}
    return found if units is None else found | {"active units": [Published(str(units), "1")]}


def _of_layers(layers: str, make: Callable[[Dataset], Pair]) -> Callable[..., Row]:
    """Return a function that makes rows of one VAE, whose names start with its layers."""

    def row(
        name: str, published: Mapping[str, Sequence[Published]], *against: str, **estimator: Any
    ) -> Row:
        others = (f"{layers}, {other}" for other in against)
        return _row(f"{layers}, {name}", make, published, *others, **estimator)

    return row


one = _of_layers("one layer", one_layer)
two = _of_layers("two layers", two_layers)

ELBO = {"alpha": 1.0}  # the mean over particles
DREG = {"gradient": "dreg"}

IWAE = Table(
    name="iwae",
    title="IWAE, VAE and DReG by the number of particles, one and two layers",
    data=mnist,
    rows=(
        one("K = 1", _of("86.76", rerun="86.35", units=19), num_particles=1),
        one("IWAE, K = 5", _of("85.54", rerun="85.18", units=22), "K = 1", num_particles=5),
        one("IWAE, K = 50", _of("84.78", rerun="84.59", units=25), "IWAE, K = 5", num_particles=50),
        one(
            "VAE, K = 5",
            _of("86.47", rerun="86.10", units=20),
            "IWAE, K = 5",
            num_particles=5,
            **ELBO,
        ),
        one(
            "VAE, K = 50",
            _of("86.35", rerun="86.06", units=20),
            "IWAE, K = 50",
            num_particles=50,
            **ELBO,
        ),
        one("DReG, K = 5", _of(rerun="84.90"), "IWAE, K = 5", num_particles=5, **DREG),
        one("DReG, K = 50", _of(rerun="84.32"), "IWAE, K = 50", num_particles=50, **DREG),
        two("K = 1", _of("85.33", rerun="84.83"), num_particles=1),
        two("IWAE, K = 5", _of("83.89", rerun="83.48"), "K = 1", num_particles=5),
        two("IWAE, K = 50", _of("82.90", rerun="82.82"), "IWAE, K = 5", num_particles=50),
        two("VAE, K = 5", _of("85.01", rerun="84.08"), "IWAE, K = 5", num_particles=5, **ELBO),
        two("VAE, K = 50", _of("84.78", rerun="83.89"), "IWAE, K = 50", num_particles=50, **ELBO),
    ),
    sources={
        "1": "Burda et al. 2016, arXiv 1509.00519, table 1",
        "2": "a public re-run, github.com/nbip/IWAE",
    },
    protocol="MNIST, binarised anew at each step; encoder and decoder of two layers of 200 tanh "
    "units and z of 50; with two layers z of 100 and 50, 100 units between them; weights drawn as "
    "by Glorot & Bengio 2010, the last biases the logits of the mean image. Adam with an epsilon "
    "of 5e-6 beside the gradient of a batch's mean, which is the paper's 1e-4 beside that of the "
    "sum over 20; batches of 20, 3^i epochs at a learning rate of "
    "1e-3 · 10^(-i/7), i = 0 to 7. IS-5000 is -log p(x) by importance sampling on the whole test "
    "set, binarised once; active units have an activity above 0.01.",
    minutes=400,
)

FAMILY = Table(
    name="miwae",
    title="MIWAE, PIWAE and CIWAE of 64 particles",
    data=mnist,
    rows=(
        _row("IWAE, K = 64", one_layer, _of("84.52", rerun="84.37"), num_particles=64),
        _row(
            "MIWAE(8, 8)",
            one_layer,
            {"IS-5000": [Published("84.97", "1", "0.10"), Published("84.69", "2")]},
            "IWAE, K = 64",
            num_particles=8,
            num_groups=8,
        ),
        _row(
            "PIWAE(8, 8)",
            one_layer,
            {"IS-5000": [Published("84.46", "1", "0.06")]},
            "IWAE, K = 64",
            "MIWAE(8, 8)",
            num_particles=8,
            num_groups=8,
            pool_model=True,
        ),
        _row(
            "CIWAE(beta = 0.05)",
            one_layer,
            {"IS-5000": [Published("84.57", "1", "0.09")]},
            "IWAE, K = 64",
            "MIWAE(8, 8)",
            num_particles=64,
            elbo_weight=0.05,
        ),
    ),
    sources={
        "1": "Rainforth et al. 2018, arXiv 1802.04537; its IWAE as [2] quotes it",
        "2": "a public re-run, github.com/yoonholee/pytorch-vae",
    },
    protocol="Networks, data and measurements as in table iwae, one layer.",
    minutes=250,
)
