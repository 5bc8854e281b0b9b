"""Threads take turns: what they compute is what one after another would have computed.

Right values: the same calls in one thread, compared bit for bit.
"""

import copy
import os
import random
import signal
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pytest
import torch
from pairs import ssvae, vae
from pyro.poutine.runtime import _PYRO_STACK
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae
from ppl_vae import evaluation, load, training
from ppl_vae.estimators import ImportanceWeightedELBO, KLWeighted
from ppl_vae.evaluation import annealing
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import exclusively, own_state, restored
from ppl_vae.random_state import snapshot

X = torch.rand(12, 6, generator=torch.Generator().manual_seed(0)).round()
PATIENCE = 120
"""Seconds after which a test that waits has failed."""


@pytest.fixture(autouse=True)
def little_tuning(monkeypatch):
    """Tune the step sizes of annealing in a few transitions."""
    monkeypatch.setattr(annealing, "_WARM_UP", 1)
    monkeypatch.setattr(annealing, "_FEWEST_TUNED", 3)


@pytest.fixture(autouse=True)
def quiet(as_users_see_it):
    """Have neither type checks, which are slow, nor warnings, whose filters are one per process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def trained(pair):
    training.fit(
        pair, X, steps=15, batch_size=4, validation=X, validate_every=5, log_every=5, progress=False
    )
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


def fitted_by_loader(pair):
    loader = DataLoader(TensorDataset(X), batch_size=4, shuffle=True)
    training.fit(pair, loader, steps=9, beta=0.5, progress=False, seed=4)
    return torch.cat([p.detach().flatten() for p in pair.parameters()])


def weights_of(result):
    return torch.cat([result.log_px, result.ess])


def finite_gradients(pair):
    loss = ImportanceWeightedELBO(3, chunk_size=1)(pair.model, pair.guide)(X)
    return torch.stack([g.isfinite().all() for g in torch.autograd.grad(loss, pair.parameters())])


VALUES = {
    "log_likelihood": lambda p: weights_of(evaluation.log_likelihood(p, X, num_samples=50)),
    "annealed": lambda p: weights_of(
        evaluation.annealed_importance_sampling(p, X[:2], num_chains=2, num_temperatures=3)
    ),
    "latent_units": lambda p: evaluation.latent_units(p, X).kl,
    "kl": lambda p: torch.tensor(evaluation.kl_decomposition(p, X).kl.mean),
    "gap": lambda p: (
        evaluation.inference_gap(p, X, steps=3, importance_samples=20, num_samples=5).best_elbo
    ),
    "encode": lambda p: p.encode(X),
    "gradients": finite_gradients,
    "fit": trained,
    "loader": fitted_by_loader,
}
UNSEEDED = {
    "generate": lambda p: p.generate(5),
    "reconstruct": lambda p: p.reconstruct(X),
    "impute": lambda p: p.impute(X, X > 0, num_particles=5),
    "elbo_terms": lambda p: evaluation.elbo_terms(p, X),
    "loss": lambda p: ImportanceWeightedELBO(2).loss(p.model, p.guide, X),
    "construct": lambda p: p.replace(),
}
"""These draw from the generators as they are: nothing but to be run beside the others."""


def at_once(calls):
    """Run calls in threads that begin together, and return their results."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=PATIENCE) for future in [pool.submit(run, c) for c in calls]]


def noisy(prior="standard"):
    """A pair whose values depend on its mode, by dropout and running means."""
    pair = vae(prior)
    for net in (pair.likelihood.net, pair.posterior.net):
        net.layers.append(nn.Dropout(0.3))
    return pair


@pytest.mark.parametrize(
    "shared", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["pairs", "one pair"]
)
def test_values_in_threads_are_those_of_one_thread(shared):
    torch.manual_seed(1)
    first = noisy("mixture")
    names = [n for n in VALUES if not shared or n not in ("fit", "loader")]
    pairs = [first if shared else copy.deepcopy(first) for _ in names]
    expected = [VALUES[n](copy.deepcopy(first)) for n in names]
    before = torch.get_rng_state()
    beside = [lambda call=call: [call(first) for _ in range(5)] for call in UNSEEDED.values()]
    calls = [lambda n=n, p=p: VALUES[n](p) for n, p in zip(names, pairs, strict=True)]
    found = at_once([*calls, *beside])
    for name, got, wanted in zip(names, found, expected, strict=False):
        assert torch.equal(got, wanted), name
    assert not _PYRO_STACK
    assert pyro.infer.util.is_validation_enabled()
    assert not pyro.get_param_store().keys()
    assert first.training
    assert not torch.equal(before, torch.get_rng_state())  # by what ran beside


def test_two_trainings_and_an_svi_of_another_thread_do_not_meet():
    torch.manual_seed(2)
    pair, other = noisy(), vae()
    expected = trained(copy.deepcopy(pair))
    svi = pyro.infer.SVI(
        other.model, other.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO()
    )
    svi.step(X)  # the store holds it
    stored = {k: id(v) for k, v in pyro.get_param_store().named_parameters()}
    drawn = torch.get_rng_state()
    found = at_once([lambda: trained(copy.deepcopy(pair)) for _ in range(3)])
    assert all(torch.equal(got, expected) for got in found)
    assert {k: id(v) for k, v in pyro.get_param_store().named_parameters()} == stored
    assert torch.equal(drawn, torch.get_rng_state())


def test_training_does_not_disturb_draws_of_other_threads():
    pair, other = noisy(), vae()
    torch.manual_seed(3)
    expected = [other.generate(2) for _ in range(20)]
    done, found = threading.Event(), []
    torch.manual_seed(3)
    thread = threading.Thread(target=lambda: (trained(pair), done.set()))
    thread.start()
    for _ in range(20):
        found.append(other.generate(2))
        time.sleep(0.002)
    thread.join(PATIENCE)
    assert done.is_set()
    assert all(map(torch.equal, found, expected))


def test_a_warm_up_shared_by_threads_counts_each_step_once():
    estimator = KLWeighted(ImportanceWeightedELBO(1), lambda step: 1.0)
    pairs = [vae(), ssvae(), vae()]
    at_once(
        [
            lambda p=p: [estimator.loss_and_grads(p.model, p.guide, X) for _ in range(10)]
            for p in pairs
        ]
    )
    assert estimator.step == 30


def test_pairs_are_loaded_beside_others_in_their_own_dtype(tmp_path):
    pair = vae()
    ppl_vae.save(pair.double(), tmp_path)
    x = X.double()
    expected = pair.encode(x)
    single = vae()
    wanted = single.encode(X)
    found = at_once(
        [lambda: [load(tmp_path).encode(x) for _ in range(5)]] * 2
        + [lambda: [single.encode(X) for _ in range(100)]]
    )
    assert all(torch.equal(got, expected) for got in found[0] + found[1])
    assert all(torch.equal(got, wanted) for got in found[2])
    assert torch.get_default_dtype() is torch.float32


def test_a_backward_pass_that_runs_the_model_again_waits_for_others():
    # In the thread that differentiates, long after the loss was computed.
    pair = noisy().eval()
    torch.manual_seed(0)
    whole = ImportanceWeightedELBO(4)(pair.model, pair.guide)(X)
    expected = torch.autograd.grad(whole, list(pair.parameters()))
    torch.manual_seed(0)
    chunked = ImportanceWeightedELBO(4, chunk_size=1)(pair.model, pair.guide)(X)
    other = vae("mixture")
    found, values = at_once(
        [
            lambda: torch.autograd.grad(chunked, list(pair.parameters())),
            lambda: [VALUES["log_likelihood"](other) for _ in range(5)],
        ]
    )
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    assert all(torch.equal(value, VALUES["log_likelihood"](other)) for value in values)


def test_a_waiting_thread_comes_before_the_last_holder():
    turns, stop = [], threading.Event()

    def loop():
        while not stop.is_set():
            with exclusively():
                turns.append(0)
                time.sleep(0.001)

    busy = threading.Thread(target=loop)
    busy.start()
    while not turns:
        time.sleep(0.001)
    before = len(turns)
    for _ in range(20):
        with exclusively():
            pass
    stop.set()
    busy.join(PATIENCE)
    assert len(turns) - before <= 2 * 20 + 2


def test_an_error_releases_the_lock():
    pair = vae()
    with pytest.raises(ValueError, match="expected"):
        pair.encode(torch.zeros(2, 3))
    pair.posterior.register_forward_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pair.encode(X)
    assert torch.equal(*at_once([lambda: vae_value(), lambda: vae_value()]))


def vae_value():
    with exclusively(), exclusively():
        return torch.ones(1)


@pytest.mark.usefixtures("usual_handler")
def test_keyboard_interrupt_while_waiting():
    pair, entered, leave = vae(), threading.Event(), threading.Event()

    def hold():
        with exclusively():
            entered.set()
            leave.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    entered.wait(PATIENCE)
    threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        pair.encode(X)
    leave.set()
    thread.join(PATIENCE)
    assert vae().encode(X).shape == (12, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("who", ["another thread", "this thread"])
def test_a_forked_process_does_not_wait_for_its_parents_threads(who):
    pair, entered, leave = vae(), threading.Event(), threading.Event()

    def hold():
        with exclusively(), pyro.poutine.trace():
            entered.set()
            leave.wait(PATIENCE)

    def child():
        other = pair.encode(X)
        ran = []
        thread = threading.Thread(target=lambda: ran.append(pair.encode(X)))
        thread.start()
        thread.join(PATIENCE)
        return bool(ran) and torch.equal(ran[0], other) and not _PYRO_STACK

    def forked():
        number = os.fork()
        if number == 0:
            code = 1
            try:
                code = 0 if child() else 1
            finally:
                os._exit(code)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found, status = os.waitpid(number, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        return "it waited"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks in processes with threads
        if who == "this thread":
            with exclusively():
                assert forked() == 0
            return
        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait(PATIENCE)
        try:
            assert forked() == 0
        finally:
            leave.set()
            thread.join(PATIENCE)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_of_a_loader_run_programs_while_others_evaluate(workers):
    pair, other = vae(), vae("mixture")
    expected = [batch.clone() for batch in DataLoader(Encoded(pair), batch_size=4)]
    # Workers are forked here: locks of torch's own may be held while other threads compute.
    loader = iter(DataLoader(Encoded(pair), batch_size=4, num_workers=workers))
    found, _ = at_once(
        [
            lambda: [batch.clone() for batch in loader],
            lambda: [VALUES["log_likelihood"](other) for _ in range(3)],
        ]
    )
    assert all(map(torch.equal, found, expected))


class Encoded(torch.utils.data.Dataset):
    """Encodings, computed where a batch is fetched."""

    def __init__(self, pair):
        self.pair = pair

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        return self.pair.encode(X[index : index + 1])[0]


def test_own_random_state_continues_the_global_one_and_leaves_no_trace():
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    with own_state():
        with exclusively():
            assert torch.equal(torch.randn(3), expected)
            torch.manual_seed(17)
        with own_state(), exclusively():
            torch.randn(2)
        with exclusively():
            drawn = torch.randn(2)
    torch.manual_seed(17)
    assert torch.equal(torch.randn(2), drawn)
    torch.manual_seed(5)
    with own_state(), exclusively():
        torch.randn(7)
    assert torch.equal(torch.randn(3), expected)


def test_own_state_within_exclusively_leaves_no_trace():
    torch.manual_seed(5)
    np.random.seed(5)
    np.random.randn()  # and another number waits
    store = pyro.get_param_store()
    with exclusively():
        pair, kept = vae(), pyro.param("kept", torch.ones(1))
        before = snapshot()
        training.fit(pair, X, steps=2, progress=False)
        assert list(store.keys()) == ["kept"]
        assert store["kept"] is kept
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[2:] == before[2][2:]
        assert random.getstate() == before[3]


def test_restoring_the_random_state_waits_for_the_turn_of_another_thread():
    """Constructors and reprs restore what they draw, and would take another's draws back."""
    drawing, drawn, done = threading.Event(), threading.Event(), threading.Event()

    def work():
        with restored():
            torch.rand(1)
            drawing.set()
            drawn.wait(PATIENCE)
        done.set()

    other = threading.Thread(target=work)
    with exclusively():
        torch.manual_seed(5)
        other.start()
        drawing.wait(0.2)
        found = [torch.rand(3)]
        drawn.set()
        done.wait(0.2)
        found.append(torch.rand(3))
    other.join(PATIENCE)
    assert done.is_set()
    torch.manual_seed(5)
    assert torch.equal(torch.stack(found), torch.stack([torch.rand(3), torch.rand(3)]))


def test_training_modes_are_restored_between_threads():
    pair, seen = noisy(), []
    pair.posterior.register_forward_hook(lambda module, *_: seen.append(module.training))
    pair.eval()
    stop = threading.Event()

    def evaluate():
        while not stop.is_set():
            with evaluating(pair):
                assert not pair.posterior.training
            pair.encode(X)

    thread = threading.Thread(target=evaluate)
    thread.start()
    training.fit(pair, X, steps=20, batch_size=4, progress=False)
    stop.set()
    thread.join(PATIENCE)
    assert {True, False} == set(seen)
    assert not any(module.training for module in pair.modules())
