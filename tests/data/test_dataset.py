"""Datasets and their batches: values, scales, binarisation, epochs, subsets and splits."""

import doctest
import importlib
import math
import pkgutil
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ppl_vae import data
from ppl_vae.data import BINARISE, Dataset, from_tensor, load


def ramp(count: int = 256) -> Dataset:
    """Grey images whose value runs from 0 to 255, label = item number."""
    grey = (torch.arange(count) % 256).to(torch.uint8)
    return from_tensor(grey[:, None, None].expand(count, 2, 3), torch.arange(count), name="ramp")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat_epoch(dataset: Dataset, batch_size: int, **options) -> tuple[Tensor, Tensor]:
    """One epoch's batches, joined."""
    xs, ys = zip(*dataset.batches(batch_size, **options), strict=True)
    return torch.cat(xs), torch.cat(ys)


# ---------------------------------------------------------------------------------------- values


def test_values_are_divided_by_the_scale_and_flattened_on_request():
    values = torch.tensor([[[0, 51], [102, 255]], [[1, 2], [3, 4]]], dtype=torch.uint8)
    dataset = from_tensor(values)
    flat = dataset.draw(torch.tensor([1, 0]), binarise="none")
    assert flat.dtype == torch.float32
    torch.testing.assert_close(flat, torch.tensor([[1, 2, 3, 4], [0, 51, 102, 255]]) / 255)
    images = dataset.draw(torch.tensor([0]), binarise="none", flat=False)
    torch.testing.assert_close(images, values[:1] / 255)
    assert dataset.event_shape == (2, 2)
    assert len(dataset) == 2


@pytest.mark.parametrize(
    ("x", "scale", "expected"),
    [
        (torch.tensor([[0, 255]], dtype=torch.uint8), None, [0.0, 1.0]),
        (torch.tensor([[0, 1]], dtype=torch.uint8), 1, [0.0, 1.0]),
        (torch.tensor([[0, 1]], dtype=torch.uint8), 255, [0.0, 1 / 255]),
        (torch.tensor([[0, 8]], dtype=torch.uint8), 16, [0.0, 0.5]),
        (torch.tensor([[False, True]]), None, [0.0, 1.0]),
        (torch.tensor([[-3.0, 0.25]]), None, [-3.0, 0.25]),
        (torch.tensor([[0.0, 64.0]], dtype=torch.float64), 256, [0.0, 0.25]),
    ],
)
def test_scale_follows_dtype_or_is_given(x, scale, expected):
    drawn = from_tensor(x, scale=scale).draw(torch.tensor([0]), binarise="none")
    torch.testing.assert_close(drawn, torch.tensor([expected]))


def test_dataset_is_frozen_and_its_methods_leave_it_alone():
    dataset = ramp(20)
    before = dataset.values.clone()
    dataset.binarised(0), dataset.subset([1, 2]), dataset.split(0.5), dataset.labelled_subset(1)
    assert torch.equal(dataset.values, before)
    with pytest.raises(AttributeError):
        dataset.name = "other"  # type: ignore[misc]


def test_labels_of_any_integer_type_become_int64_and_count_the_classes():
    dataset = from_tensor(torch.rand(3, 2), torch.tensor([4, 0, 1], dtype=torch.uint8))
    assert dataset.labels is not None
    assert dataset.labels.dtype == torch.int64
    assert dataset.num_classes == 5


# -------------------------------------------------------------------------------------- binarise


def test_dynamic_draws_have_the_grey_value_as_mean_and_differ():
    dataset, draws = ramp(), 2000
    generator = seeded(0)
    index = torch.arange(256)
    first, second = (dataset.draw(index, generator=generator) for _ in range(2))
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) == {0.0, 1.0}
    total = sum(dataset.draw(index, generator=generator).double() for _ in range(draws))
    grey = dataset.draw(index, binarise="none").double()
    error = (grey * (1 - grey) / draws).sqrt()
    assert ((total / draws - grey).abs() <= 5 * error).all()  # exact where p is 0 or 1


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_dynamic_draw_is_one_of_uniform_numbers_below_the_grey_value(default):
    torch.set_default_dtype(default)  # which changes no pixel: conftest.py puts it back
    index, dataset = torch.arange(-100, 100), ramp()
    before = dataset.values.clone()
    x = dataset.draw(index, generator=seeded(1), flat=False)
    p = dataset.values[index].float() / 255
    u = torch.rand(p.shape, generator=seeded(1), dtype=torch.float32)
    assert x.dtype == default
    assert torch.equal(x, (u < p).float())
    assert torch.equal(dataset.values, before)
    real = Dataset(p.clone())
    real.draw(torch.arange(200), binarise="none").mul_(2)
    assert torch.equal(real.values, p), "what is drawn is a copy"


def test_static_draws_are_one_image_whatever_the_batch():
    dataset = ramp()
    whole = dataset.draw(torch.arange(256), binarise="static")
    assert set(whole.unique().tolist()) == {0.0, 1.0}
    for size in (1, 7, 256):
        x, y = flat_epoch(dataset, size, binarise="static", seed=size)
        assert torch.equal(x, whole[y])
    assert torch.equal(ramp().draw(torch.arange(256), binarise="static"), whole)


def test_binarised_depends_on_its_seed_alone_and_is_fixed_in_every_mode():
    # More items than the chunk of 4096 that is drawn at once.
    grey = Dataset(torch.full((5000, 4), 100, dtype=torch.uint8), scale=255)
    zero, again, one = grey.binarised(0), grey.binarised(0), grey.binarised(1)
    assert torch.equal(zero.values, again.values)
    assert not torch.equal(zero.values, one.values)
    assert zero.values.dtype == torch.uint8
    p, n = 100 / 255, 20_000
    assert abs(zero.values.double().mean() - p) < 5 * (p * (1 - p) / n) ** 0.5
    for mode in BINARISE:
        drawn = zero.draw(torch.arange(5000), binarise=mode)
        assert torch.equal(drawn, zero.values.float()), mode


def test_threshold_is_strictly_above_one_half():
    dataset = from_tensor(torch.tensor([[0.0, 0.5, 0.50001, 1.0]]))
    drawn = dataset.draw(torch.tensor([0]), binarise="threshold")
    assert drawn.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def test_real_values_outside_the_unit_interval_can_be_drawn_as_they_are():
    x = torch.randn(10, 3, generator=seeded(0))
    drawn, _ = next(iter(from_tensor(x).batches(10, binarise="none", shuffle=False)))
    assert torch.equal(drawn, x)


# --------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 10), (4, [4, 4, 2]), (10, [10]), (99, [10])]
)
def test_every_item_comes_once_per_epoch(batch_size, sizes, shuffle):
    batches = ramp(10).batches(batch_size, shuffle=shuffle, binarise="none")
    assert len(batches) == len(sizes)
    for _ in range(2):
        epoch = list(batches)
        assert [len(x) for x, _ in epoch] == sizes
        labels = torch.cat([y for _, y in epoch])
        assert labels.sort().values.tolist() == list(range(10))
        for x, y in epoch:  # label = grey value: image and label belong together
            torch.testing.assert_close(x, (y / 255)[:, None].expand(-1, 6))


def test_drop_last_leaves_out_only_a_short_batch():
    assert [len(x) for x, _ in ramp(10).batches(4, drop_last=True)] == [4, 4]
    assert len(ramp(10).batches(4, drop_last=True)) == 2
    assert [len(x) for x, _ in ramp(10).batches(5, drop_last=True)] == [5, 5]


def test_one_seed_gives_one_sequence_of_epochs():
    def epochs(seed: int) -> list[tuple[Tensor, Tensor]]:
        batches = ramp().batches(50, seed=seed)
        return [pair for _ in range(2) for pair in batches]

    first, again, other = epochs(3), epochs(3), epochs(4)
    for (x, y), (x2, y2) in zip(first, again, strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)
    assert not torch.equal(first[0][1], other[0][1])
    assert not torch.equal(first[0][1], first[6][1])  # a new order in the second epoch


def test_unshuffled_epochs_keep_the_order_and_draw_anew():
    batches = ramp().batches(256, shuffle=False)
    (x, y), (x2, y2) = next(iter(batches)), next(iter(batches))
    assert y.tolist() == y2.tolist() == list(range(256))
    assert not torch.equal(x, x2)


def test_generator_replaces_the_seed_and_resumes_exactly():
    batches = ramp().batches(50, generator=seeded(7), seed=1)
    x, _ = next(iter(ramp().batches(50, seed=7)))
    assert torch.equal(next(iter(batches))[0], x)
    state = batches.generator.get_state()
    rest = [x for x, _ in batches]
    batches.generator.set_state(state)
    assert all(torch.equal(a, b) for a, (b, _) in zip(rest, batches, strict=True))


def test_labels_are_none_where_there_are_none():
    assert [y for _, y in from_tensor(torch.rand(5, 2)).batches(2)] == [None, None, None]


def test_global_random_state_is_untouched(tmp_path):
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    dataset = load("digits")
    for mode in BINARISE:
        list(dataset.batches(500, binarise=mode))
    dataset.split(0.2), dataset.labelled_subset(3), dataset.binarised(2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_batches_go_to_the_device():
    x, y = next(iter(ramp().batches(5, device="meta")))
    assert (x.device.type, y.device.type) == ("meta", "meta")
    x, y = next(iter(ramp().to("cpu").batches(5)))
    assert (x.device.type, y.device.type) == ("cpu", "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_dataset_on_an_accelerator_draws_there():
    dataset = ramp().to("cuda")
    for mode in BINARISE:
        x, y = flat_epoch(dataset, 50, binarise=mode)
        assert x.is_cuda
        assert y.sort().values.tolist() == list(range(256))
    assert dataset.split(0.5)[0].values.is_cuda
    assert len(dataset.labelled_subset(1)) == 256


# ------------------------------------------------------------------------------ subsets and splits


def test_subset_takes_indices_or_a_mask():
    dataset = ramp(10)
    assert dataset.subset([7, 2]).labels.tolist() == [7, 2]
    assert dataset.subset(np.array([3])).values[0, 0, 0] == 3
    assert dataset.subset(torch.arange(10) > 7).labels.tolist() == [8, 9]


def test_labelled_subset_is_balanced_distinct_and_seeded():
    digits = load("digits")
    chosen = digits.labelled_subset(10, seed=1)
    assert len(set(chosen.tolist())) == 100
    assert digits.labels[chosen].bincount().tolist() == [10] * 10
    assert torch.equal(chosen, digits.labelled_subset(10, seed=1))
    assert not torch.equal(chosen, digits.labelled_subset(10, seed=2))


@pytest.mark.parametrize("labelled", [True, False])
def test_split_is_a_seeded_partition(labelled):
    x = torch.arange(100.0)[:, None]
    labels = torch.arange(100) % 5 if labelled else None
    train, test = from_tensor(x, labels).split(0.2, seed=1)
    assert (len(train), len(test)) == (80, 20)
    assert sorted((train.values.flatten().tolist()) + test.values.flatten().tolist()) == list(
        range(100)
    )
    assert torch.equal(test.values, from_tensor(x, labels).split(0.2, seed=1)[1].values)
    assert not torch.equal(test.values, from_tensor(x, labels).split(0.2, seed=2)[1].values)
    if labelled:
        assert test.labels.bincount().tolist() == [4] * 5
        assert torch.equal(test.values.flatten().long() % 5, test.labels)


def test_split_of_uneven_classes_is_in_proportion_to_within_one():
    labels = torch.tensor([0] * 71 + [1] * 17 + [2] * 5)
    _, test = from_tensor(torch.rand(93, 1), labels).split(0.3)
    share = labels.bincount() * len(test) / 93
    assert ((test.labels.bincount(minlength=3) - share).abs() < 1).all()


# ------------------------------------------------------------------------------------------- errors


def floats(*rows: list[float]) -> Dataset:
    return from_tensor(torch.tensor(rows))


def labelled(labels: object) -> Dataset:
    return from_tensor(X, torch.as_tensor(labels), scale=255, name="mine")


X = torch.arange(0, 240, 2, dtype=torch.uint8).view(30, 4)
Y = torch.arange(30) % 3
BYTES = torch.zeros(0, 3, dtype=torch.uint8)
NAN, INF = float("nan"), float("inf")

Case = tuple[Callable[[], object], str]
VALUE_ERRORS: dict[str, Case] = {
    "no items": (lambda: from_tensor(torch.zeros(0, 3)), r"not be empty, got .*\(0, 3\)"),
    "no items, uint8": (lambda: from_tensor(BYTES), "not be empty"),
    "no pixels": (lambda: from_tensor(torch.zeros(3, 0)), "not be empty"),
    "no event": (lambda: from_tensor(torch.zeros(3)), r"shape \(N, \*event\)"),
    "empty subset": (lambda: ramp().subset([]), "not be empty"),
    "nan": (lambda: floats([0.0, 1.0], [0.5, NAN]), r"finite, got nan at index \(1, 1\)"),
    "infinity": (lambda: floats([-INF]), r"finite, got -inf at index \(0, 0\)"),
    "scale not given": (
        lambda: from_tensor(X % 2),
        "must be given .* above 1.*give 1 for .*255 for",
    ),
    "scale of zero": (lambda: from_tensor(X, scale=0), "scale must be finite and above 0, got 0"),
    "above the scale": (lambda: from_tensor(X, scale=16), "must be at most scale=16, got 238"),
    "labels too short": (
        lambda: labelled(Y[:-1]),
        r"labels must have shape \(30,\), got .* \(29,\)",
    ),
    "labels as column": (lambda: labelled(Y[:, None]), r"labels must .* got .* \(30, 1\)"),
    "negative labels": (lambda: labelled(Y - 2), "labels must be -1 or more, got -2"),
    "fractions": (
        lambda: labelled(Y / 2),
        "labels must be whole numbers, got 0.5; give class numb",
    ),
    "classes without labels": (lambda: from_tensor(X).num_classes, "must have labels"),
    "chosen without labels": (
        lambda: from_tensor(X).labelled_subset(1),
        "labelled_subset: 'tensor' must have labels, got None",
    ),
    "too few of a class": (
        lambda: labelled(torch.arange(30) // 16).labelled_subset(15),
        "per_class must be at most 14, the number of items of class 1 in 'mine', got 15",
    ),
    "none per class": (lambda: ramp().labelled_subset(0), "per_class must be 1 or more, got 0"),
    "unknown mode": (
        lambda: ramp().batches(5, binarise="stochastic"),
        "binarise must be one of dynamic, static, threshold, none, got 'stochastic'",
    ),
    "unknown mode of draw": (lambda: ramp().draw(Y, binarise="yes"), "binarise must be one of"),
    "batch size": (lambda: ramp().batches(0), "batch_size must be 1 or more, got 0"),
    "no batch left": (
        lambda: ramp(10).batches(11, drop_last=True),
        "drop_last=True must leave a batch, got batch_size=11 for 10 items",
    ),
}
VALUE_ERRORS |= {
    f"fraction of {fraction}": (
        lambda fraction=fraction: ramp(10).split(fraction),
        rf"test_fraction must leave items on both sides of 'ramp' \(10 items\), got {fraction}",
    )
    for fraction in (1.0, -0.5, 0.01)
}
VALUE_ERRORS["one item"] = (lambda: ramp()[5:6].split(), "'ramp' must have 2 items or more, got 1")
VALUE_ERRORS["fraction of nan"] = (
    lambda: ramp(10).split(NAN),
    "split: test_fraction must be finite, got nan",
)
VALUE_ERRORS |= {
    f"{mode} of real values": (
        lambda mode=mode: floats([-0.5, 2.0]).batches(1, binarise=mode),
        rf"binarise='{mode}' needs pixels in \[0, 1\], got values / scale from -0.5 to 2 in",
    )
    for mode in ("dynamic", "static", "threshold")
}
TYPE_ERRORS: dict[str, Case] = {
    "complex values": (
        lambda: from_tensor(torch.ones(2, 3, dtype=torch.complex64)),
        r"must be integer or floating point, got .* \(2, 3\) and dtype torch.complex64",
    ),
    "bool labels": (lambda: labelled(Y > 0), "labels must be whole numbers or strings, got .*bool"),
}
INDEX_ERRORS: dict[str, Case] = {
    "no such item": (
        lambda: ramp(10).draw(torch.tensor([10])),
        "index must be from 0 to 9, got 10",
    ),
}
ERRORS = {ValueError: VALUE_ERRORS, TypeError: TYPE_ERRORS, IndexError: INDEX_ERRORS}


@pytest.mark.parametrize(
    ("exception", "case"), [(kind, case) for kind, cases in ERRORS.items() for case in cases]
)
def test_errors_say_what_came_and_what_was_expected(exception, case):
    call, message = ERRORS[exception][case]
    with pytest.raises(exception) as caught:
        call()
    assert type(caught.value) is exception
    assert re.search(message, str(caught.value)), caught.value


# -------------------------------------------------------------------------------------------- docs


def test_examples_in_docstrings_run():
    names = [m.name for m in pkgutil.iter_modules(data.__path__, "ppl_vae.data.")]
    modules = [data, *map(importlib.import_module, names)]
    results = [doctest.testmod(module) for module in modules]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 10


def test_a_notebook_shows_a_table_in_which_names_are_escaped():
    x = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])
    dataset = from_tensor(x, ["<b>", "dog"], missing="nan", name="<i>")
    html = dataset.binarised()._repr_html_()
    for cell in ("items|2", "shape|(2,)", "values|uint8 / 1", "missing|25 %"):
        name, value = cell.split("|")
        assert re.search(rf"<th[^>]*>{name}</th><td[^>]*>{re.escape(value)}</td>", html), html
    assert "2 classes (&lt;b&gt;, dog)" in html
    assert "drawn once as 0 and 1" in html
    assert "<i>" not in html
    assert "<b>" not in html
