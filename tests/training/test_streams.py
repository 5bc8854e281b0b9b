"""Streams of row batches: an IterableDataset in a DataLoader, by name, with workers, resumed."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.training import fit

pytestmark = [
    pytest.mark.usefixtures("as_users_see_it"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]
BATCHES = 5  # in an epoch


class Rows(IterableDataset):
    """Batches with noise, every W-th by each of W workers."""

    def __init__(self, batches=BATCHES, keys=("x",)):
        self.batches = batches
        self.keys = keys

    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for i in range(first, self.batches, step):
            x = torch.randn(8, 3) + i + np.random.rand()
            batch = {"x": x, "mask": torch.rand(8, 3) > 0.3}
            batch["x"] = x.where(batch["mask"], 0.0) if "mask" in self.keys else x
            yield {key: batch[key] for key in self.keys}


class Unrepeatable(IterableDataset):
    """Batches that its own generator draws, which is not restored."""

    generator = np.random.default_rng(0)

    def __iter__(self):
        for _ in range(BATCHES):
            yield torch.from_numpy(type(self).generator.standard_normal((8, 3))).float()


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.randn(8, 3)


class Jumping:
    """A stream with a state, which reads nothing again."""

    def __init__(self):
        self.position, self.read = 0, 0

    def __iter__(self):
        while self.position < BATCHES:
            self.position, self.read = self.position + 1, self.read + 1
            yield torch.full((8, 3), float(self.position)) + torch.randn(8, 3)
        self.position = 0

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def loader(workers=0, stream=Rows, **options):
    return DataLoader(stream(**options), batch_size=None, num_workers=workers)


def trained(data, steps, out=None, **options):
    torch.manual_seed(0)
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(3, 4, hidden=(4,))),
        likelihood=likelihoods.Normal(nets.MLP(2, 3, hidden=(4,))),
    )
    fit(pair, data, steps=steps, out=out, progress=False, log_every=1, **options)
    return torch.cat([p.flatten() for p in pair.parameters()])


STREAMS = {
    "alone": lambda: loader(),
    "two workers": lambda: loader(2),
    "with a mask": lambda: loader(keys=("x", "mask")),
    "without an end": lambda: loader(stream=Endless),
    "collated": lambda: DataLoader(loader().dataset, batch_size=1, collate_fn=lambda b: b[0]),
}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=pytest.mark.slow if c == "collated" else ()) for c in STREAMS]
)
def test_a_stream_resumes_exactly_at_every_kind_of_place(case, tmp_path):
    make = STREAMS[case]
    whole = trained(make(), 8, tmp_path / "whole")
    stops = (3, 5, 6) if "workers" not in case else (6,)
    for stop in stops:  # within an epoch, at its end, and in the next one
        out = tmp_path / str(stop)
        trained(make(), stop, out)
        torch.rand(stop), np.random.rand(stop)
        assert torch.equal(trained(make(), 8, out, resume=True), whole)
        histories = [(folder / "history.csv").read_text() for folder in (out, tmp_path / "whole")]
        assert histories[0] == histories[1]


def test_workers_bring_all_rows_and_each_epoch_its_own_noise():
    from ppl_vae.data import ResumableLoader

    epochs = [[b["x"] for b in epoch] for epoch in (ResumableLoader(loader(2), seed=1),) * 2]
    means = [sorted(round(float(x.mean())) for x in epoch) for epoch in epochs]
    assert [len(epoch) for epoch in epochs] == [BATCHES, BATCHES]
    assert means[0] != [means[0][0]] * BATCHES
    assert not any(torch.equal(a, b) for a in epochs[0] for b in epochs[1])


def test_another_number_of_workers_or_length_is_another_setting(tmp_path):
    trained(loader(0), 5, tmp_path)
    for other, what in (
        (loader(1), "data.num_workers was 0 and is now 1"),
        (loader(0, batches=6), "batches was 5"),
    ):
        with pytest.raises(ValueError, match=what):
            trained(other, 7, tmp_path, resume=True)


def test_a_stream_that_does_not_repeat_itself_is_refused(tmp_path):
    trained(loader(stream=Unrepeatable), 3, tmp_path)
    with pytest.raises(RuntimeError, match="must repeat epoch 0 exactly, got a different batch 3"):
        trained(loader(stream=Unrepeatable), 7, tmp_path, resume=True)


def test_a_stream_with_a_state_reads_nothing_again(tmp_path):
    whole = trained(Jumping(), 12, tmp_path / "whole")
    trained(Jumping(), 7, tmp_path / "cut")
    torch.manual_seed(0)
    stream = Jumping()
    assert torch.equal(trained(stream, 12, tmp_path / "cut", resume=True), whole)
    assert stream.read <= 5 + 2  # the rest, and the first batch, read to check it


WRONG = {
    "persistent workers": (
        lambda: DataLoader(Rows(), batch_size=None, num_workers=1, persistent_workers=True),
        ValueError,
        "persistent_workers=False, got True",
    ),
    "no batch": (
        lambda: loader(batches=0),
        ValueError,
        "must give a batch in each epoch, got none",
    ),
    "another name": (lambda: loader(keys=("mask",)), ValueError, "needs 'x', .* by name 'mask'"),
    "values": (lambda: [{"x": torch.full((2, 3), torch.nan)}], ValueError, "2|finite"),
    "shape": (lambda: [torch.zeros(2, 4)], ValueError, r"shape \(batch, 3\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_streams_that_cannot_be_trained_on_are_refused(case):
    make, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        trained(make(), 2)
