"""log p(x) from compiled graphs is log p(x): on the same draws, of what the pair is now."""

import copy
import gc
import warnings
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from evaluated import Programs, conditional, hierarchical, unchecked, with_factor
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS, binary, ssvae, vae
from pairs import observations as seen
from torch import nn

from ppl_vae.compilation import NotCompiledWarning, compiled_function
from ppl_vae.compilation.invariant_split import invariant_split
from ppl_vae.evaluation import likelihood, log_likelihood
from ppl_vae.evaluation.compiled_log_weights import _graphs
from ppl_vae.report import report
from ppl_vae.testing import LinearGaussian

pytestmark = unchecked
quiet = pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
FIELDS = ("log_px", "standard_error", "ess", "pareto_k")


@pytest.fixture
def made(request, monkeypatch):
    """Run traced graphs as they are, not through Inductor, and keep the parts of each."""
    kept = []

    def recorded(traced):
        kept.append(invariant_split(traced))
        return kept[-1]

    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    monkeypatch.setattr(compiled_function, "invariant_split", recorded)
    return kept


@pytest.fixture
def run_as_they_are(monkeypatch):
    """Record the sizes of chunks that run through Pyro's handlers, not as a graph."""
    sizes = []

    def recorded(batch, size, number, uncompiled, graphs):
        sizes.extend([(len(batch), size)] * uncompiled)
        return chunks(batch, size, number, uncompiled, graphs)

    chunks = likelihood._chunks
    monkeypatch.setattr(likelihood, "_chunks", recorded)
    return sizes


def evaluated(pair, *args, **options):
    """Evaluate without the warning on k̂, and not without one that says it is not compiled."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("error", NotCompiledWarning)
        return log_likelihood(pair, *args, **options)


def assert_same(ours, theirs, rtol):
    for field in FIELDS:
        got, expected = getattr(ours, field), getattr(theirs, field)
        assert got.dtype == expected.dtype
        # Only log p(x) is in units; k̂ is of differences between the largest weights.
        tolerance = rtol if field == "log_px" else 100 * rtol
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def compare(pair, *args, rtol, **options):
    state = torch.get_rng_state()
    expected = evaluated(pair, *args, **options)
    assert_same(evaluated(pair, *args, compile=True, **options), expected, rtol)
    assert torch.equal(torch.get_rng_state(), state)


def labels(*some):
    return torch.tensor(some or (0, 2, 1))


def masked():
    x = binary(3)
    return x, torch.rand(x.shape) < 0.6


CASES = {
    **{f"prior: {n}": lambda n=n: (vae(prior=n), binary(3)) for n in PRIORS},
    **{f"posterior: {n}": lambda n=n: (vae(posterior=n), binary(3)) for n in POSTERIORS},
    **{f"likelihood: {n}": lambda n=n: (vae(likelihood=n), seen(n, 3)) for n in LIKELIHOODS},
    "y summed": lambda: (ssvae(), binary(3)),
    "y summed, prior given y": lambda: (ssvae(prior=next(iter(CONDITIONAL_PRIORS))), binary(3)),
    "y observed": lambda: (ssvae(alpha=1.0), binary(3), labels()),
    "y observed in part": lambda: (ssvae(), binary(3), labels(1, -1, 0)),
    "a condition": lambda: (conditional(), binary(3), labels()),
    "layers": lambda: (hierarchical(), binary(3)),
    "layers, top-down": lambda: (hierarchical("top-down"), binary(3)),
}
IN_SHORT = {
    "prior: standard",
    "prior: mixture",
    "prior: vamp",
    "prior: realnvp",
    "posterior: full rank",
    "posterior: iaf",
    "likelihood: normal, learned scale",
    "likelihood: discretised logistic mixture",
    *[name for name in CASES if ":" not in name],
}


@pytest.mark.parametrize(
    "name", [n if n in IN_SHORT else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_equals_the_uncompiled_result_on_the_same_draws(name, made, float64):
    pair, *args = CASES[name]()
    with pyro.validation_enabled(False):
        compare(pair, *args, num_samples=70, chunk_size=30, rtol=1e-10)
    assert len(made) == 1


@pytest.mark.parametrize("name", ["prior: standard", "prior: mixture", "y summed", "layers"])
def test_in_single_precision(name, made):
    pair, *args = CASES[name]()
    compare(pair, *args, num_samples=70, chunk_size=30, rtol=1e-5)
    assert len(made) == 1


@pytest.mark.parametrize("make", [vae, ssvae])
def test_masks_are_inputs(make, made, float64):
    pair, (x, mask), (_, other) = make(), masked(), masked()
    for m in (mask, other, mask):
        compare(pair, x, mask=m, num_samples=70, chunk_size=30, rtol=1e-10)
    whole = evaluated(pair, x, num_samples=70, chunk_size=30, compile=True)
    assert (whole.log_px < evaluated(pair, x, mask=mask, num_samples=70).log_px).any()
    assert len(made) == 2  # with a mask and without


def test_labels_and_conditions_are_inputs(made, float64):
    for pair in (ssvae(), conditional()):
        for y in (labels(), labels(1, 1, 2), labels(2, 0, 0)):
            compare(pair, binary(3), y, num_samples=70, chunk_size=30, rtol=1e-10)
    assert len(made) == 2
    pair = ssvae()
    for y in (labels(), labels(-1, 1, 2), labels()):  # programs differ by whether one is missing
        compare(pair, binary(3), y, num_samples=70, chunk_size=30, rtol=1e-10)
    assert len(made) == 4


def test_a_graph_reads_changed_parameters(made, run_as_they_are, float64):
    pair, x = vae(prior="mixture"), binary(4)
    options = {"num_samples": 60, "chunk_size": 20}
    optimizer = torch.optim.Adam(pair.parameters(), lr=0.1)
    found = []
    for _ in range(3):
        pair.train()
        compare(pair, x, rtol=1e-10, **options)
        found.append(evaluated(pair, x, compile=True, **options).nll.mean)
        elbo = pyro.infer.Trace_ELBO()
        elbo.differentiable_loss(pair.model, pair.guide, x).backward()
        optimizer.step()
    assert len(set(found)) == 3
    assert len(made) == 1
    run_as_they_are.clear()
    with pyro.validation_enabled(False):
        evaluated(pair, x, compile=True, **options)
    assert run_as_they_are == []


def test_changed_attributes_and_modules_need_a_new_graph(made, float64):
    class Tempered(nn.Module):
        factor = 1.0

        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, z):
            return self.factor * self.net(z)

    pair, x = vae(), binary(3)
    kept_elsewhere = pair.likelihood.net
    pair.likelihood.net = Tempered(kept_elsewhere)
    options = {"num_samples": 60, "chunk_size": 20}
    found = []
    for change in (
        lambda: None,
        lambda: setattr(pair.likelihood.net, "factor", 2.0),  # of the class until now
        lambda: setattr(pair.likelihood.net, "factor", 3.0),
        lambda: setattr(pair.likelihood.net, "net", nn.Linear(2, 6)),
        lambda: setattr(pair.likelihood.net.net, "bias", None),
    ):
        change()
        compare(pair, x, rtol=1e-10, **options)
        found.append(evaluated(pair, x, compile=True, **options).nll.mean)
    assert len(set(found)) == len(made) == 5


def test_another_guide_has_its_own_graph(made, float64):
    one, x = vae(), binary(3)
    pair = Programs(None, None)
    pair.model = one.model
    for guide in (one.guide, vae().guide, one.guide):
        pair.guide = guide
        compare(pair, x, num_samples=60, chunk_size=20, rtol=1e-10)
    assert len(made) == 2


# --- which sizes ----------------------------------------------------------------------------------


def test_one_graph_serves_all_chunks_of_full_batches(made, run_as_they_are, float64):
    pair, x = vae(), binary(25)  # 10, 10 and 5 data
    with pyro.validation_enabled(False):
        evaluated(pair, x, num_samples=1001, compile=True)
    assert run_as_they_are == [(5, 167)] * 6
    assert len(made) == 1
    run_as_they_are.clear()
    with pyro.validation_enabled(False):
        compare(pair, x, num_samples=1001, rtol=1e-10)


def test_a_call_with_few_data_is_compiled(made, run_as_they_are, float64):
    pair = vae()
    with pyro.validation_enabled(False):
        for data in (1, 3):
            evaluated(pair, binary(data), num_samples=5000, compile=True)
    assert run_as_they_are == []
    assert len(made) == 2


def test_values_are_validated_in_the_first_chunk(made, run_as_they_are, float64):
    pair, x = vae(), binary(25)
    evaluated(pair, x, num_samples=1000, compile=True)
    assert run_as_they_are[0] == (10, 100)
    assert set(run_as_they_are[1:]) == {(5, 200)}
    with pytest.raises(ValueError, match="outside the support"):
        log_likelihood(pair, x + 0.5, num_samples=1000, compile=True)
    later = x.clone()
    later[15] = 0.5  # graphs check nothing, but each batch is looked at before
    with pytest.raises(ValueError, match="outside the support"):
        log_likelihood(pair, later, num_samples=1000, compile=True)


def test_a_single_chunk_needs_no_graph(made):
    compare(vae(), binary(3), num_samples=70, rtol=0)
    assert made == []


@pytest.mark.parametrize(("num_samples", "chunk_size"), [(7, 2), (1001, None), (31, 30), (5, 5)])
def test_every_sample_counts_once(num_samples, chunk_size, made, float64):
    """At the exact posterior all weights are p(x), so that ESS counts them."""
    oracle = LinearGaussian(3, 2, full_rank=True)
    oracle.set_exact_guide()
    x = torch.randn(13, 3)
    for compiled in (False, True):
        result = evaluated(
            oracle, x, num_samples=num_samples, chunk_size=chunk_size, compile=compiled
        )
        torch.testing.assert_close(result.ess, torch.full((13,), float(num_samples)))
        torch.testing.assert_close(result.log_px, oracle.log_px(x).detach())


def test_a_report_compiles_on_request(monkeypatch, tmp_path):
    def called(pair, *args, **options):
        raise RuntimeError(f"compile={options['compile']}")

    monkeypatch.setattr("ppl_vae.evaluation.log_likelihood", called)
    for compiled in (False, True):
        with pytest.raises(RuntimeError, match=f"compile={compiled}"):
            report(vae(), binary(4), tmp_path, num_particles=(1,), compile=compiled)


# --- what cannot be compiled ----------------------------------------------------------------------


def looking(limit):
    """A pair whose model looks at a value."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            sign = 1.0 if z.sum() > limit else -1.0
            pyro.sample("x", dist.Normal(sign * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.0))

    return Programs(model, guide)


@quiet
def test_a_program_that_reads_values_runs_uncompiled(float64):
    pair, x = looking(0.3), torch.randn(9)
    options = {"num_samples": 60, "chunk_size": 20}
    expected = evaluated(pair, x, **options)
    message = "log_likelihood cannot be compiled.*at values"
    with pytest.warns(NotCompiledWarning, match=message) as found:
        got = log_likelihood(pair, x, compile=True, **options)
    assert found[0].filename == __file__  # it points to who called
    assert_same(got, expected, 0)
    assert_same(evaluated(pair, x, compile=True, **options), expected, 0)  # and says it once


def test_compiler_warnings_are_not_failures(monkeypatch, float64):
    def warns(graph, **options):
        def run(*xs):
            if len(calls) == 0:
                calls.append(1)
                warnings.warn("this will be removed", FutureWarning, stacklevel=1)
            return graph(*xs)

        return run

    calls = []
    monkeypatch.setattr("ppl_vae.compilation.compiled_function.inductor", warns)
    compare(vae(), binary(3), num_samples=60, chunk_size=20, rtol=1e-10)
    assert calls == [1]


@quiet
def test_a_wrong_graph_is_not_used(monkeypatch, float64):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor",
        lambda graph, **options: lambda *xs: [1.01 * t for t in graph(*xs)],
    )
    pair, x = vae(), binary(3)
    expected = evaluated(pair, x, num_samples=60, chunk_size=20)
    with pytest.warns(NotCompiledWarning, match="off by"):
        got = log_likelihood(pair, x, num_samples=60, chunk_size=20, compile=True)
    assert_same(got, expected, 0)


def test_weights_of_zero_are_traced(made, float64):
    pair = with_factor(lambda x, z: torch.where(z > 0, 0 * z, -torch.inf))
    with pyro.validation_enabled(False):
        compare(pair, torch.zeros(4), num_samples=60, chunk_size=20, rtol=1e-10)
    assert len(made) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_names_the_datum(value, made):
    pair = with_factor(lambda x, z: torch.where((x > 600) & (z > 0), value, -x + 0 * z))
    message = rf"log_likelihood: log weight {value} for datum 601, and \d+ more of its batch"
    with pyro.validation_enabled(False), pytest.raises(ValueError, match=message):
        evaluated(pair, torch.arange(700.0), num_samples=20, chunk_size=5, compile=True)
    assert len(made) == 1


# --- what is kept ---------------------------------------------------------------------------------


def kept():
    pyro.clear_param_store()  # which holds parameters, whoever evaluates
    gc.collect()
    return len(_graphs)


@pytest.mark.slow  # one that Inductor compiled is, below
@pytest.mark.parametrize("name", ["prior: vamp", pytest.param("y summed", marks=pytest.mark.slow)])
def test_a_pair_that_is_dropped_is_collected_with_its_graphs(name, made, float64):
    pair, *args = CASES[name]()
    before = kept()
    compare(pair, *args, num_samples=60, chunk_size=20, rtol=1e-10)
    assert kept() == before + 1
    parts = list(map(weakref.ref, made.pop()))
    inside = [weakref.ref(m) for m in pair.modules()] + [weakref.ref(p) for p in pair.parameters()]
    del pair
    assert kept() == before
    assert [ref() for ref in [*inside, *parts] if ref() is not None] == []


def test_programs_in_a_reference_cycle_are_collected(made, float64):
    pair = with_factor(lambda x, z: -z.square())
    pair.model.itself = [pair]
    pair.guide.itself = pair.model.register_forward_hook(lambda *_: None)
    ref, before = weakref.ref(pair), kept()
    with pyro.validation_enabled(False):
        evaluated(pair, torch.zeros(4), num_samples=60, chunk_size=20, compile=True)
    assert kept() == before + 1
    made.clear()
    del pair
    assert kept() == before
    assert ref() is None


@pytest.mark.inductor
def test_inductor_gives_the_same_result_and_is_collected():
    pair, before = vae(), kept()
    inside = [weakref.ref(m) for m in pair.modules()] + [weakref.ref(p) for p in pair.parameters()]
    compare(pair, binary(3), num_samples=60, chunk_size=20, rtol=1e-5)
    assert kept() == before + 1
    del pair
    assert kept() == before
    assert [ref() for ref in inside if ref() is not None] == []


def test_copies_and_pickles_contain_no_graphs(made, float64):
    pair, x = vae(prior="mixture"), binary(3)
    names = [set(vars(module)) for module in pair.modules()]
    state = copy.deepcopy(pair.state_dict())
    options = {"num_samples": 60, "chunk_size": 20}
    expected = evaluated(pair, x, compile=True, **options)
    assert [set(vars(module)) for module in pair.modules()] == names
    assert pair.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in pair.state_dict().items())
    other = copy.deepcopy(pair)
    assert_same(evaluated(other, x, compile=True, **options), expected, 1e-10)
    with torch.no_grad():
        other.prior.loc.add_(1.0)  # a graph of its own
    compare(other, x, rtol=1e-10, **options)
    compare(pair, x, rtol=1e-10, **options)
    assert len(made) == 2


def test_several_pairs_and_shapes_in_turn(made, float64):
    pairs = [vae(), vae(prior="mixture")]
    for _ in range(2):
        for pair in pairs:
            for data, chunk in ((2, 20), (4, 20), (4, 15)):
                compare(pair, binary(data), num_samples=60, chunk_size=chunk, rtol=1e-10)
    assert len(made) == 6
