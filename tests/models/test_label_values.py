"""Labels and values are what they are at each call, however they came to be so."""

import copy
import math
import pickle

import numpy as np
import pyro
import pytest
import torch
from pairs import binary, ssvae, vae
from pyro import poutine

from ppl_vae import ConditionalVAE, StackedVAE, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae import data as sets
from ppl_vae.estimators import AnalyticKLELBO, ImportanceWeightedELBO
from ppl_vae.evaluation import accuracy, clustering, expected_calibration_error, linear_probe
from ppl_vae.training import compile_step, fit

C, D, N = 3, 6, 7


class Parity(torch.nn.Module):
    """Logits of the class that is in the first pixels of x, one-hot."""

    def forward(self, x):
        return 20 * x[..., :C]


def classifies():
    return ssvae().replace(classifier=Parity())


Y = torch.tensor([0, 1, 2, 0, 1, 2, 1])
X = torch.cat([torch.nn.functional.one_hot(Y, C).float(), binary()[:, C:]], 1)


# ------------------------------------------------------------------------------- evaluation


def test_accuracy_is_the_share_of_right_labels():
    assert accuracy(classifies(), X, Y).mean == 1.0
    assert accuracy(classifies(), X, Y.roll(1).to(torch.uint8)).mean == pytest.approx(
        sum(a == b for a, b in zip(Y.tolist(), Y.roll(1).tolist(), strict=True)) / N
    )


WRONG = {
    "a column": (Y[:, None], ValueError, r"squeeze\(1\)"),
    "one-hot": (torch.nn.functional.one_hot(Y, C), ValueError, r"argmax\(1\)"),
    "a row": (Y[None], ValueError, r"\(7,\)"),
    "too few": (Y[:-1], ValueError, r"\(7,\)"),
    "one for all": (Y[:1], ValueError, r"\(7,\)"),
    "a number": (Y[0], ValueError, r"\(7,\)"),
    "too large": (Y + 10, ValueError, "from 10 to 12"),
    "just too large": (torch.full((N,), C), ValueError, "from 3 to 3"),
    "unknown": (torch.full((N,), -1), ValueError, "must have a label, got -1 for all"),
    "below -1": (Y - 2, ValueError, "from -2 to 0"),
    "floats": (Y.float(), TypeError, "float32"),
    "probabilities": (torch.full((N, C), 1 / C), TypeError, "float32"),
    "booleans": (Y > 0, TypeError, "bool"),
    "complex": (Y.to(torch.complex64), TypeError, "complex"),
    "an array": (Y.numpy(), TypeError, "ndarray"),
    "a list": (Y.tolist(), TypeError, "list"),
    "nothing": (None, TypeError, "NoneType"),
}
Z = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
P = torch.full((N, C), 1 / C)
CALLS = {
    "accuracy": lambda y: accuracy(classifies(), X, y),
    "calibration": lambda y: expected_calibration_error(P, y),
    "clustering": lambda y: clustering(Y, y),
    "probe": lambda y: linear_probe(Z, y, Z, Y),
    "probe, test": lambda y: linear_probe(Z, Y, Z, y),
    "neighbours": lambda y: evaluation.nearest_neighbours(Z, y, Z, Y, neighbours=1),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("case", WRONG)
def test_labels_that_do_not_suit_are_refused_by_all(name, case):
    y, error, message = WRONG[case]
    if "large" in case and name not in ("accuracy", "calibration"):
        return  # these know of no number of classes
    if case == "an array" and name == "accuracy":
        return  # which takes arrays, of data too
    with pytest.raises(error, match=message):
        CALLS[name](y)


@pytest.mark.usefixtures("as_users_see_it")
def test_only_what_classifies_is_accurate():
    with pytest.raises(TypeError, match=r"accuracy: pair must have classify\(x\).*got VAE"):
        accuracy(vae(), X, Y)
    for size in (0, -3):
        with pytest.raises(ValueError, match="accuracy: batch_size must be 1 or more"):
            accuracy(classifies(), X, Y, batch_size=size)


@pytest.mark.usefixtures("as_users_see_it")
def test_probabilities_have_a_row_for_each_datum():
    with pytest.raises(ValueError, match=r"\(N, classes\)"):
        expected_calibration_error(torch.ones(N), Y)


def test_a_stacked_pair_knows_the_classes_of_its_second():
    first = vae()
    width = first.prior().event_shape[0]
    second = ssvae().replace(
        classifier=nets.MLP(width, C),
        posterior=posteriors.DiagonalNormal(nets.MLP(width + C, 4)),
        likelihood=likelihoods.Normal(nets.MLP(2 + C, width)),
        prior=priors.StandardNormal(2),
    )
    with pytest.raises(ValueError, match="from 0 to 2, -1 where unknown, got values"):
        accuracy(StackedVAE(first=first, second=second), X, Y + 1)


# --------------------------------------------------- values that are written to behind our back


def through_numpy(t, value):
    t.numpy()[2] = value


def in_place(t, value):
    t[2] = value


def through_data(t, value):
    t.data[2] = value


def through_a_view(t, value):
    t.view(-1, *t.shape[1:]).detach()[2:3].fill_(value)


WRITE = [through_numpy, in_place, through_data, through_a_view]


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(D + C, 4)),
        likelihood=likelihoods.Bernoulli(nets.MLP(2 + C, D)),
        num_classes=C,
    )


@pytest.mark.parametrize("write", WRITE)
@pytest.mark.parametrize("make", [ssvae, conditional])
def test_a_label_that_is_rewritten_is_seen(make, write):
    pair, x, y = make(), binary(), Y.clone()
    for program in (pair.model, pair.guide):
        program(x, y)
    write(y, 9)
    for call in (pair.model, pair.guide, pair.encode):
        with pytest.raises(ValueError, match="from 0 to 9"):
            call(x, y)


@pytest.mark.parametrize("write", WRITE)
@pytest.mark.parametrize("value", [0.5, 3.0, math.nan])
def test_a_value_that_is_rewritten_is_seen(value, write):
    pair, x = vae(), binary()
    for _ in range(2):
        pair.model(x), pair.guide(x)
    write(x, value)
    for call in (pair.model, pair.guide, pair.encode):
        with pytest.raises(ValueError, match="non-finite" if value != value else "outside"):
            call(x)


def test_a_compiled_step_sees_labels_that_are_rewritten(monkeypatch):
    """The loss is that of the labels as they are: of the pair uncompiled, on the same draws."""
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )
    pair, x, y = ssvae(), binary(), Y.clone()
    elbo = ImportanceWeightedELBO(1)
    step = compile_step(pair, elbo, torch.optim.SGD(pair.parameters(), lr=0.0))
    for write in WRITE:
        for label in (0, -1, 2):
            write(y, label)
            pyro.set_rng_seed(3)
            found = step(x, y)
            pyro.set_rng_seed(3)
            expected = elbo.differentiable_loss(pair.model, pair.guide, x, y) / N
            torch.testing.assert_close(found, expected.detach(), msg=write.__name__)
        for label in (C, -2, 100):
            write(y, label)
            with pytest.raises(ValueError, match=f"got values from .*{label}"):
                step(x, y)


def test_labels_out_of_range_are_not_scored_in_fit():
    """No class and no -1, written into a data set through numpy, is refused when fit begins."""
    for wrong in (-2, C):
        dataset = sets.Dataset(binary(), Y.clone())
        batches = dataset.batches(4, binarise="none")
        dataset.labels.numpy()[3] = wrong
        for given in (dataset, batches):
            with pytest.raises(ValueError, match=r"got values from (-2 to 2|0 to 3)"):
                fit(ssvae(), given, steps=2, progress=False)


@pytest.mark.parametrize("mode", ["dynamic", "static", "threshold"])
def test_a_data_set_that_is_rewritten_is_looked_at_again(mode):
    array = np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4)
    dataset = sets.Dataset(torch.from_numpy(array))
    index = torch.arange(5)
    dataset.draw(index, binarise=mode), dataset.batches(2, binarise=mode)
    for value in (3.0, -0.1, math.nan):
        array[2, 1] = value
        for call in (
            lambda: dataset.draw(index, binarise=mode),
            lambda: dataset.batches(2, binarise=mode),
            lambda: fit(vae(), dataset, steps=1, progress=False),
        ):
            with pytest.raises(ValueError, match=r"pixels in \[0, 1\]|non-finite|outside|expected"):
                call()
    array[:] = 1
    assert (dataset.draw(index, binarise=mode) == 1).all(), "of what the values are now"


def test_levels_are_those_of_the_values_as_they_are():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    dataset = sets.Dataset(torch.from_numpy(array), scale=15)
    assert dataset.levels == 16
    array[0, 0] = 0.5
    with pytest.raises(ValueError, match="must hold integers"):
        _ = dataset.levels
    with pytest.raises(ValueError, match="must hold integers"):
        dataset.draw(torch.arange(3), binarise="none", dequantise=True)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_a_copied_pair_still_knows_that_its_data_are_0_and_1(again):
    pair = again(vae())
    assert pair.observation.is_boolean
    fit(pair, sets.from_tensor(torch.rand(9, D)), steps=1, progress=False)  # grey: binarised
    with pytest.raises(ValueError, match=r"grey values in a ppl_vae\.data\.Dataset"):
        pair.model(torch.rand(9, D))


SUPPORTS = {
    "bernoulli": ([0.0, 1.0, -0.0], [0.5, 2.0, -1.0, 1e-30, 1 - 6e-8, 1 + 1.2e-7]),
    "continuous bernoulli": ([0.0, 1.0, 0.5, 1e-30], [-1e-30, 1 + 1.2e-7, 7.0]),
    "poisson": ([0.0, 1.0, 2.0, 16777216.0], [0.5, -1.0, 1e-30]),
    "normal": ([0.0, -1e38, 1e38], []),
    "categorical": ([0.0, 0.25, 1.0], [0.3, 2.0, -0.25]),
}


@pytest.mark.parametrize("likelihood", SUPPORTS)
def test_the_support_is_torchs_own(likelihood):
    """In one pass over the batch the same is found as entry by entry."""
    observation = vae(likelihood=likelihood).observation
    inside, outside = SUPPORTS[likelihood]
    for value in inside + outside + [math.nan, math.inf, -math.inf]:
        x = torch.zeros(5, D)
        x[3, 2] = value
        assert bool(observation.support.check(x).all() and x.isfinite().all()) == (value in inside)
        if value in inside:
            observation.check_values(x)
        else:
            with pytest.raises(ValueError, match=r"outside the support|non-finite"):
                observation.check_values(x)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.uint8])
def test_integers_of_any_kind_are_labels(dtype):
    pair, x = ssvae(), binary()
    expected = poutine.trace(pair.guide).get_trace(x, Y)
    got = poutine.trace(pair.guide).get_trace(x, Y.to(dtype))
    assert torch.equal(got.nodes["z"]["fn"].mean, expected.nodes["z"]["fn"].mean)
    with pytest.raises(TypeError, match=r"y.long\(\)"):
        pair.guide(x, Y.to(torch.uint16))


def test_an_estimator_looks_at_the_values_of_each_step():
    pair, x = vae(), binary()
    loss = AnalyticKLELBO()(pair.model, pair.guide)
    loss(x)
    x.numpy()[0, 0] = 0.25
    with pytest.raises(ValueError, match="outside the support"):
        loss(x)


@pytest.mark.parametrize("value", [9.0, math.nan])
@pytest.mark.parametrize("kind", ["batches", "two streams"])
def test_values_written_to_since_batches_were_made_are_seen_when_fit_begins(kind, value):
    dataset = sets.Dataset(torch.rand(30, D), torch.arange(30) % C)
    streams = sets.SemiSupervised(dataset, range(10), batch_size=5)
    given = streams if kind == "two streams" else dataset.batches(5)
    dataset.values.numpy()[3] = value
    with pytest.raises(ValueError, match="binarise='dynamic' needs pixels"):
        fit(ssvae(), given, steps=1, progress=False)
