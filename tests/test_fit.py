"""``training.fit``: what it minimises, what it records, what it refuses."""

import dataclasses
import random
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import CSVLogger
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

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
from ppl_vae.training import EarlyStopping, NotFiniteError, fit

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


def test_it_is_the_bare_loop():
    """The same weights as the loop that one writes by hand, bit for bit."""
    ours, by_hand = digits_vae(), digits_vae()
    fitted = quiet(ours, DIGITS, steps=30, batch_size=20, log_every=30, seed=7)
    optimiser = torch.optim.Adam(by_hand.parameters(), lr=1e-3, fused=True)
    estimator = estimators.ImportanceWeightedELBO(1)
    pyro.set_rng_seed(7)
    batches, losses = iter(DIGITS.batches(20, seed=7)), []
    for _ in range(30):
        x, _ = next(batches)
        loss = estimator.differentiable_loss(by_hand.model, by_hand.guide, x) * (1 / 20)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert same(weights(ours), weights(by_hand))
    assert fitted.history["loss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_the_bound_improves_and_is_validated_on_other_data():
    train, test = DIGITS.split(0.2)
    fitted = quiet(
        digits_vae(), train, steps=400, validation=test, validate_every=100, log_every=50
    )
    assert fitted.stopped == "steps"
    assert fitted.steps == 400
    assert fitted.history["step"].tolist() == list(range(50, 401, 50))
    assert fitted.history["loss"][-1] < fitted.history["loss"][0] - 10
    assert fitted.validation["step"].tolist() == [100, 200, 300, 400]
    assert fitted.validation["loss"][-1] < fitted.validation["loss"][0] - 2
    assert (fitted.validation["standard_error"] > 0).all()
    assert fitted.best_step == 400


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


def test_beta_is_in_the_objective_and_not_in_the_bound():
    history = quiet(digits_vae(), DIGITS, steps=200, beta=0.0, log_every=1).history
    # The KL, without a price, is of some nats soon: the bound has it, the objective has not.
    late = slice(100, None)
    assert (history["loss"][late] > history["objective"][late] + 1).all()
    assert (history["beta"] == 0).all()


def test_beta_goes_by_the_step_and_not_by_the_calls_of_a_step():
    parts = data.SemiSupervised(
        DIGITS, DIGITS.labelled_subset(2), batch_size=20, labelled_batch_size=10
    )
    warm_up = estimators.linear_warm_up(4)
    fitted = quiet(digits_ssvae(), parts, steps=5, beta=warm_up, log_every=1)
    assert fitted.history["beta"].tolist() == [0, 0.25, 0.5, 0.75, 1]


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
    assert estimator.total_particles == 31


def test_schedules_of_the_rate_and_clipping():
    seen = []

    def optimiser(parameters):
        made = torch.optim.SGD(parameters, lr=1.0)
        seen.append(made)
        return made

    vae = digits_vae()
    before = weights(vae)
    fitted = quiet(
        vae,
        DIGITS,
        steps=1,
        optimiser=optimiser,
        lr_schedule=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1),
        clip_norm=0.01,
        log_every=1,
    )
    moved = sum(((weights(vae)[n] - before[n]) ** 2).sum() for n in before).sqrt()
    assert fitted.history["gradient_norm"][0] > 0.1
    assert moved == pytest.approx(0.01, rel=1e-3)
    assert fitted.history["learning_rate"][0] == pytest.approx(0.1)


def test_early_stopping_leaves_the_best_weights():
    train, test = DIGITS.subset(range(60)), DIGITS.subset(range(60, 400))
    seen = {}

    def schedule(optimiser):
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1.0)

    vae = digits_vae()
    fitted = quiet(
        vae,
        train,
        steps=3000,
        optimiser=partial(torch.optim.Adam, lr=1e-2),
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
    again = quiet(vae, train, steps=1, optimiser=partial(torch.optim.SGD, lr=0.0), validation=test)
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
        assert "gradient is not" in error.origin
        assert "guide.posterior.net.net" in error.origin
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
    pytest.importorskip("lightning_fabric")
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    fabric = Fabric(accelerator="cpu", devices=1, loggers=[logger])
    test = DIGITS.subset(range(20))
    quiet(digits_vae(), DIGITS, steps=4, log_every=2, validation=test, fabric=fabric)
    text = next(tmp_path.rglob("metrics.csv")).read_text()
    assert "validation_loss" in text
    assert "learning_rate" in text


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
            "a weight on the KL already",
        ),
        ({"steps": 1, "validation": "mnist"}, TypeError, "validation must be a Dataset"),
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
    ],
)
def test_data_that_make_no_sense(given, error, message):
    options = {} if not isinstance(given, data.Batches) else {"batch_size": 5}
    with pytest.raises(error, match=message):
        quiet(digits_vae(), given, steps=1, **options)


@pytest.mark.usefixtures("as_users_see_it")
def test_pairs_that_are_none():
    with pytest.raises(TypeError, match="pair must have a model and a guide that are modules"):
        quiet(nn.Linear(2, 2), DIGITS, steps=1)

    @dataclasses.dataclass
    class Functions:
        model: object
        guide: object

    with pytest.raises(TypeError, match="a program that is a function can be the forward method"):
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
