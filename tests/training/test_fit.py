"""``training.fit``: what it minimises, what it records, what it refuses."""

import dataclasses
import os
import random
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ppl_vae import (
    VAE,
    ConditionalVAE,
    SemiSupervisedVAE,
    data,
    estimators,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.training import EarlyStopping, NotFiniteError, PiecewiseConstant, fit
from ppl_vae.training.deferred_checks import INTERVAL, DeferredChecks
from ppl_vae.training.fabric import avoid_gpu_search
from ppl_vae.training.stopping import Best

DIGITS = data.load("digits")
quiet = partial(fit, progress=False)


def digits_vae(latent=2):
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(latent),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 2 * latent, hidden=(32,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(latent, 64, hidden=(32,))),
    )


def digits_ssvae(**options):
    pyro.set_rng_seed(0)
    return SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=nets.MLP(64, 10, hidden=(8,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(74, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(12, 64, hidden=(8,))),
        num_classes=10,
        **options,
    )


def weights(pair):
    return {name: value.clone() for name, value in pair.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


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


class Poisoned(nn.Module):
    """A network that gives NaN, or a NaN gradient, from its n-th training batch on."""

    def __init__(self, net, at, what):
        super().__init__()
        self.net, self.at, self.what, self.calls = net, at, what, 0

    def forward(self, x):
        out = self.net(x)
        if self.training and torch.is_grad_enabled():
            self.calls += 1
        if self.calls <= self.at:
            return out
        if self.what == "value":
            return out * torch.nan
        # sqrt has an infinite slope at 0, and 0 times it is NaN.
        return out + (0 * out).sqrt() * 0


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_nan_stops_the_training_and_says_where_it_began(what, tmp_path):
    vae = digits_vae()
    net = vae.posterior.net
    # Called at construction (probing) and by fit beforehand, without gradients or in them.
    poisoned = Poisoned(net, 10**9, what)
    pair = vae.replace(posterior=posteriors.DiagonalNormal(poisoned))
    poisoned.calls, poisoned.at = 0, 8
    with pytest.raises(NotFiniteError) as caught:
        quiet(pair, DIGITS, steps=50, out=tmp_path, checkpoint_every=2)
    error = caught.value
    assert 4 <= error.step <= 8
    if what == "value":
        assert "'guide.posterior.net' is NaN at" in error.origin
    else:
        # Between the output of the inner network, where it is seen, and that of the outer one.
        assert "the gradient of parameter 'guide.posterior.net.net.layers" in error.origin
        assert "backward pass at the output of module 'guide.posterior.net.net" in error.origin
    assert all(p.isfinite().all() for p in pair.parameters())
    assert str(tmp_path) in str(error)
    assert "The last checkpoint is of step" in str(error)
    saved = sorted((tmp_path / "checkpoints").iterdir())
    assert saved[-1].name == f"step-{error.step // 2 * 2:09d}"


def test_a_nan_of_a_density_names_the_site():
    class Unlikely(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(2, 64)

        def forward(self, z):
            scale = nn.functional.softplus(self.net(z)) * 0.0
            return dist.Normal(torch.zeros_like(scale), scale, validate_args=False).to_event(1)

    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nn.Linear(64, 4)),
        likelihood=Unlikely(),
    )
    x = data.Dataset(torch.ones(10, 64))
    pyro.enable_validation(False)
    with (
        pytest.warns(UserWarning, match="Encountered NaN"),
        pytest.raises(NotFiniteError, match=r"site .x. \(observed\): its log-density under"),
    ):
        quiet(pair, DataLoader(TensorDataset(x.values), 5), steps=2, estimator=Trace_ELBO())


def scaled_by(likelihood, posterior=None):
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posterior or posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,))),
        likelihood=likelihood,
    )


@pytest.mark.parametrize("particles", [1, 5])
def test_a_rate_that_is_too_high_is_explained_by_the_scale(particles):
    pair = scaled_by(likelihoods.Normal(nets.MLP(2, 128, hidden=(8,)), "per-pixel"))
    with pytest.raises(NotFiniteError, match=r"under Normal is NaN .* \(loc from .*, scale from"):
        quiet(
            pair,
            DIGITS,
            steps=9,
            estimator=estimators.ImportanceWeightedELBO(particles),
            optimizer=partial(torch.optim.Adam, lr=1e6),
        )


@pytest.mark.parametrize("validated", [False, True])
def test_a_nan_with_enumerated_labels_is_found(validated):
    """Also in the first epoch of a loader, where Pyro's validation meets it before."""
    x = DIGITS.draw(torch.arange(40), binarise="threshold")
    given = DataLoader(TensorDataset(x), 10) if validated else x
    with pytest.raises(NotFiniteError, match=r"step 1: the loss is NaN: .*'guide.classifier"):
        quiet(digits_ssvae(), given, steps=2, optimizer=partial(torch.optim.SGD, lr=1e38))


class Brittle(nets.MLP):
    """A network that cannot bear what is drawn once in many steps."""

    def forward(self, z):
        out = super().forward(z)
        return torch.where((z.abs() > 4.1).any(), torch.nan, 1.0) * out


@pytest.fixture
def waiting(monkeypatch):
    """Have numbers looked at every few steps, as on a GPU, where each look is a wait."""
    monkeypatch.setattr(
        DeferredChecks,
        "supports",
        lambda made, _: getattr(made, "_step_supports_amp_scaling", 0),
    )


def rare_nan(seed=0, **options):
    """Train until a rare draw makes a NaN; return the error and the weights that are left."""
    pyro.set_rng_seed(0)
    pair = scaled_by(likelihoods.Bernoulli(Brittle(2, 64, hidden=(8,))))
    with torch.no_grad():
        pair.posterior.net.layers[-1].weight.zero_()
        pair.posterior.net.layers[-1].bias[2:] = 0.55  # a scale of 1
    posterior = weights(pair.posterior)
    trained = [*pair.likelihood.parameters()]
    pair.posterior.requires_grad_(False)
    message = r"the output of module 'model\.likelihood\.net'"
    seen = []

    def optimizer(parameters):
        assert len(parameters) == len(trained)
        seen.append(torch.optim.Adam(parameters, lr=1e-3, fused=True))
        return seen[0]

    with pytest.raises(NotFiniteError, match=message) as found:
        quiet(pair, DIGITS, steps=1000, batch_size=90, optimizer=optimizer, seed=seed, **options)
    assert same(weights(pair.posterior), posterior)
    assert not hasattr(seen[0], "found_inf")
    assert all(p.grad is None for p in pair.parameters())
    return found.value, weights(pair), seen[0].state_dict()["state"][0]


@pytest.mark.usefixtures("as_users_see_it")
def test_a_nan_of_a_rare_draw_is_looked_for_with_the_same_draw():
    error, _, _ = rare_nan()
    assert error.step > 10, "rare"


@pytest.mark.usefixtures("as_users_see_it")
def test_looked_at_later_a_nan_has_the_same_step_and_the_same_weights_are_left(monkeypatch):
    """The steps after it, of which all numbers are finite, are not taken either."""
    options = {"clip_norm": 1.0, "num_particles": lambda step: 1 + step % 2, "seed": 6}
    error, left, state = rare_nan(**options)
    assert error.step % 2 == 1, "of another number of particles than the step of the look"
    assert 1 < error.step % INTERVAL < INTERVAL - 1, "between two looks, which are at 10, 20, ..."
    monkeypatch.setattr(DeferredChecks, "supports", lambda *_: True)
    later, left_later, state_later = rare_nan(**options)
    assert (later.step, later.origin) == (error.step, error.origin)
    assert same(left_later, left)
    assert same(state_later, state)


@pytest.mark.usefixtures("as_users_see_it")
def test_a_nan_of_a_compiled_step_is_found(monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    error, left, _ = rare_nan()
    compiled, left_compiled, _ = rare_nan(compile=True)
    assert (compiled.step, compiled.origin) == (error.step, error.origin)
    assert all(torch.allclose(left_compiled[n], left[n], atol=1e-5) for n in left)


@pytest.mark.usefixtures("waiting")
@pytest.mark.parametrize("what", ["value", "gradient"])
def test_looked_at_later_a_nan_is_not_saved(what, tmp_path):
    vae = digits_vae()
    poisoned = Poisoned(vae.posterior.net, 10**9, what)
    pair = vae.replace(posterior=posteriors.DiagonalNormal(poisoned))
    poisoned.calls, poisoned.at = 0, 8
    with pytest.raises(NotFiniteError, match=r"posterior\.net") as caught:
        quiet(pair, DIGITS, steps=50, out=tmp_path, checkpoint_every=2)
    assert all(p.isfinite().all() for p in pair.parameters())
    saved = sorted((tmp_path / "checkpoints").iterdir())
    assert saved[-1].name == f"step-{caught.value.step // 2 * 2:09d}"


@pytest.mark.usefixtures("as_users_see_it")
def test_looked_at_later_it_is_the_same_training(monkeypatch, tmp_path):
    def run(optimizer, out, steps=25, **options):
        vae = digits_vae()
        fitted = quiet(
            vae,
            DIGITS,
            steps=steps,
            optimizer=optimizer,
            lr_schedule=partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9),
            beta=estimators.linear_warm_up(9),
            clip_norm=20.0,
            validation=DIGITS.subset(range(50)),
            validate_every=7,
            log_every=4,
            out=out,
            **options,
        )
        return weights(vae), {**fitted.history, **fitted.validation}

    for optimizer in (partial(torch.optim.AdamW, fused=True), partial(torch.optim.SGD, lr=0.01)):
        name = str(optimizer.func.__name__)
        with monkeypatch.context() as patch:
            expected, history = run(optimizer, tmp_path / f"{name} each")
            patch.setattr(DeferredChecks, "supports", lambda made, _: made.defaults.get("fused"))
            run(optimizer, tmp_path / name, steps=13)
            got, found = run(optimizer, tmp_path / name, resume=True)
        assert same(got, expected)
        late = slice(-2, None)  # a row more where it was cut
        assert all((found[n][late] == history[n][late]).all() for n in history)


def test_data_with_nan_are_told_as_such():
    x = torch.ones(12, 64)
    x[10] = torch.nan
    with pytest.raises(ValueError, match="non-finite"):
        quiet(digits_vae(), DataLoader(TensorDataset(x), 4), steps=6)
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, 64\)"):
        quiet(digits_vae(), [torch.ones(4, 64), torch.ones(4, 63)], steps=2)


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


@dataclasses.dataclass
class Own:
    model: nn.Module
    guide: nn.Module


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


def test_a_tensor_is_taken_as_the_pair_takes_data():
    images = torch.rand(20, 1, 8, 8)
    fitted = quiet(digits_vae(), images, steps=1, validation=images)  # flat, and binarised
    assert np.isfinite(fitted.validation["loss"]).all()
    pair = Shown()
    quiet(pair, images, steps=1)
    assert pair.model.seen[-1][0].shape == (20, 1, 8, 8)
    quiet(pair, data.Dataset(images), steps=1)
    assert pair.model.seen[-1][0].shape == (20, 64)


class Shown(nn.Module):
    """Programs that note the arguments they are called with."""

    def __init__(self):
        super().__init__()
        self.model, self.guide = ShownModel(), ShownGuide()


class ShownModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, c=None):
        self.seen.append((x, c))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = self.scale * z.unsqueeze(-1) * torch.ones(x[0].numel())
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x.flatten(1))


class ShownGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x, c=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x)), 1.0))


@pytest.mark.parametrize(
    ("given", "context"),
    [
        (lambda x, y: x, False),
        (lambda x, y: data.Dataset(x), False),
        (lambda x, y: data.Dataset(x, y), True),
        (lambda x, y: data.Dataset(x, y).batches(4, binarise="none"), True),
        (lambda x, y: DataLoader(TensorDataset(x, y), 4), True),
        (lambda x, y: [(x[:4], y[:4]), (x[4:], y[4:])], True),
        (lambda x, y: DataLoader(TensorDataset(x), 4), False),
    ],
    ids=["tensor", "dataset", "labelled dataset", "batches", "loader", "list", "loader of x"],
)
def test_data_of_all_kinds(given, context):
    x, y = torch.rand(8, 3), torch.arange(8) % 2
    pair = Shown()
    quiet(pair, given(x, y), steps=4)
    rows = {tuple(row) for batch, _ in pair.model.seen for row in batch.tolist()}
    assert rows == {tuple(row) for row in x.tolist()}
    for batch, c in pair.model.seen:
        if not context:
            assert c is None
        else:
            index = [x.tolist().index(row) for row in batch.tolist()]
            assert torch.equal(c, y[index])


def test_grey_values_are_binarised_for_a_likelihood_of_0_and_1_alone():
    seen = []

    class Seen(nets.MLP):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append(x.detach())
            return super().forward(x)

    def vae(likelihood):
        return VAE(
            prior=priors.StandardNormal(2),
            posterior=posteriors.DiagonalNormal(Seen(64, 4)),
            likelihood=likelihood,
        )

    quiet(vae(likelihoods.Bernoulli(nets.MLP(2, 64))), DIGITS, steps=2)
    assert all(((x == 0) | (x == 1)).all() for x in seen[-2:])
    assert not torch.equal(seen[-2], seen[-1])
    quiet(vae(likelihoods.Normal(nets.MLP(2, 64))), DIGITS, steps=2)
    assert not all(((x == 0) | (x == 1)).all() for x in seen[-2:])


def test_images_stay_images_and_labels_reach_a_conditional_pair():
    pyro.set_rng_seed(0)
    vae = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.ConvEncoder((1, 8, 8), 4)),
        likelihood=likelihoods.Bernoulli(nets.ConvDecoder(2, (1, 8, 8)), event_dim=3),
    )
    assert quiet(vae, DIGITS, steps=2, batch_size=8, validation=DIGITS.subset(range(9))).steps == 2
    cvae = ConditionalVAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(74, 4)),
        likelihood=likelihoods.Bernoulli(nets.MLP(12, 64)),
        num_classes=10,
    )
    fitted = quiet(cvae, DIGITS, steps=3, validation=DIGITS.subset(range(50)))
    assert np.isfinite(fitted.validation["loss"]).all()


def test_semi_supervised_parts_have_columns_and_weights():
    labelled = DIGITS.labelled_subset(2, seed=0)
    parts = data.SemiSupervised(
        DIGITS,
        labelled,
        batch_size=50,
        labelled_batch_size=10,
        labelled_weight=0.5,
        unlabelled_weight=2.0,
    )
    ssvae = digits_ssvae(classification_weight=3.0)
    row = quiet(ssvae, parts, steps=1, log_every=1).history
    assert row["loss"] == pytest.approx(2 * row["unlabelled"] + 0.5 * row["labelled"], rel=1e-6)

    again = digits_ssvae(classification_weight=3.0)
    pyro.set_rng_seed(0)
    drawn = next(iter(data.SemiSupervised(DIGITS, labelled, batch_size=50, labelled_batch_size=10)))
    for part in drawn:  # by Pyro's own estimators
        elbo = Trace_ELBO() if len(part.args) > 1 else TraceEnum_ELBO(max_plate_nesting=1)
        loss = elbo.differentiable_loss(again.model, again.guide, *part.args)
        assert row[part.name][0] == pytest.approx(loss.item() / len(part.args[0]), rel=0.2)


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


class Coin(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Bernoulli(logits=self.logits + z[..., None]).to_event(1), obs=x)


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
