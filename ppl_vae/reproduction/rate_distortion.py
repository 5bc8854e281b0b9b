"""The rate and the distortion of VAEs by the weight of the KL, in two dimensions and in ten."""

from __future__ import annotations

from functools import partial

from ppl_vae.models import Pair
from ppl_vae.reproduction import measurements
from ppl_vae.reproduction.cs236 import pair_of
from ppl_vae.reproduction.datasets import mnist
from ppl_vae.reproduction.table import Row, Table
from ppl_vae.reproduction.training import Training

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
"""β; 0 is the reconstruction alone."""
KL_ONLY = 1e4
"""A weight under which the KL alone matters."""


def train(latent_dim: int, beta: float, training: Training) -> Pair:
    """Train for 20,000 steps on reconstruction + beta · KL."""
    pair = training.pair(pair_of(latent_dim))
    steps = training.choose(20_000, smoke=3)
    training.fit(pair, training.data.train, steps=steps, batch_size=100, beta=beta)
    return pair


def _row(latent_dim: int, beta: float) -> Row:
    weight = "the KL alone" if beta == KL_ONLY else f"beta = {beta:g}"
    return Row(
        name=f"z of {latent_dim}, {weight}",
        train=partial(train, latent_dim, beta),
        measure={"rate and distortion": measurements.terms, "units": measurements.active_units},
    )


RATE_DISTORTION = Table(
    name="rate-distortion",
    title="rate (KL) and distortion (reconstruction) by the weight of the KL",
    data=mnist,
    rows=tuple(_row(d, beta) for d in (10, 2) for beta in (*WEIGHTS, KL_ONLY)),
    sources={},
    protocol="The networks, data and schedule of table cs236, with a weight on the KL. The rate is "
    "the KL, the distortion the reconstruction term, and NELBO, their sum, is what beta = 1 "
    f'minimises; "the KL alone" has a weight of {KL_ONLY:g}. The trade-off: Alemi et al. 2018, '
    "arXiv 1711.00464.",
    minutes=70,
)
