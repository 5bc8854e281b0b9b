"""When a training stops early: not in a warm-up, and by what is minimised.

The schedules' ends follow from their definitions; the losses are made by hand, or, for the bound,
that of a linear-Gaussian model in closed form.
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae import VAE, data, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import ImportanceWeightedELBO, KLWeighted, cyclical_warm_up, linear_warm_up
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.training import EarlyStopping, fit
from ppl_vae.training.stopping import Settled
from ppl_vae.training.validation import Validation

DIGITS = data.load("digits")


def digits_vae():
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(8,))),
    )


def trained(steps=30, pair=None, **options):
    given = {"validation": DIGITS.subset(range(50)), "validate_every": 1, "progress": False}
    return fit(pair or digits_vae(), DIGITS, steps=steps, **{**given, **options})


def scripted(monkeypatch, bounds, objectives=None):
    """Let validation find these losses, one after another; with β, those of the objective."""
    left = {False: iter(bounds), True: iter(objectives or [])}

    def bound(self, fabric, beta=1.0):
        return Estimate(next(left[beta != 1]), 0.0)

    monkeypatch.setattr(Validation, "bound", bound)


def stairs(step):
    return 0.1 if step < 8 else 0.5 if step < 16 else 1.0


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("options", "first"),
    [
        ({}, 1),
        ({"beta": linear_warm_up(10)}, 11),  # β(10), of the eleventh step, is the first that is 1
        ({"beta": stairs}, 17),
        ({"estimator": KLWeighted(ImportanceWeightedELBO(1), linear_warm_up(5))}, 6),
        ({"num_particles": lambda step: 1 if step < 12 else 2}, 13),
        ({"beta": linear_warm_up(10), "num_particles": lambda step: 1 + (step < 4)}, 11),
        ({"beta": cyclical_warm_up(10)}, 6),  # rises for 5 steps; step 5, the sixth, is at the end
        ({"beta": 1.0}, 1),
    ],
)
def test_patience_begins_when_all_schedules_have_ended(options, first, monkeypatch):
    """Of losses that only rise, the first that counts is the best, and patience ends 3 later."""
    scripted(monkeypatch, [float(n) for n in range(1, 31)], [0.0] * 30)
    fitted = trained(stopping=EarlyStopping(3), **options)
    assert (fitted.best_step, fitted.steps, fitted.stopped) == (first, first + 3, "patience")


@pytest.mark.parametrize("every", [3, 1000])
def test_what_ends_early_is_saved_with_all_of_its_history(every, tmp_path):
    options = {"stopping": EarlyStopping(2, min_delta=1e3), "log_every": 3, "validate_every": 2}
    options |= {"out": tmp_path, "checkpoint_every": every}
    fitted = trained(**options)
    assert (fitted.steps, fitted.stopped) == (6, "patience")
    fitted = trained(pair=digits_vae(), **{**options, "out": tmp_path / "five", "log_every": 4})
    assert fitted.history["step"].tolist() == [4, 6]
    for file, table in (("history", fitted.history), ("validation", fitted.validation)):
        written = (tmp_path / "five" / f"{file}.csv").read_text().splitlines()[1:]
        assert [int(line.split(",")[0]) for line in written] == table["step"].tolist()
    pair = digits_vae()
    again = trained(pair=pair, **options, resume=True)  # from the end, and not from the start
    assert (again.steps, again.stopped) == (6, "patience")
    assert again.history["step"].tolist() == [3, 6]


def test_of_a_cyclical_warm_up_what_is_at_its_end_counts():
    settled = Settled([cyclical_warm_up(10, rising=0.6)], 100)
    assert [n for n in range(1, 31) if settled(n)] == [
        *range(7, 11),
        *range(17, 21),
        *range(27, 31),
    ]


@pytest.mark.parametrize(
    ("schedule", "total", "first"),
    [
        (lambda step: 0.5, 50, 1),
        (lambda step: step / 50, 50, 50),
        (lambda step: min(1.0, step / 7), 50, 8),
        (lambda step: 1.0 if step % 10 else 0.0, 50, 42),  # 0 at steps 0, 10, ..., 40
        (linear_warm_up(80), 50, 50),
        (linear_warm_up(80, start=1.0), 50, 1),
        (cyclical_warm_up(100), 50, 50),  # rises for 50 steps, and at the last of these still does
        (cyclical_warm_up(10, rising=1.0), 50, 50),  # β is at its end at no step
        ([3, 2, 2].__getitem__, 3, 2),  # of no step beyond the training
        (lambda step: min(1.0, step / 1000), 300_000, 1001),
    ],
)
def test_a_function_has_ended_when_it_keeps_its_last_value(schedule, total, first):
    settled = Settled([schedule], total)
    found = next(n for n in range(1, total + 1) if settled(n))
    assert first <= found <= first + total // 100_000
    assert settled(total)


@pytest.mark.parametrize(
    ("monitor", "best"), [("objective", 4), ("bound", 2)], ids=["objective", "bound"]
)
def test_under_a_fixed_beta_what_is_minimised_is_followed_or_what_is_asked_for(
    monitor, best, monkeypatch
):
    bounds = [9.0, 5.0, *(6.0 + n for n in range(28))]
    objectives = [9.0, 8.0, 7.0, 6.0, *(7.0 + n for n in range(26))]
    scripted(monkeypatch, bounds, objectives)
    fitted = trained(beta=4.0, stopping=EarlyStopping(3, monitor=monitor))
    assert (fitted.best_step, fitted.steps) == (best, best + 3)
    assert fitted.validation["loss"].tolist() == bounds[: best + 3]
    assert fitted.validation["objective"].tolist() == objectives[: best + 3]
    assert set(fitted.validation["beta"]) == {4.0}


@pytest.mark.parametrize(
    "options",
    [{"beta": linear_warm_up(10)}, {"num_particles": lambda step: 1 if step < 10 else 2}],
    ids=["beta", "K"],
)
def test_the_bound_counts_during_a_warm_up_and_patience_waits_for_its_end(options, monkeypatch):
    rising = [float(n) for n in range(1, 31)]
    scripted(monkeypatch, [9.0, 0.5, *rising], [0.0] * 30)
    fitted = trained(stopping=EarlyStopping(3, monitor="bound"), **options)
    assert (fitted.best_step, fitted.steps) == (2, 13)  # the eleventh step is the first that counts


def test_the_default_is_the_objective_and_without_beta_the_bound(monkeypatch):
    assert EarlyStopping(1).monitor == "objective"
    scripted(monkeypatch, [3.0, 2.0, 4.0, 5.0])
    fitted = trained(stopping=EarlyStopping(2))
    assert (fitted.best_step, fitted.steps) == (2, 4)
    assert "objective" not in fitted.validation


class Model(nn.Module):
    """z ~ N(0, 1), x ~ N(z, 1)."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.shift, 1.0).mask(True))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)


class Guide(nn.Module):
    """z ~ N(x / 2, s²), s small: what is drawn hardly matters."""

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 1e-3))


class LinearGaussian(nn.Module):
    def __init__(self):
        super().__init__()
        self.model, self.guide = Model(), Guide()


def test_the_objective_is_that_of_the_validation_data():
    """−E log p(x|z) + β KL in closed form, at the weights of the beginning (a rate of 0)."""
    beta, s = 3.0, 1e-3
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    fitted = fit(
        LinearGaussian(),
        x,
        steps=1,
        beta=beta,
        optimizer=partial(torch.optim.SGD, lr=0.0),
        validation=(x.repeat(2000, 1),),
        validate_every=1,
        progress=False,
    )
    mean = x / 2
    error = (0.5 * math.log(2 * math.pi) + 0.5 * ((x - mean) ** 2 + s**2)).mean().item()
    kl = (0.5 * (mean**2 + s**2 - 1) - math.log(s)).mean().item()
    # log q(z) of a draw has standard deviation 1/sqrt(2), the KL's only noise that matters.
    deviation = math.sqrt(0.5 / (9 * 2000))
    assert fitted.validation["loss"][0] == pytest.approx(error + kl, abs=5 * deviation)
    assert fitted.validation["objective"][0] == pytest.approx(
        error + beta * kl, abs=5 * beta * deviation
    )


def test_a_longer_training_forgets_a_best_of_a_schedule_that_goes_on(tmp_path, monkeypatch):
    def beta(step):
        return 0.5 if step < 6 else 1.0

    scripted(monkeypatch, [1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 8.0, 7.0, 7.5, 7.6], [0.0] * 99)
    options = {"beta": beta, "out": tmp_path, "checkpoint_every": 2}
    assert trained(3, stopping=EarlyStopping(3), **options).best_step == 1
    fitted = trained(10, stopping=EarlyStopping(3), resume=True, **options)
    assert (fitted.best_step, fitted.steps) == (8, 10)


@pytest.mark.slow  # when patience begins is tested above
@pytest.mark.usefixtures("as_users_see_it")
def test_a_warm_up_ends_at_a_better_bound_than_its_middle():
    """Stopped in the middle of a warm-up, where the bound with β = 1 rises, it would be worse."""
    options = {"beta": linear_warm_up(60), "validate_every": 5, "steps": 200}
    rate = {"optimizer": partial(torch.optim.Adam, lr=1e-2)}
    whole = trained(**options, **rate)
    stopped = trained(stopping=EarlyStopping(3), **options, **rate)
    assert stopped.best_step > 60
    assert stopped.validation["loss"].min() <= whole.validation["loss"].min() + 0.5


def test_a_monitor_that_makes_no_sense():
    with pytest.raises(ValueError, match=r"monitor must be one of .*, got 'loss'"):
        EarlyStopping(1, monitor="loss")
