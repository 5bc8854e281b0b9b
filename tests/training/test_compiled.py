"""Compiled steps equal uncompiled ones on the same draws, and notice what changes."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning_fabric import Fabric
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    data,
    estimators,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.compilation import NotCompiledWarning
from ppl_vae.data import Part
from ppl_vae.training import compile_step, fit

pytestmark = pytest.mark.usefixtures("as_users_see_it", "eager")
D, Z = 12, 2
X = (torch.rand(64, D, generator=torch.Generator().manual_seed(0)) > 0.5).float()
Y = torch.arange(64) % 3
CALLED: list[int] = []
iw = estimators.ImportanceWeightedELBO


@pytest.fixture
def eager(request, monkeypatch):
    """Run the traced graph as it is, not through Inductor, where only the tracing is tested.

    What Inductor makes of a graph is tested by those that are marked.
    """
    if "inductor" not in request.keywords:
        monkeypatch.setattr(
            "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
        )


def net(width_in, width_out):
    return nets.MLP(width_in, width_out, hidden=(6,))


def vae(prior=None, posterior=None, likelihood=None):
    q = posterior() if posterior else posteriors.DiagonalNormal(net(D, 2 * Z))
    return VAE(
        prior=prior(q) if prior else priors.StandardNormal(Z),
        posterior=q,
        likelihood=likelihood() if likelihood else likelihoods.Bernoulli(net(Z, D)),
    )


def ssvae():
    return SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(D, 3),
        posterior=posteriors.DiagonalNormal(net(D + 3, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + 3, D)),
        num_classes=3,
        classification_weight=2.0,
    )


def hierarchy():
    return HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[posteriors.DiagonalNormal(net(Z, 2 * 3))],
        posteriors=[
            posteriors.DiagonalNormal(net(D, 2 * 3)),
            posteriors.DiagonalNormal(net(3, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(net(3, D)),
    )


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + 3, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + 3, D)),
        num_classes=3,
    )


def bits():
    return VAE(
        prior=priors.Bernoulli(Z, learn_logits=True),
        posterior=posteriors.Bernoulli(net(D, Z)),
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )


def layers_of_bits():
    return HierarchicalVAE(
        prior=priors.Bernoulli(Z),
        conditionals=[posteriors.Bernoulli(net(Z, 3))],
        posteriors=[posteriors.Bernoulli(net(D, 3)), posteriors.Bernoulli(net(3, Z))],
        likelihood=likelihoods.Bernoulli(net(3, D)),
    )


def label_and_bits():
    parts = {"posterior": posteriors.Bernoulli(net(D + 3, Z)), "prior": priors.Bernoulli(Z)}
    return ssvae().replace(**parts)


class WithState(nn.Module):
    """A network that draws and has a running mean.

    The gradient of a bias before the batch norm is 0 but for rounding.
    """

    def __init__(self, bias=True):
        super().__init__()
        first = nn.Linear(D, 6, bias=bias)
        self.layers = nn.Sequential(
            first, nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 2 * Z)
        )

    def forward(self, x):
        return self.layers(x.reshape(-1, D)).reshape(*x.shape[:-1], 2 * Z)


def only_x(index, y):
    return (torch.bernoulli(0.9 * X[index]),)


def with_labels(index, y):
    return X[index], y


def streams(index, y):
    return (
        Part("unlabelled", (torch.bernoulli(0.9 * X[index]),), 1.0),
        Part("labelled", (X[index], y), 0.5),
    )


def inputs(i):
    index = torch.arange(16) + i
    return index, Y[index]


CASES = {
    "the ELBO": (vae, lambda: iw(1), only_x),
    "Pyro's ELBO": (vae, Trace_ELBO, only_x),
    "Pyro's analytic KL": (vae, TraceMeanField_ELBO, only_x),
    "an analytic KL": (vae, estimators.AnalyticKLELBO, only_x),
    "particles": (vae, lambda: iw(5), only_x),
    "dreg": (vae, lambda: iw(5, "dreg"), only_x),
    "stl": (vae, lambda: iw(5, "stl"), only_x),
    "wake": (vae, lambda: iw(5, "wake"), only_x),
    "bits, DisARM": (bits, lambda: iw(2, "disarm"), only_x),
    "bits, the analytic KL": (
        bits,
        lambda: estimators.AnalyticKLELBO(2, gradient="disarm"),
        only_x,
    ),
    "layers of bits, VIMCO": (layers_of_bits, lambda: iw(3, "vimco"), only_x),
    "a label and bits, leave-one-out": (label_and_bits, lambda: iw(2, "loo", alpha=1), streams),
    "β": (vae, lambda: estimators.KLWeighted(iw(1), estimators.linear_warm_up(4)), only_x),
    "a mixture": (lambda: vae(lambda q: priors.GaussianMixture(Z, 5)), lambda: iw(1), only_x),
    "a VampPrior": (
        lambda: vae(lambda q: priors.VampPrior(q, 3, event_shape=(D,), bounds=(0, 1))),
        lambda: iw(1),
        only_x,
    ),
    "RealNVP": (
        lambda: vae(lambda q: priors.Flow(Z, "realnvp", transforms=2, hidden=(4,))),
        lambda: iw(1),
        only_x,
    ),
    "a full rank": (
        lambda: vae(posterior=lambda: posteriors.FullRankNormal(net(D, 5))),
        lambda: iw(1),
        only_x,
    ),
    "a learned scale": (
        lambda: vae(likelihood=lambda: likelihoods.Normal(net(Z, D), "learned")),
        lambda: iw(1),
        only_x,
    ),
    "labels summed": (ssvae, lambda: iw(1), only_x),
    "labels observed": (ssvae, lambda: iw(1), with_labels),
    "two streams": (ssvae, lambda: iw(3), streams),
    "layers": (hierarchy, lambda: iw(2), only_x),
    "a condition": (conditional, lambda: iw(1), with_labels),
    "dropout and batch norm": (
        lambda: vae(posterior=lambda: posteriors.DiagonalNormal(WithState(bias=False))),
        lambda: iw(1),
        only_x,
    ),
}


def made(name):
    make, estimator, prepare = CASES[name]
    pyro.set_rng_seed(0)
    pair = make()
    return pair, estimator(), prepare


def losses_and_weights(pair, estimator, prepare, steps, *, plain):
    """Train by compile_step, or by hand."""
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-2)
    step = compile_step(pair, estimator, optimizer, prepare=prepare)
    pyro.set_rng_seed(1)
    losses = []
    for i in range(steps):
        if plain:
            losses.append(by_hand(pair, estimator, optimizer, prepare(*inputs(i))))
        else:
            losses.append(step(*inputs(i)).item())
    return losses, {n: p.detach().clone() for n, p in pair.state_dict().items()}


def by_hand(pair, estimator, optimizer, parts):
    if not isinstance(parts[0], Part):
        parts = (Part("data", parts),)
    loss = 0
    before = getattr(estimator, "step", None)
    for part in parts:
        if before is not None:
            estimator.step = before  # a call takes a step of its own
        of_part = estimator.differentiable_loss(pair.model, pair.guide, *part.args)
        loss = loss + part.weight * of_part / len(part.args[0])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def warm(pair, estimator, prepare):
    """Let an estimator look at its programs, which draws numbers, before anything is compared."""
    state = {n: b.clone() for n, b in pair.named_buffers()}
    step = getattr(estimator, "step", None)
    by_hand(pair, estimator, torch.optim.SGD(pair.parameters(), lr=0.0), prepare(*inputs(0)))
    for name, buffer in pair.named_buffers():
        buffer.copy_(state[name])
    if step is not None:
        estimator.step = step


def compare(name, steps=6):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        pyro.enable_validation(False)
        ours = losses_and_weights(*made(name), steps, plain=False)
        pair, estimator, prepare = made(name)
        warm(pair, estimator, prepare)
        theirs = losses_and_weights(pair, estimator, prepare, steps, plain=True)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    for parameter, value in theirs[1].items():
        # Adam divides by the gradient's size: where it is 0 but for rounding, steps are arbitrary.
        assert torch.allclose(ours[1][parameter], value, rtol=1e-3, atol=2e-3), parameter


# Each of these is part of another case, or traced like one.
LIKE_OTHERS = {
    *("the ELBO", "Pyro's analytic KL", "a full rank", "a learned scale", "stl"),
    *("labels summed", "labels observed", "bits, the analytic KL", "a VampPrior", "RealNVP"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LIKE_OTHERS else ()) for n in CASES]
)
def test_the_same_losses_and_weights_on_the_same_draws(name):
    compare(name)


@pytest.mark.inductor
@pytest.mark.slow  # a step in mixed precision is compiled by Inductor in test_precision.py
@pytest.mark.parametrize("name", ["particles", "dreg", "two streams"])
def test_inductor_gives_the_same_losses_and_weights(name):
    compare(name, steps=3)


def new_step(pair=None, estimator=None, prepare=None):
    pair = pair or vae()
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.0)  # the pair stays as it is
    return compile_step(pair, estimator or iw(1), optimizer, prepare=prepare)


def expected(pair, x, estimator=None):
    pyro.set_rng_seed(3)
    loss = (estimator or iw(1, max_plate_nesting=1)).loss(pair.model, pair.guide, x)
    return loss / len(x)


def got(step, *inputs):
    pyro.set_rng_seed(3)
    return step(*inputs).item()


def test_shapes_may_change():
    pair = vae()
    step = new_step(pair)
    for size in (16, 5, 16, 1):
        assert got(step, X[:size]) == pytest.approx(expected(pair, X[:size]), rel=1e-5)


@pytest.mark.slow  # also in tests/compilation/test_guards.py
def test_modes_and_plain_attributes_are_noticed():
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.factor = net(Z, D), 1.0

        def forward(self, z):
            return self.factor * self.net(z)

    pair = vae(
        posterior=lambda: posteriors.DiagonalNormal(WithState()),
        likelihood=lambda: likelihoods.Bernoulli(Tempered()),
    )
    step = new_step(pair)
    seen = set()
    for mode, factor in ((True, 1.0), (False, 1.0), (False, 3.0), (True, 1.0)):
        pair.train(mode)
        pair.likelihood.net.factor = factor
        state = {n: b.clone() for n, b in pair.named_buffers()}
        value = got(step, X[:16])
        for name, buffer in pair.named_buffers():
            buffer.copy_(state[name])
        assert value == pytest.approx(expected(pair, X[:16]), rel=1e-5)
        seen.add(round(value, 4))
    assert len(seen) == 3


def test_the_number_of_particles_is_noticed():
    pair, estimator = vae(), iw(1, max_plate_nesting=1)
    step = new_step(pair, estimator)
    for particles in (1, 7, 1):
        estimator.num_particles = particles
        value = got(step, X[:16])
        again = iw(particles, max_plate_nesting=1)
        assert value == pytest.approx(expected(pair, X[:16], again), rel=1e-5)


def test_values_of_parameters_and_buffers_may_change_and_modules_too():
    pair = vae(lambda q: priors.VampPrior(q, X[:3].clone(), learn=False))
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.0)
    step = compile_step(pair, iw(1), optimizer)
    first = got(step, X[:16])
    with torch.no_grad():
        pair.prior.unfolded_inputs.add_(2.0)
        pair.likelihood.net.layers[0].weight.mul_(-3)
    second = got(step, X[:16])
    assert second == pytest.approx(expected(pair, X[:16]), rel=1e-5)
    weight = nn.Parameter(torch.randn(6, Z))
    pair.likelihood.net.layers[0].weight = weight
    optimizer.add_param_group({"params": [weight]})
    third = got(step, X[:16])
    assert third == pytest.approx(expected(pair, X[:16]), rel=1e-5)
    assert len({first, second, third}) == 3


@pytest.mark.slow  # also in tests/models/test_label_values.py
def test_labels_that_go_missing_are_noticed():
    pair = ssvae()
    step = new_step(pair)
    hidden = Y[:16].clone()
    hidden[::2] = -1
    for y in (Y[:16], hidden, torch.full((16,), -1), Y[16:32]):
        pyro.set_rng_seed(3)
        loss = iw(1, max_plate_nesting=1).loss(pair.model, pair.guide, X[:16], y) / 16
        assert got(step, X[:16], y) == pytest.approx(loss, rel=1e-5)


def test_several_pairs_in_one_process():
    pairs = [vae(), vae(lambda q: priors.GaussianMixture(Z, 3))]
    steps = [new_step(pair) for pair in pairs]
    for _ in range(2):
        for pair, step in zip(pairs, steps, strict=True):
            assert got(step, X[:16]) == pytest.approx(expected(pair, X[:16]), rel=1e-5)


def test_double_precision(float64):
    pair = vae(lambda q: priors.GaussianMixture(Z, 3)).double()
    step = new_step(pair)
    assert got(step, X[:16].double()) == pytest.approx(expected(pair, X[:16].double()), rel=1e-12)


class Looks(nn.Module):
    """A program that looks at a value, or does not."""

    def __init__(self, looks):
        super().__init__()
        self.loc, self.looks = nn.Parameter(torch.zeros(())), looks

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.loc, 1.0))
            sign = 1.0 if not self.looks or z.sum() > 0 else -1.0
            pyro.sample("x", dist.Normal(sign * z, 1.0), obs=x)


class LooksGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc + x, 0.5))


class Pair(nn.Module):
    def __init__(self, looks=True):
        super().__init__()
        self.model, self.guide = Looks(looks), LooksGuide()


def test_a_program_that_reads_values_runs_uncompiled():
    pair = Pair()
    step = new_step(pair)
    x = torch.randn(9)
    with pytest.warns(NotCompiledWarning, match="same result") as found:
        value = got(step, x)
    assert found[0].filename == __file__  # it points to who called
    assert value == pytest.approx(expected(pair, x), rel=1e-6)
    assert got(step, -x) == pytest.approx(expected(pair, -x), rel=1e-6)  # and says it once
    assert pair.guide.loc.grad is not None


def test_a_wrong_graph_is_not_used(monkeypatch):
    pair = vae()
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor",
        lambda graph, **options: lambda *xs: [1.01 * t for t in graph(*xs)],
    )
    with pytest.warns(NotCompiledWarning, match="off by"):
        value = got(new_step(pair), X[:16])
    assert value == pytest.approx(expected(pair, X[:16]), rel=1e-6)


def test_a_graph_with_other_draws_is_not_used(monkeypatch):
    def draws_more(graph, **options):
        def run(*xs):
            results = graph(*xs)
            torch.rand(1)
            return results

        return run

    monkeypatch.setattr("ppl_vae.compilation.compiled_function.inductor", draws_more)
    with pytest.warns(NotCompiledWarning, match="draws other random numbers"):
        got(new_step(vae()), X[:16])


def test_errors_of_programs_are_passed_on():
    with pytest.raises(ValueError, match="shape"):
        new_step(vae())(torch.ones(3, D + 1))


def test_labels_drawn_in_prepare_run_uncompiled():
    step = new_step(ssvae(), prepare=lambda index: (X[index], Y[index]))
    with pytest.warns(NotCompiledWarning, match="labels must be inputs"):
        step(torch.arange(16))


def test_prepare_must_return_tensors_or_parts():
    with pytest.raises(TypeError, match="prepare must return a tuple"):
        new_step(vae(), prepare=lambda index: X[index])(torch.arange(3))


@pytest.mark.inductor
def test_without_a_compiler_steps_run_uncompiled():
    from torch._inductor import config  # which imports the compiler

    without = {"cpp.cxx": ("/no/such/compiler",), "force_disable_caches": True}
    step = new_step(Pair(looks=False))
    with config.patch(without), pytest.warns(NotCompiledWarning, match="compiler") as found:
        losses = [step(torch.randn(9)) for _ in range(2)]
    assert len(found) == 1
    assert torch.stack(losses).isfinite().all()


def fitted(tmp_path=None, steps=14, **options):
    """Train on two epochs of batches of 16, 16, ... and a short one, with what fit can schedule."""
    pyro.set_rng_seed(0)
    pair = vae(lambda q: priors.GaussianMixture(Z, 5))
    found = fit(
        pair,
        data.Dataset(X),
        batch_size=10,
        steps=steps,
        estimator=iw(1, "dreg"),
        beta=estimators.linear_warm_up(6),
        num_particles=lambda step: 1 + step // 7,
        clip_norm=50.0,
        out=tmp_path,
        log_every=1,
        checkpoint_every=3,
        progress=False,
        **options,
    )
    return pair, found


def test_compiled_fit_equals_fit():
    plain, one = fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        compiled, other = fitted(compile=True)
    assert one.history.keys() == other.history.keys()
    for name, values in one.history.items():
        assert other.history[name] == pytest.approx(values, rel=1e-4), name
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_compiled_fit_runs_the_programs_only_to_make_graphs():
    def calls(steps, **options):
        pair = vae()
        CALLED.clear()
        # A global list: one of its own would be something that the program changes.
        pair.model.register_forward_hook(lambda *_: CALLED.append(1))
        fit(pair, X, batch_size=16, steps=steps, progress=False, **options)
        return len(CALLED)

    assert calls(40) == calls(20) + 20
    assert calls(40, compile=True) == calls(20, compile=True)


def test_compiled_fit_resumes_exactly(tmp_path):
    whole, one = fitted(tmp_path / "whole", steps=12, compile=True)
    fitted(tmp_path / "cut", steps=8, compile=True)
    resumed, other = fitted(tmp_path / "cut", steps=12, compile=True, resume=True)
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (other.history["loss"] == one.history["loss"]).all()
    with pytest.raises(ValueError, match="compile"):
        fitted(tmp_path / "cut", steps=20, resume=True)


@pytest.mark.slow  # each alone: above, and in test_precision.py
def test_compiled_fit_with_streams_and_in_mixed_precision():
    def run(**options):
        pyro.set_rng_seed(0)
        pair = ssvae()
        both = data.Dataset(X, Y)
        parts = data.SemiSupervised(both, range(9), batch_size=16, labelled_batch_size=4)
        return fit(pair, parts, steps=6, log_every=1, progress=False, **options).history["loss"]

    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        plain = run()
        assert run(compile=True) == pytest.approx(plain, rel=1e-4)

        def mixed(**options):
            fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
            return run(fabric=fabric, **options)

        compiled = mixed(compile=True)
        assert compiled == pytest.approx(mixed(), rel=1e-2)
        assert compiled != pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("compile", [False, True])
def test_a_loader_at_the_end_of_its_epoch_goes_on(compile):
    def run(*lengths):
        pair, both = ssvae(), data.Dataset(X, Y)
        parts = data.SemiSupervised(both, range(9), batch_size=16, labelled_batch_size=4)
        for steps in lengths:  # an epoch has four
            fit(pair, parts, steps=steps, compile=compile, progress=False)
        return parts

    in_one, in_three = run(8), run(4, 2, 2)
    assert (in_three.epoch, in_three.position) == (in_one.epoch, in_one.position) == (1, 4)
    for ours, theirs in zip(next(iter(in_three)), next(iter(in_one)), strict=True):
        assert torch.equal(ours.args[0], theirs.args[0])


def test_values_are_validated_before_compiled_steps():
    x = X.clone()
    x[-1] = 0.3
    with pytest.raises(ValueError, match="support"):
        fit(vae(), DataLoader(TensorDataset(x), 16), steps=8, compile=True, progress=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.inductor
def test_on_a_gpu():
    pair = vae(lambda q: priors.GaussianMixture(Z, 3)).cuda()
    x = X[:16].cuda()
    assert got(new_step(pair), x) == pytest.approx(expected(pair, x), rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.inductor
def test_cuda_graphs_draw_anew_and_their_losses_persist():
    curves, weights = [], []
    for compiled in (False, True):
        torch.manual_seed(0)
        pair, x = vae().cuda(), X.cuda()
        optimizer = torch.optim.Adam(pair.parameters(), fused=True)
        estimator = estimators.AnalyticKLELBO()
        step = compile_step(pair, estimator, optimizer)
        losses = []
        torch.manual_seed(1)
        for i in range(12):
            batch = x[i : i + 16]
            if compiled:
                losses.append(step(batch))
                continue
            optimizer.zero_grad()
            loss = estimator.differentiable_loss(pair.model, pair.guide, batch) / len(batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        curves.append(torch.stack(losses))
        weights.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    assert len(set(curves[1].tolist())) == 12
    torch.testing.assert_close(*curves, rtol=1e-4, atol=0)
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


class Sums(nn.Module):
    """An affine map, with parameters whose gradients autograd expands, or gives to both."""

    def __init__(self):
        super().__init__()
        self.affine = nn.Linear(Z, D)
        self.shift = nn.Parameter(0.1 * torch.randn(5, 7))
        self.one, self.other = (nn.Parameter(torch.randn(D)) for _ in range(2))

    def forward(self, z):
        return self.affine(z) + self.shift.sum() + (self.one + self.other)


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.parametrize("fused", [False, True])
def test_each_parameter_has_a_gradient_of_its_own(fused, clip_norm):
    weights = []
    for compiled in (False, True):
        pyro.set_rng_seed(0)
        pair = vae(likelihood=lambda: likelihoods.Bernoulli(Sums()))
        fit(
            pair,
            X,
            batch_size=16,
            steps=6,
            clip_norm=clip_norm,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1, fused=fused),
            compile=compiled,
            progress=False,
        )
        weights.append(torch.cat([p.detach().flatten() for p in pair.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_inputs_that_are_not_labels_are_not_read(monkeypatch):
    def looked_at(y, prepare):
        pair = ssvae() if prepare is with_labels else vae()
        step = compile_step(pair, iw(1), torch.optim.Adam(pair.parameters()), prepare=prepare)
        index, seen = torch.arange(16), []
        step(index, y)
        real = torch.aminmax
        with monkeypatch.context() as patch:
            patch.setattr(torch, "aminmax", lambda t: (seen.append(t), real(t))[1])
            step(index, y)
        return [any(s is t for s in seen) for t in (index, y)]

    assert looked_at(Y[:16].clone(), only_x) == [False, False]
    assert looked_at(Y[:16].clone(), with_labels) == [False, True]


@pytest.mark.slow
def test_real_data_train():
    digits = data.load("digits")
    grey = digits.draw(torch.arange(len(digits)), binarise="none")
    pyro.set_rng_seed(0)
    pair = VAE(
        prior=priors.StandardNormal(4),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 8)),
        likelihood=likelihoods.Bernoulli(nets.MLP(4, 64)),
    )
    step = compile_step(
        pair,
        estimators.AnalyticKLELBO(),
        torch.optim.Adam(pair.parameters(), lr=3e-3, fused=True),
        prepare=lambda index: (torch.bernoulli(grey[index]),),
    )
    losses = [step(torch.randint(len(digits), (100,))).item() for _ in range(80)]
    assert sum(losses[-10:]) / 10 < 30 < losses[0]
