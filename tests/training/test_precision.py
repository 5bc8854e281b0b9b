"""Networks in bfloat16, densities in float32."""

import copy
import platform
import warnings
from contextlib import contextmanager, nullcontext
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from lightning_fabric import Fabric
from likelihood_cases import CASES, width_options
from pairs import POSTERIORS, PRIORS, D, Z, ssvae
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import (
    VAE,
    ConditionalVAE,
    data,
    estimators,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.compilation import NotCompiledWarning, compiled_function
from ppl_vae.compilation.compiled_function import _losses_stay_tensors
from ppl_vae.training import NotFiniteError, compile_step, fit
from ppl_vae.training.precision import networks, networks_only

DIGITS = data.load("digits")
TRACE = pyro.infer.Trace_ELBO()
quiet = partial(fit, progress=False)


def mixed():
    return Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")


def digits_vae(likelihood=None, prior=None):
    pyro.set_rng_seed(0)
    return VAE(
        prior=prior or priors.FullRankNormal(2),
        posterior=posteriors.FullRankNormal(nets.MLP(64, 5, hidden=(32,))),
        likelihood=likelihood or likelihoods.Normal(nets.MLP(2, 64, hidden=(32,)), "learned"),
    )


class Note(nn.Module):
    """A network that notes the dtypes it works in."""

    def __init__(self, net):
        super().__init__()
        self.net, self.inner, self.outer = net, [], []

    def forward(self, x):
        self.outer.append((x.dtype, torch.is_autocast_enabled("cpu")))
        out = self.net(x)
        self.inner.append(out.dtype)
        return out


def test_networks_run_in_bfloat16_and_return_float32():
    vae = digits_vae()
    programs = nn.ModuleDict({"model": vae.model, "guide": vae.guide})
    x = DIGITS.draw(torch.arange(7), binarise="none")
    seen = []
    for network in networks(programs):
        network.register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16), networks_only(programs, "cpu"):
        trace = poutine.trace(vae.guide).get_trace(x)
        replayed = poutine.trace(poutine.replay(vae.model, trace)).get_trace(x)
        for traced in (trace, replayed):
            traced.compute_log_prob()
        assert not torch.is_autocast_enabled("cpu")
    assert seen == [torch.bfloat16, torch.bfloat16]
    for site in (trace.nodes["z"], replayed.nodes["z"], replayed.nodes["x"]):
        assert site["log_prob"].dtype is torch.float32
        assert site["value"].dtype is torch.float32
    # Exact, given the networks' outputs.
    x_site = replayed.nodes["x"]
    scale = x_site["fn"].base_dist.scale  # that of before: training moves it
    exact = dist.Normal(x_site["fn"].mean, scale).log_prob(x).double().sum(-1)
    assert torch.allclose(x_site["log_prob"].double(), exact, rtol=1e-6)
    hooks = [h for m in programs.modules() for h in m._forward_pre_hooks]
    assert not hooks, "nothing may stay behind"


def test_without_autocast_precision_is_unchanged():
    vae = digits_vae()
    with networks_only(nn.ModuleDict({"model": vae.model, "guide": vae.guide}), "cpu"):
        assert not any(m._forward_pre_hooks for m in vae.modules())


def test_an_error_within_a_network_leaves_autocast_disabled():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    program = nn.ModuleDict({"net": Fails()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with (
            networks_only(nn.ModuleDict({"model": program}), "cpu"),
            pytest.raises(RuntimeError, match="no"),
        ):
            program["net"](torch.zeros(1))
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    "estimator",
    [
        None,
        pytest.param(estimators.ImportanceWeightedELBO(5, "dreg"), marks=pytest.mark.slow),
        pytest.param(estimators.AnalyticKLELBO(), marks=pytest.mark.slow),
    ],
)
def test_training_in_mixed_precision_is_close_to_full_precision(estimator):
    losses = []
    for fabric in (None, mixed()):
        vae = digits_vae()
        fitted = quiet(vae, DIGITS, steps=60, estimator=estimator, fabric=fabric, log_every=20)
        assert all(p.dtype is torch.float32 for p in vae.parameters())
        losses.append(fitted.history["loss"])
    # bfloat16 has 8 bits: networks' outputs are off by parts in a thousand.
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)
    assert losses[0] == pytest.approx(losses[1], abs=0.02 * abs(losses[0]).max())


@contextmanager
def as_fit_does(module):
    """Mixed precision as in a training step."""
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        networks_only(nn.ModuleDict({"m": module}), "cpu"),
    ):
        yield


@contextmanager
def as_users_do(module):
    """All of a loop in ``torch.autocast``."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


class Given(nn.Module):
    """A network with a fixed output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, *_):
        return self.output


def exact(part, context, mixed, value):
    """Return log-density and network's output in mixed precision, and the density in float64.

    The latter is that of the same, rounded outputs.
    """
    outputs = []
    hook = part.net.register_forward_hook(lambda m, a, out: outputs.append(out))
    with mixed(nn.ModuleDict({"part": part})):
        got = part(context).log_prob(value)
    hook.remove()
    (output,) = outputs
    part = copy.deepcopy(part).double()
    part.net = Given(output.double())
    return got, output, part(context.double()).log_prob(value.double())


@pytest.mark.parametrize("mixed", [as_fit_does, as_users_do, None])
@pytest.mark.parametrize("name", CASES)
def test_likelihoods_of_rounded_outputs_are_computed_in_float32(name, mixed):
    cls, options, values = CASES[name]
    torch.manual_seed(0)
    shape = cls.net_shape((300,), **width_options(cls, options))
    part = cls(nets.MLP(2, shape[-1], hidden=(16,)), **options).eval()
    x = torch.tensor(values)[torch.randint(len(values), (50, 300))]
    got, output, expected = exact(
        part, 3 * torch.randn(50, 2), mixed or (lambda m: nullcontext()), x
    )
    assert got.dtype is torch.float32
    rounded = torch.equal(output.float(), output.bfloat16().float())
    assert rounded is (mixed is not None)
    # A sum of 300 terms, each to a few ulp; of bfloat16 numbers it would be off by nats.
    ulp = torch.finfo(torch.float32).eps
    torch.testing.assert_close(got.double(), expected, rtol=40 * ulp, atol=300 * ulp)


@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors_of_rounded_outputs_are_computed_in_float32(name):
    torch.manual_seed(0)
    part = POSTERIORS[name]()
    z = torch.randn(50, Z)
    got, output, expected = exact(part, 3 * torch.randn(50, D), as_fit_does, z)
    assert torch.equal(output.float(), output.bfloat16().float())
    assert got.dtype is torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_priors_are_computed_in_float32(name):
    torch.manual_seed(0)
    q = POSTERIORS["diagonal"]()
    prior, z = PRIORS[name](q), torch.randn(50, Z)
    with as_fit_does(nn.ModuleDict({"prior": prior, "q": q})):
        got = prior().log_prob(z)
    assert got.dtype is torch.float32
    # A VampPrior has a network's output for its parameters.
    tolerance = 0.03 if name.startswith("vamp") else 1e-5
    expected = copy.deepcopy(prior).double()().log_prob(z.double())
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", POSTERIORS)
def test_draws_within_a_users_autocast_are_float32(name):
    part = POSTERIORS[name]()
    with as_users_do(part):
        q = part(torch.randn(50, D))
        z = q.rsample()
        assert z.dtype is torch.float32
        assert q.log_prob(z).dtype is torch.float32
        assert part(torch.randn(5, D)).log_prob(z[:5]).dtype is torch.float32


ESTIMATORS = {
    "elbo": estimators.AnalyticKLELBO(),
    "sampled": pyro.infer.Trace_ELBO(num_particles=2, vectorize_particles=True),
    "mean field": pyro.infer.TraceMeanField_ELBO(),
    "importance weighted": estimators.ImportanceWeightedELBO(5),
    "dreg": estimators.ImportanceWeightedELBO(5, "dreg"),
    "wake": estimators.ImportanceWeightedELBO(5, "wake"),
    "renyi": estimators.ImportanceWeightedELBO(5, alpha=0.5),
    "beta": estimators.KLWeighted(estimators.AnalyticKLELBO(), lambda step: 0.5),
}


def dtypes_of_operations(pair, estimator, x):
    """Return the operations of a step in mixed precision, with the dtypes of their results."""

    def step(x):
        programs = nn.ModuleDict({"model": pair.model, "guide": pair.guide})
        with torch.autocast("cpu", dtype=torch.bfloat16), networks_only(programs, "cpu"):
            loss = estimator.differentiable_loss(pair.model, pair.guide, x)
        return loss, *torch.autograd.grad(loss, [*pair.parameters()], allow_unused=True)

    # The context is for speed alone: see CompiledFunction.
    one_mode = tracing(TracingContext(FakeTensorMode()))
    with pyro.validation_enabled(False), _losses_stay_tensors(), one_mode:
        graph = make_fx(step)(x).graph
    nodes = [n for n in graph.nodes if isinstance(n.meta.get("val"), torch.Tensor)]
    return graph, [(n.target, n.meta["val"].dtype) for n in nodes if n.op == "call_function"]


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("elbo", "dreg") else pytest.mark.slow) for n in ESTIMATORS],
)
def test_only_networks_are_in_bfloat16_under_every_estimator(name):
    torch.manual_seed(0)
    graph, operations = dtypes_of_operations(digits_vae(), ESTIMATORS[name], torch.randn(20, 64))
    aten = torch.ops.aten
    products = [d for op, d in operations if op in (aten.mm.default, aten.addmm.default)]
    assert len(products) >= 4 + 4 + 2  # forward; of weights; of inputs
    assert set(products) == {torch.bfloat16}
    allowed = {
        *(aten.mm.default, aten.addmm.default, aten.elu.default, aten.elu_backward.default),
        *(aten._to_copy.default, aten.sum.dim_IntList),  # the last: gradients of biases
        *(aten.t.default, aten.view.default, aten._unsafe_view.default, aten.detach.default),
    }
    assert {op for op, dtype in operations if dtype is torch.bfloat16} <= allowed
    results = [n.meta["val"] for n in graph.output_node().args[0] if n is not None]
    assert {t.dtype for t in results} == {torch.float32}


def test_networks_of_every_kind_of_pair_are_found():
    def net(width_in, width_out):
        return nets.MLP(width_in, width_out, hidden=(6,))

    normal, bernoulli = posteriors.DiagonalNormal, likelihoods.Bernoulli
    prior = priors.StandardNormal(2)
    pairs = {
        VAE(prior=prior, posterior=normal(net(64, 4)), likelihood=bernoulli(net(2, 64))): 2,
        ssvae(): 3,
        ConditionalVAE(
            prior=priors.ConditionalNormal(net(3, 4)),
            posterior=normal(net(67, 4)),
            likelihood=bernoulli(net(5, 64)),
            num_classes=3,
        ): 3,
    }
    for pair, number in pairs.items():
        found = networks(nn.ModuleDict({"model": pair.model, "guide": pair.guide}))
        assert len(found) == number
        assert all(isinstance(network, nets.MLP) for network in found)


@pytest.mark.parametrize("compiled", [False, True])
def test_particles_in_chunks_are_run_again_in_the_same_precision(compiled, monkeypatch):
    """The backward pass runs the networks of a chunk once more."""
    monkeypatch.setattr(compiled_function, "inductor", lambda traced, cuda: traced)
    changes = []
    for chunk_size in (None, 2):
        torch.manual_seed(0)
        pair, x = digits_vae(), torch.rand(20, 64).round()
        before = nn.utils.parameters_to_vector(pair.parameters()).detach()
        estimator = estimators.ImportanceWeightedELBO(4, chunk_size=chunk_size)
        optimizer = partial(torch.optim.SGD, lr=0.1)
        if compiled:
            torch.manual_seed(1)
            step = compile_step(
                pair, estimator, optimizer(pair.parameters()), precision="bf16-mixed"
            )
            step(x)
        else:
            fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
            options = {"estimator": estimator, "optimizer": optimizer, "fabric": fabric}
            fit(pair, x, steps=1, batch_size=20, progress=False, **options)
        changes.append(nn.utils.parameters_to_vector(pair.parameters()).detach() - before)
    whole, chunked = changes
    assert (whole - chunked).abs().max() < 0.02 * whole.abs().max()


@pytest.mark.inductor
def test_a_compiled_step_draws_and_computes_as_an_uncompiled_one():
    torch.manual_seed(0)
    pair = VAE(  # of few operations: Inductor takes its time for each
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(32,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(32,))),
    )
    x = torch.rand(20, 64).round()
    estimator = estimators.AnalyticKLELBO()
    programs = nn.ModuleDict({"model": pair.model, "guide": pair.guide})
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype=torch.bfloat16), networks_only(programs, "cpu"):
        expected = estimator.differentiable_loss(pair.model, pair.guide, x) / 20
    gradients = torch.autograd.grad(expected, [*pair.parameters()])
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCompiledWarning)
        loss = compile_step(pair, estimator, optimizer, precision="bf16-mixed")(x)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.manual_seed(1)
    single = estimator.differentiable_loss(pair.model, pair.guide, x) / 20
    in_single = torch.autograd.grad(single, [*pair.parameters()])
    eps = torch.finfo(torch.bfloat16).eps
    for parameter, gradient, other in zip(pair.parameters(), gradients, in_single, strict=True):
        assert parameter.grad.dtype is torch.float32
        assert (parameter.grad - gradient).abs().max() < 4 * eps * gradient.abs().max()
        assert (parameter.grad - other).abs().max() > eps / 32 * other.abs().max()
    assert not any(m._forward_pre_hooks for m in pair.modules())


@pytest.mark.inductor
@pytest.mark.slow
def test_hundreds_of_steps_end_at_the_same_loss():
    """From the same start, on the same draws, the mean loss is the same within standard errors."""
    grey, losses = DIGITS.tensor(), {}
    for precision in (None, "bf16-mixed"):
        pair = digits_vae(likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(32,))))
        step = compile_step(
            pair,
            estimators.AnalyticKLELBO(),
            torch.optim.Adam(pair.parameters(), fused=True),
            prepare=lambda index: (torch.bernoulli(grey[index]),),
            precision=precision,
        )
        torch.manual_seed(1)
        index = torch.randint(len(grey), (400, 100))
        losses[precision] = torch.stack([step(i) for i in index]).double()
    single, mixed = losses.values()
    assert not torch.equal(single, mixed)
    assert single[-100:].mean() < single[:10].mean() - 5
    late = torch.stack([single, mixed])[:, -200:]
    # Batches are shared, so this error is an upper bound of that of the difference.
    error = late.std(1).square().sum().div(200).sqrt()
    assert abs(late[0].mean() - late[1].mean()) < 2 * error


@pytest.mark.parametrize(
    "precision", ["bf16", "bf16-true", "16-mixed", "32-true", "", torch.bfloat16, 16, True]
)
@pytest.mark.usefixtures("as_users_see_it")
def test_other_precisions_are_refused(precision):
    pair = digits_vae()
    error = ValueError if isinstance(precision, str) else TypeError
    with pytest.raises(error, match=r"compile_step: precision must be 'bf16-mixed'.*or None"):
        compile_step(pair, TRACE, torch.optim.Adam(pair.parameters()), precision=precision)


def test_pairs_in_float64_are_refused():
    pair, x = digits_vae().double(), torch.rand(20, 64, dtype=torch.float64)
    step = compile_step(pair, TRACE, torch.optim.Adam(pair.parameters()), precision="bf16-mixed")
    with pytest.raises(ValueError, match=r"compile_step: .*float32.*float64.*pair.float\(\)"):
        step(x)
    with pytest.raises(ValueError, match=r"fit: .*float32.*float64.*pair.float\(\)"):
        quiet(pair, x, steps=1, fabric=mixed())


@pytest.mark.usefixtures("as_users_see_it")
def test_a_processor_without_bfloat16_brings_one_warning(monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    pair, x = digits_vae(), torch.rand(20, 64)
    step = compile_step(pair, TRACE, torch.optim.Adam(pair.parameters()), precision="bf16-mixed")
    match = "likely slower here than float32: the processor has neither AVX512-BF16 nor AMX"
    with pytest.warns(UserWarning, match=match) as caught:
        step(x)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=match) as caught:
        quiet(pair, x, steps=2, fabric=mixed())
    assert len(caught) == 1
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(x)
        compile_step(pair, TRACE, torch.optim.Adam(pair.parameters()), precision="bf16-mixed")(x)


def test_a_step_that_is_not_finite_names_its_origin(monkeypatch):
    target = "ppl_vae.compilation.compiled_function.inductor"  # takes seconds
    monkeypatch.setattr(target, lambda graph, **options: graph)
    pair, x = digits_vae(), torch.rand(20, 64)
    step = compile_step(pair, TRACE, torch.optim.Adam(pair.parameters()), precision="bf16-mixed")
    step(x)
    with torch.no_grad():
        pair.likelihood.net.layers[-1].bias[0] = float("nan")
    with pytest.raises(NotFiniteError, match="net"):
        step(x)


@pytest.mark.filterwarnings("ignore:.*Pareto")
def test_evaluation_and_validation_are_in_full_precision():
    vae = digits_vae(likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(32,))))
    vae.posterior.net = Note(vae.posterior.net)
    train, held_out = DIGITS.subset(range(100)), DIGITS.subset(range(100, 150))
    quiet(vae, train, steps=2, validation=held_out, validate_every=1, fabric=mixed())
    seen = vae.posterior.net.inner
    assert set(seen) == {torch.float32, torch.bfloat16}
    in_training = seen.count(torch.bfloat16)
    assert in_training == 2
    x = held_out.draw(torch.arange(50), binarise="threshold")
    seen.clear()
    evaluation.elbo_terms(vae, x)
    evaluation.log_likelihood(vae, x, num_samples=30)
    assert set(seen) == {torch.float32}


def test_the_data_are_not_rounded():
    """Fabric rounds tensors that it hands to a module: a density must see the data as they are."""

    class Seen(Messenger):
        def __init__(self):
            super().__init__()
            self.values = []

        def _pyro_post_sample(self, msg):
            if msg["name"] == "x":
                self.values.append(msg["value"])

    x, seen = torch.rand(20, 64), Seen()
    with seen:
        quiet(digits_vae(), x, steps=1, batch_size=20, fabric=mixed())
    assert seen.values
    for value in seen.values:
        assert value.dtype is torch.float32
        assert {tuple(r) for r in value.tolist()} == {tuple(r) for r in x.tolist()}


def test_networks_of_user_programs_are_found():
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))])
            self.prior = priors.StandardNormal(2)

    program = Program()
    found = networks(nn.ModuleDict({"model": program}))
    assert found == [program.layers[0], program.layers[1]]
