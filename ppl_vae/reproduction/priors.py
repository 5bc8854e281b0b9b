"""Priors compared under one budget: the question of the VampPrior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from ppl_vae.estimators import linear_warm_up
from ppl_vae.models import Pair
from ppl_vae.priors.vamp import NOISE, VampPrior
from ppl_vae.process_state import seeded
from ppl_vae.reproduction import measurements
from ppl_vae.reproduction.datasets import SIZES, silhouettes, with_validation
from ppl_vae.reproduction.table import Published, Row, Table
from ppl_vae.reproduction.training import Data, Training
from ppl_vae.training import EarlyStopping

PRIORS: Mapping[str, Any] = {
    "standard normal": "StandardNormal",
    "mixture of 500": {"class": "GaussianMixture", "components": 500},
    "VampPrior of 500": {"class": "VampPrior", "pseudo_inputs": 500},
    "flow": {"class": "Flow", "kind": "spline", "transforms": 3, "hidden": [64, 64]},
}
STEPS = 25_000
"""Of a shortened training."""
AGAINST = {
    "mixture of 500": ("standard normal",),
    "VampPrior of 500": ("standard normal",),
    "flow": ("standard normal", "VampPrior of 500"),
}
SHORTENED = (
    f"{STEPS:,} steps at most, the KL's weight rising over the first tenth; 20 validations without "
    "an improvement, 500 steps apart, end it"
)


def train(prior: Any, start: float | None, training: Training) -> Pair:
    """Train with early stopping on the validation bound, after a warm-up of the KL.

    Whole: at most 2,000 epochs, the weight of the KL rising over 100, until 50 bring nothing new.
    Pseudo-inputs start near ``start``, at data if that is None.
    """
    net = {"class": "GatedMLP", "hidden": [300, 300]}
    pair = training.pair(
        {
            "class": "VAE",
            "latent_dim": 40,
            "prior": prior,
            "posterior": {"class": "DiagonalNormal", "net": net},
            "likelihood": {"class": "Bernoulli", "net": net},
        }
    )
    if start is not None and isinstance(pair.prior, VampPrior):
        with seeded("reproduce", training.seed):
            noise = NOISE * torch.randn(pair.prior.inputs().shape)
        pair.prior.initialise_from(start + noise, values=(0, 1))
    epoch = len(training.data.train) // 100
    steps = training.choose(2000 * epoch, shortened=STEPS, smoke=3)
    training.fit(
        pair,
        training.data.train,
        steps=steps,
        batch_size=100,
        optimizer=partial(torch.optim.Adam, lr=5e-4, fused=True),
        beta=linear_warm_up(training.choose(100 * epoch, shortened=STEPS // 10, smoke=1)),
        clip_norm=100.0,
        validation=training.data.validation,
        validate_every=training.choose(epoch, shortened=500, smoke=1),
        stopping=EarlyStopping(
            patience=training.choose(50, shortened=20, smoke=5), monitor="bound"
        ),
    )
    return pair


def _table(
    name: str,
    title: str,
    data: Callable[[str], Data],
    published: Mapping[str, str],
    minutes: int,
    images: str = "Images are binarised anew at each step, those to test on once, and 10,000 of "
    "the training images, drawn at random, are for validation. ",
    shortened: str | None = SHORTENED,
    deviation: str = "",
    start: float | None = None,
) -> Table:
    where = (
        "at training images, theirs near a constant"
        if start is None
        else f"near {start}, as in their program"
    )
    return Table(
        name=f"priors-{name}",
        title=f"Four priors of one VAE on {title}",
        data=data,
        rows=tuple(
            Row(
                name=prior,
                train=partial(train, description, start),
                measure={
                    "log-likelihood": measurements.log_likelihood(5000, shortened=1000),
                    "bound": measurements.terms,
                    "active units": measurements.active_units,
                },
                published={"IS-5000": [Published(published[prior], "1")]}
                if prior in published
                else {},
                against=AGAINST.get(prior, ()),
                shortened=shortened,
                deviation=deviation,
            )
            for prior, description in PRIORS.items()
        ),
        sources={
            "1": "the table of Norouzi et al. 2020 (Exemplar VAE), VAE with a Gaussian prior and "
            "with a VampPrior"
        }
        if published
        else {},
        protocol=f"{images}Encoder and decoder of two gated layers of 300 units, z of 40, a "
        "learning rate of 5e-4, batches of 100, at most 2,000 epochs, the KL's weight rising over "
        "the first 100, stopped once 50 have not improved the validation bound, as in Tomczak & "
        "Welling 2018 (arXiv 1705.07120). The optimiser is Adam, on gradients clipped at a norm of "
        "100; theirs normalises the gradient of each tensor. Pseudo-inputs start "
        f"{where}. IS-S is -log p(x) by importance sampling with S samples on the whole test set.",
        minutes=minutes,
    )


PRIOR_TABLES = (
    _table(
        "mnist",
        "MNIST, binarised anew at each step",
        partial(with_validation, "mnist"),
        {"standard normal": "84.45", "VampPrior of 500": "82.43"},
        90,
    ),
    _table(
        "fashion-mnist",
        "Fashion-MNIST, binarised anew at each step",
        partial(with_validation, "fashion-mnist"),
        {},
        90,
    ),
    # Few images, on which training soon stops.
    _table(
        "silhouettes",
        "Caltech 101 silhouettes",
        silhouettes,
        {},
        45,
        images="",
        shortened=None,
        deviation="{:,} images to train on, {:,} for validation and {:,} to test, as is customary, "
        "but drawn at random: the customary split is not in the file".format(*SIZES),
        start=0.8,
    ),
)
