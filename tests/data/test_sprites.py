"""Sprites against the geometry of their shapes, and the factors of data sets."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from ppl_vae import data
from ppl_vae.data.sprite_images import MARGIN, RADIUS, SHAPES, SMALLEST

# Of shapes in the unit circle; the heart's by integration in polar coordinates, see below.
AREAS = {"square": 2.0, "ellipse": math.pi / 2, "triangle": 0.5 * 1.2 * 1.8}


def heart_area():
    """∫ r² / 2 dφ of (r² - 1)³ = r⁵ cos² φ sin³ φ, r by bisection."""
    phi = np.linspace(0, 2 * np.pi, 20_001)[:-1]
    low, high = np.zeros_like(phi), np.full_like(phi, 2.0)
    for _ in range(60):
        r = (low + high) / 2
        inside = (r**2 - 1) ** 3 < r**5 * np.cos(phi) ** 2 * np.sin(phi) ** 3
        low, high = np.where(inside, r, low), np.where(inside, high, r)
    return (low**2).mean() * np.pi / 1.43**2


def coordinates(size):
    at = (2 * torch.arange(size) + 1) / size - 1
    return at.expand(size, size), at.unsqueeze(1).expand(size, size)


def grid(**options):
    found = data.sprites(**{"size": 64, "supersampling": 4, "positions": 1, **options})
    return found.tensor(flat=False)[:, 0].double(), found.factors


@pytest.mark.parametrize("name", SHAPES)
def test_the_area_is_that_of_the_shape(name):
    images, _ = grid(shapes=(name,), scales=3, orientations=8)
    area = {**AREAS, "heart": heart_area()}[name]
    for k, scale in enumerate((0.5, 0.75, 1.0)):
        expected = area * (RADIUS * scale) ** 2 * 64**2 / 4
        found = images.unflatten(0, (3, 8))[k].sum((1, 2))
        # the error of a boundary of some 60 pixels, each of 16 points
        torch.testing.assert_close(
            found, torch.full_like(found, expected), rtol=0, atol=0.02 * expected + 1
        )


@pytest.mark.parametrize("name", ["square", "ellipse"])
def test_the_centre_is_at_the_position(name):
    images, factors = grid(shapes=(name,), scales=1, orientations=3, positions=5)
    x, y = coordinates(64)
    weight = images / images.sum((1, 2), keepdim=True)
    place = torch.linspace(-MARGIN, MARGIN, 5).double()
    assert factors.names == ("orientation", "x", "y")
    for found, factor in ((x, 1), (y, 2)):
        centre = (weight * found).sum((1, 2))
        torch.testing.assert_close(centre, place[factors.values[:, factor]], rtol=0, atol=0.005)


def test_the_long_axis_of_an_ellipse_turns_anticlockwise():
    images, factors = grid(shapes=("ellipse",), scales=1, orientations=12)
    x, y = coordinates(64)
    xx, yy, xy = ((images * m).sum((1, 2)) for m in (x * x, y * y, -x * y))
    found = 0.5 * torch.atan2(2 * xy, xx - yy)
    expected = 2 * math.pi * factors.values[:, 0] / 12
    assert ((found - expected).sin().abs() < 0.02).all()  # the angle modulo half a turn


@pytest.mark.parametrize("name", ["heart", "triangle"])
def test_a_quarter_of_a_turn_is_a_rotation_of_the_image(name):
    images, _ = grid(shapes=(name,), scales=2, orientations=4)
    first, second, third, last = images.unflatten(0, (2, 4)).unbind(1)
    assert (first.rot90(1, (1, 2)) - second).abs().sum() < 1
    assert (first.rot90(2, (1, 2)) - third).abs().sum() < 1
    assert (first.rot90(3, (1, 2)) - last).abs().sum() < 1
    assert (first - third).abs().sum() > 50
    rows = first.sum(2)
    upper, lower = rows[:, :32].sum(1), rows[:, 32:].sum(1)
    assert ((lower > upper) if name == "triangle" else (upper > lower)).all()  # upright


@pytest.mark.parametrize("size", [16, 40, 64])
@pytest.mark.parametrize("supersampling", [1, 3])
def test_no_sprite_is_empty_or_cut_off(size, supersampling):
    options = {"scales": 2, "orientations": 6, "positions": 3, "supersampling": supersampling}
    found = data.sprites(size=size, shapes=tuple(SHAPES), **options)
    images = found.values[:, 0]
    assert int(images.amax()) == supersampling**2
    assert images.flatten(1).any(1).all()
    if size > 16:
        assert not images[:, [0, -1]].any()
        assert not images[:, :, [0, -1]].any()
    # The same wherever it is, but for where pixels lie on the boundary.
    area = images.flatten(1).double().sum(1).unflatten(0, (-1, 9)) / supersampling**2
    radius = RADIUS * size / 2
    assert (area.amax(1) - area.amin(1) < 4 * radius / supersampling + 4).all()


def test_an_image_drawn_pixel_by_pixel():
    found = data.sprites(5, size=24, shapes=("ellipse",), seed=3)
    counts = dict(zip(found.factors.names, found.factors.sizes, strict=True))
    for image, row in zip(found.values[:, 0], found.factors.values.tolist(), strict=True):
        scale, turn, x, y = row
        radius = RADIUS * (SMALLEST + (1 - SMALLEST) * scale / (counts["scale"] - 1))
        angle = 2 * math.pi * turn / counts["orientation"]
        cx, cy = (-MARGIN + 2 * MARGIN * place / (counts["x"] - 1) for place in (x, y))
        for line in range(24):
            for column in range(24):
                right = ((2 * column + 1) / 24 - 1 - cx) / radius
                up = -((2 * line + 1) / 24 - 1 - cy) / radius
                u = math.cos(angle) * right + math.sin(angle) * up
                v = math.cos(angle) * up - math.sin(angle) * right
                assert image[line, column] == (u * u + 4 * v * v <= 1)


def test_the_whole_grid_comes_in_order_and_random_images_come_from_it_once():
    options = {"size": 16, "scales": 2, "orientations": 3, "positions": 4}
    whole = data.sprites(**options)
    assert len(whole) == 3 * 2 * 3 * 4 * 4
    sizes = torch.tensor(whole.factors.sizes)
    assert whole.factors.sizes == (3, 2, 3, 4, 4)
    place = (whole.factors.values * torch.tensor([96, 48, 16, 4, 1])).sum(1)
    assert place.equal(torch.arange(len(whole)))
    some = data.sprites(100, seed=1, **options)
    at = (some.factors.values * torch.tensor([96, 48, 16, 4, 1])).sum(1)
    assert len(at.unique()) == 100
    assert not at.equal(at.sort().values)
    assert some.values.equal(whole.values[at])
    assert some.labels.equal(some.factors.values[:, 0])
    assert (some.factors.values < sizes).all()
    again, other = data.sprites(100, seed=1, **options), data.sprites(100, seed=2, **options)
    assert again.values.equal(some.values)
    assert not other.values.equal(some.values)
    assert repr(some) == (
        "Dataset('sprites', 100 x (1, 16, 16), torch.uint8 / 1, 3 classes (square, ellipse, "
        "heart), 5 factors)"
    )


def test_no_random_state_is_taken_or_changed():
    torch.manual_seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    data.sprites(3, size=16)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_a_factor_of_one_value_is_left_out():
    found = data.sprites(size=16, shapes=("heart",), scales=1, orientations=1, positions=2)
    assert found.factors.names == ("x", "y")
    assert found.factors.categorical == ()
    one = data.sprites(size=16, shapes=("heart",), scales=1, orientations=1, positions=1)
    assert one.factors is None
    assert len(one) == 1


# Factors


def factors(n=6):
    values = torch.stack([torch.arange(n) % 2, torch.arange(n)], 1)
    return data.Factors(values, ("kind", "place"), categorical=("kind",))


def test_factors_follow_the_items_of_a_data_set():
    made = data.Dataset(torch.rand(6, 3), torch.tensor([0, 1] * 3), factors=factors())
    assert made.factors.sizes == (2, 6)
    for part, rows in (
        (made.subset([4, 1]), [4, 1]),
        (made[2:5], [2, 3, 4]),
        (made.to("cpu"), range(6)),
        (made.arranged((1, 3)), range(6)),
        (copy.deepcopy(made), range(6)),
        (pickle.loads(pickle.dumps(made[1:3])), [1, 2]),
    ):
        assert part.factors.values[:, 1].tolist() == list(rows)
        assert part.factors.sizes == (2, 6)
        assert part.factors.categorical == ("kind",)
        torch.testing.assert_close(part.values.reshape(-1, 3), made.values[list(rows)])
    train, test = made.split(0.34, seed=0)
    joined = torch.cat([train.factors.values, test.factors.values])
    assert sorted(joined[:, 1].tolist()) == list(range(6))
    assert "<td style='text-align:left'>kind, place</td>" in made._repr_html_()
    assert [len(batch) for batch in made.batches(6)] == [2]  # x and y


def test_some_of_the_factors():
    found = factors().only(["place"])
    assert repr(found) == "Factors(6 items; place: 6)"
    assert repr(factors()) == "Factors(6 items; kind: 2 categories, place: 6)"
    assert found.values.equal(factors().values[:, 1:])
