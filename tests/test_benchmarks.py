"""The benchmark runs, and times the same thing in all of its columns."""

import inspect
import itertools
import json
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyro
import pytest
import torch
from evaluated import unchecked
from torch import distributions as dist
from torch.nn import functional as F

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import anatomy  # noqa: E402
import columns as of_rows  # noqa: E402
import counts  # noqa: E402
import discrete_gradients  # noqa: E402
import elementwise  # noqa: E402
import fit  # noqa: E402
import growth  # noqa: E402
import hand  # noqa: E402
import imputation  # noqa: E402
import measure  # noqa: E402
import ours  # noqa: E402
import outputs  # noqa: E402
import processes  # noqa: E402
import products  # noqa: E402
import refinement  # noqa: E402
import steps  # noqa: E402
import stock  # noqa: E402
from rows import CLASSIFICATION_WEIGHT, ROWS, Column, Unavailable, problem, row_of  # noqa: E402

from ppl_vae import training  # noqa: E402

pytestmark = unchecked  # steps are timed as users have them

KINDS = ["vae-128", "gmvae-128", "iwae-50", "ssvae-100", "likelihood"]


def tiny(name, **sizes):
    return problem(replace(row_of(name, tiny=True), **sizes))


def by_default(*names):
    """Return all kinds of rows, of which the others are slow."""
    return [pytest.param(n, marks=() if n in names else pytest.mark.slow) for n in KINDS]


# At fixed weights, where more is found, every kind is compared by default.
@pytest.mark.parametrize("name", by_default("vae-128"))
@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_columns_have_one_loss_as_they_train(name):
    given = tiny(name, turn=1)
    columns = {
        "hand": hand.eager(given),
        "ours": ours.plain(given),
        "pyro": stock.svi(given),
    }
    turns = measure.take_turns(columns, given, rounds=40, seed=0)
    assert [len(turn.losses) for turn in turns.values()] == [40, 40, 40]
    assert measure.disagreements(turns, "hand", 6.0) == []
    if name != "likelihood":
        for turn in turns.values():
            assert sum(turn.losses[-5:]) < sum(turn.losses[:5]), "it does not train"


@pytest.mark.parametrize("name", KINDS[:4])
def test_weights_at_rest_stay(name):
    given = tiny(name)
    indices = given.batches(2, torch.Generator().manual_seed(1))

    def curve(column):
        torch.manual_seed(3)
        return torch.tensor([float(loss) for loss in column.run(indices)])

    for make in (hand.eager, ours.plain, stock.svi):
        column = make(given.at_rest())
        first = curve(column)
        assert torch.equal(curve(column), first)
        training = make(given)
        curve(training)
        assert not torch.equal(curve(training), curve(make(given)))


def at_rest(name, columns, **sizes):
    """Return what is found at fixed weights about columns of functions of a problem."""
    given = tiny(name, **sizes).at_rest()
    made = {column: make(given) for column, make in columns.items()}
    return measure.at_rest(made, given, "hand", 6.0, seed=0)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_columns_have_one_loss_at_fixed_weights(name):
    columns = {"hand": hand.eager, "ours": ours.plain, "pyro": stock.svi}
    found, wrong = at_rest(name, columns, turn=1)
    assert wrong == []
    assert found["hand"][1:] == (0.0, 0.0)
    for of_column in (found["ours"], found["pyro"]):
        assert of_column.loss - found["hand"].loss == pytest.approx(of_column.difference)
        assert 0 < of_column.error < 0.003 * of_column.loss


def off(loss, make=hand.eager):
    """Return a way to make a column whose losses are others than another's."""

    def column(given):
        run = make(given).run
        return Column(lambda indices: [loss(v) for v in run(indices)])

    return column


def test_half_a_nat_is_found_at_fixed_weights_only():
    columns = {"hand": hand.eager, "off": off(lambda loss: loss + 0.5), "same": hand.eager}
    found, (sentence,) = at_rest("vae-128", columns)
    assert sentence.startswith("off: its loss is off from that of hand by ")
    assert found["off"].difference == pytest.approx(0.5, abs=0.2)
    given = tiny("vae-128")
    turns = measure.take_turns({c: make(given) for c, make in columns.items()}, given, 40, seed=0)
    assert measure.disagreements(turns, "hand", 6.0) == []


def test_a_bound_of_a_particle_less_is_found_at_fixed_weights():
    def one_less(given):
        return hand.eager(replace(given, row=replace(given.row, particles=given.row.particles - 1)))

    columns = {"hand": hand.eager, "less": one_less}
    found, (sentence,) = at_rest("iwae-50", columns, batch=512, latent=50)
    assert sentence.startswith("less: ")
    assert 0 < found["less"].difference < 0.02 * found["hand"].loss  # as bounds are ordered


def test_at_rest_rounding_is_allowed_and_a_mean_over_a_turn_has_its_error():
    def column(of_step):
        return lambda given: Column(lambda indices: of_step(given.images[indices].mean((1, 2))))

    columns = {
        "hand": column(lambda loss: loss),
        "rounded": column(lambda loss: loss * (1 + 5e-6)),
        "off": column(lambda loss: loss * (1 + 2e-5)),
        "mean": column(lambda loss: [loss.mean()] * len(loss)),
    }
    found, (sentence,) = at_rest("vae-128", columns, turn=5)
    assert sentence.startswith("off: ")
    assert found["mean"].difference == pytest.approx(0, abs=1e-7)
    assert found["mean"].error == pytest.approx(0, abs=1e-7)


def test_columns_that_train_are_not_at_rest():
    given = tiny("vae-128")
    with pytest.raises(ValueError, match=r"at_rest.*rate=0.001"):
        measure.at_rest({"hand": hand.eager(given)}, given, "hand", 6.0, seed=0)


def fixed(name, **sizes):
    """Return a problem, indices of a step, and images that are binary, so that x is no draw."""
    given = tiny(name, turn=1, **sizes)
    given.images.copy_((given.images > 0.2).to(given.images.dtype))
    index = given.batches(1, torch.Generator().manual_seed(1))[0]
    return given, index


def bernoulli(logits, x):
    return dist.Independent(dist.Bernoulli(logits=logits), 1, validate_args=False).log_prob(x)


def posterior(module, *inputs):
    loc, unconstrained = module.encoder(torch.cat(inputs, -1)).chunk(2, -1)
    return dist.Independent(dist.Normal(loc, F.softplus(unconstrained) + 1e-4), 1)


def standard(z):
    return dist.Independent(dist.Normal(torch.zeros_like(z), torch.ones_like(z)), 1).log_prob(z)


@pytest.mark.parametrize("name", ["vae-128", "gmvae-128", "iwae-50"])
@pytest.mark.usefixtures("float64")
def test_hand_written_losses_are_their_definitions(name):
    given, index = fixed(name)
    module = hand.LOSSES[given.row.kind](given)
    x = given.images[index]
    shape = (given.row.particles,) if name == "iwae-50" else ()
    torch.manual_seed(3)
    loss = module(index)
    torch.manual_seed(3)
    assert torch.equal(torch.bernoulli(x), x)  # takes its random numbers
    q = posterior(module, x)
    z = q.base_dist.loc + q.base_dist.scale * torch.randn(*shape, *q.base_dist.loc.shape)
    log_p = bernoulli(module.decoder(z), x)
    if name == "vae-128":
        prior = dist.Independent(dist.Normal(torch.zeros(4), torch.ones(4)), 1)
        expected = -(log_p - dist.kl_divergence(q, prior.expand(q.batch_shape))).mean()
    elif name == "gmvae-128":
        normals = dist.Normal(module.loc, F.softplus(module.unconstrained) + 1e-4)
        weights = dist.Categorical(logits=torch.zeros(len(module.loc)))
        prior = dist.MixtureSameFamily(weights, dist.Independent(normals, 1))
        expected = -(log_p + prior.log_prob(z) - q.log_prob(z)).mean()
    else:
        log_w = log_p + standard(z) - q.log_prob(z)
        expected = -(log_w.logsumexp(0) - math.log(5)).mean()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.usefixtures("float64")
def test_the_hand_written_semi_supervised_loss_is_its_definition(late):
    given, index = fixed("ssvae-late" if late else "ssvae-100", classes=3)
    module = hand.SemiSupervised(given)
    n, classes = given.row.batch, 3
    x, y = given.images[index], given.labels[index]
    torch.manual_seed(3)
    loss = module(index)
    torch.manual_seed(3)
    torch.bernoulli(x)
    epsilon = torch.randn(classes * n + len(y) - n, given.row.latent)
    log_q_y = module.classifier(x).log_softmax(-1)

    def elbo(rows, label, epsilon):
        one_hot = F.one_hot(label, classes).to(x.dtype)
        q = posterior(module, rows, one_hot)
        z = q.base_dist.loc + q.base_dist.scale * epsilon
        prior = dist.Independent(dist.Normal(torch.zeros_like(z), torch.ones_like(z)), 1)
        log_p = bernoulli(module.decoder(torch.cat([z, one_hot], -1)), rows)
        return log_p - dist.kl_divergence(q, prior) - math.log(classes)

    unlabelled = torch.zeros(n)
    for c in range(classes):
        term = elbo(x[:n], torch.full((n,), c), epsilon[c * n : (c + 1) * n])
        unlabelled += log_q_y[:n, c].exp() * (term - log_q_y[:n, c])
    labelled = elbo(x[n:], y[n:], epsilon[classes * n :])
    labelled = labelled + CLASSIFICATION_WEIGHT * log_q_y[n:].gather(1, y[n:, None]).squeeze(1)
    torch.testing.assert_close(loss, -unlabelled.mean() - labelled.mean())


@pytest.mark.usefixtures("float64")
@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_the_hand_written_likelihood_is_that_of_the_library(monkeypatch):
    monkeypatch.setattr(hand, "LIKELIHOOD_ROWS", 320)  # chunks of 20, and a rest
    given, index = fixed("likelihood", particles=1010)
    by_hand, library = (
        torch.stack([column.run(index[None])[0] for _ in range(6)])
        for column in (hand.eager(given), ours.plain(given))
    )
    error = (by_hand.var() / 6 + library.var() / 6).sqrt()
    assert abs(by_hand.mean() - library.mean()) < 5 * error
    assert error < 0.05


def test_a_late_classifier_has_probabilities_below_the_smallest_normal_number():
    given, index = fixed("ssvae-late", classes=10)
    q_y = hand.SemiSupervised(given).classifier(given.images[index]).softmax(-1)
    assert ((q_y > 0) & (q_y < torch.finfo(q_y.dtype).tiny)).any(1).all()
    assert (q_y.argmax(1) == given.labels[index]).all()


def test_a_column_of_another_loss_is_found():
    given = tiny("vae-128", turn=1)
    same, other = hand.eager(given), hand.eager(given)
    off = Column(lambda indices: [loss * 1.05 for loss in other.run(indices)])
    columns = {"hand": hand.eager(given), "same": same, "off": off}
    turns = measure.take_turns(columns, given, rounds=60, seed=0)
    (sentence,) = measure.disagreements(turns, "hand", 6.0)
    assert sentence.startswith("off: its loss is off from that of hand by ")


def curves(name, steps, **sizes):
    """Return the losses of a row's uncompiled and compiled steps, on the same draws."""
    found = []
    for column in (ours.plain, ours.compiled):
        given = tiny(name, **sizes)
        made, indices = column(given), given.batches(steps, torch.Generator().manual_seed(0))
        torch.manual_seed(0)
        found.append(torch.stack([torch.as_tensor(loss) for loss in made.run(indices)]))
    return found


def same_curve(name, **sizes):
    plain, compiled = curves(name, 25, **sizes)
    assert (plain[5:] != plain[:-5]).all()
    torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", by_default("ssvae-100"))
@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_compiled_steps_have_the_losses_of_uncompiled_ones(name, monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    same_curve(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_steps_compiled_by_inductor_have_the_losses_of_uncompiled_ones(name):
    same_curve(name)


def test_losses_that_are_not_finite_do_not_agree():
    turns = {"a": measure.Turns([], [1.0] * 20), "b": measure.Turns([], [math.nan] * 20)}
    assert measure.disagreements(turns, "a", 6.0)


def test_rows_of_an_earlier_run_with_the_same_settings_stay(tmp_path):
    path, settings = tmp_path / "steps.json", {"machine": {"threads": 2}, "seed": 0, "tiny": True}
    assert steps._other_rows(path, settings) == {}
    path.write_text(json.dumps(settings | {"rows": {"vae-32": {"rounds": 3}}}))
    assert steps._other_rows(path, settings) == {"vae-32": {"rounds": 3}}
    assert steps._other_rows(path, settings | {"seed": 1}) == {}


def test_a_row_that_is_refused_is_not_printed():
    row = {"refused": ["ours: its loss is off"], "absent": {}}
    machine = measure.machine(1)
    found = {"machine": machine, "seed": 0, "rows": {"vae-32": row | {"rounds": 1}}}
    table = steps.markdown(found)
    assert "| vae-32 |" not in table
    assert "- vae-32 refused: ours: its loss is off" in table


def test_allocated_memory_is_the_most_that_is_held_at_once():
    def turn():
        for _ in range(3):
            a = torch.ones(1_000_000)
            b = a + 1
            del a, b

    assert measure.peak_above_start(turn) == pytest.approx(8e6, rel=0.01)


def event(name, parent=None, microseconds=0.0, number=0):
    return SimpleNamespace(
        name=name, cpu_parent=parent, self_cpu_time_total=microseconds, id=number
    )


def test_operations_are_divided_step_by_step():
    events = [event("aten::mm", microseconds=7e3)]  # in no step
    for number, milliseconds in enumerate([1.0, 2.0, 30.0]):
        step = event(anatomy.STEP, number=number, microseconds=5e3)
        linear = event("aten::linear", step, 1e3)
        optimizer = event("Optimizer.step#Adam.step", step, 4e3)
        events += [
            step,
            linear,
            event("aten::addmm", linear, 1e3 * milliseconds),
            event("aten::bernoulli_", step, 3e3),
            event("aten::add", step, 500.0),
            event("cpp_fused_add", step, 250.0),
            optimizer,
            event("aten::_fused_adam_", optimizer, 6e3),
        ]
    found = anatomy.by_step(events)
    assert [step["matrix products"] for step in found] == [2.0, 3.0, 31.0]
    for step in found:
        assert step["random numbers"] == 3.0
        assert step[anatomy.OTHER] == 0.75
        assert step[anatomy.OPTIMIZER] == 6.0
        assert set(step) == set(anatomy.ALL[:-1])


def test_quartiles_and_exponents():
    assert measure.spread([4.0, 1.0, 2.0, 3.0, 5.0]) == (3.0, 2.0, 4.0)
    sizes = [1, 10, 100, 1000]
    assert growth.exponent(sizes, [7.0, 3 * 100.0, 3 * 1e4, 3 * 1e6]) == pytest.approx(2)
    columns = {"ours": {"sizes": sizes, "milliseconds": sizes, "megabytes": [s**2 for s in sizes]}}
    report = growth.report({"classes": columns})
    assert "megabytes against classes of y, ours: exponent 2.00" in report
    assert "milliseconds against" not in report


SET_FOR_PROCESSES = [
    "KINETO_LOG_LEVEL",
    "TORCH_CPP_LOG_LEVEL",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_THRESHOLD_",
]


@pytest.fixture
def in_process(monkeypatch):
    """Have done here what has a process of its own."""
    monkeypatch.setattr(measure, "in_subprocess", lambda function, *args: function(*args))
    monkeypatch.setattr(measure, "begin", lambda threads, flush: None)
    monkeypatch.setattr(processes, "Remote", Here)
    with pyro.validation_enabled(False):
        yield


class Here:
    """A column in the place of one in a process of its own."""

    one_by_one = threading.Lock()  # Pyro's state and torch's random numbers are the process's

    def __init__(self, make, *args, without=()):
        make, args = pickle.loads(pickle.dumps((make, args)))  # as on the way to a process
        self.name, self.without = args[0], without
        with self.one_by_one:
            self.turn = make(*args).turn

    def asleep(self):
        return 0.03

    def close(self):
        pass


OPTIONS = of_rows.Options(rounds=2, seed=0, threads=1, errors=6.0, tiny=True)


@pytest.mark.usefixtures("in_process")
def test_a_row_that_is_off_at_fixed_weights_is_refused_before_it_is_timed(monkeypatch, tmp_path):
    monkeypatch.setattr(ours, "plain", off(lambda v: v + 0.5, ours.plain))
    columns = ("products", "hand", "hand-float32", "ours", "pythae")
    row = steps.measure_row("vae-32", columns, OPTIONS, tmp_path / "problem.pt")
    (sentence,) = row["refused"]
    assert sentence.startswith("at fixed weights, ours: its loss is off from that of hand by ")
    assert "columns" not in row
    assert row["at rest"]["ours"]["difference"] == pytest.approx(0.5, abs=0.2)
    assert list(row["absent"]) in ([], ["pythae"])  # not what nobody expects of a row


@pytest.fixture
def saved(monkeypatch, tmp_path):
    """Return where a problem is."""
    monkeypatch.setattr(measure, "begin", lambda threads, flush: None)
    of_rows.save_problem("vae-128", OPTIONS, tmp_path / "problem.pt")
    for name in SET_FOR_PROCESSES:  # and so taken back
        monkeypatch.setenv(name, "")
    return tmp_path / "problem.pt"


@pytest.mark.slow  # two processes import everything
def test_a_column_works_and_sleeps_in_a_process_without_the_library(saved):
    given = of_rows.load_problem(saved)
    indices = given.batches(5, torch.Generator().manual_seed(1))
    expected = of_rows.make_column("hand", saved, OPTIONS).turn(indices)[1]
    options = OPTIONS._replace(threads=2)
    assert of_rows.without("hand") == ("ppl_vae",)
    remote = processes.Remote(
        of_rows.make_column, "hand", saved, options, without=of_rows.without("hand")
    )
    seconds, losses = remote.turn(indices)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert 0 < seconds < 60
    time.sleep(0.5)
    assert remote.asleep() < 0.01
    with pytest.raises(Unavailable, match="failed with IndexError"):
        remote.turn(torch.full((1, 16), len(given.images)))
    remote.close()


@pytest.mark.slow
def test_a_process_that_imports_what_it_has_to_do_without_is_found(saved):
    with pytest.raises(RuntimeError, match=r"do without.*ppl_vae"):
        processes.Remote(of_rows.make_column, "ours", saved, OPTIONS, without=("ppl_vae",))


@pytest.mark.slow
def test_no_module_of_an_ordinary_column_imports_the_library():
    modules = {e.make.partition(".")[0] for e in of_rows.COLUMNS.values() if not e.library}
    assert modules == {"hand", "products", "stock", "others"}
    names = ", ".join(["steps", "anatomy", "elementwise", *sorted(modules)])
    code = f"import sys, {names}; sys.exit('ppl_vae' in sys.modules)"
    paths = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True
    )


def test_a_process_answers_when_its_threads_sleep(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 5)
    end = threading.Event()

    def work():
        while not end.is_set():
            pass

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="never sleep"):
            processes._fall_asleep()
    finally:
        end.set()
        thread.join()
    processes._fall_asleep()


def multiplications(batch, sizes, *, gradient=True, first=False):
    """Return those of a network's products: values, and gradients in weights and inputs."""
    layers = [batch * a * b for a, b in itertools.pairwise(sizes)]
    return sum(layers) * (3 if gradient else 1) - (layers[0] if first and gradient else 0)


def test_the_limit_is_the_products_of_a_step():
    d, h, z = 64, 16, 4
    encoder, decoder = (d, h, 2 * z), (z, h, d)
    vae = multiplications(16, encoder, first=True) + multiplications(16, decoder)
    rows = 16 * 10 + 4
    expected = {
        "vae-128": vae,
        "gmvae-128": vae + 3 * 16 * 2 * z * 5,
        "iwae-50": multiplications(16, encoder, first=True) + multiplications(16 * 5, decoder),
        # x's part of the encoder's first layer is computed once, and what y adds is no product.
        "ssvae-100": multiplications(20, (d, h), first=True)
        + multiplications(rows, (h, 2 * z))
        + multiplications(rows, decoder)
        + multiplications(20, (d, h, 10), first=True),
        "likelihood": multiplications(10, encoder, gradient=False)
        + multiplications(10 * 5, decoder, gradient=False),
    }
    for name, number in expected.items():
        found = products.of_step(tiny(name))
        assert sum(a.shape[0] * a.shape[1] * b.shape[1] for a, b in found) == number, name
        assert {a.dtype for a, _ in found} <= {torch.float32, torch.float64}
    given = tiny("vae-128")
    operands = [t for pair in products.of_step(given) for t in pair]
    # A weight of the decoder is one tensor in both directions: 10 products of 13 operands.
    assert len(operands) == 20 + 2
    assert products.alone(given).turn(given.batches(2, torch.Generator()))[1] == []


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )


PRECISION = "precision" in inspect.signature(training.compile_step).parameters


@pytest.mark.parametrize(
    ("library", "name"),
    [
        *((hand, name) for name in KINDS),
        *((ours, name) for name in ("vae-128", "gmvae-128", "likelihood")),
        *(pytest.param(ours, name, marks=pytest.mark.slow) for name in ("iwae-50", "ssvae-100")),
    ],
)
@pytest.mark.usefixtures("uncompiled")
def test_bfloat16_is_for_networks_and_differs_by_their_rounding(library, name):
    given = tiny(name, batch=64).at_rest()
    indices = given.batches(20, torch.Generator().manual_seed(0))
    if library is ours and (name == "likelihood" or not PRECISION):
        with pytest.raises(Unavailable):
            ours.bfloat16(given)
        return
    column = library.bfloat16(given)
    column.run(indices[:1])  # traces, and compares with the uncompiled step
    with products.Recorder() as recorder:
        column.run(indices[:1])
    dtypes = [a.dtype for a, _ in recorder.products]
    rest = 3 if name == "gmvae-128" else 0
    assert dtypes.count(torch.bfloat16) == len(dtypes) - rest
    losses = []
    for made in (hand.eager(given), column):
        torch.manual_seed(0)
        losses.append(torch.tensor(made.turn(indices)[1]))
    difference = losses[1] - losses[0]
    error = math.hypot(hand.rounding(given), difference.std() / math.sqrt(len(difference)))
    assert 0 < abs(difference.mean()) < 6 * error


def test_rounding_to_bfloat16_has_the_standard_deviation_that_is_said():
    ratios = []
    for seed in range(40):
        given = problem(row_of("vae-128", tiny=True), seed).at_rest()
        index = given.batches(1, torch.Generator().manual_seed(0))[0]
        losses = []
        for weights in (lambda w: w, lambda w: w.bfloat16().float()):
            module = hand.VAE(given)
            for weight in module.parameters():
                weight.data = weights(weight.data)
            torch.manual_seed(1)
            losses.append(module(index).item())
        ratios.append((losses[1] - losses[0]) / hand.rounding(given))
    # A variance of ε² / 12 is that of numbers just above a power of 2, and a quarter of it below.
    assert 0.5 < torch.tensor(ratios).square().mean().sqrt() < 1


def test_rounding_at_rest_is_allowed_to_those_that_round():
    def column(shift):
        return Column(lambda indices: [10.0 + shift] * len(indices))

    given = tiny("vae-128").at_rest()
    made = {"hand": column(0), "rounds": column(0.05), "off": column(0.07), "same": column(0.05)}
    allowed = {"rounds": 0.01, "off": 0.01}
    _, wrong = measure.at_rest(made, given, "hand", 6.0, 0, allowed)
    assert [sentence.partition(":")[0] for sentence in wrong] == ["off", "same"]


@pytest.mark.usefixtures("uncompiled")
def test_mapped_constants_change_no_loss():
    given = tiny("vae-128")
    indices = given.batches(2, torch.Generator().manual_seed(0))
    losses = []
    for make in (hand.eager, hand.mapped):
        torch.manual_seed(0)
        losses.append(make(given).turn(indices)[1])
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.inductor
def test_our_densities_change_losses_by_rounding():
    given = tiny("iwae-50")
    indices = given.batches(5, torch.Generator().manual_seed(0))
    losses = []
    for make in (hand.eager, hand.our_densities):
        torch.manual_seed(0)
        losses.append(make(given).turn(indices)[1])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.usefixtures("in_process")
def test_functions_and_densities_are_the_same_in_all_columns():
    found = elementwise.ours()
    compared = [name for name in found if elementwise.CASES[name].torch is not None]
    assert len(compared) == len(found) - 2
    for name in compared:
        case = elementwise.CASES[name]
        inputs = [elementwise.argument(one, 8) for one in case.inputs.split()]
        with torch.no_grad():
            values = found[name](*inputs), case.torch(*inputs)
        rtol = 1e-4 if "Continuous" in name else 1e-5  # torch's is not exact at large logits
        torch.testing.assert_close(*values, rtol=rtol, atol=0, msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("in_process", "uncompiled")
def test_the_table_of_functions_and_densities(tmp_path, monkeypatch, capsys):
    flags = ["--tiny", "--rounds", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["elementwise.py", *flags])
    elementwise.main()
    found = json.loads((tmp_path / "elementwise.json").read_text())
    assert found["cases"] == list(elementwise.CASES)
    columns = found["columns"]
    assert list(columns) == list(elementwise.COLUMNS)
    for name, case in elementwise.CASES.items():
        for column in ("torch", "mapped", "compiled"):
            assert (name in columns[column]) == (case.torch is not None)
        assert (name in columns["ours"]) == ("|" in name or "p(z)" in name)
        assert (name in columns["ours-compiled"]) == (
            name in columns["ours"] or name in elementwise.OF_GRAPHS
        )
    for column in columns.values():
        for name, times in column.items():
            assert len(times) == 1 + elementwise.CASES[name].gradient
            assert all(t > 0 for t in times)
    table = (tmp_path / "elementwise.md").read_text()
    assert capsys.readouterr().out == table + "\n"
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len(rows) == len(elementwise.CASES) + 1
    for row in rows:
        assert row.replace("\\|", "").count("|") == len(columns) + 2


@pytest.mark.usefixtures("in_process")
def test_fit_beside_bare_loops(tmp_path, monkeypatch, capsys):
    flags = ["--rows", "vae-32", "--rounds", "2", "--steps", "7", "--no-compiled"]
    monkeypatch.setattr(sys, "argv", ["fit.py", "--tiny", *flags, "--out", str(tmp_path)])
    fit.main()
    row = json.loads((tmp_path / "fit.json").read_text())["rows"]["vae-32"]
    assert list(row) == ["a bare loop", "fit"]
    assert [column["steps"] for column in row.values()] == [14, 14]
    assert row["a bare loop"]["ratio"] == 1
    assert row["fit"]["ratio"] > 0
    for column in row.values():
        assert 0 < column["milliseconds"]["low"] <= column["milliseconds"]["median"]
    assert "| vae-32 |" in capsys.readouterr().out


def command(script, *flags, out):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), "--tiny", "--out", str(out), *flags],
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.usefixtures("in_process")
def test_the_command_writes_numbers_table_and_picture(tmp_path, monkeypatch, capsys):
    columns = ["products", "hand", "ours", "pyro"]
    flags = ["--rows", "vae-128", "--columns", *columns, "--rounds", "10", "--threads", "1"]
    argv = ["steps.py", "--tiny", "--no-memory", "--out", str(tmp_path), *flags]
    monkeypatch.setattr(sys, "argv", argv)
    for name in SET_FOR_PROCESSES:  # and so taken back
        monkeypatch.setenv(name, "")
    # That of a column is tested above: importing everything takes seconds.
    started = []

    def here(*args, **options):
        started.append(Here(*args, **options))
        return started[-1]

    monkeypatch.setattr(processes, "Remote", here)
    assert steps.main() == 0
    assert {one.name for one in started} == set(columns)
    for one in started:
        assert one.without == (() if one.name == "ours" else ("ppl_vae",))
    found = json.loads((tmp_path / "steps.json").read_text())
    assert found["machine"]["threads"] == 1
    assert found["machine"]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found["machine"]["packages"]["pyro-ppl"] == pyro.__version__
    row = found["rows"]["vae-128"]
    assert list(row["columns"]) == columns
    assert row["best"] == "hand"
    assert row["columns"]["hand"]["ratio"] == 1
    for column in row["columns"].values():
        middle = column["milliseconds"]["median"]
        assert middle > 0
        assert column["products"] * middle == pytest.approx(
            row["columns"]["products"]["milliseconds"]["median"]
        )
        assert column["steps"] == 20
    assert row["columns"]["hand"]["asleep"] == 0.03
    assert row["columns"]["products"]["loss"] is None
    assert list(row["at rest"]) == columns[1:]
    assert row["at rest"]["hand"]["difference"] == row["at rest"]["hand"]["error"] == 0
    assert row["at rest"]["pyro"]["error"] > 0
    assert "| vae-128 |" in capsys.readouterr().out == (tmp_path / "steps.md").read_text() + "\n"
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_all_columns_and_memory(tmp_path):
    flags = ["--rows", *KINDS, "--rounds", "10", "--threads", "1"]
    result = command("steps", *flags, out=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert list(rows) == KINDS
    for row in rows.values():
        assert ["products", *row["at rest"]] == list(row["columns"])
        for column in ("hand", "hand-compiled", "ours"):
            assert row["columns"][column]["memory"]["resident"] > 0
        assert not any(reason.startswith("failed") for reason in row["absent"].values())


@pytest.mark.slow
def test_fit_compiled_beside_a_bare_loop(tmp_path):
    result = command("fit", "--rows", "vae-32", "--rounds", "1", "--steps", "7", out=tmp_path)
    assert result.returncode == 0, result.stderr
    row = json.loads((tmp_path / "fit.json").read_text())["rows"]["vae-32"]
    assert [column["steps"] for column in row.values()] == [7] * 4
    loops = [column for column, loop in fit.LOOPS.items() if column == loop]
    assert [row[column]["ratio"] for column in loops] == [1, 1]


@pytest.mark.slow
def test_growth(tmp_path):
    result = command("growth", "--axes", "classes", "--rounds", "3", out=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "classes of y, ours-compiled" in result.stdout


@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
@pytest.mark.slow
def test_gradients_of_discrete_draws_are_measured_once(tmp_path, capsys):
    for _ in range(2):
        assert discrete_gradients.main(["--tiny", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().err.count("variances, seed 0") == 1
    found = json.loads((tmp_path / "discrete_gradients.json").read_text())
    variances = found["variances"]["0"]["20"]
    assert variances["DisARM"] < variances["REINFORCE"]
    assert variances["VIMCO, K = 4"] < variances["REINFORCE, K = 4"]
    assert len(found["trained"]) == len(discrete_gradients.TRAINED)


def test_refinements_are_compared_with_long_chains(tmp_path, capsys):
    assert refinement.main(["--tiny", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "refinement.json").read_text())
    assert list(found["rows"]) == ["None", "importance", "optimise", "hmc"]
    assert all(row["mean"] > 0 and row["seconds"] > 0 for row in found["rows"].values())
    covered = found["coverage"]
    error = math.sqrt(0.25 / 50)  # as if the latents of a datum agreed
    assert covered["ungated weights"] < covered["draws of q"] - 3 * error
    assert (tmp_path / "refinement.md").read_text() in capsys.readouterr().out


@pytest.mark.parametrize(
    "table", sorted((BENCHMARKS / "results").glob("*.md")), ids=lambda p: p.stem
)
def test_each_table_is_on_a_page(table):
    pages = (BENCHMARKS.parent / "docs").glob("**/*.md")
    assert any(table.read_text().strip() in page.read_text() for page in pages)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("counts", counts.table_of),
        ("discrete_gradients", discrete_gradients.markdown),
        ("elementwise", elementwise.markdown),
        ("imputation", imputation.markdown),
        ("refinement", refinement.markdown),
        ("steps", steps.markdown),
    ],
)
def test_each_table_is_that_of_its_numbers(name, written):
    results = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    assert written(results) == (BENCHMARKS / "results" / f"{name}.md").read_text()


def pages_with_outputs():
    pages = (BENCHMARKS.parent / "docs").glob("*.md")
    return {page.name: text for page in pages if outputs.commands_of(text := page.read_text())}


def test_pages_quote_what_commands_printed():
    results = json.loads((BENCHMARKS / "results" / "outputs.json").read_text())
    quoted = []
    for text in pages_with_outputs().values():
        assert outputs.filled(text, results) == text
        quoted += outputs.commands_of(text)
    assert sorted(quoted) == sorted(outputs.COMMANDS) == sorted(results["outputs"])


def test_an_output_stands_between_its_marks(tmp_path, monkeypatch):
    (tmp_path / "greet.py").write_text(
        "import sys; print(f'hello {sys.argv[1]}\\nfigure: runs/greet-x/greet.png')\n"
        "import pathlib; f = pathlib.Path('runs/greet-x'); f.mkdir(parents=True)\n"
        "(f / 'greet.png').write_text('drawn')\n"
    )
    monkeypatch.setattr(outputs, "ROOT", tmp_path)
    found = outputs.run("greet.py you", tmp_path / "figure.png")
    assert found == "hello you"
    assert (tmp_path / "figure.png").read_text() == "drawn"
    results = {"machine": measure.machine(1), "outputs": {"greet.py you": found}}
    page = "before\n<!-- output of greet.py you -->\nold\n<!-- end of output -->\nafter\n"
    new = outputs.filled(page, results)
    assert new.startswith("before\n<!-- output of greet.py you -->\n```text\n$ .venv/bin/python ")
    assert "\nhello you\n```\n" in new
    assert "old" not in new
    assert new.endswith("\nafter\n")
    assert outputs.filled(new, results) == new


def test_counts_are_measured_once_and_for_all(tmp_path, monkeypatch, capsys):
    (tmp_path / "counts.json").write_text('{"settings": "of another run", "models": {"old": {}}}')
    counts.main(["--tiny", "--seeds", "1", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "counts.json").read_text())
    names = [f"{p}, {q}, seed 0" for p in counts.LIKELIHOODS for q in counts.PRIORS]
    assert [name for name in found["models"] if "scVI" not in name] == names
    for numbers in found["models"].values():
        assert numbers["log_px"] < 0 < numbers["standard_error"]
        assert 0 <= numbers["nmi"] <= 1
    assert sum(found["cells"].values()) == 120
    table = (tmp_path / "counts.md").read_text()
    assert table == capsys.readouterr().out
    assert table.count("\n| NB,") >= len(counts.PRIORS)
    again = lambda *arguments: pytest.fail("what is there is not trained again")  # noqa: E731
    monkeypatch.setattr(counts, "ours", again)
    counts.main(["--tiny", "--seeds", "1", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "counts.json").read_text()) == found


def test_genes_are_chosen_without_the_cells_held_out():
    x, y = counts.made_up()
    cells = counts.divided(x, y, 12, seed=0)
    held = torch.cat([cells.validation.labels, cells.test.labels])
    assert len(cells.train) == 96
    assert held.bincount().tolist() == [8, 8, 8]
    assert cells.train.event_shape == (12,)
    torch.testing.assert_close(
        cells.test.context, cells.test.tensor().sum(1, keepdim=True).log(), rtol=1e-6, atol=0
    )
