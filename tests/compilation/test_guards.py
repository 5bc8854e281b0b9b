"""Compiled steps equal uncompiled ones after a change of anything that the graph was made from.

Right values are those of the same call without a graph, on the same draws, and for weights that
must not move, or must, themselves.
"""

import argparse
import copy
import math
import random
import warnings
from array import array
from collections import ChainMap, UserDict, UserList

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.fx.experimental import proxy_tensor
from torch.nn.utils import parametrize

from ppl_vae import VAE, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.compilation import NotCompiledWarning, compiled_function
from ppl_vae.evaluation import log_likelihood
from ppl_vae.training import NotFiniteError, compile_step

D, Z = 6, 2
X = (torch.rand(16, D, generator=torch.Generator().manual_seed(0)) > 0.5).float()


@pytest.fixture(autouse=True)
def eager(as_users_see_it, monkeypatch):
    """Run the traced graph as it is, not through Inductor; a run uncompiled is an error."""
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        warnings.filterwarnings("ignore", "log_likelihood: Pareto")
        yield


class Net(nn.Module):
    """A network with what programs may hold besides parameters."""

    scale = 1.0

    def __init__(self, width_in, width_out):
        super().__init__()
        self.inner = nets.MLP(width_in, width_out, hidden=(5,))
        self.t = torch.tensor(1.0)
        self.factors = {"one": [1.0, (1.0, 1.0)]}
        self.act = torch.tanh

    def forward(self, v):
        one, (two, _) = self.factors["one"]
        return self.scale * self.t * one * two * self.act(self.inner(v))


def vae(net=None):
    return VAE(
        # With fewer operations where the network is what changes: tracing takes the time.
        prior=priors.StandardNormal(Z) if net else priors.GaussianMixture(Z, 3),
        posterior=posteriors.DiagonalNormal(nets.MLP(D, 2 * Z, hidden=(5,))),
        likelihood=likelihoods.Bernoulli(net or Net(Z, D)),
    )


def stepper(pair, lr=0.1, estimator=None):
    optimizer = torch.optim.SGD(pair.parameters(), lr=lr)
    estimator = estimator or estimators.ImportanceWeightedELBO(3)
    return compile_step(pair, estimator, optimizer), optimizer


def expected(pair):
    pyro.set_rng_seed(3)
    return estimators.ImportanceWeightedELBO(3, max_plate_nesting=1).loss(
        pair.model, pair.guide, X
    ) / len(X)


def got(step):
    pyro.set_rng_seed(3)
    return step(X).item()


@pytest.mark.slow  # also below
def test_frozen_parameters_stay_and_unfrozen_ones_move():
    pair = vae()
    step, _ = stepper(pair)
    step(X)
    for trainable in (False, True, False):
        pair.prior.loc.requires_grad_(trainable)
        before, other = (
            pair.prior.loc.detach().clone(),
            pair.prior.unconstrained_scale.detach().clone(),
        )
        step(X)
        assert torch.equal(pair.prior.loc, before) is not trainable
        assert not torch.equal(pair.prior.unconstrained_scale, other)


def test_frozen_at_the_first_call_and_unfrozen_later():
    pair = vae()
    pair.prior.loc.requires_grad_(False)
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.1)
    step = compile_step(pair, estimators.ImportanceWeightedELBO(1), optimizer)
    before = pair.prior.loc.detach().clone()
    step(X)
    assert torch.equal(pair.prior.loc, before)
    pair.prior.loc.requires_grad_(True)
    step(X)
    assert not torch.equal(pair.prior.loc, before)


def test_a_new_parameter_that_the_optimizer_has_is_trained():
    pair = vae()
    step, optimizer = stepper(pair)
    step(X)
    new = pair.prior.loc = nn.Parameter(torch.randn(3, Z))
    with pytest.raises(ValueError, match=r"does not have model\.prior\.loc"):
        step(X)
    optimizer.add_param_group({"params": [new]})
    before = new.detach().clone()
    assert got(step) == pytest.approx(got_loss(pair, before), rel=1e-5)
    assert not torch.equal(new, before)


def got_loss(pair, loc):
    """The loss at a location of the prior, which has moved since."""
    now = pair.prior.loc.detach().clone()
    others = dict(pair.named_parameters())
    moved = {n: p.detach().clone() for n, p in others.items()}
    with torch.no_grad():
        for parameter in others.values():
            if parameter.grad is not None:
                parameter.add_(0.1 * parameter.grad)  # back by a step of SGD
        pair.prior.loc.copy_(loc)
        value = expected(pair)
        for name, parameter in others.items():
            parameter.copy_(moved[name])
    assert not torch.equal(now, loc)
    return value


def closed_over():
    factor = 1.0

    def act(v):
        return factor * v

    def change():
        nonlocal factor
        factor = 3.0

    return act, change


def weighted(net):
    class Doubled(nn.Module):
        def forward(self, w):
            return 2 * w

    parametrize.register_parametrization(net.inner.layers[0], "weight", Doubled())


CHANGES = {
    "a tensor": lambda net: setattr(net, "t", torch.tensor(3.0)),
    "a tensor in place": lambda net: net.t.fill_(2.0),
    "in a list in a dictionary": lambda net: net.factors["one"].__setitem__(0, 0.5),
    "a tuple": lambda net: net.factors["one"].__setitem__(1, (0.5, 1.0)),
    "a function": lambda net: setattr(net, "act", torch.relu),
    "an attribute of the class": lambda net: setattr(Net, "scale", 3.0),
    "its own attribute over that of the class": lambda net: setattr(net, "scale", 1.5),
    "a hook": lambda net: net.register_forward_hook(lambda m, args, out: out / 3),
    "a parameter's data": lambda net: setattr(
        net.inner.layers[0].weight, "data", torch.ones_like(net.inner.layers[0].weight)
    ),
    "a parametrisation": weighted,
    "a method": lambda net: setattr(net, "forward", lambda v: net.inner(v) - 1),
}


# Both look at what programs hold in the same way: one of each kind will do for the second, and
# some of these are changed in test_compiled_log_weights.py by default.
BY_EVALUATION = ("a tensor", "in a list in a dictionary", "a function", "a hook", "a method")


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("step", tuple(CHANGES)),
        pytest.param("log_likelihood", BY_EVALUATION, marks=pytest.mark.slow),
    ],
)
def test_changes_of_what_programs_hold_are_noticed(names, what, monkeypatch):
    """One after another, each of what is held by then."""
    monkeypatch.setattr(Net, "scale", 1.0)
    net = Net(Z, D)
    pair = vae(net)

    def both():
        if what == "step":
            return got(step), expected(pair)
        options = {"num_samples": 60, "chunk_size": 20}
        compiled, plain = (
            log_likelihood(pair, X, compile=c, **options).nll.mean for c in (True, False)
        )
        return compiled, plain

    step, optimizer = stepper(pair, lr=0.0)
    first, right = both()
    assert first == pytest.approx(right, rel=1e-5)
    for name in names:
        CHANGES[name](net)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        new = [p for p in pair.parameters() if id(p) not in held]
        if new:
            optimizer.add_param_group({"params": new})
        second, right = both()
        assert second == pytest.approx(right, rel=1e-5), name
        assert second != pytest.approx(first, rel=1e-4), name
        # Unchanged: steps before each of which something changes are not compiled.
        first, _ = both()
        assert first == second, name


class Records(dict):
    """A dictionary with an attribute."""

    scale = 1.0


HOLDERS = {
    "a namespace": (argparse.Namespace(v=1), lambda h: h.v, lambda h: setattr(h, "v", 3)),
    "a user's dictionary": (UserDict(v=1), lambda h: h["v"], lambda h: h.update(v=3)),
    "a user's list": (UserList([1]), lambda h: h[0], lambda h: h.__setitem__(0, 3)),
    "a chain": (ChainMap({}, {"v": 1}), lambda h: h["v"], lambda h: h.update(v=3)),
    "an attribute of a dictionary": (
        Records(),
        lambda h: h.scale,
        lambda h: setattr(h, "scale", 3),
    ),
    "bytes": (bytearray([1]), lambda h: h[0], lambda h: h.__setitem__(0, 3)),
    "an array": (array("d", [1]), lambda h: h[0], lambda h: h.__setitem__(0, 3)),
    "an array of objects": (
        np.array([{"v": 1}]),
        lambda h: h[0]["v"],
        lambda h: h[0].update(v=3),
    ),
}


def test_changes_in_collections_and_namespaces_are_noticed():
    class Holding(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nets.MLP(Z, D, hidden=(5,))
            self.held = copy.deepcopy([(holder, read) for holder, read, _ in HOLDERS.values()])

        def forward(self, z):
            return math.prod(read(holder) for holder, read in self.held) * self.inner(z)

    net = Holding()
    pair = vae(net)
    step, _ = stepper(pair, lr=0.0)
    before = got(step)
    for (name, (_, _, change)), (holder, _) in zip(HOLDERS.items(), net.held, strict=True):
        change(holder)
        after = got(step)
        assert after == pytest.approx(expected(pair), rel=1e-5), name
        assert after != pytest.approx(before, rel=1e-4), name
        before = got(
            step
        )  # unchanged: steps before each of which something changes are not compiled


def test_changes_of_closures_and_prepare_are_noticed():
    net = Net(Z, D)
    net.act, change = closed_over()
    pair, data = vae(net), [X]
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.0)
    step = compile_step(
        pair,
        estimators.ImportanceWeightedELBO(3),
        optimizer,
        prepare=lambda i: (data[0][i],),
    )

    def compiled():
        pyro.set_rng_seed(3)
        return step(torch.arange(16)).item()

    assert compiled() == pytest.approx(expected(pair), rel=1e-5)
    change()
    assert compiled() == pytest.approx(expected(pair), rel=1e-5)
    data[0] = 1 - X
    pyro.set_rng_seed(3)
    estimator = estimators.ImportanceWeightedELBO(3, max_plate_nesting=1)
    right = estimator.loss(pair.model, pair.guide, 1 - X) / 16
    assert compiled() == pytest.approx(right, rel=1e-5)


def test_effect_handlers_around_a_call_take_effect():
    pair = vae()
    step, _ = stepper(pair, lr=0.0)
    plain = got(step)
    with poutine.scale(scale=2.0):
        assert got(step) == pytest.approx(2 * plain, rel=1e-1)
        assert got(step) != pytest.approx(plain, rel=1e-2)
    assert got(step) == plain


def test_a_graph_is_reused_when_its_guards_hold_again(monkeypatch):
    traced, make = [], proxy_tensor.make_fx
    monkeypatch.setattr(proxy_tensor, "make_fx", lambda *args: traced.append(1) or make(*args))
    pair = vae()
    step, _ = stepper(pair, lr=0.0)
    got(step)
    pair.eval()
    got(step)
    assert len(traced) == 2
    for mode in (True, False, True):
        pair.train(mode)
        got(step)
    assert len(traced) == 2


# --- what cannot be compiled ----------------------------------------------------------------------


class Counts(nn.Module):
    """A network whose output depends on how often it was called, or on other generators."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.how, self.calls = nets.MLP(Z, D, hidden=(5,)), how, 0
        self.record = {"calls": []}

    def forward(self, z):
        factor = 1.0
        if self.how == "counter":
            self.calls += 1
            factor = 1 + 0.1 * self.calls
        elif self.how == "list":
            self.record["calls"].append(1)
            factor = 1 + 0.1 * len(self.record["calls"])
        elif self.how == "random":
            factor = random.random()
        return factor * self.inner(z)


@pytest.mark.parametrize("how", ["counter", "list", "random"])
def test_programs_with_side_effects_run_uncompiled(how):
    def curve(compiled):
        pyro.set_rng_seed(0)
        random.seed(0)
        pair = vae(Counts(how))
        estimator = estimators.ImportanceWeightedELBO(2, max_plate_nesting=1)
        estimator.loss(pair.model, pair.guide, X)  # the first runs programs more often, to check
        step, optimizer = stepper(pair, estimator=estimator)
        pyro.set_rng_seed(1)
        random.seed(1)
        net = pair.likelihood.net
        net.calls, net.record = 0, {"calls": []}
        losses = []
        for _ in range(3):
            if compiled:
                losses.append(step(X).item())
                continue
            loss = estimator.differentiable_loss(pair.model, pair.guide, X) / len(X)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, net.calls, net.record

    reason = {"counter": r"changes model\.likelihood\.net\.calls", "list": "changes model"}
    with pytest.warns(NotCompiledWarning, match=reason.get(how, "Python's generators")):
        ours = curve(compiled=True)
    theirs = curve(compiled=False)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1:] == theirs[1:]


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_other_generators_that_results_do_not_depend_on_are_allowed(draw):
    class Checked(Net):
        def forward(self, v):
            draw()  # as run-time type checkers do, to choose what they look at
            return super().forward(v)

    pair = vae(Checked(Z, D))
    step, _ = stepper(pair, lr=0.0)
    assert got(step) == pytest.approx(expected(pair), rel=1e-5)  # a warning is an error here


def test_the_warning_names_what_changes_before_each_call(monkeypatch):
    monkeypatch.setattr(compiled_function, "MAX_RECOMPILES", 3)
    net = Net(Z, D)
    step, _ = stepper(vae(net), lr=0.0)
    step(X)

    def changed_before_each():
        for i in range(4):
            net.t = torch.tensor(1.0 + i)
            step(X)

    with pytest.warns(NotCompiledWarning, match=r"model\.likelihood\.net\.t was changed"):
        changed_before_each()


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(D, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2 * Z)
        )

    def forward(self, x):
        return self.layers(x.reshape(-1, D)).reshape(*x.shape[:-1], 2 * Z)


def normed(steps, compiled):
    pyro.set_rng_seed(0)
    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(Normed()),
        likelihood=likelihoods.Bernoulli(nets.MLP(Z, D, hidden=(5,))),
    )
    estimator = estimators.ImportanceWeightedELBO(2, max_plate_nesting=1)
    step, optimizer = stepper(pair, estimator=estimator)
    pyro.set_rng_seed(1)
    for i in range(steps):
        if compiled:
            step(X[i:])
            continue
        optimizer.zero_grad()
        x = X[i:]
        (estimator.differentiable_loss(pair.model, pair.guide, x) / len(x)).backward()
        optimizer.step()
    return dict(pair.named_buffers())


def same_statistics():
    ours, theirs = normed(3, compiled=True), normed(3, compiled=False)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    (number,) = (b for n, b in ours.items() if n.endswith("num_batches_tracked"))
    assert number.item() == 3


def test_running_means_are_those_of_uncompiled_steps():
    same_statistics()


@pytest.mark.inductor
@pytest.mark.slow
def test_running_means_compiled_by_inductor(monkeypatch):
    monkeypatch.undo()
    same_statistics()


# --- what must not be stepped on ------------------------------------------------------------------


def test_a_batch_that_is_not_finite_leaves_weights_unchanged():
    pair = vae()
    step, _ = stepper(pair)
    step(X)
    before = [p.detach().clone() for p in pair.parameters()]
    spoilt = X.clone()
    spoilt[3, 1] = torch.nan
    with pytest.raises(NotFiniteError, match=r"compile_step: step 1: .*the loss is NaN"):
        step(spoilt)
    assert all(map(torch.equal, pair.parameters(), before))
    assert step(X).isfinite()
    assert not all(map(torch.equal, pair.parameters(), before))


def test_an_optimizer_of_other_parameters_is_refused():
    pair, other = vae(), vae()
    elbo = estimators.ImportanceWeightedELBO(1)
    with pytest.raises(ValueError, match=r"does not have model\.prior"):
        compile_step(pair, elbo, torch.optim.Adam(other.parameters()))(X)
    with pytest.raises(ValueError, match=r"does not have guide\.posterior"):
        compile_step(pair, elbo, torch.optim.Adam(pair.model.parameters()))(X)
    both = torch.optim.Adam([*pair.parameters(), *nn.Linear(2, 3).parameters()])
    with pytest.raises(ValueError, match=r"2 parameters .* pair.s, of shape \(3, 2\)"):
        compile_step(pair, elbo, both)(X)
    pair.guide.requires_grad_(False)
    compile_step(pair, elbo, torch.optim.Adam(pair.model.parameters()))(X)


def test_a_pair_without_trainable_parameters_is_refused():
    pair = vae()
    step, _ = stepper(pair)
    pair.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        step(X)


@pytest.mark.parametrize("rate", [torch.nan, -1.0, torch.inf])
def test_invalid_learning_rates_are_refused(rate):
    pair = vae()
    step, optimizer = stepper(pair)
    step(X)
    optimizer.param_groups[0]["lr"] = rate
    before = [p.detach().clone() for p in pair.parameters()]
    with pytest.raises(ValueError, match="learning rate must be finite"):
        step(X)
    assert all(map(torch.equal, pair.parameters(), before))


def test_inputs_that_are_not_tensors_are_refused():
    step, _ = stepper(vae())
    with pytest.raises(TypeError, match="inputs must be tensors"):
        step(X, None)
