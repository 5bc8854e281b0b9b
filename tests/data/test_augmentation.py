"""Transforms of training batches: where they apply, how they repeat, and what is refused."""

import random

import numpy as np
import pytest
import torch
from pairs import vae
from resuming import assert_same, epochs_of, stopped

from ppl_vae import VAE, likelihoods, nets, posteriors, priors
from ppl_vae.data import Dataset, SemiSupervised, load
from ppl_vae.training import fit

pytestmark = pytest.mark.usefixtures("as_users_see_it")
GREY = Dataset(
    torch.randint(0, 256, (40, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(40) % 3,
    scale=255,
)
REAL = Dataset(torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(0)))


def noisy(x):
    """Noise from torch, NumPy and Python."""
    return x + torch.rand_like(x) + 2 * np.random.rand() + 4 * random.random()


def shuffled(x):
    return x[:, torch.randperm(x.shape[1])]


def test_x_is_transformed_in_the_shape_of_the_data_and_nothing_else_is():
    shapes = []

    def doubled(x):
        shapes.append(tuple(x.shape))
        return x.mul_(2)  # may be in place

    augmented = REAL.augmented(doubled)
    options = {"binarise": "none", "shuffle": False}
    plain = torch.cat([x for x, _ in REAL.batches(16, **options)])
    drawn = torch.cat([x for x, _ in augmented.batches(16, **options)])
    assert torch.equal(drawn, 2 * plain)
    assert shapes == [(16, 2, 3), (16, 2, 3), (8, 2, 3)]
    same = [
        (augmented.tensor(), REAL.tensor()),
        (augmented[3].x, REAL[3].x),
        (torch.cat([*augmented.in_parts()]), REAL.values),
        (torch.cat([b.x for b in augmented.drawn_for(None)]), plain),
        (augmented.values, REAL.values),
    ]
    assert all(torch.equal(a, b) for a, b in same)
    for kept in (augmented.subset(range(5)), augmented.split(0.5)[0], augmented.arranged((6,))):
        assert kept.augmentation is doubled
    assert augmented.augmented(None).augmentation is None
    assert repr(augmented) == f"{repr(REAL)[:-1]}, augmented)"


def test_values_are_binarised_after_it():
    grey = torch.full((4000, 1), 0.25)
    (x, _) = next(iter(Dataset(grey).augmented(lambda x: x + 0.5).batches(4000)))
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert abs(x.mean() - 0.75) < 4 * (0.75 * 0.25 / 4000) ** 0.5
    (x, _) = next(iter(Dataset(grey).augmented(lambda x: x + 0.5).batches(9, binarise="threshold")))
    assert (x == 1).all()


def test_noise_of_dequantisation_comes_after_it():
    levels = Dataset(torch.tensor([[0, 3]] * 500), scale=3)
    options = {"binarise": "none", "dequantise": True, "shuffle": False}
    (v, _) = next(iter(levels.augmented(lambda x: x.flip(1)).batches(500, **options)))
    assert torch.equal((v * 4).floor(), torch.tensor([[3.0, 0.0]] * 500))
    assert len(v.unique()) > 900


@pytest.mark.parametrize("transform", [noisy, shuffled])
def test_it_repeats_and_resumes_whatever_it_draws(transform):
    def loader(seed=1):
        return REAL.augmented(transform).batches(16, binarise="none", seed=seed)

    whole = epochs_of(loader())
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    assert_same(
        [[(x,) for x, _ in e] for e in epochs_of(loader())], [[(x,) for x, _ in e] for e in whole]
    )
    for epoch, position in ((0, 1), (1, 2), (2, 0)):
        resumed = loader()
        resumed.load_state_dict(stopped(loader(), epoch, position))
        rest = [x for x, _ in resumed]
        expected = [x for x, _ in whole[epoch][position:]]
        assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=True))
    drawn = torch.cat([x for e in whole for x, _ in e])
    assert len(drawn.unique(dim=0)) > 40, "drawn anew at each epoch"
    assert not torch.equal(whole[0][0].x, next(iter(loader(2))).x)
    with pytest.raises(ValueError, match="augmented=True"):
        REAL.batches(16, binarise="none").load_state_dict(loader().state_dict())


def test_what_is_drawn_elsewhere_is_unaffected():
    def draws():
        return float(torch.rand(())), float(np.random.rand()), random.random()

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    alone = [draws() for _ in range(3)]
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    assert [draws() for _ in REAL.augmented(noisy).batches(16, binarise="none")] == alone


def test_missing_entries_move_with_the_values():
    mask = torch.ones(40, 6, dtype=torch.bool)
    mask[:, 1] = False
    dataset = Dataset(GREY.values, mask=mask, scale=255).augmented(lambda x: x.roll(1, 1))
    x, _, seen = next(iter(dataset.batches(40, shuffle=False)))
    assert torch.equal(seen, mask.roll(1, 1))
    assert torch.equal(x.isnan(), ~seen)
    unmasked = GREY.augmented(lambda x: x.roll(1, 1)).batches(40, binarise="none", shuffle=False)
    x, _ = next(iter(unmasked))
    assert torch.equal(x, GREY.values.roll(1, 1).float() / 255)


def test_both_streams_are_transformed():
    streams = SemiSupervised(
        GREY.augmented(torch.ones_like), range(9), batch_size=10, labelled_batch_size=5
    )
    for part in next(iter(streams)):
        assert (part.args[0] == 1).all()


def trained(data, steps, out, **options):
    torch.manual_seed(0)
    pair = vae()
    fit(pair, data, steps=steps, batch_size=16, out=out, progress=False, **options)
    return torch.cat([p.flatten() for p in pair.parameters()])


def test_a_training_resumes_exactly_and_not_with_another_transform(tmp_path):
    grey = Dataset(GREY.values, scale=255)
    whole = trained(grey.augmented(shuffled), 8, tmp_path / "a")
    trained(grey.augmented(shuffled), 4, tmp_path / "b")
    assert torch.equal(trained(grey.augmented(shuffled), 8, tmp_path / "b", resume=True), whole)
    assert not torch.equal(trained(grey, 8, tmp_path / "c"), whole)
    for other in (grey, grey.augmented(torch.ones_like)):
        with pytest.raises(ValueError, match=r"data\.augmentation was shuffled"):
            trained(other, 9, tmp_path / "b", resume=True)


def test_validation_is_of_the_data_as_they_are(tmp_path):
    grey = Dataset(GREY.values, scale=255)
    losses = []
    for validation in (grey, grey.augmented(torch.ones_like)):
        torch.manual_seed(0)
        fitted = fit(vae(), grey, steps=2, validation=validation, progress=False)
        losses.append(fitted.validation["loss"][-1])
    assert losses[0] == losses[1]


def test_0_and_1_are_binarised_anew_after_a_transform_that_makes_them_grey():
    binary = Dataset((GREY.values > 128).float())
    fit(vae(), binary.augmented(lambda x: (x + x.roll(1, 1)) / 2), steps=3, progress=False)


def test_what_a_likelihood_refuses_is_found_in_the_first_epoch():
    counts = Dataset(torch.randint(0, 5, (40, 3)))
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(3, 4)),
        likelihood=likelihoods.Poisson(nets.MLP(2, 3)),
    )
    fit(pair, counts.augmented(lambda x: x.flip(1)), steps=2, progress=False)
    halves = iter([1.0, 1.0, 0.5] + [0.5] * 9)
    with pytest.raises(ValueError, match="outside the support of the Poisson"):
        fit(
            pair,
            counts.augmented(lambda x: x * next(halves)),
            steps=9,
            batch_size=8,
            progress=False,
        )


REFUSED = {
    "shape": (lambda x: x[:, :2], ValueError, r"shape \(16, 6\), that of its argument, got"),
    "rows": (lambda x: x[:3], ValueError, r"must return a torch.float32 tensor of shape \(16, 6\)"),
    "dtype": (lambda x: x.double(), TypeError, "got .*float64"),
    "array": (lambda x: x.numpy(), TypeError, "must return a torch.float32 tensor .* got array"),
    "nothing": (lambda x: None, TypeError, "got None"),
    "nan": (
        lambda x: x.log().log(),
        ValueError,
        "of finite values, got 96 NaN or infinite ones of 96",
    ),
    "range": (lambda x: x + 1, ValueError, r"in \[0, 1\], to be binarised .* end it with .clamp"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_results_are_refused(case):
    transform, error, message = REFUSED[case]
    values = torch.full((16, 6), 0.5)
    with pytest.raises(error, match=message):
        next(iter(Dataset(values).augmented(transform).batches(16)))


def test_infinite_values_are_refused_where_nan_is_missing():
    data = Dataset(torch.full((4, 2), 0.5), mask=torch.tensor([[True, False]] * 4))
    with pytest.raises(ValueError, match="finite values, got 8"):
        next(iter(data.augmented(lambda x: x.fill_(torch.inf)).batches(4, binarise="none")))


def test_static_binarisation_and_what_is_no_function_are_refused():
    for draw in (
        lambda: GREY.augmented(shuffled).batches(5, binarise="static"),
        lambda: SemiSupervised(GREY.augmented(shuffled), binarise="static"),
    ):
        with pytest.raises(ValueError, match="binarise='static' draws values once, before"):
            draw()
    with pytest.raises(TypeError, match="augmentation must be a function of a batch, got 3"):
        GREY.augmented(3)


def test_the_result_owns_its_memory():
    kept = torch.rand(100, 6)
    x, _ = next(iter(Dataset(kept).augmented(lambda x: kept[:7]).batches(7, binarise="none")))
    x.zero_()
    assert kept.any()
    assert x.untyped_storage().nbytes() == 7 * 6 * 4


def test_digits_with_torchvision_as_it_is(tmp_path):
    v2 = pytest.importorskip("torchvision.transforms.v2")
    crop = v2.RandomCrop(8, padding=1)
    batches = [load("digits").augmented(crop).batches(100, seed=1) for _ in range(2)]
    for (x, _), (same, _) in zip(*batches, strict=True):
        assert torch.equal(x, same)
