"""Uniform dequantisation of integer data, and what a density of it says about the integers."""

import math

import pytest
import torch

from ppl_vae.data import Dataset, dequantisation, from_tensor, load
from ppl_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppl_vae.distributions.grey import GreyGrid


def levels_dataset(scale, count=4000, dtype=torch.uint8):
    """Rows that each hold all the integers 0, ..., scale, label = row number."""
    row = torch.arange(scale + 1).to(dtype)
    return Dataset(row.expand(count, -1), torch.arange(count), "grey", scale=scale)


def drawn(dataset, **options):
    index = torch.arange(len(dataset))
    return dataset.draw(index, binarise="none", dequantise=True, **options)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (1, torch.uint8),
        (16, torch.uint8),
        (199, torch.uint8),
        (254, torch.uint8),
        (255, torch.uint8),
        (255, torch.float64),
        (1023, torch.float32),
        (65535, torch.float32),
    ],
)
def test_noise_is_uniform_within_each_level_and_the_integer_can_be_read_back(scale, dtype):
    dataset = levels_dataset(scale, count=2_000_000 // (scale + 1), dtype=dtype)
    assert dataset.levels == scale + 1
    v = drawn(dataset, generator=seeded(0))
    assert v.dtype == torch.float32
    assert v.min() >= 0
    assert v.max() < 1
    u = v.double() * dataset.levels - dataset.values.double()
    assert torch.equal((v.double() * dataset.levels).floor(), dataset.values.double())
    step, n = 2.0 ** (scale.bit_length() - 23), u.numel()
    assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    assert abs((u - u.mean()).square().mean() - 1 / 12) < 5 * math.sqrt(1 / 180 / n) + step


@pytest.mark.parametrize(("end", "u"), [("smallest", 0.0), ("largest", 1 - 2**-24)])
def test_no_float32_noise_reaches_another_level(end, u, monkeypatch):
    monkeypatch.setattr(dequantisation, "uniform", lambda size, *_: torch.full(size, u))
    for scale in [*range(1, 256), 1000, 65535]:
        dataset = levels_dataset(scale, 1, torch.uint8 if scale < 256 else torch.float32)
        v = drawn(dataset).double()
        assert v.min() > 0
        assert v.max() < 1
        assert torch.equal((v * (scale + 1)).floor(), dataset.values.double())
        assert (v * (scale + 1) - dataset.values - u).abs().max() < max(1e-4, scale / 2**22)


def test_draws_are_new_at_every_call_and_follow_from_the_generator():
    dataset = levels_dataset(16, count=8)
    generator = seeded(3)
    first, second = drawn(dataset, generator=generator), drawn(dataset, generator=generator)
    assert not torch.equal(first, second)
    assert torch.equal(first, drawn(dataset, generator=seeded(3)))
    images = load("digits").draw(
        torch.arange(3), binarise="none", dequantise=True, flat=False, generator=seeded(0)
    )
    assert images.shape == (3, 1, 8, 8)
    # Without the option nothing changes.
    plain = dataset.draw(torch.arange(8), binarise="none")
    assert torch.equal(plain, dataset.values.float() / 16)


def test_batches_are_dequantised_anew_in_each_epoch():
    dataset = levels_dataset(16, count=10)
    options = {"binarise": "none", "dequantise": True, "shuffle": False}
    before = torch.get_rng_state()
    batches = dataset.batches(4, seed=1, **options)
    epochs = [torch.cat([x for x, _ in batches]) for _ in range(2)]
    assert not torch.equal(*epochs)
    again = torch.cat([x for x, _ in dataset.batches(4, seed=1, **options)])
    assert torch.equal(again, epochs[0])
    assert torch.equal(before, torch.get_rng_state())
    for epoch in epochs:
        assert torch.equal((epoch.double() * 17).floor(), dataset.values.double())


def test_dequantised_is_a_dataset_of_reals_that_its_seed_fixes():
    dataset = levels_dataset(255, count=5000)  # more than are drawn at once
    zero, again, one = dataset.dequantised(0), dataset.dequantised(0), dataset.dequantised(1)
    assert torch.equal(zero.values, again.values)
    assert not torch.equal(zero.values, one.values)
    assert (zero.scale, zero.values.dtype) == (1.0, torch.float32)
    assert torch.equal(zero.labels, dataset.labels)
    assert torch.equal((zero.values.double() * 256).floor(), dataset.values.double())
    index = torch.tensor([7, 4999])
    assert torch.equal(zero.draw(index, binarise="none"), zero.values[index])
    assert load("digits").dequantised().event_shape == (1, 8, 8)


def test_grey_values_without_noise_are_on_the_grid_of_the_levels():
    digits = load("digits")
    x = digits.draw(torch.arange(100), binarise="none")
    assert GreyGrid(digits.levels).check(x).all()
    assert not GreyGrid(digits.levels).check(drawn(digits.subset(torch.arange(100)))).all()


@pytest.mark.parametrize("logit", [-3.0, 0.5, 40.0])
@pytest.mark.parametrize("scale", [1, 16, 255])
def test_the_density_of_dequantised_data_bounds_the_mass_of_the_integers(scale, logit, float64):
    # p(v) ∝ e^(λv) on [0, 1]: the mass of an integer and the mean of log p(v) have closed forms.
    dataset, levels = levels_dataset(scale, count=2000), scale + 1
    k, density = torch.arange(levels).double(), ContinuousBernoulli(torch.tensor(logit))
    log_mass = logit * k / levels + math.log(math.expm1(logit / levels) / math.expm1(logit))
    torch.testing.assert_close(log_mass.exp().sum(), torch.tensor(1.0))
    expected = density.log_prob((k + 0.5) / levels)  # log p is linear in v
    log_p = density.log_prob(dataset.dequantised(0).values.double())
    error = abs(logit) / levels / math.sqrt(12 * 2000) + 1e-6
    assert ((log_p.mean(0) - expected).abs() <= 5 * error).all()
    bound = expected - math.log(levels)
    assert (bound <= log_mass + 1e-12).all()
    # The gap is that of Jensen: log [sinh(h) / h] with h = λ / 2L.
    h = logit / levels / 2
    torch.testing.assert_close(log_mass - bound, torch.full_like(k, math.log(math.sinh(h) / h)))


DIGITS = levels_dataset(16, count=3)
INDEX = torch.arange(3)
ERRORS = {
    "binarised too": (
        lambda: DIGITS.draw(INDEX, dequantise=True),
        "dequantise=True must come with binarise='none', got binarise='dynamic'",
    ),
    "batches that are binarised too": (
        lambda: DIGITS.batches(2, binarise="static", dequantise=True),
        "binarise='none', got binarise='static'; binarise for a Bernoulli, deq",
    ),
    "real values": (
        lambda: from_tensor(torch.rand(3, 4), name="reals").dequantised(),
        r"'reals' must hold integers 0, ..., scale, got torch.float32 values from .* with scale=1; "
        "give the integers and their scale",
    ),
    "real values in batches": (
        lambda: from_tensor(torch.randn(3, 4)).batches(2, binarise="none", dequantise=True),
        "must hold integers",
    ),
    "grey values divided already": (
        lambda: from_tensor(torch.arange(8.0).reshape(2, 4) / 255).levels,
        "must hold integers",
    ),
    "integers above the scale": (
        lambda: from_tensor(torch.full((2, 4), 9.0), scale=7).dequantised(),
        "values from 9 to 9 with scale=7",
    ),
    "negative integers": (
        lambda: from_tensor(-torch.ones(2, 4)).dequantised(),
        "values from -1 to -1 with scale=1",
    ),
    "dequantised twice": (lambda: DIGITS.dequantised().dequantised(), "must hold integers"),
    "a scale between integers": (
        lambda: Dataset(DIGITS.values, scale=16.5).dequantised(),
        "got scale=16.5; give the largest integer, at most 65535",
    ),
    "more levels than float32 has room for": (
        lambda: from_tensor(torch.ones(2, 4), scale=65536).levels,
        "got scale=65536; give the largest",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        call()
