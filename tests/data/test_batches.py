"""Batches resume from a saved state bit for bit."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resuming import assert_same, epochs_of, stopped
from torch import Tensor

from ppl_vae.data import Batches, Dataset, from_tensor

N, EPOCHS = 23, 3
GREY = Dataset(torch.arange(N * 6, dtype=torch.uint8).view(N, 2, 3), torch.arange(N), scale=255)
MODES: dict[str, dict] = {
    mode: {"binarise": mode} for mode in ("dynamic", "static", "threshold", "none")
}
MODES |= {"noise": {"binarise": "none", "dequantise": True}}


def reference(seed: int, shuffle: bool) -> list[tuple[Tensor, Tensor]]:
    """The epochs as they were before there were states: an order, then one draw per batch."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(EPOCHS):
        order = torch.randperm(N, generator=generator) if shuffle else torch.arange(N)
        for index in order.split(5):
            grey = GREY.values[index].flatten(1) / 255
            x = torch.rand(len(index), 2, 3, generator=generator).flatten(1) < grey
            batches.append((x.float(), index))
    return batches


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("seed", [0, 3])
def test_batches_of_a_seed_are_what_they_always_were(seed, shuffle):
    ours = chain(*epochs_of(GREY.batches(5, seed=seed, shuffle=shuffle)))
    assert_same([list(ours)], [reference(seed, shuffle)])


@settings(max_examples=30, deadline=None)
@given(
    mode=st.sampled_from(sorted(MODES)),
    size=st.integers(1, N + 2),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    epoch=st.integers(0, EPOCHS - 1),
    data=st.data(),
)
def test_a_loaded_state_goes_on_bit_for_bit(mode, size, shuffle, drop_last, epoch, data):
    size = min(size, N) if drop_last else size

    def batches(seed: int) -> Batches:
        return GREY.batches(size, shuffle=shuffle, drop_last=drop_last, seed=seed, **MODES[mode])

    whole = epochs_of(batches(1))
    position = data.draw(st.integers(0, len(whole[0])))
    state = stopped(batches(1), epoch, position)
    assert (state["epoch"], state["position"]) == (epoch, position)
    resumed = batches(2)  # another seed: the state alone counts
    resumed.load_state_dict(state)
    assert (resumed.epoch, resumed.position) == (epoch, position)
    assert_same(epochs_of(resumed, EPOCHS - epoch), [whole[epoch][position:], *whole[epoch + 1 :]])


def test_every_place_of_one_run_can_be_resumed_many_times():
    loader, rest = GREY.batches(5, seed=1), GREY.batches(5)
    whole = list(chain(*epochs_of(GREY.batches(5, seed=1))))
    handed_out = 0
    for _ in range(EPOCHS):
        for _ in loader:
            handed_out += 1
            state = loader.state_dict()
            for _ in range(2):  # by the same object, wherever it stands
                rest.load_state_dict(state)
                left = [batch for _ in range(EPOCHS - state["epoch"]) for batch in rest]
                assert_same([left], [whole[handed_out:]])


def test_asking_for_the_state_changes_nothing_and_the_state_stays():
    plain = epochs_of(GREY.batches(5, seed=1))
    loader = GREY.batches(5, seed=1)
    asked, states = [], [loader.state_dict()]
    for _ in range(EPOCHS):
        asked.append([(x, y) for x, y in loader if states.append(loader.state_dict()) is None])
    assert_same(asked, plain)
    places = [(state["epoch"], state["position"]) for state in states]
    assert places == [(0, 0)] + [(e, p) for e in range(EPOCHS) for p in range(1, 6)]
    # The first state is as it was, though the generator moved on.
    loader.load_state_dict(states[0])
    assert_same(epochs_of(loader), plain)


def test_a_state_that_was_loaded_is_the_state():
    state = stopped(GREY.batches(5, seed=1), 1, 2)
    loader = GREY.batches(5)
    loader.load_state_dict(state)
    again = loader.state_dict()
    assert set(again) == set(state)
    for key, value in state.items():
        same = torch.equal(value, again[key]) if isinstance(value, Tensor) else value == again[key]
        assert same, key


def test_the_end_of_an_epoch_is_a_place_of_its_own():
    loader = GREY.batches(10, seed=1)
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    assert (loader.epoch, loader.position) == (0, 3)  # all handed out, the loop still runs
    before = loader.state_dict()
    assert next(iterator, None) is None
    assert (loader.epoch, loader.position) == (1, 0)
    second = list(loader)
    loader.load_state_dict(before)
    assert_same(epochs_of(loader, 2), [[], second])


def test_an_iteration_that_was_left_is_not_gone_on_with_unless_its_state_is_loaded():
    loader = GREY.batches(5, seed=1)
    iterator = iter(loader)
    first = next(iterator)
    state = loader.state_dict()
    assert len(list(loader)) == 5  # a whole epoch, the second
    assert loader.epoch == 2
    loader.load_state_dict(state)
    assert_same([[first, *loader]], [list(GREY.batches(5, seed=1))])
    with pytest.raises(RuntimeError, match="must begin after load_state_dict"):
        next(iterator)


def test_of_two_iterations_the_latest_counts():
    loader = GREY.batches(5)
    older = iter(loader)
    next(older)
    newer = iter(loader)
    next(newer), next(newer), next(older)
    assert (loader.epoch, loader.position) == (1, 2)
    list(older)
    assert (loader.epoch, loader.position) == (1, 2)


def test_the_generator_that_was_given_is_the_one_that_is_set():
    generator = torch.Generator().manual_seed(5)
    loader = GREY.batches(5, generator=generator)
    loader.load_state_dict(stopped(GREY.batches(5, seed=1), 0, 2))
    assert loader.generator is generator
    assert_same([list(loader)], [list(GREY.batches(5, seed=1))[2:]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_an_accelerator_resume_there_and_not_on_a_cpu():
    there = GREY.to("cuda")
    whole = epochs_of(there.batches(5, seed=1))
    state = stopped(there.batches(5, seed=1), 1, 2)
    resumed = there.batches(5)
    resumed.load_state_dict(state)
    assert_same(epochs_of(resumed, 2), [whole[1][2:], whole[2]])
    with pytest.raises(ValueError, match=r"device='cuda' \(here 'cpu'\)"):
        GREY.batches(5).load_state_dict(state)


BATCHES_REFUSED = {
    "length": (GREY.subset(range(9)).batches(5), r"got one with items=9 \(here 23\); make the"),
    "shape": (from_tensor(torch.rand(N, 2)).batches(5), r"event_shape=\[2\] \(here \[2, 3\]\)"),
    "batch size": (GREY.batches(6), r"batch_size=6 \(here 5\)"),
    "mode": (GREY.batches(5, binarise="none"), r"binarise='none' \(here 'dynamic'\)"),
    "noise": (GREY.batches(5, binarise="none", dequantise=True), r"dequantise=True \(here False\)"),
    "shuffle": (GREY.batches(5, shuffle=False), r"shuffle=False \(here True\)"),
    "drop_last": (GREY.batches(5, drop_last=True), r"drop_last=True \(here False\)"),
    "two": (GREY.batches(6, shuffle=False), r"batch_size=6 \(here 5\), shuffle=False"),
}


@pytest.mark.parametrize("case", BATCHES_REFUSED)
def test_a_state_of_other_batches_is_refused_and_changes_nothing(case):
    other, message = BATCHES_REFUSED[case]
    refused(other.state_dict(), "Batches: state must come from .*" + message)


DAMAGED = {
    "none": ({}, "must have the keys epoch, generator, .*, got none; give what Batches.state_dict"),
    "another": ({"step": 3}, "must have the keys .* got step"),
    "negative": ({"position": -1}, r"position in state must be an integer from 0 to 5, got -1"),
    "beyond": ({"position": 6}, "from 0 to 5, got 6"),
    "epoch": ({"epoch": -1}, "epoch in state must be an integer 0 or more, got -1"),
    "bool": ({"epoch": True}, "epoch .* got True"),
    "settings": ({"settings": 3}, "must have the keys"),
    "cut": ({"generator": torch.zeros(10, dtype=torch.uint8)}, "generator in state must be a stat"),
    "float": ({"start": torch.zeros(5056)}, "start in state must be a state of a random generator"),
    "number": ({"start": 3}, "start in state .* on cpu, got 3"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_state_is_refused_and_changes_nothing(case):
    change, message = DAMAGED[case]
    whole = GREY.batches(5, seed=8).state_dict()
    refused(change if case in ("none", "another") else whole | change, message)


def refused(state: dict, message: str) -> None:
    loader = GREY.batches(5, seed=1)
    iterator = iter(loader)
    first = next(iterator)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(state)
    assert_same([[first, *iterator]], [list(GREY.batches(5, seed=1))])


def test_a_state_that_is_no_dict_is_refused(as_users_see_it):
    with pytest.raises(TypeError, match="Batches: state must be a dict, got 3"):
        GREY.batches(5).load_state_dict(3)  # type: ignore[arg-type]
