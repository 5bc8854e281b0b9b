"""A table of two rows that train in a moment, and records of it."""

from dataclasses import replace
from functools import partial

from ppl_vae import data, evaluation
from ppl_vae.evaluation import Estimate
from ppl_vae.reproduction import Data, Published, Row, Table, measurements, reproduce
from ppl_vae.reproduction.records import Record

MODEL = {
    "class": "VAE",
    "latent_dim": 2,
    "posterior": {"class": "DiagonalNormal", "net": {"class": "MLP", "hidden": [8]}},
    "likelihood": {"class": "Bernoulli", "net": {"class": "MLP", "hidden": [8]}},
}
run = partial(reproduce, compile=False, progress=False, say=lambda text: None)
A_CPU = {"processor": "a CPU", "threads": 1, "packages": {"torch": "2.14"}}


def digits(extent):
    return Data(data.load("digits"), data.load("digits", split="test"))


def train(training):
    pair = training.pair(MODEL)
    training.fit(pair, training.data.train, steps=training.choose(9, shortened=6, smoke=3))
    return pair


def nelbo(pair, training):
    x = training.binarised_test(50)
    return {"NELBO": evaluation.elbo_terms(pair, x).nelbo}


def units(pair, training):
    return {"active units": Estimate(2.0, float("nan"))}


def likelihood(pair, training):
    return measurements.log_likelihood(50)(pair, training)


def table(**measure):
    published = {"NELBO": [Published("40", "A", "0.5")]}
    measure = measure or {"bound": nelbo, "units": units}
    rows = (
        Row(name="first | row", train=train, measure=measure, published=published),
        Row(name="second", train=train, measure=measure, shortened="6 steps for 9"),
    )
    return Table(
        name="small",
        title="two rows",
        data=digits,
        rows=rows,
        sources={"A": "a paper"},
        protocol="As in the paper.",
        minutes=1,
    )


def compared(**changed):
    """Return the small table, its second row compared with the first."""

    def longer(training):
        pair = training.pair(MODEL)
        training.fit(pair, training.data.train, steps=50)
        return pair

    made = table(likelihood=likelihood, units=units)
    first, second = made.rows
    second = replace(second, train=longer, against=(first.name,), **changed)
    return replace(made, rows=(first, second))


def measured(seed, value, precision="32-true", row="second"):
    return Record(
        table="small",
        row=row,
        seed=seed,
        extent="shortened" if row == "second" else "whole",
        precision=precision,
        quantities={"NELBO": {"value": value, "standard_error": 0.3}},
        seconds={"training": 1800.0},
        environments=[A_CPU],
    )
