"""Callbacks see a training, may end it, and change nothing of it."""

import importlib.util
import re
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro
import pytest
import torch

from ppl_vae import VAE, data, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.training import Callback, EarlyStopping, FitResult, fit

pytestmark = pytest.mark.usefixtures("as_users_see_it")
ROOT = Path(__file__).parents[2]
X = data.load("digits").binarised(seed=0).tensor()[:300]
quiet = partial(
    fit,
    data=X,
    steps=9,
    batch_size=30,
    log_every=4,
    validation=X[:40],
    validate_every=3,
    progress=False,
)


def digits_vae():
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(8,))),
    )


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return all(torch.equal(left[n], right[n]) for n in left)


def same_tables(left, right):
    return left.keys() == right.keys() and all(
        np.array_equal(left[n], right[n], equal_nan=True) for n in left
    )


class Recorded(Callback):
    """Draws at each call, and notes it."""

    def __init__(self):
        self.calls, self.rows, self.losses = [], [], []

    def step(self, state):
        self.calls.append(("step", state.step))
        self.losses.append(state.loss)
        state.pair.generate(3)
        torch.rand(1), np.random.rand()
        if state.row is not None:
            self.rows.append(dict(state.row))

    def validation(self, state):
        self.calls.append(("validation", state.step))
        self.validated = dict(state.validation)
        assert state.total == 9

    def end(self, state):
        self.calls.append(("end", state.step))
        self.result = state.result


@pytest.fixture(scope="module")
def alone():
    """A training without callbacks."""
    pair = digits_vae()
    return pair, quiet(pair)


def test_what_is_called_when_and_with_what(alone, tmp_path):
    pair, seen = digits_vae(), Recorded()
    fitted = quiet(pair, callbacks=[Callback(), seen], out=tmp_path)
    steps = [("step", step) for step in range(1, 10)]
    for step in (3, 6, 9):
        steps.insert(steps.index(("step", step)), ("validation", step))
    assert seen.calls == [*steps, ("end", 9)]
    assert [row["step"] for row in seen.rows] == [4, 8, 9]
    assert [row["loss"] for row in seen.rows] == fitted.history["loss"].tolist()
    assert np.isclose(np.mean(seen.losses[:4]), fitted.history["loss"][0])
    assert seen.validated["loss"] == fitted.validation["loss"][-1]
    assert seen.result is fitted
    # What they draw changes nothing.
    assert same(pair, alone[0])
    assert same_tables(fitted.history, alone[1].history)
    assert same_tables(fitted.validation, alone[1].validation)


def test_compiled_steps_are_the_same_with_callbacks(monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )  # Inductor takes seconds
    pairs, seen = [digits_vae(), digits_vae()], Recorded()
    quiet(pairs[0], compile=True, steps=4, validation=None)
    quiet(pairs[1], compile=True, steps=4, validation=None, callbacks=[seen])
    assert same(*pairs)
    assert len(seen.losses) == 4


class At(Callback):
    """Raises an error, or stops, after a step."""

    def __init__(self, at, error=None):
        self.at, self.error, self.ended = at, error, 0

    def step(self, state):
        if state.step == self.at:
            if self.error is not None:
                raise self.error
            state.stop()

    def end(self, state):
        self.ended += 1


class PrunedError(Exception):
    """What a search raises."""


def test_an_exception_comes_after_a_checkpoint_from_which_the_training_goes_on(alone, tmp_path):
    pair, pruning = digits_vae(), At(5, PrunedError("enough"))
    with pytest.raises(PrunedError, match="enough"):
        quiet(pair, out=tmp_path, callbacks=[pruning])
    assert pruning.ended == 0
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000000005"]
    again, seen = digits_vae(), Recorded()
    fitted = quiet(again, out=tmp_path, callbacks=[seen], resume=True)
    assert seen.calls[:2] == [("validation", 6), ("step", 6)]
    assert same(again, alone[0])
    assert same_tables(fitted.history, alone[1].history)
    assert same_tables(fitted.validation, alone[1].validation)


def test_a_stop_is_no_error_and_the_training_can_go_on(alone, tmp_path):
    pair, stopping = digits_vae(), At(5)
    fitted = quiet(pair, out=tmp_path, callbacks=[stopping])
    assert (fitted.steps, fitted.stopped, stopping.ended) == (5, "callback", 1)
    assert "5 steps, stopped by a callback" in repr(fitted)
    again = digits_vae()
    fitted = quiet(again, out=tmp_path, resume=True)
    assert (fitted.steps, fitted.stopped) == (9, "steps")
    assert same(again, alone[0])
    assert same_tables(fitted.history, alone[1].history)


def test_a_stop_between_entries_adds_the_last_one(alone, tmp_path):
    fitted = quiet(digits_vae(), out=tmp_path, callbacks=[At(5)])
    assert fitted.history["step"].tolist() == [4, 5]
    written = (tmp_path / "history.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in written] == ["4", "5"]


class Freezing(Callback):
    def step(self, state):
        if state.step == 3:
            state.pair.posterior.requires_grad_(False)


class Kept(Callback):
    """Notes the validation of each step."""

    def __init__(self):
        self.validations = []

    def step(self, state):
        self.validations.append(state.validation and state.validation["step"])


def test_what_a_callback_froze_stays_frozen_when_resumed(tmp_path):
    whole = digits_vae()
    quiet(whole, callbacks=[Freezing()])
    with pytest.raises(RuntimeError):
        quiet(digits_vae(), out=tmp_path, callbacks=[Freezing(), At(5, RuntimeError("5"))])
    again, kept = digits_vae(), Kept()
    quiet(again, out=tmp_path, resume=True, callbacks=[Freezing(), kept])
    assert same(again, whole)
    assert not any(p.requires_grad for p in again.posterior.parameters())
    assert kept.validations == [6, 6, 6, 9]


def test_at_the_end_the_pair_has_the_best_weights():
    class Kept(Callback):
        def end(self, state):
            self.weights = {n: t.clone() for n, t in state.pair.state_dict().items()}

    pair, kept = digits_vae(), Kept()
    quiet(pair, callbacks=[kept], stopping=EarlyStopping(5))
    assert all(torch.equal(kept.weights[n], t) for n, t in pair.state_dict().items())


def test_an_error_at_the_end_is_raised():
    class Failing(Callback):
        def end(self, state):
            raise PrunedError(str(state.step))

    with pytest.raises(PrunedError, match="9"):
        quiet(digits_vae(), callbacks=(Failing(),))


def test_what_is_not_overridden_is_not_called(monkeypatch):
    def called(*_):
        raise AssertionError

    monkeypatch.setattr("ppl_vae.training.callbacks.restored", called)
    assert quiet(digits_vae(), steps=2, callbacks=[Callback()], validation=None).steps == 2


# The examples of docs/training.md, with modules in the place of those that may be missing.


def snippet(word):
    page = (ROOT / "docs" / "training.md").read_text()
    found = [code for code in re.findall(r"```py\n(.*?)```", page, re.S) if word in code]
    assert len(found) == 1
    return found[0]


def run(code, **names):
    code = code.replace("steps=10_000", "steps=4").replace("validate_every=500", "validate_every=2")
    known = {"torch": torch, "fit": fit, "Callback": Callback, "vae": digits_vae(), "train": X}
    space = {**known, "validation": X[:20], "make": digits_vae, **names}
    exec(compile(code, "snippet", "exec"), space)
    return space


def test_weights_and_biases(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    logged, finished = [], []
    run_ = SimpleNamespace(
        log=lambda row, step: logged.append((step, row)),
        finish=lambda: finished.append(True),
        summary={},
    )
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **options: run_))
    run(snippet("wandb"))
    assert [step for step, _ in logged] == [2, 4, 4]
    assert {"loss", "learning_rate"} <= logged[-1][1].keys()
    assert "validation_loss" in logged[0][1]
    assert finished == [True]


def test_images_in_tensorboard(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    images = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_images(self, name, batch, step):
            images.append((name, batch.shape, step))

        def close(self):
            images.append("closed")

    fake = SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    run(snippet("SummaryWriter"))
    assert images == [("generated", (16, 1, 8, 8), 2), ("generated", (16, 1, 8, 8), 4), "closed"]


@pytest.mark.parametrize("installed", [False, True])
def test_pruning_by_optuna(installed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if installed:
        if importlib.util.find_spec("optuna") is None:
            pytest.skip("optuna is missing: pip install 'ppl-vae[search]'")
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        code = snippet("TrialPruned").replace("n_trials=50", "n_trials=2")
        found = run(code, estimators=estimators)
        assert len(found["study"].trials) == 2
        assert found["study"].best_trial.intermediate_values.keys() == {2, 4}
        return
    reported = []

    class Trial:
        params: dict

        def report(self, value, step):
            reported.append((step, value))

        def should_prune(self):
            return len(reported) == 2

        def suggest_float(self, name, low, high, log=False):
            return low

    class Study:
        def optimize(self, objective, n_trials):
            with pytest.raises(PrunedError):
                objective(Trial())

    fake = SimpleNamespace(
        TrialPruned=PrunedError,
        create_study=lambda **_: Study(),
        Trial=Trial,
        pruners=SimpleNamespace(),
    )
    monkeypatch.setitem(sys.modules, "optuna", fake)
    run(snippet("TrialPruned"), estimators=estimators)
    assert [step for step, _ in reported] == [2, 4]
    assert isinstance(reported[0][1], float)


def test_the_result_is_shown_in_a_notebook(alone):
    assert isinstance(alone[1], FitResult)
    assert alone[1]._repr_html_().startswith("<table>")


def test_in_a_notebook_the_bar_is_a_widget(monkeypatch):
    """tqdm's, chosen where IPython says that there is a kernel with widgets."""
    for name in ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    widget = type("Widget", (), {})
    widgets = SimpleNamespace(
        __version__="8.0", FloatProgress=widget, HBox=widget, HTML=widget, IntProgress=widget
    )
    display = SimpleNamespace(display=lambda *_: None)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", SimpleNamespace())
    file = ROOT / "ppl_vae" / "training" / "progress.py"
    spec = importlib.util.spec_from_file_location("progress_in_a_notebook", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.tqdm.__mro__[1].__name__ == "tqdm_notebook"
