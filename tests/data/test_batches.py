"""Batches, and foreign loaders, go on from a saved state as if nothing had happened."""

import io
import random
import re
import subprocess
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data import Batches, Dataset, Replayed, from_tensor

N, EPOCHS = 23, 3
GREY = Dataset(torch.arange(N * 6, dtype=torch.uint8).view(N, 2, 3), torch.arange(N), scale=255)
MODES: dict[str, dict] = {
    mode: {"binarise": mode} for mode in ("dynamic", "static", "threshold", "none")
}
MODES |= {"noise": {"binarise": "none", "dequantise": True}}


def saved(state: dict) -> dict:
    """The state, written and read as plain data."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def epochs_of(loader, count: int = EPOCHS) -> list[list[tuple]]:
    return [list(loader) for _ in range(count)]


def assert_same(ours: list[list[tuple]], theirs: list[list[tuple]]) -> None:
    assert [len(epoch) for epoch in ours] == [len(epoch) for epoch in theirs]
    for a, b in zip(chain(*ours), chain(*theirs), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def stopped(loader, epoch: int, position: int) -> dict:
    """The state after so many batches of that epoch."""
    for _ in range(epoch):
        list(loader)
    iterator = iter(loader)
    for _ in range(position):
        next(iterator)
    return saved(loader.state_dict())


# ----------------------------------------------------------------------------------------- ours


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


@settings(max_examples=150, deadline=None)
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


# -------------------------------------------------------------------------------------- foreign


class Noisy(TorchDataset):
    """Items with noise from torch, numpy and Python, drawn where the item is read."""

    def __len__(self) -> int:
        return 11

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor([i, torch.rand(()), np.random.rand(), random.random()])


class Stream(torch.utils.data.IterableDataset):
    """Items without a length."""

    def __iter__(self):
        return (torch.rand(2) for _ in range(7))


class Told(RandomSampler):
    """A sampler that counts its epochs, as DistributedSampler does."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        return iter([(i + self.epoch) % 11 for i in range(11)])


def with_generator() -> DataLoader:
    return DataLoader(Noisy(), 3, shuffle=True, generator=torch.Generator().manual_seed(4))


def with_batch_sampler() -> DataLoader:
    sampler = RandomSampler(Noisy(), generator=torch.Generator())
    return DataLoader(Noisy(), batch_sampler=BatchSampler(sampler, 3, drop_last=False))


FOREIGN = {
    "loader": lambda: DataLoader(Noisy(), 3, shuffle=True),
    "loader with a generator": with_generator,
    "batch sampler": with_batch_sampler,
    "sampler told the epoch": lambda: DataLoader(Noisy(), 3, sampler=Told(Noisy())),
    "stream": lambda: DataLoader(Stream(), 3),
    "several tensors": lambda: DataLoader(
        TensorDataset(torch.rand(7, 2, 2), torch.arange(7)), 3, shuffle=True
    ),
    "list": lambda: [torch.full((2, 1), float(i)) for i in range(4)],
    "list of lists": lambda: [[torch.tensor(i), torch.tensor(i < 2)] for i in range(4)],
    "nan": lambda: [torch.full((2,), float("nan")), torch.rand(0)],
    "ours, as a class": lambda: Pairs(),
}


class Pairs:
    """A loader that shuffles by numpy's global numbers."""

    def __iter__(self):
        for i in np.random.permutation(5):
            yield torch.tensor([i]), torch.tensor([random.random()], dtype=torch.float64)


class Broken(Pairs):
    def __iter__(self):
        torch.rand(()), np.random.rand(), random.random()
        raise RuntimeError("cannot be read")
        yield


def replayed_equal(ours: list[list[tuple]], theirs: list[list[tuple]]) -> None:
    as_bytes = [
        [
            [tuple(x.reshape(-1).view(torch.uint8) for x in batch) for batch in epoch]
            for epoch in run
        ]
        for run in (ours, theirs)
    ]
    assert_same(*as_bytes)


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_loader_resumes_at_every_place(case):
    # One object for a case without random numbers of its own: nan is not made anew.
    torch.manual_seed(3)
    make = FOREIGN[case]
    if case in ("several tensors", "nan"):
        shared = make()
        make = lambda: shared  # noqa: E731
    whole = epochs_of(Replayed(make(), seed=1))
    assert all(isinstance(batch, tuple) for batch in whole[0])
    for epoch in range(2):
        for position in range(len(whole[0]) + 1):
            torch.manual_seed(position), np.random.seed(5), random.seed(5)
            state = stopped(Replayed(make(), seed=1), epoch, position)
            resumed = Replayed(make(), seed=1)
            resumed.load_state_dict(state)
            assert (resumed.epoch, resumed.position) == (epoch, position)
            rest = epochs_of(resumed, EPOCHS - epoch)
            replayed_equal(rest, [whole[epoch][position:], *whole[epoch + 1 :]])


def test_shuffled_epochs_differ_and_depend_on_the_seed():
    one, two = (epochs_of(Replayed(FOREIGN["loader"](), seed=s), 2) for s in (1, 2))
    first = [torch.cat([x for (x,) in epoch]) for epoch in (*one, *two)]
    for i, a in enumerate(first):
        assert a[:, 0].sort().values.tolist() == list(range(11))
        assert len(a[:, 1:].unique()) == 33  # anew in every item, too
        for b in first[:i]:
            for column in range(4):  # the order, and the noise of each of the three
                assert not torch.equal(a[:, column], b[:, column])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_draw_the_same_again():
    def loader() -> DataLoader:
        return DataLoader(Noisy(), 2, shuffle=True, num_workers=2)

    whole = epochs_of(Replayed(loader(), seed=1), 2)
    noise = torch.cat([x for (x,) in chain(*whole)])[:, 1:]
    assert len(noise.unique()) == noise.numel()  # each worker and each epoch has its own
    state = stopped(Replayed(loader(), seed=1), 1, 3)
    torch.manual_seed(7)
    resumed = Replayed(loader(), seed=1)
    resumed.load_state_dict(state)
    assert_same([list(resumed)], [whole[1][3:]])


def test_data_and_model_do_not_see_each_others_random_numbers(as_users_see_it):
    # The type checks of the tests draw from Python's random numbers themselves.
    def model() -> list[float]:
        return [float(torch.rand(())), float(np.random.rand()), random.random()]

    def seeded() -> None:
        torch.manual_seed(3), np.random.seed(3), random.seed(3)

    seeded()
    alone = [model() for _ in range(4)]
    plain = epochs_of(Replayed(FOREIGN["loader"](), seed=1), 1)
    seeded()
    drawn = [(batch, model()) for batch in Replayed(FOREIGN["loader"](), seed=1)]
    assert [numbers for _, numbers in drawn] == alone
    assert_same([[batch for batch, _ in drawn]], plain)
    # An error while a batch is fetched, too, leaves the model's numbers in place.
    seeded()
    with pytest.raises(RuntimeError, match="cannot be read"):
        next(iter(Replayed(Broken())))
    assert model() == alone[0]


def test_another_process_draws_the_same():
    code = (
        "import random, numpy as np, torch\n"
        "from ppl_vae.data import Replayed\n"
        "class Draws:\n"
        "    def __iter__(self):\n"
        "        yield torch.tensor([torch.rand(()), np.random.rand(), random.random()])\n"
    )
    there = code + "print(*[x.tolist() for _ in range(2) for (x,) in Replayed(Draws(), seed=5)])\n"
    printed = subprocess.run(
        [sys.executable, "-c", there], check=True, capture_output=True, text=True
    ).stdout
    scope: dict = {}
    exec(code, scope)
    here = [x.tolist() for _ in range(2) for (x,) in Replayed(scope["Draws"](), seed=5)]
    assert printed.split() == " ".join(map(str, here)).split()


def test_a_loader_that_cannot_be_replayed_is_found_out():
    class Own:
        def __init__(self, seed: int, count: int = 4) -> None:
            self.generator_within, self.count = np.random.RandomState(seed), count

        def __iter__(self):
            for _ in range(self.count):
                yield torch.from_numpy(self.generator_within.rand(3))

    state = stopped(Replayed(Own(0)), 0, 2)
    resumed = Replayed(Own(1))
    resumed.load_state_dict(state)
    with pytest.raises(RuntimeError, match="give epoch 0 again as it was, got another batch 2 tha"):
        next(iter(resumed))
    resumed = Replayed(Own(0, count=1))
    resumed.load_state_dict(state)
    with pytest.raises(RuntimeError, match="got 1 batches, where 2 were handed out before"):
        next(iter(resumed))


def test_what_a_step_writes_on_a_batch_does_not_count():
    def loader() -> Replayed:
        return Replayed([torch.arange(3.0).clone() for _ in range(2)])

    ours = loader()
    for (x,) in ours:
        x.zero_()
        break
    resumed = loader()
    resumed.load_state_dict(saved(ours.state_dict()))
    assert len(list(resumed)) == 1


def test_a_loop_from_before_a_load_ends_with_an_error():
    loader = Replayed(FOREIGN["list"]())
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="Replayed: an iteration must begin after"):
        next(iterator)


def test_length_is_that_of_the_loader():
    assert len(Replayed(FOREIGN["loader"]())) == 4
    with pytest.raises(TypeError, match="no len"):
        len(Replayed(Pairs()))


class Keyed(list):
    """A list, with the options of a DataLoader."""

    persistent_workers = True


FOREIGN_REFUSED = {
    "iterator": (
        TypeError,
        lambda: Replayed(iter([X])),
        r"batches must be something to iterate over once per epoch, .*; give a DataLoader, .* no",
    ),
    "generator": (TypeError, lambda: Replayed(x for x in [X]), "no iterator or generator"),
    "number": (TypeError, lambda: Replayed(3), r"once per epoch, got 3 \(int\)"),
    "seed": (TypeError, lambda: Replayed([X], seed="a"), "seed must be an integer, got 'a'"),
    "workers": (ValueError, lambda: Replayed(Keyed([X])), "persistent_workers=False, got True"),
    "dict": (
        TypeError,
        lambda: list(Replayed([{"image": X, "name": "a"}])),
        "got a mapping of 'image': Tensor, 'name': str; .* collate_fn",
    ),
    "none": (TypeError, lambda: list(Replayed([(X, None)])), "a tuple of Tensor, NoneType; return"),
    "empty": (TypeError, lambda: list(Replayed([()])), "got a tuple of 0"),
    "array": (TypeError, lambda: list(Replayed([np.zeros(2)])), r"got array.* \(ndarray\)"),
    "other seed": (
        ValueError,
        lambda: Replayed([X], seed=1).load_state_dict(Replayed([X]).state_dict()),
        r"Replayed: .* got one with seed=0 \(here 1\)",
    ),
    "other length": (
        ValueError,
        lambda: Replayed([X]).load_state_dict(Replayed([X, X]).state_dict()),
        r"batches=2 \(here 1\)",
    ),
    "state of ours": (
        ValueError,
        lambda: Replayed([X]).load_state_dict(GREY.batches(5).state_dict()),
        "must have the keys epoch, last, position, settings, got epoch, generator",
    ),
    "last": (
        ValueError,
        lambda: Replayed([X]).load_state_dict(Replayed([X]).state_dict() | {"last": 3}),
        "last in state must be a list of tensors, got 3",
    ),
}
X = torch.zeros(2)


@pytest.mark.parametrize("case", FOREIGN_REFUSED)
def test_what_cannot_be_replayed_is_refused(case, as_users_see_it):
    exception, call, message = FOREIGN_REFUSED[case]
    with pytest.raises(exception) as caught:
        call()
    assert re.search(message, str(caught.value)), caught.value


def test_workers_that_may_overtake_each_other_are_refused():
    loader = DataLoader(TensorDataset(X))
    loader.in_order = False
    with pytest.raises(ValueError, match="in_order=True, got False"):
        Replayed(loader)
