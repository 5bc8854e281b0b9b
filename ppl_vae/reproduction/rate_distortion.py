"""Rate, distortion and latent spaces of VAEs by the weight of the KL, in two dimensions and ten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from ppl_vae.models import Pair
from ppl_vae.reproduction import measurements, pictures
from ppl_vae.reproduction.cs236 import NET, pair_of
from ppl_vae.reproduction.datasets import mnist
from ppl_vae.reproduction.records import Record
from ppl_vae.reproduction.table import Row, Table
from ppl_vae.reproduction.training import Data, Training

DIMENSIONS = (10, 2)

WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
"""β; 0 is the reconstruction alone."""
KL_ONLY = 1e4
"""A weight under which the KL alone matters."""


SQUARED_ERROR = "z of 2, beta = 1, squared error"


def train(latent_dim: int, beta: float, training: Training, likelihood: Any = None) -> Pair:
    """Train for 20,000 steps on reconstruction + beta · KL."""
    others = {} if likelihood is None else {"likelihood": likelihood}
    pair = training.pair(pair_of(latent_dim, **others))
    steps = training.choose(20_000, smoke=3)
    training.fit(pair, training.data.train, steps=steps, batch_size=100, beta=beta)
    return pair


def draw(records: Sequence[Record], pairs: Mapping[str, Any], data: Data) -> Mapping[str, Any]:
    """Draw the curves, and pictures of the latent spaces that have been trained."""
    alone, both = _name(2, 0.0), _name(2, 1.0)
    plane = {"reconstruction alone": alone, "the KL alone": _name(2, KL_ONLY), "both": both}
    compared = {"Bernoulli": both, "squared error": SQUARED_ERROR}
    figures = {"curves": curves(records)}
    if pairs.keys() >= {*plane.values()}:
        figures["planes"] = pictures.planes({n: pairs[row] for n, row in plane.items()}, data)
    if pairs.keys() >= {*compared.values()}:
        of_each = {name: pairs[row] for name, row in compared.items()}
        figures["manifolds"] = pictures.manifolds(of_each)
        figures["likelihoods"] = pictures.likelihoods(of_each, data)
    if (ten := _name(10, 1.0)) in pairs:
        figures["posteriors"] = pictures.posteriors(pairs[ten], data)
        figures["interpolations"] = pictures.interpolations(pairs[ten], data)
    return figures


def curves(records: Sequence[Record]) -> Any:
    """Draw rate against distortion, a curve for each number of dimensions, beta at each point.

    Each point is the mean over seeds.
    Along a dashed line NELBO, their sum, is the same. The reconstruction alone and the KL alone are
    left out: they are off the scale.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    ax = figure.subplots()
    for latent_dim in DIMENSIONS:
        names = {_name(latent_dim, beta): beta for beta in WEIGHTS if beta > 0}
        points = {
            beta: (rate, _mean(records, name, "reconstruction"))
            for name, beta in names.items()
            if (rate := _mean(records, name, "KL")) is not None
        }
        rates, distortions = zip(*points.values(), strict=True) if points else ((), ())
        ax.plot(rates, distortions, "o-", label=f"z of {latent_dim}")
        for beta, point in points.items():
            ax.annotate(f"{beta:g}", point, xytext=(4, 4), textcoords="offset points", fontsize=8)
    ax.set(xlabel="rate, the KL, in nats", ylabel="distortion, the reconstruction term, in nats")
    low, high = ax.get_xlim()
    ax.set(xlim=(low, high), ylim=ax.get_ylim())  # which lines of equal NELBO do not move
    for nelbo in range(80, 260, 20):
        ax.plot([low, high], [nelbo - low, nelbo - high], "--", color="0.8", lw=0.8, zorder=0)
    ax.legend()
    return figure


def _mean(records: Sequence[Record], row: str, quantity: str) -> Any:
    """Return the mean of a quantity of a row over seeds, None if it has not been measured."""
    values = (
        r.quantities[quantity]["value"]
        for r in records
        if r.row == row and quantity in r.quantities
    )
    found = [value for value in values if value is not None]
    return fmean(found) if found else None


def _name(latent_dim: int, beta: float) -> str:
    weight = "the KL alone" if beta == KL_ONLY else f"beta = {beta:g}"
    return f"z of {latent_dim}, {weight}"


def _row(latent_dim: int, beta: float) -> Row:
    return Row(
        name=_name(latent_dim, beta),
        train=partial(train, latent_dim, beta),
        measure={
            "rate and distortion": measurements.terms,
            "units": measurements.active_units,
            "squared error": measurements.squared_error,
        },
    )


# -log N(x; mu, 1/2) is the squared error, but for a constant.
_NORMAL = {"class": "Normal", "net": NET, "scale": 0.5**0.5}
_SQUARED = Row(
    name=SQUARED_ERROR,
    train=partial(train, 2, 1.0, likelihood=_NORMAL),
    measure={"squared error": measurements.squared_error},
)

RATE_DISTORTION = Table(
    name="rate-distortion",
    title="Rate (KL) and distortion by the weight of the KL, and pictures of the latent space",
    data=mnist,
    rows=(*(_row(d, beta) for d in DIMENSIONS for beta in (*WEIGHTS, KL_ONLY)), _SQUARED),
    sources={},
    protocol="The networks, data and schedule of table cs236, with a weight on the KL. The rate is "
    "the KL, the distortion the reconstruction term, and NELBO, their sum, is what beta = 1 "
    f'minimises; "the KL alone" has a weight of {KL_ONLY:g}. The trade-off: Alemi et al. 2018, '
    "arXiv 1711.00464. The squared error is that of E[x | z] at the mean of q(z | x), summed over "
    "pixels, on grey values; the VAE trained on it has a normal likelihood of variance 1/2.",
    minutes=105,
    draw=draw,
)
