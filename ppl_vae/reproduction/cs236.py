"""Stanford CS236, problem set 2: VAE, GMVAE, IWAE and a semi-supervised VAE on MNIST."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae import evaluation
from ppl_vae.data import Dataset, SemiSupervised
from ppl_vae.evaluation import Estimate
from ppl_vae.models import Pair
from ppl_vae.reproduction import measurements
from ppl_vae.reproduction.datasets import mnist
from ppl_vae.reproduction.table import Published, Quantities, Row, Table
from ppl_vae.reproduction.training import Training

PARTICLES = (1, 10, 100, 1000)
DRAWS = 100
"""Draws of z over which the course averages a bound; of K particles, a hundredth of K as often."""

# The images that the course chose by hand, ten of each class: their numbers within the class.
LABELLED = (
    (2732, 2607, 1653, 3264, 4931, 4859, 5827, 1033, 4373, 5874),
    (5924, 3468, 6458, 705, 2599, 2135, 2222, 2897, 1701, 537),
    (2893, 2163, 5072, 4851, 2046, 1871, 2496, 99, 2008, 755),
    (797, 659, 3219, 423, 3337, 2745, 4735, 544, 714, 2292),
    (151, 2723, 3531, 2930, 1207, 802, 2176, 2176, 1956, 3622),
    (3560, 756, 4369, 4484, 1641, 3114, 4984, 4353, 4071, 4009),
    (2105, 3942, 3191, 430, 4187, 2446, 2659, 1589, 2956, 2681),
    (4180, 2251, 4420, 4870, 1071, 4735, 6132, 5251, 5068, 1204),
    (3918, 1167, 1684, 3299, 2767, 2957, 4469, 560, 5425, 1605),
    (5795, 1472, 3678, 256, 3762, 5412, 1954, 816, 2435, 1634),
)
EVALUATED = (
    (684, 559, 629, 192, 835, 763, 707, 359, 9, 723),
    (277, 599, 1094, 600, 314, 705, 551, 87, 174, 849),
    (537, 845, 72, 777, 115, 976, 755, 448, 850, 99),
    (984, 177, 755, 797, 659, 147, 910, 423, 288, 961),
    (265, 697, 639, 544, 543, 714, 244, 151, 675, 510),
    (459, 882, 183, 28, 802, 128, 128, 53, 550, 488),
    (756, 273, 335, 388, 617, 42, 442, 543, 888, 257),
    (57, 291, 779, 430, 91, 398, 611, 908, 633, 84),
    (203, 324, 774, 964, 47, 639, 131, 972, 868, 180),
    (1000, 846, 143, 660, 227, 954, 791, 719, 909, 373),
)


def of_each_class(dataset: Dataset, numbers: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the indices of items that are numbered within their class; one may occur twice."""
    assert dataset.labels is not None
    chosen = []
    for label, within in enumerate(numbers):
        places = (dataset.labels == label).nonzero().flatten()
        chosen += [places[number % len(places)] for number in within]  # digits have fewer
    return torch.stack(chosen)


def evaluated_images(test: Dataset) -> Tensor:
    """Return the course's 100 test images, binarised by NumPy with seed 0 as there."""
    grey = test.tensor(binarise="none")[of_each_class(test, EVALUATED)]
    drawn = np.random.RandomState(0).binomial(1, grey.numpy())  # the legacy generator
    return torch.from_numpy(drawn).to(grey)


def course_bounds(pair: Pair, training: Training) -> Quantities:
    """Return the bounds on the course's 100 images, each a mean over draws as there."""
    x = evaluated_images(training.data.test)
    draws = training.choose(DRAWS, smoke=2)
    found = evaluation.elbo_terms(pair, x, num_samples=draws)
    values = {
        "NELBO, 100 images": found.nelbo,
        "KL, 100 images": found.kl,
        "reconstruction, 100 images": found.reconstruction,
    }
    for k in training.choose(PARTICLES, smoke=(1, 2)):
        several = [
            evaluation.importance_bounds(pair, x, num_particles=(k,))[k]
            for _ in range(max(draws // k, 1))
        ]
        means, errors = ([getattr(b, n) for b in several] for n in ("mean", "standard_error"))
        values[f"IWAE-{k}, 100 images"] = Estimate(float(np.mean(means)), float(np.mean(errors)))
    return values


NET: Mapping[str, Any] = {"class": "MLP", "hidden": [300, 300], "activation": "ELU"}


def pair_of(latent_dim: int, prior: Any = "StandardNormal", **others: Any) -> Mapping[str, Any]:
    """Return the configuration of the course's pairs."""
    return {
        "class": "VAE",
        "latent_dim": latent_dim,
        "prior": prior,
        "posterior": {"class": "DiagonalNormal", "net": NET},
        "likelihood": {"class": "Bernoulli", "net": NET},
        **others,
    }


def train(model: Mapping[str, Any], training: Training) -> Pair:
    """Train for 20,000 steps of 100 images, binarised anew."""
    pair = training.pair(model)
    steps = training.choose(20_000, smoke=3)
    training.fit(pair, training.data.train, steps=steps, batch_size=100)
    return pair


# The course's means start at N(0, 1 / (500 * 10)), all but equal.
MIXTURE = {"class": "GaussianMixture", "components": 500, "spread": 5000**-0.5}

SEMI_SUPERVISED = pair_of(
    64,
    **{"class": "SemiSupervisedVAE"},
    classifier={"class": "MLP", "hidden": [300, 300], "activation": "ReLU"},
    classification_weight=10_000.0,  # of labelled data, whose weight is 0.01
)


def train_semi_supervised(generative_weight: float, training: Training) -> Pair:
    """Train for 30,000 steps of 100 unlabelled images and all labelled ones.

    The course's objective is generative_weight · NELBO(unlabelled) + 100 · cross-entropy(labelled);
    here 0.01 · NELBO(labelled) is added.
    """
    pair = training.pair(SEMI_SUPERVISED)
    train = training.data.train
    steps = SemiSupervised(
        train,
        of_each_class(train, LABELLED).unique(),
        batch_size=100,
        labelled_batch_size=100,
        labelled_weight=0.01,
        unlabelled_weight=generative_weight,
        seed=training.seed,
    )
    training.fit(pair, steps, steps=training.choose(30_000, smoke=3))
    return pair


def conditional_terms(pair: Pair, training: Training) -> Quantities:
    """Return the terms of -log p(x | y)'s bound on the test set."""
    test = training.data.test[: training.choose(None, smoke=measurements.SMOKE_DATA)]
    assert test.labels is not None
    found = evaluation.elbo_terms(pair, test.binarised(seed=0).tensor(), test.labels)
    return {"NELBO": found.nelbo, "KL": found.kl, "reconstruction": found.reconstruction}


def _published(
    nelbo: str, spread: str, kl: str, reconstruction: str, *weighted: str
) -> dict[str, list[Published]]:
    """Return the staff's numbers, IWAE of each K last."""
    found = {
        "NELBO": Published(nelbo, "1", spread),
        "KL": Published(kl, "1"),
        "reconstruction": Published(reconstruction, "1"),
    }
    found |= {f"IWAE-{k}": Published(v, "1") for k, v in zip(PARTICLES, weighted, strict=True)}
    return {f"{name}, 100 images": [published] for name, published in found.items()}


_BOUNDS = {
    "bounds on the course's images": course_bounds,
    "bounds": measurements.terms,
    "importance-weighted bounds": measurements.importance_bounds(PARTICLES[1:]),
    "log-likelihood": measurements.log_likelihood(),
    "active units": measurements.active_units,
}
_ACCURACY = {"accuracy": measurements.accuracy}

CS236 = Table(
    name="cs236",
    title="Stanford CS236, problem set 2: VAE, GMVAE, IWAE, SSVAE",
    data=mnist,
    rows=(
        Row(
            name="VAE",
            train=partial(train, pair_of(10)),
            measure=_BOUNDS,
            published=_published("101.5", "0.55", "19.3", "82.6", "101.5", "98.5", "97.4", "96.8"),
        ),
        Row(
            name="GMVAE",
            train=partial(train, pair_of(10, MIXTURE)),
            measure=_BOUNDS,
            published=_published("97.2", "0.54", "17.7", "79.6", "97.2", "94.7", "93.8", "93.4"),
        ),
        Row(
            name="SSVAE, generative weight 0",
            train=partial(train_semi_supervised, 0.0),
            measure=_ACCURACY,
            published={"accuracy, %": [Published("73.5", "1")]},
        ),
        Row(
            name="SSVAE, generative weight 1",
            train=partial(train_semi_supervised, 1.0),
            measure=_ACCURACY,
            published={"accuracy, %": [Published("93.4", "1", "1.4")]},
        ),
        Row(
            name="p(x | y, z), all labels",
            train=partial(train, pair_of(10, **{"class": "ConditionalVAE"})),
            measure={"bounds": conditional_terms},
            deviation="the course has this row for SVHN alone",
        ),
    ),
    sources={
        "1": "the staff's means, Stanford CS236, problem set 2; images and their binarisation from "
        "the course's utils.py"
    },
    protocol="Encoder and decoder of two layers of 300 ELU units, z of 10 (SSVAE: 64), Adam at a "
    "learning rate of 1e-3, batches of 100 images binarised anew at each step, 20,000 steps "
    "(SSVAE: 30,000); the means of the mixture start at N(0, 1/5000), as there. The objective of "
    "the SSVAE is the generative weight times the NELBO of the unlabelled images, plus 100 times "
    "the cross-entropy of the labelled ones, as there, plus 0.01 times the NELBO of these; they "
    'are the course\'s list of 100, in which one occurs twice, and here once. "100 images": the '
    "course's test images, of which one occurs twice, as there, and each bound a mean over 100 "
    "draws (100 / K for IWAE-K, at least one). All else on the whole test set, binarised once; "
    "IS-5000 is -log p(x) by importance sampling. Accuracy on grey values.",
    minutes=160,
)
