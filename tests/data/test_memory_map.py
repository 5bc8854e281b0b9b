"""A memory-mapped file gives what the same file in memory gives, and is never read as a whole."""

import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pairs import vae

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.cli import main
from ppl_vae.data import Dataset, SemiSupervised, from_file, load
from ppl_vae.training import fit

pytestmark = pytest.mark.usefixtures("as_users_see_it")
RNG = np.random.default_rng(0)
ARRAYS = {
    "grey": RNG.integers(0, 256, (40, 6), dtype=np.uint8),
    "boolean": RNG.random((40, 6)) < 0.5,
    "real": RNG.standard_normal((40, 2, 3)),
    "counts": RNG.poisson(3, (40, 6)),
    "images": RNG.random((40, 3, 5, 5)).astype(np.float32),
}


def saved(folder, array, name="x.npy"):
    np.save(folder / name, array)
    return folder / name


@pytest.mark.parametrize("kind", ARRAYS)
def test_it_holds_and_draws_what_a_data_set_in_memory_does(kind, tmp_path):
    path = saved(tmp_path, ARRAYS[kind])
    scale = 1 if kind == "boolean" else None
    mapped, held = (from_file(path, scale=scale, memory_map=m) for m in (True, False))
    assert mapped.is_memory_mapped
    assert not held.is_memory_mapped
    assert repr(mapped) == f"{repr(held)[:-1]}, memory-mapped)"
    assert torch.equal(mapped.values, held.values)
    assert (mapped.scale, mapped.name, mapped.event_shape) == (held.scale, "x", held.event_shape)
    ours, theirs = (d.batches(7, binarise="none", seed=3) for d in (mapped, held))
    for (x, _), (same, _) in zip(ours, theirs, strict=True):
        assert torch.equal(x, same)
    assert torch.equal(mapped.subset([3, 1]).values, held.subset([3, 1]).values)


def test_slices_and_splits_are_views_and_copies_are_held(tmp_path):
    values = ARRAYS["grey"]
    mapped = from_file(saved(tmp_path, values), memory_map=True)
    train, test = mapped.split(0.1)
    assert np.array_equal(train.values, values[:36])
    assert np.array_equal(test.values, values[36:])
    assert np.array_equal(
        load(tmp_path / "x.npy", memory_map=True, split="test").values, test.values
    )
    start = mapped.values.data_ptr()
    for view, first in ((train, 0), (test, 36), (mapped[5:], 5), (mapped.arranged((1, 2, 3)), 0)):
        assert view.is_memory_mapped
        assert view.values.data_ptr() == start + 6 * first
    for copy in (mapped.subset([1, 2]), mapped[::2], mapped.binarised()):
        assert not copy.is_memory_mapped
    labelled = replace(mapped, labels=np.arange(40) % 4)
    assert labelled[10:20].labels.tolist() == [i % 4 for i in range(10, 20)]
    assert labelled.is_memory_mapped
    assert next(iter(SemiSupervised(labelled, range(8))))[1].args[1].shape == (8,)


def test_the_file_is_never_written_to(tmp_path):
    path = saved(tmp_path, ARRAYS["grey"])
    before = path.read_bytes()
    mapped = from_file(path, memory_map=True)
    mapped.values.zero_()
    assert path.read_bytes() == before
    assert not mapped.values.any()


@contextmanager
def memory_limited(more: int):
    """Let the process allocate so many bytes more; maps of files that are written to count."""
    import resource

    status = Path("/proc/self/status").read_text()
    now = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
@pytest.mark.parametrize("dtype", ["uint8", pytest.param("float32", marks=pytest.mark.slow)])
def test_a_file_larger_than_the_memory_trains(dtype, tmp_path):
    size = 96 * 2**20
    features, width = 256, np.dtype(dtype).itemsize
    rows = RNG.integers(0, 2, (size // (features * width), features), dtype=np.uint8)
    path = saved(tmp_path, rows.astype(dtype, copy=False))
    del rows
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(features, 4, hidden=(4,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, features, hidden=(4,))),
    )
    fit(pair, torch.zeros(4, features), steps=1, progress=False)  # what is allocated once
    with memory_limited(size // 2), pytest.raises((MemoryError, RuntimeError, ValueError)):
        from_file(path, scale=1)
    with memory_limited(size + size // 2):  # the map, and half as much
        train, test = from_file(path, scale=1, memory_map=True).split(0.01)
        fitted = fit(pair, train, steps=20, validation=test, out=tmp_path / "run", progress=False)
    assert fitted.steps == 20


def test_it_trains_as_in_memory_and_resumes_in_either_way(tmp_path):
    path = saved(tmp_path, ARRAYS["grey"])
    weights = []
    for first, then in ((False, False), (True, False), (False, True)):
        out = tmp_path / f"{first}{then}"
        for steps, mapped in ((3, first), (9, then)):
            torch.manual_seed(0)
            pair = vae()
            dataset = from_file(path, memory_map=mapped)
            fit(pair, dataset, steps=steps, batch_size=7, out=out, resume=True, progress=False)
        weights.append(torch.cat([p.flatten() for p in pair.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


REFUSED = {
    "archive": (lambda p: np.savez(p / "x.npz", x=np.ones((3, 2))), {}, r"needs a \.npy file, got"),
    "byte order": (lambda p: saved(p, np.ones((3, 2), ">f4")), {}, "byte order.*got >f4"),
    "columns": (
        lambda p: saved(p, np.asfortranarray(np.ones((3, 2)))),
        {},
        "C order, got <f8, in F",
    ),
    "unsigned": (lambda p: saved(p, np.ones((3, 2), np.uint16)), {}, "needs bool, uint8.* got <u2"),
    "complex": (lambda p: saved(p, np.ones((3, 2), complex)), {}, "got <c16"),
    "text": (lambda p: saved(p, np.array([["a"]])), {}, "got <U1"),
    "objects": (lambda p: saved(p, np.array([[None]])), {}, "Python objects"),
    "channels": (lambda p: saved(p, np.ones((3, 8, 8, 3))), {}, r"save them as \(N, C, H, W\)"),
    "nan": (lambda p: saved(p, np.full((3, 2), np.nan)), {}, r"finite, got nan at index \(0, 0\)"),
    "missing": (lambda p: saved(p, np.ones((3, 2))), {"missing": "nan"}, "held in memory"),
    "truncated": (lambda p: (p / "x.npy").write_bytes(b"\x93NUMPY"), {}, "cannot be read"),
    "scale": (lambda p: saved(p, np.ones((3, 2), np.uint8)), {}, "scale must be given"),
    "no rows": (lambda p: saved(p, np.ones((0, 2))), {}, "not be empty"),
    "name": (lambda p: saved(p, np.ones((3, 2))), {"x": "x"}, "has no name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_files_are_refused(case, tmp_path):
    write, options, message = REFUSED[case]
    write(tmp_path)
    (path,) = tmp_path.glob("x.*")
    with pytest.raises(ValueError, match=message):
        from_file(path, memory_map=True, **options)


def test_a_value_that_is_not_finite_is_found_anywhere():
    from ppl_vae.data import checks

    values = torch.zeros(2 * checks.PART // 8 + 3, 8)
    values[-1, 5] = torch.inf
    with pytest.raises(ValueError, match=rf"got inf at index \({len(values) - 1}, 5\)"):
        Dataset(values)
    mask = torch.ones(values.shape, dtype=torch.bool)
    mask[-1, 5] = False
    assert Dataset(values, mask=mask).observed().numel() == values.numel() - 1


def test_a_map_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, RNG.random((60, 4)).astype(np.float32), "table.npy")
    words = ["--data", "table.npy", "--data.memory_map", "true", "--likelihood", "Normal"]
    assert main(["fit", *words, "--steps", "2", "--out", "run", "--quiet"]) == 0
    assert main(["encode", "run", "--out", "z.npy"]) == 0
    assert np.load("z.npy").shape == (6, 10)
    assert main(["fit", "--data", "digits", "--data.memory_map", "true"]) == 2
    assert "--data.memory_map does not apply to source 'digits'" in capsys.readouterr().err


@pytest.mark.parametrize("likelihood", ["bernoulli", "normal"])
def test_a_pair_is_shown_the_same_values_though_they_are_never_binarised_as_a_whole(
    likelihood, tmp_path, monkeypatch
):
    monkeypatch.setattr("ppl_vae.data.value_transform.CHUNK", 16)
    path = saved(tmp_path, ARRAYS["grey"])
    pair, labels = vae(likelihood=likelihood), torch.arange(40) % 3
    held = [*replace(from_file(path), labels=labels).drawn_for(pair, 10)]
    mapped = replace(from_file(path, memory_map=True), labels=labels)
    monkeypatch.setattr("ppl_vae.data.dataset.Dataset.binarised", None)
    shown = [*mapped.drawn_for(pair, 10)]
    assert max(len(batch.x) for batch in shown) == 10
    for column in ("x", "y"):
        ours, theirs = (torch.cat([getattr(b, column) for b in d]) for d in (shown, held))
        assert torch.equal(ours, theirs)
