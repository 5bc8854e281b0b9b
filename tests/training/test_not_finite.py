"""A NaN ends a training of ``fit``, which says where it began."""

import pickle
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from fitting import DIGITS, digits_ssvae, digits_vae, quiet, same, scaled_by, weights
from pyro.infer import Trace_ELBO
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
from ppl_vae.training import Interrupted, NotFiniteError
from ppl_vae.training.deferred_checks import INTERVAL, DeferredChecks


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


@pytest.mark.parametrize(
    "error", [NotFiniteError(3, "x is NaN", "saved", "compile_step"), Interrupted(3, 15, "saved")]
)
def test_errors_come_back_from_other_processes(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


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
