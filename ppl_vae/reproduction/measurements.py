"""Measurements that several tables share, each of a trained pair on the test data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ppl_vae import evaluation
from ppl_vae.evaluation import Estimate
from ppl_vae.models import HierarchicalVAE, Pair
from ppl_vae.reproduction.differences import keep
from ppl_vae.reproduction.table import Quantities
from ppl_vae.reproduction.training import Training

SMOKE_DATA = 20


def terms(pair: Pair, training: Training) -> Quantities:
    """Return NELBO, KL and reconstruction on the test set, in nats per datum."""
    x = training.binarised_test(training.choose(None, smoke=SMOKE_DATA))
    found = evaluation.elbo_terms(pair, x)
    return {"NELBO": found.nelbo, "KL": found.kl, "reconstruction": found.reconstruction}


def importance_bounds(particles: Sequence[int]) -> Callable[[Pair, Training], Quantities]:
    """Return the measurement of IWAE-K on the test set, for several K."""

    def measure(pair: Pair, training: Training) -> Quantities:
        x = training.binarised_test(training.choose(None, smoke=SMOKE_DATA))
        numbers = training.choose(tuple(particles), smoke=(1, 2))
        found = evaluation.importance_bounds(pair, x, num_particles=numbers)
        return {f"IWAE-{k}": bound for k, bound in found.items()}

    return measure


def log_likelihood(
    samples: int = 5000, *, shortened: int | None = None
) -> Callable[[Pair, Training], Quantities]:
    """Return the measurement of -log p(x) by importance sampling on the test set.

    Beside it, in percent, the data whose Pareto k̂ is above 0.7: their log p(x) is underestimated.
    -log p(x) of each datum is kept, so that rows can be compared.
    """

    def measure(pair: Pair, training: Training) -> Quantities:
        x = training.binarised_test(training.choose(None, smoke=SMOKE_DATA))
        number = training.choose(samples, shortened=shortened, smoke=30)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="log_likelihood: Pareto")  # it is counted
            found = evaluation.log_likelihood(
                pair, x, num_samples=number, compile=training.compile, progress=training.progress
            )
        heavy = Estimate(100 * found.unreliable / len(x), float("nan"))
        keep(training.folder, f"IS-{number}", -found.log_px)
        return {f"IS-{number}": found.nll, "k̂ > 0.7, %": heavy}

    return measure


def active_units(pair: Pair, training: Training) -> Quantities:
    """Return the number of active units, of each layer where there are several."""
    x = training.binarised_test(training.choose(None, smoke=SMOKE_DATA))
    layers = len(pair.posteriors) if isinstance(pair, HierarchicalVAE) else 1
    sites = ["z"] if layers == 1 else [f"z{i + 1}" for i in range(layers)]
    numbers = {}
    for site in sites:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning)  # of inactive units
            found = evaluation.latent_units(pair, x, site=site)
        name = "active units" if layers == 1 else f"active units, {site}"
        numbers[name] = Estimate(float(found.num_active), float("nan"))
    return numbers


def squared_error(pair: Any, training: Training) -> Quantities:
    """Return the squared error of E[x | z] at the mean of q(z | x), summed over the pixels.

    Of the grey values of the test set; an encoder of binary images sees them binarised.
    """
    test = training.data.test[: training.choose(None, smoke=SMOKE_DATA)]
    difference = pair.decode(pair.encode(test)).flatten(1) - test.tensor(binarise="none").flatten(1)
    error = difference.square().sum(1)
    deviation = float(error.std()) / len(error) ** 0.5
    return {"squared error": Estimate(float(error.mean()), deviation, len(error))}


def accuracy(pair: Any, training: Training) -> Quantities:
    """Return the accuracy in percent of q(y | x) on the grey values of the test set.

    Before it, that on the validation set, where the table has one.

    Args:
        pair: a semi-supervised pair, or one on the latents of another.
        training: of the row.
    """
    sets = {"validation accuracy": training.data.validation, "accuracy": training.data.test}
    return {
        f"{name}, %": Estimate(100 * found.mean, 100 * found.standard_error, found.count)
        for name, data in sets.items()
        if data is not None
        for found in [evaluation.accuracy(pair, data)]
    }
