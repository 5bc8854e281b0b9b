"""Data sets with missing entries: the mask stays with the values."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from gaps import NAN, made, masked
from pairs import C, D

from ppl_vae import data
from ppl_vae.data import Dataset, MaskedBatch, SemiSupervised
from ppl_vae.training import fit

quiet = partial(fit, progress=False)


def test_what_is_missing_may_hold_anything_and_is_nan_in_what_is_drawn():
    x, mask = masked()
    for filling in (NAN, math.inf, 1e30, 0.0):
        dataset = Dataset(x.masked_fill(~mask, filling), mask=mask)
        for mode in ("dynamic", "static", "threshold", "none"):
            drawn = dataset.draw(torch.arange(40), binarise=mode)
            assert torch.equal(drawn.isnan(), ~mask)
            assert torch.equal(drawn[mask], x[mask]), "0 and 1 stay what they are"
    grey = torch.full((4, D), 255, dtype=torch.uint8)
    grey[:, 0] = 4
    seen = torch.ones(4, D, dtype=torch.bool).index_fill_(1, torch.arange(1, D), False)
    assert Dataset(grey, scale=16, mask=seen).levels == 17, "255 is not looked at"
    with pytest.raises(ValueError, match="at most scale=16, got 255"):
        Dataset(grey, scale=16, mask=~seen)


def test_all_that_a_data_set_does_carries_its_mask():
    x, mask = masked()
    labels = torch.arange(40) % 4
    dataset = Dataset(x, labels, "mine", mask=mask)
    assert repr(dataset) == (
        f"Dataset('mine', 40 x ({D},), torch.float32 / 1, 4 classes, "
        f"{100 * (~mask).double().mean():.3g} % missing)"
    )
    index = torch.tensor([3, 0, 39])
    assert torch.equal(dataset.subset(index).mask, mask[index])
    assert torch.equal(dataset.subset(mask[:, 0]).mask, mask[mask[:, 0]])
    one, other = dataset.split(0.25, seed=2)
    for part in (one, other):
        assert torch.equal(part.values.isnan(), ~part.mask)
    assert len(one) + len(other) == 40
    for once in (dataset.binarised(3), dataset.dequantised(3), dataset.to("cpu")):
        assert torch.equal(once.mask, mask)
        assert torch.equal(once.draw(torch.arange(40), binarise="none").isnan(), ~mask)
    assert torch.equal(torch.cat(list(dataset.in_parts())).isnan(), ~mask)
    assert torch.equal(dataset.mask_at(torch.tensor([-1])), mask[-1:])
    images = Dataset(x.reshape(40, 1, 2, 3), mask=mask.reshape(40, 1, 2, 3))
    assert torch.equal(images.mask_at(index), mask[index])
    assert torch.equal(images.mask_at(index, flat=False), mask[index].reshape(3, 1, 2, 3))
    assert Dataset(torch.zeros(2, 2)).mask_at(torch.arange(2)) is None


def test_the_draws_are_those_of_whole_data():
    """The random numbers do not depend on what is missing."""
    _, mask = masked()
    grey = torch.rand(40, D)
    whole, some = Dataset(grey), Dataset(grey.masked_fill(~mask, NAN), mask=mask)
    for (x, y), batch in zip(whole.batches(7, seed=3), some.batches(7, seed=3), strict=True):
        assert y is None
        assert torch.equal(batch.x.isnan(), ~batch.mask)
        assert torch.equal(batch.x[batch.mask], x[batch.mask])


def test_batches_give_the_mask_by_name_and_are_gone_on_with():
    x, mask = masked()
    dataset = Dataset(x, torch.arange(40), mask=mask)
    batches = dataset.batches(9, seed=1)
    for batch in batches:
        assert isinstance(batch, MaskedBatch)
        assert torch.equal(batch.mask, mask[batch.y])
    with pytest.raises(ValueError, match="unpack"):
        for _x, _y in batches:
            pass  # a loop that would leave the mask out
    iterator = iter(batches)
    for _ in range(2):
        next(iterator)
    state, rest = batches.state_dict(), list(iterator)
    again = dataset.batches(9, seed=5)
    again.load_state_dict(state)
    for ours, theirs in zip(again, rest, strict=True):
        assert all(
            torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, theirs, strict=True)
        )
    other = Dataset(x.nan_to_num(), torch.arange(40), mask=mask.flip(0)).batches(9)
    with pytest.raises(ValueError, match=r"missing='\d+ entries"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="missing="):
        Dataset(x.nan_to_num(), torch.arange(40)).batches(9).load_state_dict(state)


def test_both_streams_carry_the_mask():
    x, mask = masked()
    labels = torch.arange(40) % C
    dataset = Dataset(x, labels, mask=mask)
    chosen = torch.tensor([1, 5, 9])
    for part in next(iter(SemiSupervised(dataset, chosen, batch_size=11, binarise="static"))):
        assert torch.equal(part.args[0].isnan(), ~part.kwargs["mask"])
    whole = Dataset(x.nan_to_num(), labels)
    unlabelled, labelled = next(iter(SemiSupervised(whole, chosen, unlabelled=dataset)))
    assert "mask" in unlabelled.kwargs
    assert not labelled.kwargs


# NaN where a user says so.


def test_nan_is_missing_where_that_is_said_and_an_error_where_not(tmp_path):
    x, mask = masked()
    np.save(tmp_path / "x.npy", x.numpy())
    np.savez(tmp_path / "x.npz", x=x.nan_to_num().numpy(), mask=mask.numpy())
    np.savez(tmp_path / "both.npz", x=x.numpy(), y=np.arange(40), mask=mask.roll(1, 0).numpy())
    given = {
        "from_tensor": data.from_tensor(x, missing="nan"),
        "from_numpy": data.from_numpy(x.numpy(), missing="nan"),
        "from_file": data.from_file(tmp_path / "x.npy", missing="nan"),
        "mask in a file": data.from_file(tmp_path / "x.npz"),
        "mask": data.from_numpy(x.numpy(), mask=mask.numpy()),
    }
    for name, dataset in given.items():
        assert torch.equal(dataset.mask, mask), name
    both = data.from_file(tmp_path / "both.npz", missing="nan")
    assert torch.equal(both.mask, mask & mask.roll(1, 0))
    train, test = (
        data.load(tmp_path / "x.npy", missing="nan", split=split) for split in data.SPLITS
    )
    for part in (train, test):
        assert torch.equal(part.mask, ~part.values.isnan())
    for call in (
        lambda: data.from_tensor(x),
        lambda: data.from_numpy(x.numpy()),
        lambda: data.load(tmp_path / "x.npy"),
        lambda: data.from_file(tmp_path / "both.npz"),
        lambda: Dataset(x),
        lambda: quiet(made(), x, steps=1),
    ):
        with pytest.raises(ValueError, match=r'got nan at index .* missing="nan"'):
            call()


MASK = torch.ones(3, D, dtype=torch.bool)
REFUSED = {
    "word": (ValueError, lambda: data.from_tensor(MASK.float(), missing="0"), 'be "nan" or None'),
    "whole numbers": (
        TypeError,
        lambda: data.from_tensor(MASK.byte() * 9, missing="nan"),
        "hold no NaN",
    ),
    "named": (ValueError, lambda: data.load("digits", missing="nan"), "missing does not apply"),
    "numbers": (TypeError, lambda: Dataset(MASK.float(), mask=MASK.float()), "mask must be bool"),
    "shape": (ValueError, lambda: Dataset(MASK.float(), mask=MASK[0]), rf"shape \(3, {D}\), got"),
    "one for all": (
        ValueError,
        lambda: data.from_tensor(MASK.float(), mask=MASK[0], missing="nan"),
        rf"shape \(3, {D}\), got",
    ),
    "nothing": (ValueError, lambda: Dataset(MASK.float(), mask=~MASK), "True somewhere"),
    "infinite": (
        ValueError,
        lambda: data.from_tensor(torch.full((2, 2), math.inf), missing="nan"),
        "must be finite, got inf",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_mask_is_refused(case):
    exception, call, message = REFUSED[case]
    with pytest.raises(exception, match=message):
        call()
