"""What infers does so in evaluation mode, and leaves modes, buffers and the random state alone.

Right values: state before and after, compared bit for bit; and the same networks put into
evaluation mode by hand, as torch's ``eval()`` has it.
"""

import copy
import random
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pairs import C, D, Z, net
from torch import nn

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    evaluation,
    from_config,
    likelihoods,
    posteriors,
    priors,
    to_config,
    training,
)
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.module_modes import evaluating


class Restless(nn.Module):
    """Whatever a module can do to its buffers when it is called."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [
                nn.BatchNorm1d(width),
                nn.BatchNorm1d(width, momentum=None),
                nn.BatchNorm1d(width, track_running_stats=False),
            ]
        )
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(width), persistent=False)
        self.register_buffer("odd", torch.tensor([float("nan"), 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.calls += 1  # in place
            self.last = self.last + x.flatten(0, -2).mean(0)  # replaced
            self.odd[1] += 1
        flat = x.flatten(0, -2)
        if len(flat) > 1:  # one datum has no variance
            for norm in self.norms:
                flat = norm(flat)
        return self.dropout(flat).reshape(x.shape)


def restless(width_in: int, width_out: int) -> nn.Module:
    return nn.Sequential(net(width_in, width_out), Restless(width_out))


def _vae(prior=lambda q: priors.StandardNormal(Z)):
    q = posteriors.DiagonalNormal(restless(D, 2 * Z))
    return VAE(prior=prior(q), posterior=q, likelihood=likelihoods.Bernoulli(restless(Z, D)))


def _ssvae(alpha=1.0, data=D, likelihood=lambda: likelihoods.Bernoulli(restless(Z + C, D))):
    return SemiSupervisedVAE(
        prior=priors.ConditionalNormal(restless(C, 2 * Z)),
        classifier=restless(data, C),
        posterior=posteriors.DiagonalNormal(restless(data + C, 2 * Z)),
        likelihood=likelihood(),
        num_classes=C,
        classification_weight=alpha,
    )


def _stacked():
    second = _ssvae(data=Z, likelihood=lambda: likelihoods.Normal(restless(Z + C, Z)))
    return StackedVAE(first=_vae(), second=second)


class OwnProgram(nn.Module):
    """A program that multiplies x by a latent, whose gradient needs x."""

    def __init__(self, observe):
        super().__init__()
        self.observe = observe

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            if self.observe:
                pyro.sample("x", dist.Normal(z.unsqueeze(-1) * x, 1.0).to_event(1), obs=x)


PAIRS = {
    "vae": _vae,
    "vamp": lambda: _vae(lambda q: priors.VampPrior(q, 3, event_shape=(D,))),
    "conditional": lambda: ConditionalVAE(
        prior=priors.ConditionalNormal(restless(C, 2 * Z)),
        posterior=posteriors.DiagonalNormal(restless(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(restless(Z + C, D)),
        num_classes=C,
    ),
    "hierarchical": lambda: HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[priors.ConditionalNormal(restless(Z, 2 * Z))],
        posteriors=[
            posteriors.DiagonalNormal(restless(D, 2 * Z)),
            posteriors.DiagonalNormal(restless(Z, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(restless(Z, D)),
    ),
    "semi-supervised": _ssvae,
    "stacked": _stacked,
}
X = torch.rand(5, D, generator=torch.Generator().manual_seed(1)).round()
Y = torch.arange(5) % C
MASK = X > 0


def context(pair):
    return (Y,) if isinstance(pair, ConditionalVAE) else ()


def given(function):
    """Call an evaluation function with what the pair is given."""
    return lambda pair: function(pair, X, *context(pair))


METHODS = {
    "encode": lambda pair: pair.encode(X, *context(pair)),
    "reconstruct": lambda pair: pair.reconstruct(X, *context(pair)),
    "generate": lambda pair: pair.generate(Y if context(pair) else 5),
    "impute": lambda pair: pair.impute(X, MASK, *context(pair), num_particles=3),
    "classify": lambda pair: pair.classify(X),
    "latents": lambda pair: pair.latents(X),
    "repr": repr,
    "replace": lambda pair: pair.replace(),
    "check": lambda pair: pair.check(X),
}
EVALUATION = {
    "elbo_terms": given(lambda *args: evaluation.elbo_terms(*args)),
    "importance_bounds": given(
        lambda *args: evaluation.importance_bounds(*args, num_particles=(1, 3))
    ),
    "log_likelihood": given(lambda *args: evaluation.log_likelihood(*args, num_samples=4)),
    "annealed": given(
        lambda *args: evaluation.annealed_importance_sampling(
            *args, num_chains=2, num_temperatures=2, leapfrog_steps=1
        )
    ),
    "bidirectional": lambda pair: evaluation.bidirectional_monte_carlo(
        pair, 5, *context(pair), num_chains=2, num_temperatures=2, leapfrog_steps=1
    ),
    "kl_decomposition": given(lambda *args: evaluation.kl_decomposition(*args)),
    "latent_units": given(lambda *args: evaluation.latent_units(*args, num_samples=2)),
    "inference_gap": given(
        lambda *args: evaluation.inference_gap(*args, steps=2, importance_samples=4, num_samples=4)
    ),
    "responsibilities": lambda pair: evaluation.responsibilities(pair, X, num_samples=2),
    "accuracy": lambda pair: evaluation.accuracy(pair, X, Y),
    "relations": lambda pair: evaluation.relations(pair.model, X, *context(pair)),
}
UNSEEDED = {"encode", "classify", "repr", "check", "accuracy", "relations"}
"""What draws nothing, or puts the random state back though it takes no seed."""


def mixed(pair):
    """Put every third module into evaluation mode, as where an encoder is fixed."""
    for index, module in enumerate(pair.modules()):
        module.training = index % 3 > 0
    return pair


def state(pair):
    modes = {name: module.training for name, module in pair.named_modules()}
    held = {name: id(buffer) for name, buffer in pair.named_buffers()}
    values = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    return modes, held, values


def same(one, other):
    return one[:2] == other[:2] and all(
        torch.equal(one[2][name].nan_to_num(), other[2][name].nan_to_num()) for name in one[2]
    )


def applies(kind, function):
    if kind == "stacked":
        return function in METHODS and function not in ("impute", "check", "replace")
    return {
        "classify": kind == "semi-supervised",
        "accuracy": kind == "semi-supervised",
        "latents": False,
        "responsibilities": kind == "vamp",
        "latent_units": kind != "hierarchical",  # where a site must be named
        "kl_decomposition": kind in ("vae", "vamp"),
        "inference_gap": kind in ("vae", "vamp", "conditional"),
    }.get(function, True)


CASES = [(k, f) for k in PAIRS for f in METHODS | EVALUATION if applies(k, f)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "function"), CASES)
def test_modes_and_buffers_stay_and_what_draws_nothing_is_repeatable(
    kind, function, little_tuning, as_users_see_it
):
    pair = mixed(PAIRS[kind]())
    before, drawn = state(pair), torch.get_rng_state()
    call = (METHODS | EVALUATION)[function]
    first = call(pair)
    assert same(state(pair), before)
    seeded = function in EVALUATION and function not in ("elbo_terms", "importance_bounds")
    if function in UNSEEDED or seeded:
        assert torch.equal(drawn, torch.get_rng_state())
        second = call(pair)
        if isinstance(first, torch.Tensor):
            assert torch.equal(first, second)
        if hasattr(first, "log_px"):
            assert torch.equal(first.log_px, second.log_px)
    assert all(p.grad is None for p in pair.parameters())


BY_GRADIENTS = {name: EVALUATION[name] for name in ("annealed", "bidirectional", "inference_gap")}
for refinement in (
    evaluation.HamiltonianMonteCarlo(num_chains=2, warm_up=2, leapfrog_steps=2),
    evaluation.LocalOptimisation(steps=2),
):
    BY_GRADIENTS[type(refinement).__name__] = given(
        lambda *args, refine=refinement: evaluation.posterior_draws(
            *args, num_samples=8, refine=refine
        )
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", BY_GRADIENTS)
def test_gradients_are_taken_under_inference_mode_too(
    function, little_tuning, as_users_see_it, monkeypatch
):
    pair, call = PAIRS["conditional"](), BY_GRADIENTS[function]
    expected = str(call(pair))
    with torch.inference_mode():
        monkeypatch.setattr(f"{__name__}.X", X.clone())
        assert str(call(pair)) == expected
        made_within = PAIRS["conditional"]()
        with pytest.raises(ValueError, match=r"parameters must have gradients, got .* outside"):
            call(made_within)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", ["annealed", "HamiltonianMonteCarlo"])
def test_programs_of_ones_own_have_gradients_by_data_of_inference_mode(
    function, little_tuning, as_users_see_it, monkeypatch
):
    pair = SimpleNamespace(model=OwnProgram(observe=True), guide=OwnProgram(observe=False))
    with torch.inference_mode():
        monkeypatch.setattr(f"{__name__}.X", X.clone())
        within = BY_GRADIENTS[function](pair)
    assert str(BY_GRADIENTS[function](pair)) == str(within)


@pytest.mark.parametrize("kind", PAIRS)
def test_encodings_are_those_of_networks_in_evaluation_mode(kind):
    pair = PAIRS[kind]()
    by_hand = copy.deepcopy(pair).eval()  # torch's own
    got, expected = (pair.encode(X, *context(pair)), by_hand.encode(X, *context(pair)))
    assert pair.training
    for ours, theirs in zip(
        *((t,) if isinstance(t, torch.Tensor) else t for t in (got, expected)), strict=True
    ):
        assert torch.equal(ours, theirs)
    if kind == "vae":  # and with no method of ours in between
        with torch.no_grad():
            assert torch.equal(got, by_hand.posterior(X).mean)
            assert not torch.equal(got, pair.posterior(X).mean)  # a part's mode is its own


@pytest.mark.parametrize("kind", PAIRS)
def test_what_raises_leaves_modes_and_buffers(kind):
    pair = mixed(PAIRS[kind]())
    before, failing = state(pair), nn.Linear(1, 1)
    # Midway: the first network has run.
    likelihood = pair.first.likelihood if kind == "stacked" else pair.likelihood
    likelihood.net[0].register_forward_hook(lambda *_: failing(torch.ones(2, 2)))
    with pytest.raises(ValueError, match="cannot take an input"):
        pair.reconstruct(X, *context(pair))
    if kind != "stacked":
        with pytest.raises(ValueError, match="cannot take an input"):
            evaluation.log_likelihood(pair, X, *context(pair), num_samples=3)
    assert same(state(pair), before)


def test_a_graph_that_waits_for_its_backward_pass_finds_buffers_unchanged():
    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D, 2 * Z)),
        likelihood=likelihoods.Normal(net(Z, D)),
    )
    loss = ImportanceWeightedELBO(3)(pair.model, pair.guide)(X)
    pair.encode(X)
    pair.generate(2)
    evaluation.elbo_terms(pair, X)
    loss.backward()  # refused if a saved buffer had been written to
    assert all(p.grad is not None for p in pair.parameters())


@pytest.mark.parametrize("kind", [kind for kind in PAIRS if kind != "stacked"])
def test_construction_moves_nothing_and_draws_nothing(kind):
    pair = PAIRS[kind]()
    cls, parts = type(pair), pair.parts()
    modules = nn.ModuleList(p for p in parts.values() if isinstance(p, nn.Module))
    mixed(modules)
    before = state(modules)
    pyro.set_rng_seed(3)
    drawn, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()
    cls(**parts)
    assert same(state(modules), before)
    assert torch.equal(drawn, torch.get_rng_state())
    assert (numpys == np.random.get_state()[1]).all()


def test_a_network_that_draws_in_any_mode_does_not_move_the_random_state(as_users_see_it):
    # As users see it: the type checks of the tests draw from Python's generator.
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net(D, 2 * Z)

        def forward(self, x):
            noise = torch.randn(()) + float(np.random.rand()) + random.random()
            return self.net(x) + 0 * noise

    q, p = posteriors.DiagonalNormal(Noisy()), likelihoods.Bernoulli(net(Z, D))
    pyro.set_rng_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    VAE(prior=priors.StandardNormal(Z), posterior=q, likelihood=p)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()


def test_replacing_a_part_leaves_the_modes_of_shared_ones():
    pair = PAIRS["vamp"]()
    pair.posterior.eval()  # fixed
    new = pair.replace(likelihood=likelihoods.Bernoulli(net(Z, D)))
    assert not any(module.training for module in pair.posterior.modules())
    assert new.training
    assert new.likelihood.training
    other = posteriors.DiagonalNormal(net(D, 2 * Z)).eval()
    assert not pair.replace(posterior=other).posterior.training
    assert not other.training
    assert not any(m.training for m in pair.eval().replace(posterior=other).modules())


def test_the_first_look_of_an_estimator_moves_no_buffer():
    # It runs the programs once more; what a step moves is to be what a step moves.
    pair, once = PAIRS["vae"](), None
    for estimator in (ImportanceWeightedELBO(2, max_plate_nesting=1), ImportanceWeightedELBO(2)):
        other = copy.deepcopy(pair)
        torch.manual_seed(0)
        estimator(other.model, other.guide)(X)
        once = once or state(other)
        assert same((state(other)[0], 0, state(other)[2]), (once[0], 0, once[2]))


def test_training_goes_on_in_training_mode_with_validation_in_between():
    pair = mixed(PAIRS["vae"]())
    modes = state(pair)[0]
    training.fit(pair, X, steps=3, batch_size=5, validation=X, validate_every=1, progress=False)
    assert state(pair)[0] == modes
    assert pair.posterior.net[1].calls > 0  # a training may


def test_modules_in_two_places_are_put_back_once():
    shared = nn.Linear(2, 2)
    one, other = nn.Sequential(shared), nn.Sequential(shared, nn.Dropout())
    shared.training = False
    with evaluating(one, other, shared):
        assert not any(m.training for m in (*one.modules(), *other.modules()))
        with evaluating(other):
            pass
        assert not other.training
    assert one.training
    assert other.training
    assert not shared.training


def test_a_configuration_moves_no_random_state_but_for_the_weights_it_draws():
    config = to_config(
        VAE(
            prior=priors.StandardNormal(Z),
            posterior=posteriors.DiagonalNormal(net(D, 2 * Z)),
            likelihood=likelihoods.Bernoulli(net(Z, D)),
        )
    )
    torch.manual_seed(0)
    by_hand = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )
    drawn = torch.get_rng_state()
    torch.manual_seed(0)
    built = from_config(config)
    assert torch.equal(drawn, torch.get_rng_state())
    for ours, theirs in zip(built.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs)
