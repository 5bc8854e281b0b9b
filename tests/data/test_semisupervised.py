"""Labelled and unlabelled streams: what they hold, how they go round, how they resume."""

import io
import re
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ppl_vae.data import Dataset, Part, SemiSupervised, from_tensor

N = 23
# Label and grey value both tell which item it is, so that streams can be followed.
GREY = Dataset(torch.arange(N, dtype=torch.uint8)[:, None, None].expand(N, 2, 3) * 11,
               torch.arange(N), "grey", scale=255)  # fmt: skip
LABELLED = [3, 20, 7, 11, 0]
MODES: dict[str, dict] = {
    mode: {"binarise": mode} for mode in ("dynamic", "static", "threshold", "none")
}
MODES |= {"noise": {"binarise": "none", "dequantise": True}}


def steps(labelled=LABELLED, *, dataset: Dataset = GREY, **options) -> SemiSupervised:
    return SemiSupervised(
        dataset, labelled, **{"batch_size": 6, "labelled_batch_size": 2} | options
    )


def tensors(loader, epochs: int = 1) -> list[list[Tensor]]:
    """All tensors of every step."""
    every = chain.from_iterable(loader for _ in range(epochs))
    return [[a for part in parts for a in part.args] for parts in every]


def assert_same(ours: list[list[Tensor]], theirs: list[list[Tensor]]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def items(x: Tensor) -> Tensor:
    """Which items these are, of grey values."""
    return (x[:, 0] * 255 / 11).round().long()


# ------------------------------------------------------------------------------------- contents


def test_a_step_has_data_without_labels_and_a_few_with():
    (unlabelled, labelled) = next(iter(steps(labelled_weight=2, unlabelled_weight=0.5)))
    assert (unlabelled.name, unlabelled.weight) == ("unlabelled", 0.5)
    assert (labelled.name, labelled.weight) == ("labelled", 2)
    assert [a.shape for a in unlabelled.args] == [(6, 6)]
    assert [a.shape for a in labelled.args] == [(2, 6), (2,)]
    assert labelled.args[1].dtype == torch.int64
    images = next(iter(steps(flat=False)))
    assert [tuple(part.args[0].shape) for part in images] == [(6, 2, 3), (2, 2, 3)]


@pytest.mark.parametrize("drop_last", [True, False])
def test_an_epoch_is_one_pass_through_the_unlabelled_stream(drop_last):
    loader = steps(binarise="none", drop_last=drop_last)
    for _ in range(3):
        epoch = list(loader)
        assert [len(u.args[0]) for u, _ in epoch] == [6] * 3 + [5] * (not drop_last)
        assert len(loader) == len(epoch)
        seen = torch.cat([items(u.args[0]) for u, _ in epoch]).tolist()
        assert len(set(seen)) == len(seen) == (18 if drop_last else 23)


@pytest.mark.parametrize("mode", MODES)
def test_the_unlabelled_stream_is_that_of_the_dataset(mode):
    ours = tensors(steps(seed=4, **MODES[mode]), 2)
    batches = GREY.batches(6, seed=4, **MODES[mode])
    assert_same([[x] for x, *_ in ours], [[x] for _ in range(2) for x, _ in batches])


@pytest.mark.parametrize("mode", MODES)
def test_image_and_label_belong_together(mode):
    for _, x, y in tensors(steps(**MODES[mode]), 5):
        assert set(y.tolist()) <= set(LABELLED)
        grey = (y * 11 / 255)[:, None].expand(-1, 6)
        if mode == "none":
            torch.testing.assert_close(x, grey)
        elif mode == "noise":
            assert torch.equal(
                (x.double() * 256).floor(), (y * 11.0).double()[:, None].expand(2, 6)
            )
        elif mode == "static":
            assert torch.equal(x, GREY.draw(y, binarise="static"))
        elif mode == "threshold":
            assert torch.equal(x, (grey > 0.5).float())
        else:
            assert x[y == 0].sum() == 0
            assert set(x.unique().tolist()) <= {0.0, 1.0}


def test_dynamic_draws_of_the_labelled_images_have_their_grey_value_as_mean():
    loader = steps([11, 12], batch_size=1, unlabelled_weight=0)
    x, y = (torch.cat(a) for a in zip(*tensors(loader, 40), strict=True))
    for item in (11, 12):
        draws = x[y == item].double()
        p = item * 11 / 255
        assert abs(draws.mean() - p) < 5 * (p * (1 - p) / draws.numel()) ** 0.5
        assert len(draws.unique(dim=0)) > 20


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, N), size=st.integers(1, N + 3), seed=st.integers(0, 6))
def test_labelled_items_are_seen_equally_often_at_any_time(count, size, seed):
    loader = steps(range(count), labelled_batch_size=size, batch_size=5, seed=seed)
    seen = torch.zeros(N, dtype=torch.int64)
    for _, _, y in tensors(loader, 3):
        assert len(y) == min(size, count)
        seen += y.bincount(minlength=N)
        assert seen[:count].max() - seen[:count].min() <= 1
    assert not seen[count:].any()


def test_passes_differ_in_their_order():
    y = torch.cat([y for _, _, y in tensors(steps(labelled_batch_size=5), 6)]).view(-1, 5)
    assert len(y.unique(dim=0)) > 10  # of 24 passes, with 120 orders


def test_the_streams_share_no_random_numbers():
    # The same items in the same order would be binarised alike if the generators were the same.
    half = from_tensor(torch.full((50, 40), 0.5), torch.arange(50))
    loader = steps(range(50), dataset=half, batch_size=50, labelled_batch_size=50)
    (one, two, order), = tensors(loader)  # fmt: skip
    agree = (one == two).double().mean()
    assert abs(agree - 0.5) < 5 * 0.5 / 2000**0.5
    assert order.tolist() != next(iter(half.batches(50)))[1].tolist()


def test_one_stream_does_not_depend_on_the_other():
    plain = tensors(steps(), 2)
    other = tensors(steps(labelled_batch_size=3), 2)
    assert_same([[x] for x, *_ in plain], [[x] for x, *_ in other])
    labelled = tensors(steps(batch_size=7), 2)
    assert_same([rest for _, *rest in plain][:7], [rest for _, *rest in labelled][:7])
    assert not torch.equal(plain[0][0], tensors(steps(seed=1))[0][0])
    assert not torch.equal(
        *(torch.cat([y for *_, y in tensors(steps(seed=seed))]) for seed in (0, 1))
    )


def test_a_weight_of_zero_leaves_its_part_out_and_the_rest_as_it_is():
    plain = tensors(steps(), 2)
    without = steps(unlabelled_weight=0)
    assert {part.name for parts in without for part in parts} == {"labelled"}
    assert_same(tensors(steps(unlabelled_weight=0), 2), [rest for _, *rest in plain])
    assert_same(tensors(steps(labelled_weight=0.0), 2), [[x] for x, *_ in plain])


def test_choices_are_indices_or_masks():
    mask = torch.zeros(N, dtype=torch.bool)
    mask[LABELLED] = True
    plain = tensors(steps(sorted(LABELLED)))
    for choice in (mask, mask.numpy(), mask.tolist(), np.array(sorted(LABELLED)),
                   torch.tensor(sorted(LABELLED), dtype=torch.int32)):  # fmt: skip
        assert_same(tensors(steps(choice)), plain)
    assert steps(mask).labelled is mask  # kept as given


@pytest.mark.parametrize("mode", ["static", "none"])
def test_the_unlabelled_items_can_be_chosen(mode):
    rest = [i for i in range(N) if i not in LABELLED]
    loader = steps(unlabelled=rest, binarise=mode)
    assert len(loader) == 3
    x = torch.cat([x for x, *_ in tensors(loader)])
    expected = GREY.draw(torch.tensor(rest), binarise=mode)  # static: as the whole dataset has it
    assert sorted(x.tolist()) == sorted(expected.tolist())


def test_the_unlabelled_items_can_come_from_another_dataset():
    other = from_tensor(torch.linspace(0, 1, 9)[:, None, None].expand(9, 2, 3))
    for mode in ("none", "static"):
        loader = steps(unlabelled=other, batch_size=4, binarise=mode)
        batches = other.batches(4, binarise=mode)
        assert_same([[x] for x, *_ in tensors(loader)], [[x] for x, _ in batches])
        assert set(torch.cat([y for *_, y in tensors(loader)]).tolist()) <= set(LABELLED)


def test_parts_go_to_the_device():
    parts = next(iter(steps(device="meta")))
    assert {a.device.type for part in parts for a in part.args} == {"meta"}
    here = steps(device="meta", unlabelled=GREY).to("cpu")
    assert_same(tensors(here), tensors(steps()))  # on this device, at the start


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_streams_on_an_accelerator_are_drawn_and_resume_there(mode):
    loader, whole = (steps(LABELLED, **MODES[mode]).to("cuda") for _ in range(2))
    assert all(a.is_cuda for step in tensors(loader) for a in step)
    resumed = steps(LABELLED, seed=5, **MODES[mode]).to("cuda")
    resumed.load_state_dict(saved(loader.state_dict()))
    assert_same(tensors(resumed, 2), tensors(whole, 3)[4:])
    assert all(a.is_cuda for step in tensors(steps(unlabelled=GREY).to("cuda")) for a in step)


def test_the_global_random_state_is_untouched():
    before = torch.get_rng_state()
    list(steps(binarise="static"))
    assert torch.equal(before, torch.get_rng_state())


def test_every_argument_can_be_read_back():
    given = {"batch_size": 7, "labelled_batch_size": 3, "labelled_weight": 2.0, "flat": False,
             "unlabelled_weight": 3, "unlabelled": [1, 2], "binarise": "none", "dequantise": True,
             "seed": 5, "drop_last": False, "device": "cpu"}  # fmt: skip
    loader = SemiSupervised(GREY, LABELLED, **given)
    assert {name: getattr(loader, name) for name in given} == given
    assert (loader.dataset, loader.labelled) == (GREY, LABELLED)
    assert repr(steps()) == "SemiSupervised('grey', 5 labelled, 23 unlabelled, 4 steps of 2 + 6)"


def test_a_part_is_fixed():
    part = Part("all", (torch.zeros(2),))
    assert part.weight == 1
    with pytest.raises(AttributeError):
        part.weight = 2.0  # type: ignore[misc]


# -------------------------------------------------------------------------------------- resuming


def saved(state: dict) -> dict:
    """The state, written and read as plain data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@settings(max_examples=20, deadline=None)
@given(
    mode=st.sampled_from(sorted(MODES)),
    size=st.integers(1, N),
    labelled_size=st.integers(1, 7),
    drop_last=st.booleans(),
    unlabelled=st.sampled_from([None, tuple(range(5, N)), GREY]),
    data=st.data(),
)
def test_a_loaded_state_goes_on_bit_for_bit(mode, size, labelled_size, drop_last, unlabelled, data):
    size = min(size, N - 5)

    def loader(seed: int) -> SemiSupervised:
        sizes = {"batch_size": size, "labelled_batch_size": labelled_size}
        options = {"drop_last": drop_last, "unlabelled": unlabelled, "seed": seed}
        return steps(**sizes, **options, **MODES[mode])

    whole = tensors(loader(1), 3)
    length = len(loader(1))
    epoch, position = data.draw(st.integers(0, 2)), data.draw(st.integers(0, length))
    stopped = loader(1)
    for _ in range(epoch):
        list(stopped)
    iterator = iter(stopped)
    for _ in range(position):
        next(iterator)
    state = saved(stopped.state_dict())
    resumed = loader(2)  # another seed: the state alone counts
    list(resumed)
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.position) == (epoch, position)
    assert_same(tensors(resumed, 3 - epoch), whole[epoch * length + position :])


def test_asking_for_the_state_changes_nothing_and_a_loaded_state_is_the_state():
    plain = tensors(steps(), 2)
    loader, states = steps(), []
    asked = []
    for _ in range(2):
        for parts in loader:
            asked.append([a for part in parts for a in part.args])
            states.append(loader.state_dict())
    assert_same(asked, plain)
    for i, state in reversed(list(enumerate(states))):
        loader.load_state_dict(state)
        for stream in ("unlabelled", "labelled"):
            for key, value in loader.state_dict()[stream].items():
                assert np.array_equal(value, state[stream][key]), key
        assert_same(tensors(loader, 2 - state["unlabelled"]["epoch"]), plain[i + 1 :])


def test_weights_may_change_on_the_way():
    loader = steps()
    iterator = iter(loader)
    next(iterator)
    resumed = steps(unlabelled_weight=0, labelled_weight=3)
    resumed.load_state_dict(loader.state_dict())
    assert_same(tensors(resumed), [rest for _, *rest in tensors(steps())[1:]])


OTHERS = {
    "fewer": (
        steps([1, 2, 3, 4], binarise="none"),
        r"SemiSupervised: .* got one with labelled='4 items, \w{8}' \(here '5 items, \w{8}'\)",
    ),
    "others": (steps([1, 2, 3, 4, 5]), r"labelled='5 items, \w{8}' \(here '5 items, \w{8}'\)"),
    "unlabelled others": (
        steps(unlabelled=range(22)),
        r"unlabelled='22 items, \w{8}' \(here '23 items'\)",
    ),
    "labelled size": (steps(labelled_batch_size=3), r"labelled_batch_size=3 \(here 2\)"),
    "mode": (steps(binarise="static"), r"binarise='static' \(here 'none'\)"),
    "size": (steps(batch_size=7, binarise="none"), r"Batches: .* batch_size=7 \(here 6\)"),
    "shape": (
        steps(unlabelled=GREY.subset(range(9)), binarise="none"),
        r"unlabelled='9 items' \(here '23 items'\)",
    ),
    "ours alone": (GREY.batches(6), "must have the keys labelled, settings, unlabelled, got"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_state_of_other_streams_is_refused_and_changes_nothing(case):
    other, message = OTHERS[case]
    list(other)
    refused(other.state_dict(), message)


@pytest.mark.parametrize(
    ("stream", "key", "value", "message"),
    [
        ("labelled", "position", 6, "labelled: position in state must be .* from 0 to 5, got 6"),
        ("labelled", "generator", torch.zeros(3), "generator in state must be a state"),
        ("labelled", "start", 0, "start in state must be a state"),
        ("unlabelled", "position", 9, "Batches: position in state .* from 0 to 4, got 9"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(stream, key, value, message):
    state = steps(binarise="none", seed=3).state_dict()
    state[stream][key] = value
    refused(state, message)


def refused(state: dict, message: str) -> None:
    loader = steps(binarise="none")
    iterator = iter(loader)
    first = next(iterator)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state)
    assert_same(tensors([first, *iterator]), tensors(steps(binarise="none")))


def test_a_loop_from_before_a_load_ends_with_an_error():
    loader = steps()
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="must begin after load_state_dict"):
        next(iterator)


# ----------------------------------------------------------------------------------------- errors

FIX = "give distinct integers from 0 to 22, or a mask of 23 booleans"
REAL = from_tensor(torch.randn(5, 2, 3), torch.arange(5))
REFUSED = {
    "no labels": (
        ValueError,
        lambda: steps([0], dataset=from_tensor(torch.rand(3, 2))),
        r"dataset must have labels, got Dataset\('tensor', .*give it labels=",
    ),
    "outside": (
        ValueError,
        lambda: steps([1, 23]),
        f"labelled must be from 0 to 22, got 23; {FIX}",
    ),
    "negative": (ValueError, lambda: steps([-1, 3]), "labelled must be from 0 to 22, got -1"),
    "twice": (
        ValueError,
        lambda: steps([3, 5, 3]),
        "labelled must be distinct, got 3 more than on",
    ),
    "none": (
        ValueError,
        lambda: steps([]),
        f"labelled must have at least one item, got none; {FIX}",
    ),
    "none of a mask": (ValueError, lambda: steps([False] * N), "at least one item, got none"),
    "short mask": (ValueError, lambda: steps([True] * 4), r"flat indices or a mask, got .* \(4,\)"),
    "two dimensions": (
        ValueError,
        lambda: steps(torch.zeros(1, 1, dtype=torch.int64)),
        "flat indi",
    ),
    "floats": (TypeError, lambda: steps([0.5]), "labelled must be integers or booleans, got"),
    "a number": (TypeError, lambda: steps(10), r"labelled must be a sequence, got 10 \(int\)"),
    "text": (TypeError, lambda: steps("all"), "labelled must be a sequence, got 'all'"),
    "unlabelled": (
        ValueError,
        lambda: steps(unlabelled=[30]),
        "unlabelled must be from 0 to 22, g",
    ),
    "another shape": (
        ValueError,
        lambda: steps(unlabelled=from_tensor(torch.rand(5, 2))),
        r"unlabelled must have items of shape \(2, 3\), as dataset has, got Dataset",
    ),
    "weight below 0": (
        ValueError,
        lambda: steps(labelled_weight=-1),
        "SemiSupervised: labelled_weight must be finite and at least 0, got -1",
    ),
    "infinite": (
        ValueError,
        lambda: steps(unlabelled_weight=float("inf")),
        "unlabelled_weight must be finite and at least 0, got inf",
    ),
    "nan": (ValueError, lambda: steps(labelled_weight=float("nan")), "labelled_weight .* got nan"),
    "text weight": (TypeError, lambda: steps(labelled_weight="1"), "must be a number, got '1'"),
    "bool weight": (TypeError, lambda: steps(labelled_weight=True), "must be a number, got True"),
    "both 0": (
        ValueError,
        lambda: steps(labelled_weight=0, unlabelled_weight=0),
        "labelled_weight or unlabelled_weight must be above 0, got 0 for both",
    ),
    "batch size": (ValueError, lambda: steps(batch_size=0), "batch_size must be 1 or more, got 0"),
    "labelled batch size": (
        TypeError,
        lambda: steps(labelled_batch_size=2.0),
        "SemiSupervised: labelled_batch_size must be an integer of 1 or more, got 2.0",
    ),
    "no step left": (
        ValueError,
        lambda: steps(batch_size=24, drop_last=True),
        "drop_last=True must leave a batch",
    ),
    "unknown mode": (ValueError, lambda: steps(binarise="yes"), "binarise must be one of"),
    "mode of the labelled": (
        ValueError,
        lambda: steps([0], dataset=REAL, unlabelled=GREY, binarise="static"),
        "binarise='static' needs pixels in",
    ),
    "mode of the unlabelled": (
        ValueError,
        lambda: steps(unlabelled=REAL, binarise="static"),
        "binarise='static' needs pixels in",
    ),
    "noise on real values": (
        ValueError,
        lambda: steps([0], dataset=REAL, unlabelled=GREY, binarise="none", dequantise=True),
        "levels: 'tensor' must hold integers",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_errors_say_what_came_and_what_was_expected(case, as_users_see_it):
    exception, call, message = REFUSED[case]
    with pytest.raises(exception) as caught:
        call()
    assert type(caught.value) is exception
    assert re.search(message, str(caught.value)), caught.value
