"""Loaders of other libraries yield the same epochs in every process, and resume."""

import random
import re
from itertools import chain

import numpy as np
import pytest
import torch
from resuming import assert_same, epochs_of, saved, stopped
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.data import Dataset, ResumableLoader

EPOCHS = 3


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


LOADERS = {
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
    "stateful": lambda: Stateful(),
    "stateful, of another kind": lambda: Continuing(),
}


class Stateful(DataLoader):
    """A loader with a state of its own, which at rest starts an epoch, as torchdata's does."""

    def __init__(self) -> None:
        super().__init__(range(4), generator=torch.Generator())
        self.fetched = 0
        self._start: Tensor | None = None
        self._position = self._first = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self):
        self._begin()
        order = torch.randperm(4, generator=self.generator)
        for i in range(self._first, 4):
            self.fetched, self._position = self.fetched + 1, i + 1
            noise = [float(torch.rand(())), np.random.rand(), random.random()]
            yield order[i], torch.tensor(noise)
        self._start, self._first = None, 0

    def _begin(self) -> None:
        if self._start is None:
            self._start = self.generator.get_state()
        self.generator.set_state(self._start)

    def state_dict(self) -> dict:
        self._begin()
        return {"start": self._start, "position": self._position}

    def load_state_dict(self, state: dict) -> None:
        self._start, self._first = state["start"], state["position"]


class Continuing:
    """A loader of another kind, whose epochs depend on the ones before."""

    def __init__(self) -> None:
        self._count = self._position = self._first = 0

    def __iter__(self):
        for i in range(self._first, 3):
            self._count, self._position = self._count + 1, i + 1
            yield torch.tensor([float(self._count), random.random()])
        self._position = self._first = 0

    def state_dict(self) -> dict:
        return {"count": self._count, "position": self._position}

    def load_state_dict(self, state: dict) -> None:
        self._count, self._first = state["count"], state["position"]


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


def assert_same_bytes(ours: list[list[tuple]], theirs: list[list[tuple]]) -> None:
    as_bytes = [
        [
            [tuple(x.reshape(-1).view(torch.uint8) for x in batch) for batch in epoch]
            for epoch in run
        ]
        for run in (ours, theirs)
    ]
    assert_same(*as_bytes)


@pytest.mark.parametrize("case", LOADERS)
def test_every_loader_resumes_at_every_position(case, as_users_see_it):
    # One object for a case without random numbers of its own: nan is not made anew.
    torch.manual_seed(3)
    make = LOADERS[case]
    if case in ("several tensors", "nan"):
        shared = make()
        make = lambda: shared  # noqa: E731
    whole = epochs_of(ResumableLoader(make(), seed=1))
    assert all(isinstance(batch, tuple) for batch in whole[0])
    for epoch in range(2):
        for position in range(len(whole[0]) + 1):
            torch.manual_seed(position), np.random.seed(5), random.seed(5)
            state = stopped(ResumableLoader(make(), seed=1), epoch, position)
            resumed = ResumableLoader(make(), seed=1)
            resumed.load_state_dict(state)
            assert (resumed.epoch, resumed.position) == (epoch, position)
            rest = epochs_of(resumed, EPOCHS - epoch)
            assert_same_bytes(rest, [whole[epoch][position:], *whole[epoch + 1 :]])


def test_a_loader_with_a_state_is_resumed_by_it_and_fetches_nothing_again():
    state = stopped(ResumableLoader(Stateful(), seed=1), 1, 3)
    resumed = ResumableLoader(loader := Stateful(), seed=1)
    resumed.load_state_dict(state)
    again = saved(resumed.state_dict())  # before anything is fetched
    assert torch.equal(again["loader"]["state"]["start"], state["loader"]["state"]["start"])
    assert (len(list(resumed)), loader.fetched) == (1, 1)
    with pytest.raises(ValueError, match="expected the states of torch, cuda, numpy"):
        resumed.load_state_dict(state | {"loader": {"state": {}, "random": 3}})
    with pytest.raises(ValueError, match=r"stateful=True \(here False\)"):
        ResumableLoader([X] * 4, seed=1).load_state_dict(state)


def test_shuffled_epochs_differ_and_depend_on_the_seed():
    one, two = (epochs_of(ResumableLoader(LOADERS["loader"](), seed=s), 2) for s in (1, 2))
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

    whole = epochs_of(ResumableLoader(loader(), seed=1), 2)
    noise = torch.cat([x for (x,) in chain(*whole)])[:, 1:]
    assert len(noise.unique()) == noise.numel()  # each worker and each epoch has its own
    state = stopped(ResumableLoader(loader(), seed=1), 1, 3)
    torch.manual_seed(7)
    resumed = ResumableLoader(loader(), seed=1)
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
    plain = epochs_of(ResumableLoader(LOADERS["loader"](), seed=1), 1)
    seeded()
    drawn = [(batch, model()) for batch in ResumableLoader(LOADERS["loader"](), seed=1)]
    assert [numbers for _, numbers in drawn] == alone
    assert_same([[batch for batch, _ in drawn]], plain)
    # An error while a batch is fetched, too, leaves the model's numbers in place.
    seeded()
    with pytest.raises(RuntimeError, match="cannot be read"):
        next(iter(ResumableLoader(Broken())))
    assert model() == alone[0]


def test_a_loader_that_does_not_repeat_its_batches_is_an_error():
    class Own:
        def __init__(self, seed: int, count: int = 4) -> None:
            self.generator_within, self.count = np.random.RandomState(seed), count

        def __iter__(self):
            for _ in range(self.count):
                yield torch.from_numpy(self.generator_within.rand(3))

    state = stopped(ResumableLoader(Own(0)), 0, 2)
    resumed = ResumableLoader(Own(1))
    resumed.load_state_dict(state)
    with pytest.raises(RuntimeError, match="repeat epoch 0 exactly, got a different batch 2"):
        next(iter(resumed))
    resumed = ResumableLoader(Own(0, count=1))
    resumed.load_state_dict(state)
    with pytest.raises(RuntimeError, match="got a different batch 2"):
        next(iter(resumed))


def test_what_a_step_writes_on_a_batch_does_not_count():
    def loader() -> ResumableLoader:
        return ResumableLoader([torch.arange(3.0).clone() for _ in range(2)])

    ours = loader()
    for (x,) in ours:
        x.zero_()
        break
    resumed = loader()
    resumed.load_state_dict(saved(ours.state_dict()))
    assert len(list(resumed)) == 1


def test_a_loop_from_before_a_load_ends_with_an_error():
    loader = ResumableLoader(LOADERS["list"]())
    iterator = iter(loader)
    next(iterator)
    loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="ResumableLoader: an iteration must begin after"):
        next(iterator)


def test_length_is_that_of_the_loader():
    assert len(ResumableLoader(LOADERS["loader"]())) == 4
    with pytest.raises(TypeError, match="no len"):
        len(ResumableLoader(Pairs()))


class Keyed(list):
    """A list, with the options of a DataLoader."""

    persistent_workers = True


REFUSED = {
    "iterator": (
        TypeError,
        lambda: ResumableLoader(iter([X])),
        r"loader must be iterable once per epoch, .*; give a DataLoader",
    ),
    "generator": (
        TypeError,
        lambda: ResumableLoader(x for x in [X]),
        "not an iterator or generator",
    ),
    "number": (TypeError, lambda: ResumableLoader(3), r"once per epoch, got 3 \(int\)"),
    "seed": (TypeError, lambda: ResumableLoader([X], seed="a"), "seed must be an integer, got 'a'"),
    "workers": (
        ValueError,
        lambda: ResumableLoader(Keyed([X])),
        "persistent_workers=False, got True",
    ),
    "dict": (
        TypeError,
        lambda: list(ResumableLoader([{"image": X, "name": "a"}])),
        "got a mapping of 'image': Tensor, 'name': str; .* collate_fn",
    ),
    "none": (
        TypeError,
        lambda: list(ResumableLoader([(X, None)])),
        "a tuple of Tensor, NoneType; return",
    ),
    "empty": (TypeError, lambda: list(ResumableLoader([()])), "got a tuple of 0"),
    "array": (TypeError, lambda: list(ResumableLoader([np.zeros(2)])), r"got array.* \(ndarray\)"),
    "other seed": (
        ValueError,
        lambda: ResumableLoader([X], seed=1).load_state_dict(ResumableLoader([X]).state_dict()),
        r"ResumableLoader: .* got one with seed=0 \(here 1\)",
    ),
    "other length": (
        ValueError,
        lambda: ResumableLoader([X]).load_state_dict(ResumableLoader([X, X]).state_dict()),
        r"batches=2 \(here 1\)",
    ),
    "state of ours": (
        ValueError,
        lambda: ResumableLoader([X]).load_state_dict(
            Dataset(torch.ones(9, 2)).batches(5).state_dict()
        ),
        "must have the keys epoch, loader, position, settings, got epoch, generator",
    ),
    "checksum": (
        ValueError,
        lambda: ResumableLoader([X]).load_state_dict(
            ResumableLoader([X]).state_dict() | {"position": 1, "loader": "3"}
        ),
        "loader in state must be an integer 0 or more, got '3'",
    ),
}
X = torch.zeros(2)


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_loaders_batches_and_states_are_refused(case, as_users_see_it):
    exception, call, message = REFUSED[case]
    with pytest.raises(exception) as caught:
        call()
    assert re.search(message, str(caught.value)), caught.value


def test_workers_that_may_overtake_each_other_are_refused():
    loader = DataLoader(TensorDataset(X))
    loader.in_order = False
    with pytest.raises(ValueError, match="in_order=True, got False"):
        ResumableLoader(loader)
