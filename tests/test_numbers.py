"""NumPy's scalars are accepted as numbers and flags; errors of a full disk name the file."""

import errno
from fractions import Fraction

import numpy as np
import pytest
import torch
from pairs import D, Z, binary, net, vae

from ppl_vae import (
    data,
    estimators,
    evaluation,
    io,
    likelihoods,
    nets,
    posteriors,
    priors,
    training,
)
from ppl_vae.errors import flag, integer, number, seed_of
from ppl_vae.io.atomic import new_folder
from ppl_vae.random_state import numpy_generator

pytestmark = pytest.mark.usefixtures("as_users_see_it")


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int64, int])
def test_numpy_integers_become_pythons(kind):
    found = integer("a", "b", kind(7), 1)
    assert found == 7
    assert type(found) is int
    assert type(seed_of("a", kind(7))) is int


@pytest.mark.parametrize("value", [np.float32(0.25), np.float64(0.25), 0.25, Fraction(1, 4)])
def test_numpy_floats_become_pythons(value):
    found = number("a", "b", value, above=0, below=1)
    assert found == 0.25
    assert type(found) is float


def test_integers_stay_integers():
    assert type(number("a", "b", np.int32(1), least=0)) is int


@pytest.mark.parametrize("value", [np.bool_(True), True])
def test_numpy_bools_become_pythons(value):
    assert flag("a", "b", value) is True


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_messages_about_ranges(end):
    assert number("a", "b", end, least=0, most=1) == end
    with pytest.raises(ValueError, match="between 0 and 1"):
        number("a", "b", end, above=0, below=1)


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_seeds_of_32_bits_give_numpys_own_stream(seed):
    ours = numpy_generator(seed).permutation(50)
    assert (ours == np.random.RandomState(seed).permutation(50)).all()


def test_seeds_of_64_bits_differ_in_their_upper_half():
    draws = {tuple(numpy_generator(seed).permutation(50)) for seed in (5, 2**32 + 5, 2**64 - 1)}
    assert len(draws) == 3


def test_parts_made_with_numpys_numbers_can_be_saved():
    size, one = np.int64(2), np.float32(0.5)
    q = posteriors.DiagonalNormal(nets.MLP(np.int64(D), np.int16(4), hidden=[np.int32(5)]))
    pair = vae().replace(
        prior=priors.GaussianMixture(size, np.uint8(3), spread=one, learn_weights=np.bool_(True)),
        posterior=q,
        likelihood=likelihoods.Normal(net(Z, D), "learned", min_scale=one, event_dim=np.int64(1)),
    )
    written = io.dump(pair)
    assert "np." not in repr(pair)
    assert "spread: 0.5" in written
    assert repr(io.from_config(io.to_config(pair))) == repr(pair)


def test_configurations_may_hold_numpys_scalars():
    prior = {"class": "GaussianMixture", "components": np.int32(3), "learn_weights": np.bool_(True)}
    sizes = {"latent_dim": np.int64(2), "event_shape": [np.int64(6)]}
    pair = io.from_config({"class": "VAE", **sizes, "prior": prior, "likelihood": "Bernoulli"})
    assert "np." not in repr(pair)
    assert pair.prior.learn_weights is True


def test_training_and_evaluation_take_numpys_numbers(tmp_path):
    pair, x = vae(), data.Dataset(binary(9), scale=np.float32(1))
    fitted = training.fit(
        pair,
        x,
        steps=np.int64(2),
        batch_size=np.int8(4),
        beta=np.float32(0.5),
        clip_norm=np.float64(1),
        seed=np.uint64(2**64 - 1),
        validation=x,
        stopping=training.EarlyStopping(np.int64(3), min_delta=np.float32(0.5)),
        validate_every=np.int64(1),
        out=tmp_path,
        log_every=np.int64(1),
        progress=np.bool_(False),
    )
    assert fitted.steps == 2
    values = x.values
    with pytest.warns(UserWarning, match="fewer than 25 samples"):
        assert len(evaluation.log_likelihood(pair, values, num_samples=np.int8(20)).log_px) == 9
    terms = evaluation.importance_bounds(pair, values, num_particles=[np.int64(1), np.int64(3)])
    assert [*map(type, terms)] == [int, int]
    assert evaluation.accuracy_interval(np.float32(0.5), np.int64(9))[0] < 0.5
    assert estimators.linear_warm_up(np.int64(10), end=np.float32(0.5))(5) == 0.25
    assert pair.generate(np.int64(3), mean=np.bool_(True)).shape == (3, D)


def test_the_largest_seed_trains_and_evaluates():
    pair, x = vae(), binary()
    training.fit(pair, x, steps=1, seed=2**64 - 1, validation=x, progress=False)
    with pytest.warns(UserWarning, match="fewer than 25 samples"):
        evaluation.log_likelihood(pair, x, num_samples=3, seed=2**64 - 1)
    data.Dataset(x, torch.arange(7) % 2).split(0.5, seed=2**64 - 1)


@pytest.mark.parametrize("write", ["save_weights", "save_state", "save", "new_folder"])
def test_the_error_of_a_full_disk_names_the_file(write, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    pair, target = vae(), tmp_path / "target"
    calls = {
        "save_weights": lambda: io.save_weights(pair, target),
        "save_state": lambda: io.save_state({"step": 1}, target),
        "save": lambda: io.save(pair, target),
        "new_folder": lambda: fill(target),
    }
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left.*(target|test_the_error_of)") as caught:
        calls[write]()
    assert caught.value.errno == errno.ENOSPC


def fill(target):
    with new_folder(target) as folder:
        (folder / "file").write_text("text")


def test_labels_that_are_too_large_are_not_called_missing():
    labels = torch.tensor([0, 1, 2, 3, 0, 0, 0])
    with pytest.raises(ValueError, match=r"values from 0 to 3; give class numbers from 0 on$"):
        evaluation.expected_calibration_error(torch.full((7, 3), 1 / 3), labels)
