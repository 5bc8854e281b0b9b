"""What ``fit`` refuses, and what it says."""

import dataclasses
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting import (
    DIGITS,
    Own,
    ShownGuide,
    digits_vae,
    quiet,
    same,
    weights,
)
from lightning_fabric import Fabric
from pyro.infer import RenyiELBO, Trace_ELBO, TraceGraph_ELBO
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ppl_vae import (
    data,
    estimators,
)
from ppl_vae.training import EarlyStopping


class Coin(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=self.logits + z[..., None]).to_event(1), obs=x)


OTHER = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


class Frame:
    """What pandas, polars and pyarrow have in common: iterating over it brings names of columns."""

    def __iter__(self):
        yield from ("a", "b")

    def to_numpy(self):
        return np.zeros((3, 2))


def test_a_frame_is_refused_with_what_takes_it():
    message = r"fit: data must not be a Frame; give its numbers, .to_numpy\(\), .*tables.fit"
    with pytest.raises(TypeError, match=message):
        quiet(digits_vae(), Frame(), steps=1)


def test_values_outside_the_support_of_programs_of_ones_own_are_refused_in_the_first_epoch():
    x = torch.cat([torch.ones(20, 3), torch.full((1, 3), 0.5)])
    with pytest.raises(ValueError, match="support"):
        quiet(Own(Coin(), ShownGuide()), x, epochs=1, batch_size=1, seed=3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "either steps= or epochs="),
        ({"steps": 1, "epochs": 1}, ValueError, "either steps= or epochs="),
        ({"steps": 0}, ValueError, "steps must be 1 or more, got 0"),
        ({"steps": 1.5}, TypeError, "steps must be an integer"),
        ({"steps": 1, "log_every": 0}, ValueError, "log_every must be 1 or more"),
        ({"steps": 1, "keep": 0}, ValueError, "keep must be 1 or more"),
        ({"steps": 1, "clip_norm": 0}, ValueError, "clip_norm must be finite and above 0"),
        ({"steps": 1, "seed": "a"}, TypeError, "seed must be an integer, got 'a'"),
        ({"steps": 1, "num_particles": 5}, TypeError, "must be a function of the step"),
        ({"steps": 1, "stopping": EarlyStopping(1)}, ValueError, "give validation="),
        (
            {
                "steps": 1,
                "beta": 1.0,
                "estimator": estimators.KLWeighted(Trace_ELBO(), 1.0),
            },
            ValueError,
            "a weight on the KL already.*; leave beta out",
        ),
        ({"steps": 1, "validation": "mnist"}, TypeError, "validation must be a Dataset"),
        ({"steps": 1, "validation": ()}, TypeError, "of one length, got none"),
        ({"steps": 1, "validation": torch.rand(9, 63)}, ValueError, "shape"),
        ({"steps": 1, "clip_norm": "1"}, TypeError, "clip_norm must be a number, got '1'"),
        ({"steps": 1, "estimator": "elbo"}, TypeError, "estimator must be a pyro.infer.ELBO"),
        ({"steps": 1, "estimator": Trace_ELBO}, TypeError, "such as Trace_ELBO()"),
        *(
            ({"steps": 1, "estimator": elbo}, TypeError, f"{name} has none")
            for elbo, name in (
                (TraceGraph_ELBO(), "TraceGraph_ELBO"),
                (estimators.KLWeighted(RenyiELBO(0.5), 1), "RenyiELBO"),
            )
        ),
        ({"steps": 1, "optimizer": torch.optim.LBFGS}, TypeError, "LBFGS needs a closure"),
        ({"steps": 1, "optimizer": 0.1}, TypeError, r"a function of the parameters, got 0\.1"),
        ({"steps": 1, "optimizer": pyro.optim.Adam({})}, TypeError, "got one of pyro.optim"),
        (
            {"steps": 1, "lr_schedule": torch.optim.lr_scheduler.ReduceLROnPlateau},
            TypeError,
            "ReduceLROnPlateau needs a metric",
        ),
        (
            {"steps": 1, "lr_schedule": lambda o: None},
            TypeError,
            "must return a torch.*LRScheduler",
        ),
        ({"steps": 1, "lr_schedule": 0.1}, TypeError, "a function of the optimiser, got 0.1"),
        (
            {
                "steps": 1,
                "lr_schedule": lambda o: torch.optim.lr_scheduler.ExponentialLR(OTHER, 0.1),
            },
            ValueError,
            "lr_schedule must be of the optimiser that it is given, got one of another",
        ),
        (
            {"steps": 1, "temperature": 0.1},
            ValueError,
            "relaxed draws.* the pair has none, got 0.1",
        ),
        (
            {"steps": 1, "fabric": Fabric(accelerator="cpu", devices=1, precision="bf16-true")},
            ValueError,
            "log-densities need more digits",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_see_it")
def test_arguments_that_make_no_sense(arguments, error, message):
    with pytest.raises(error, match=message):
        quiet(digits_vae(), DIGITS, **arguments)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (3, TypeError, "data must be a Dataset, its batches, a tensor"),
        (torch.rand(9, 7), ValueError, "shape"),
        (DIGITS.batches(10), ValueError, "leave batch_size out"),
        (iter([torch.ones(2, 64)]), TypeError, "iter"),
        ([], ValueError, "data must give a batch in each epoch, got none"),
        ("mnist", TypeError, "got 'mnist' .*; use ppl_vae.data.load"),
        ({"x": torch.ones(2, 64)}, TypeError, "data must not be a mapping"),
        (np.ones((2, 64), dtype=object), TypeError, "data must be a numeric array, got dtype obj"),
        ((torch.ones(2, 64), torch.ones(2)), TypeError, "must not be a tuple of tensors"),
        (TensorDataset(torch.ones(2, 64)), TypeError, "such as those of a DataLoader, got"),
    ],
)
def test_data_that_make_no_sense(given, error, message):
    options = {} if not isinstance(given, data.Batches) else {"batch_size": 5}
    with pytest.raises(error, match=message):
        quiet(digits_vae(), given, steps=1, **options)


def test_epochs_of_a_stream_without_a_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.ones(10, 64))

    with pytest.raises(TypeError, match=r"needs data with a len\(\), the number"):
        quiet(digits_vae(), DataLoader(Stream(), 5), epochs=1)
    assert quiet(digits_vae(), DataLoader(Stream(), 5), steps=3).steps == 3


def test_a_pair_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="that requires a gradient, and has none"):
        quiet(digits_vae().requires_grad_(False), DIGITS, steps=1)


@pytest.mark.usefixtures("as_users_see_it")
def test_pairs_that_are_none():
    with pytest.raises(TypeError, match="pair must have a model and a guide that are modules"):
        quiet(nn.Linear(2, 2), DIGITS, steps=1)

    @dataclasses.dataclass
    class Functions:
        model: object
        guide: object

    with pytest.raises(TypeError, match="make a program that is a function the forward method"):
        quiet(Functions(lambda x: None, lambda x: None), DIGITS, steps=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(0), "patience must be 1 or more"),
        (lambda: EarlyStopping(1, -1.0), "min_delta must be finite and at least 0"),
    ],
)
def test_early_stopping_that_makes_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_optimizer_of_other_parameters_is_refused():
    one, other = digits_vae(), digits_vae()
    before = weights(one)

    def of_another(parameters):
        return torch.optim.SGD(other.parameters(), lr=1e-2)

    with pytest.raises(ValueError, match="fit: the optimiser does not have model"):
        quiet(one, DIGITS, steps=1, optimizer=of_another)

    def of_both(parameters):
        return torch.optim.SGD([*parameters, *other.parameters()], lr=1e-2)

    with pytest.raises(ValueError, match="has 8 parameters that are not the pair"):
        quiet(one, DIGITS, steps=1, optimizer=of_both)
    assert same(weights(one), before)


def test_what_is_to_be_trained_from_some_step_on_must_be_held():
    pair = digits_vae()
    pair.model.requires_grad_(False)

    def beta(step):
        if step == 2:
            pair.model.requires_grad_(True)
        return 1.0

    with pytest.raises(ValueError, match="fit: the optimiser does not have model"):
        quiet(pair, DIGITS, steps=6, beta=beta, log_every=4)


def test_the_old_spelling_of_optimizer_is_deprecated():
    sgd = partial(torch.optim.SGD, lr=0.1)
    with pytest.warns(DeprecationWarning, match="fit: optimiser is deprecated; use optimizer"):
        quiet(digits_vae(), DIGITS, steps=1, optimiser=sgd)
    with pytest.raises(TypeError, match="optimiser is the old name of optimizer"):
        quiet(digits_vae(), DIGITS, steps=1, optimiser=sgd, optimizer=sgd)


def test_a_result_is_shown_in_a_few_lines():
    train, test = DIGITS.split(0.2)
    fitted = quiet(digits_vae(), train, steps=2, validation=test, validate_every=1)
    shown, table = repr(fitted), fitted._repr_html_()
    assert shown.startswith("FitResult(2 steps\n  training loss: ")
    for text in ("validation loss", f"{fitted.validation['loss'][-1]:.2f} ±", "best step"):
        assert text in shown
        assert text in table
