"""``training.fit``: what it minimises and what it records."""

import os
import random
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
    digits_ssvae,
    digits_vae,
    quiet,
    same,
    scaled_by,
    weights,
)
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import (
    VAE,
    data,
    estimators,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.training import EarlyStopping, NotFiniteError, PiecewiseConstant
from ppl_vae.training.fabric import avoid_gpu_search
from ppl_vae.training.stopping import Best


@pytest.mark.usefixtures("as_users_see_it")
def test_it_is_the_bare_loop():
    """The same weights as the loop that one writes by hand, bit for bit."""
    ours, by_hand = digits_vae(), digits_vae()
    fitted = quiet(ours, DIGITS, steps=30, batch_size=20, log_every=30, seed=7)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3, fused=True)
    estimator = estimators.ImportanceWeightedELBO(1)
    pyro.set_rng_seed(7)
    batches, losses = iter(DIGITS.batches(20, seed=7)), []
    for step in range(30):
        x, _ = next(batches)
        with pyro.validation_enabled(step == 0):
            loss = estimator.differentiable_loss(by_hand.model, by_hand.guide, x) * (1 / 20)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert same(weights(ours), weights(by_hand))
    assert fitted.history["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


@pytest.mark.usefixtures("as_users_see_it")
def test_the_bound_improves_and_is_validated_on_other_data():
    train, test = DIGITS.split(0.2)
    fitted = quiet(
        digits_vae(),
        train,
        steps=80,
        validation=test,
        validate_every=20,
        log_every=10,
        optimizer=partial(torch.optim.Adam, lr=5e-3),
    )
    assert fitted.stopped == "steps"
    assert fitted.steps == 80
    assert fitted.history["step"].tolist() == list(range(10, 81, 10))
    assert fitted.history["loss"][-1] < fitted.history["loss"][0] - 10
    assert fitted.validation["step"].tolist() == [20, 40, 60, 80]
    assert fitted.validation["loss"][-1] < fitted.validation["loss"][0] - 2
    assert (fitted.validation["standard_error"] > 0).all()
    assert fitted.best_step == 80


@pytest.mark.usefixtures("as_users_see_it")  # run-time type checks draw from Python's generator
def test_one_seed_and_the_generators_left_as_they_were():
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    before = states()
    runs = []
    for seed in (1, 1, 2):
        vae = digits_vae()
        before = states()
        fitted = quiet(vae, DIGITS, steps=5, log_every=1, seed=seed)
        assert states() == before
        torch.rand(3), random.random(), np.random.rand()
        runs.append((weights(vae), fitted.history["loss"].tolist()))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not same(runs[0][0], runs[2][0])


class Subsampled(nn.Module):
    """A program of a user's own: N/B, and a global latent outside the plate."""

    def __init__(self, total):
        super().__init__()
        self.total = total
        self.model, self.guide = Model(self), Guide(self)


class Model(nn.Module):
    def __init__(self, owner):
        super().__init__()
        self.total = owner.total
        self.loc = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        mean = pyro.sample("mean", dist.Normal(self.loc, 1.0))
        with pyro.plate("data", self.total, subsample_size=len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class Guide(nn.Module):
    def __init__(self, owner):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.2))

    def forward(self, x):
        pyro.sample("mean", dist.Delta(self.loc))


def test_nats_per_datum_of_all_n_where_the_plate_is_subsampled():
    x, total = torch.tensor([1.0, 2.0, 3.0, 6.0]), 1000
    pair = Subsampled(total)
    fitted = quiet(
        pair, DataLoader(TensorDataset(x), 4), steps=1, estimator=Trace_ELBO(), log_every=1
    )
    z = torch.tensor(0.2)
    log_p = total * dist.Normal(z, 1).log_prob(x).mean() + dist.Normal(0.5, 1).log_prob(z)
    assert fitted.history["loss"][0] == pytest.approx(-log_p.item() / total, rel=1e-6)


@pytest.mark.parametrize("gradient", ["iwae", "dreg", "stl", "wake"])
def test_the_history_has_the_bound_and_no_surrogate(gradient):
    """All gradient estimators start from the same weights: their first entries are one bound."""
    estimator = estimators.ImportanceWeightedELBO(5, gradient)
    fitted = quiet(digits_vae(), DIGITS, steps=1, estimator=estimator, log_every=1)
    vae = digits_vae()
    pyro.set_rng_seed(0)
    x, _ = next(iter(DIGITS.batches(100, seed=0)))
    bound = estimators.ImportanceWeightedELBO(5).loss(vae.model, vae.guide, x) / 100
    assert fitted.history["loss"][0] == pytest.approx(bound, rel=1e-5)


@pytest.mark.usefixtures("as_users_see_it")
def test_beta_is_in_the_objective_and_not_in_the_bound():
    quick = partial(torch.optim.Adam, lr=1e-2)
    history = quiet(digits_vae(), DIGITS, steps=40, beta=0.0, log_every=1, optimizer=quick).history
    # The KL, without a price, is of some nats soon: the bound has it, the objective has not.
    late = slice(30, None)
    assert (history["loss"][late] > history["objective"][late] + 1).all()
    assert (history["beta"] == 0).all()


def test_beta_goes_by_the_step_and_not_by_the_calls_of_a_step():
    parts = data.SemiSupervised(
        DIGITS, DIGITS.labelled_subset(2), batch_size=20, labelled_batch_size=10
    )
    warm_up = estimators.linear_warm_up(4)
    fitted = quiet(digits_ssvae(), parts, steps=5, beta=warm_up, log_every=1)
    assert fitted.history["beta"].tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("given", ["beta", "estimator"])
def test_beta_is_that_of_the_step(given):
    def at_two(step):
        return 1e4 if step == 2 else 0.0

    elbo = estimators.ImportanceWeightedELBO(1)
    options = {"beta": at_two} if given == "beta" else {}
    if given == "estimator":
        options["estimator"] = estimators.KLWeighted(elbo, at_two)
    history = quiet(digits_vae(), DIGITS, steps=5, log_every=1, **options).history
    assert history["beta"].tolist() == [0, 0, 1e4, 0, 0]
    assert (history["objective"] > 100).tolist() == [False, False, True, False, False]
    assert (history["loss"] < 60).all(), "minus the bound, whatever β is"
    if given == "estimator":
        assert options["estimator"].schedule is at_two, "left as it was"


def test_a_warm_up_longer_than_the_training_is_reported():
    with pytest.warns(UserWarning, match="longer than the training"):
        quiet(digits_vae(), DIGITS, steps=2, beta=estimators.linear_warm_up(100))


def test_the_number_of_particles_follows_the_step():
    estimator = estimators.ImportanceWeightedELBO(1)
    fitted = quiet(
        digits_vae(),
        DIGITS,
        steps=4,
        estimator=estimator,
        num_particles=lambda step: 1 + 10 * step,
        log_every=1,
    )
    assert fitted.history["num_particles"].tolist() == [1, 11, 21, 31]
    assert estimator.total_particles == 1, "left as it was"


def test_schedules_of_the_rate_and_clipping():
    seen = []

    def optimizer(parameters):
        made = torch.optim.SGD(parameters, lr=1.0)
        seen.append(made)
        return made

    vae = digits_vae()
    before = weights(vae)
    fitted = quiet(
        vae,
        DIGITS,
        steps=1,
        optimizer=optimizer,
        lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1),
        clip_norm=0.01,
        log_every=1,
    )
    moved = sum(((weights(vae)[n] - before[n]) ** 2).sum() for n in before).sqrt()
    assert fitted.history["gradient_norm"][0] > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)
    assert fitted.history["learning_rate"][0] == 1.0, "that of the step, as beta is"


def test_a_first_validation_that_is_nan_is_not_the_best_for_ever():
    best = Best()
    found = [best.improved(step, loss, 0.0) for step, loss in enumerate([np.nan, np.nan, 5.0, 6.0])]
    assert found == [True, False, True, False]
    assert (best.loss, best.step, best.since) == (5.0, 2, 1)


@pytest.mark.usefixtures("as_users_see_it")
def test_early_stopping_leaves_the_best_weights():
    train, test = DIGITS.subset(range(60)), DIGITS.subset(range(60, 400))
    seen = {}

    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    vae = digits_vae()
    fitted = quiet(
        vae,
        train,
        steps=3000,
        optimizer=partial(torch.optim.Adam, lr=3e-2),
        lr_schedule=schedule,
        validation=test,
        validate_every=20,
        stopping=EarlyStopping(patience=3),
        log_every=20,
    )
    seen = fitted.validation
    assert fitted.stopped == "patience"
    assert fitted.steps < 3000
    best = seen["loss"].argmin()
    assert fitted.best_step == seen["step"][best] == fitted.steps - 3 * 20
    again = quiet(vae, train, steps=1, optimizer=partial(torch.optim.SGD, lr=0.0), validation=test)
    assert again.validation["loss"][0] == pytest.approx(seen["loss"][best], rel=1e-6)


def test_gradients_from_before_do_not_count():
    """Neither a user's, nor those of a training that ended in a NaN."""
    clean, spoilt = digits_vae(), digits_vae()
    for parameter in spoilt.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    for pair in (clean, spoilt):
        quiet(pair, DIGITS, steps=2)
    assert same(weights(clean), weights(spoilt))
    with pytest.raises(NotFiniteError):
        quiet(clean, DIGITS, steps=5, optimizer=partial(torch.optim.SGD, lr=1e30))
    assert all(p.grad is None for p in clean.parameters())


def test_an_optimizer_of_some_of_the_parameters():
    """What it has not is left alone, and its gradients do not pile up."""
    one, other = digits_vae(), digits_vae()

    def of_the_guide(parameters):
        return torch.optim.SGD(one.guide.parameters(), lr=1e-2)

    norms = quiet(one, DIGITS, steps=3, optimizer=of_the_guide, log_every=1).history
    other.model.requires_grad_(False)
    quiet(other, DIGITS, steps=3, optimizer=partial(torch.optim.SGD, lr=1e-2))
    assert same(weights(one), weights(other))
    assert same(weights(one.model), weights(digits_vae().model))
    assert norms["gradient_norm"][2] < 1.5 * norms["gradient_norm"][0]


class Averaging(nn.Module):
    """A network with a running mean, and with dropout."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 4)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("mean", torch.zeros(4))
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, self.dropout.training))
        out = self.net(self.dropout(x))
        if self.training:
            self.mean.lerp_(out.detach().reshape(-1, 4).mean(0), 0.1)
        return out - self.mean


def averaging():
    pyro.set_rng_seed(0)
    posterior = posteriors.DiagonalNormal(Averaging())
    pair = scaled_by(likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(8,))), posterior)
    posterior.net.mean.zero_()
    posterior.net.modes.clear()
    return pair


def test_looking_at_the_bound_changes_nothing():
    """However often the history is written, and whatever is looked at beforehand."""
    pairs = [averaging(), averaging(), averaging()]
    for pair, log_every in zip(pairs[:2], (1, 100), strict=True):
        quiet(pair, DIGITS, steps=4, beta=0.5, log_every=log_every)
    assert same(weights(pairs[0]), weights(pairs[1]))
    # As often as there are steps: (1 - 0.1)^4 of a constant output is left.
    nn.init.zeros_(pairs[2].posterior.net.net.weight)
    nn.init.ones_(pairs[2].posterior.net.net.bias)
    frozen = partial(torch.optim.SGD, lr=0.0)
    validation = DIGITS.subset(range(9))
    quiet(pairs[2], DIGITS, steps=4, optimizer=frozen, validation=validation, validate_every=2)
    assert pairs[2].posterior.net.mean.tolist() == pytest.approx([1 - 0.9**4] * 4)


@pytest.mark.parametrize("given", ["training", "evaluation", "a part in evaluation"])
def test_training_is_in_training_mode_and_the_mode_given_comes_back(given):
    pair = averaging()
    net = pair.posterior.net
    if given == "evaluation":
        pair.eval()
    elif given == "a part in evaluation":
        net.dropout.eval()
    modes = [m.training for m in pair.modules()]
    quiet(pair, DIGITS, steps=2, validation=DIGITS.subset(range(9)))
    of_training = {dropout for mode, dropout in net.modes if mode}
    assert of_training == {given != "a part in evaluation"}
    assert net.modes[-1] == (False, False), "the validation"
    assert [m.training for m in pair.modules()] == modes


class Shared(pyro.nn.PyroModule):
    """A program with parameters of Pyro's kind, that its guide shares by their names."""

    def __init__(self):
        super().__init__()
        self.scale = pyro.nn.PyroParam(torch.ones(64), dist.constraints.positive)
        self.weight = nn.Parameter(torch.zeros(64))

    def forward(self, x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 1000, subsample_size=len(x)):
            x_dist = dist.Normal(self.weight + shift.unsqueeze(-1), self.scale)
            pyro.sample("x", x_dist.to_event(1), obs=x)


@pytest.mark.parametrize(
    "guide",
    [
        pyro.infer.autoguide.AutoNormal,
        pyro.infer.autoguide.AutoDelta,
        pyro.infer.autoguide.AutoMultivariateNormal,
    ],
)
def test_guides_that_make_their_parameters_themselves(guide, tmp_path):
    """One seed, whatever was drawn before; no trace in Pyro's store; and resumed."""
    x, histories, pairs = torch.rand(50, 64), [], []
    for steps, out in ((6, None), (3, tmp_path), (6, tmp_path)):
        torch.rand(steps)
        model = Shared()
        pair = Own(model, guide(model))
        fitted = quiet(
            pair,
            x,
            steps=steps,
            estimator=Trace_ELBO(),
            log_every=3,
            out=out,
            resume=out is not None,
        )
        histories.append(fitted.history["loss"].tolist())
        pairs.append(pair)
        assert (model.weight != 0).all()
        assert (model.scale != 1).all()
        assert not pyro.get_param_store().keys()
    assert histories[1] == histories[0][:1]
    assert histories[2] == histories[0]
    for part in ("model", "guide"):
        assert same(weights(getattr(pairs[0], part)), weights(getattr(pairs[2], part)))


class Stored(nn.Module):
    def forward(self, x):
        scale = pyro.param("sigma", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), scale).to_event(1), obs=x)


def test_parameters_that_would_not_be_trained_are_refused():
    with pytest.raises(ValueError, match=r"pyro.param 'sigma' is in Pyro's parameter store"):
        quiet(Own(Stored(), ShownGuide()), torch.rand(9, 3), steps=1, estimator=Trace_ELBO())


def test_programs_without_a_bound_per_datum_need_an_estimator_of_their_own():
    pair = Own(Shared(), pyro.infer.autoguide.AutoDelta(Shared()))
    x = torch.rand(9, 64)
    with pytest.raises(ValueError, match="the default estimator needs them"):
        quiet(pair, x, steps=1)
    with pytest.raises(ValueError, match="validation needs them"):
        quiet(pair, x, steps=1, estimator=Trace_ELBO(), validation=x)


@pytest.mark.parametrize("beta", [None, 0.5])
def test_pyros_estimators(beta):
    """Streams of a semi-supervised pair, with β: some refuse to go without gradients."""
    parts = data.SemiSupervised(DIGITS, DIGITS.labelled_subset(2))
    # Where labels are seen, nothing is to be enumerated.
    enumerating = partial(TraceEnum_ELBO, max_plate_nesting=1, strict_enumeration_warning=False)
    for estimator in (
        enumerating(),
        Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1),
        estimators.KLWeighted(enumerating(), 0.5),
    ):
        weighted = isinstance(estimator, estimators.KLWeighted)
        if weighted and beta is not None:
            continue
        given = digits_vae() if isinstance(estimator, Trace_ELBO) else digits_ssvae()
        given_data = DIGITS if isinstance(estimator, Trace_ELBO) else parts
        history = quiet(
            given, given_data, steps=2, estimator=estimator, beta=beta, log_every=1
        ).history
        assert np.isfinite(history["loss"]).all()
        assert ("objective" in history) == (beta is not None or weighted)


def test_a_logger_gets_every_number(tmp_path):
    logger = CSVLogger(tmp_path)  # writes every hundred rows, and when told to
    fabric = Fabric(accelerator="cpu", devices=1, loggers=[logger])
    test = DIGITS.subset(range(20))
    quiet(digits_vae(), DIGITS, steps=4, log_every=2, validation=test, fabric=fabric)
    text = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "validation_loss" in text
    assert "learning_rate" in text


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fabric = Fabric(accelerator="cpu", devices=1, loggers=TensorBoardLogger(tmp_path))
    fitted = quiet(digits_vae(), DIGITS, steps=4, beta=0.5, log_every=2, fabric=fabric)
    events = EventAccumulator(str(next(tmp_path.rglob("*tfevents*"))))
    events.Reload()
    assert {"loss", "objective", "beta", "learning_rate"} <= {*events.Tags()["scalars"]}
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == list(
        zip(fitted.history["step"], map(pytest.approx, fitted.history["loss"]), strict=True)
    )


def test_double_precision_stays():
    vae = digits_vae().double()
    fitted = quiet(vae, DIGITS, steps=2, validation=DIGITS.subset(range(9)))
    assert all(p.dtype is torch.float64 for p in vae.parameters())
    assert fitted.steps == 2


def test_values_outside_the_support_are_refused_even_late():
    """Pyro's validation is off after the first step; a loader's later batches are looked at."""
    x = torch.zeros(12, 64)
    x[10] = 0.3
    with pytest.raises(ValueError, match="0"):
        quiet(digits_vae(), DataLoader(TensorDataset(x), 4), steps=6)
    with pytest.raises(ValueError, match="outside the support"):
        quiet(digits_vae(), data.Dataset(5 * x + 1), steps=1)


@pytest.mark.parametrize("on", [True, False])
def test_pyros_switch_is_heeded_and_left_as_it_was(on):
    pyro.enable_validation(on)
    grey = DataLoader(TensorDataset(torch.full((12, 64), 0.3)), 4)
    if on:
        with pytest.raises(ValueError, match="outside the support"):
            quiet(digits_vae(), grey, steps=6)
    else:
        assert quiet(digits_vae(), grey, steps=6).steps == 6
    assert pyro.infer.util.is_validation_enabled() is on
    assert pyro.distributions.is_validation_enabled() is on


def test_pyros_validation_is_on_for_the_first_batch_alone():
    """For the first epoch, where values were not looked at beforehand."""
    x = DIGITS.draw(torch.arange(60), binarise="threshold")
    for given, expected in ((x, [0]), (DataLoader(TensorDataset(x), 20), [0, 1, 2])):
        pair, on = digits_vae(), []
        pair.model.register_forward_pre_hook(
            lambda *_, on=on: on.append(pyro.infer.util.is_validation_enabled())
        )
        options = {"batch_size": 20} if given is x else {}
        quiet(pair, given, steps=9, **options)
        assert [step for step, was in enumerate(on[-9:]) if was] == expected


@pytest.mark.parametrize("there", [True, False])
def test_optimizers_do_not_look_for_a_gpu_that_is_not_there(there, monkeypatch):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: there)
        avoid_gpu_search()
    assert ("PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ) is there


def test_particles_change_at_milestones():
    particles = PiecewiseConstant(milestones=[2, 3], values=[1, 4, 2])
    fitted = quiet(digits_vae(), DIGITS, steps=4, num_particles=particles, log_every=1)
    assert fitted.history["num_particles"].tolist() == [1, 1, 4, 2]
    for wrong, message in (
        ({"milestones": [3, 2], "values": [1, 2, 3]}, "milestones must ascend"),
        ({"milestones": [3], "values": [1, 2, 3]}, "values must be one more than milestones, 2"),
    ):
        with pytest.raises(ValueError, match=message):
            PiecewiseConstant(**wrong)


def test_a_temperature_is_that_of_the_scheduled_estimator():
    falling = estimators.linear_warm_up(4, start=1.0, end=0.3)

    def trained(estimator, **options):
        pyro.set_rng_seed(0)
        vae = VAE(
            prior=priors.Bernoulli(3),
            posterior=posteriors.RelaxedBernoulli(nets.MLP(64, 3, hidden=(8,))),
            likelihood=likelihoods.Bernoulli(nets.MLP(3, 64, hidden=(8,))),
        )
        quiet(vae, DIGITS, steps=6, estimator=estimator, **options)
        return weights(vae)

    bound = estimators.ImportanceWeightedELBO(1)
    expected = trained(estimators.TemperatureScheduled(bound, falling))
    assert same(trained(bound, temperature=falling), expected)
    assert not same(trained(bound), expected)
    with pytest.raises(ValueError, match="has a temperature already"):
        trained(estimators.TemperatureScheduled(bound, 0.5), temperature=0.4)


def test_the_norm_is_that_of_what_is_trained():
    """An optimiser of some parameters moves them as far as with all others frozen."""
    moved = []
    for frozen in (False, True):
        vae = digits_vae()
        vae.likelihood.requires_grad_(not frozen)
        before = weights(vae)
        quiet(
            vae,
            DIGITS,
            steps=1,
            clip_norm=0.5,
            optimizer=lambda _, vae=vae: torch.optim.SGD(vae.posterior.parameters(), lr=1.0),
        )
        after = weights(vae)
        moved.append(sum((after[n] - before[n]).square().sum() for n in before).sqrt().item())
    assert moved == pytest.approx([0.5, 0.5], rel=1e-4)
