"""What people's data are taken to be: counts, grey images and colour, and what is said of it."""

import math
import pickle
import re
import struct
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ppl_vae import VAE, evaluation, from_config, likelihoods, nets, posteriors, priors
from ppl_vae.cli import main
from ppl_vae.data import Dataset, SemiSupervised, from_file, from_folder, from_numpy, from_tensor
from ppl_vae.data.value_transform import prepare
from ppl_vae.io.config import ConfigError
from ppl_vae.report.evaluation_data import EvaluationData
from ppl_vae.report.pair_data import pair_data
from ppl_vae.training import data_summary, fit

COUNTS = torch.randint(0, 100, (20, 4), generator=torch.Generator().manual_seed(0))
GREY = torch.randint(0, 256, (20, 8, 6), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
COLOUR = np.random.default_rng(0).integers(0, 256, (20, 8, 6, 3), dtype=np.uint8)
INTEGERS = [
    *(torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


def flat(likelihood=likelihoods.Poisson, size=4, **options):
    torch.manual_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(size, 4, hidden=[3])),
        likelihood=likelihood(nets.MLP(2, size, hidden=[3]), **options),
    )


class Constant(nn.Module):
    """A network whose output does not depend on z."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.full((4,), value))

    def forward(self, z):
        return self.value.expand(*z.shape[:-1], 4) + 0 * z.sum(-1, keepdim=True)


CONV = {
    "class": "VAE",
    "latent_dim": 2,
    "posterior": {
        "class": "DiagonalNormal",
        "net": {"class": "ConvEncoder", "channels": [2], "hidden": [3]},
    },
    "likelihood": {
        "class": "Bernoulli",
        "net": {"class": "ConvDecoder", "channels": [2], "hidden": [3]},
    },
}


# ------------------------------------------------------------------------------------------ counts


def seen_by(pair, data):
    prepared, transform = prepare(pair, data)
    return transform.values(prepared, torch.arange(len(data)))


@pytest.mark.parametrize("likelihood", [likelihoods.Poisson, likelihoods.NegativeBinomial])
@pytest.mark.parametrize("dtype", [*INTEGERS, torch.float64])
@pytest.mark.parametrize("make", [Dataset, from_tensor, lambda x: from_numpy(x.numpy())])
def test_integers_of_any_dtype_are_counts(likelihood, dtype, make):
    data = make(COUNTS.to(dtype))
    prepared, transform = prepare(flat(likelihood), data)
    assert transform.binarise == "none"
    assert torch.equal(transform.values(prepared, torch.arange(20)), COUNTS.float())
    flat(likelihood).check(data)


def test_training_and_evaluation_see_the_same_counts():
    options = {"steps": 2, "seed": 0, "progress": False}
    losses, likelihood = [], []
    for x in (COUNTS.float(), COUNTS, COUNTS.to(torch.uint8)):
        data, pair = Dataset(x), flat()
        losses.append(fit(pair, data, validation=data, **options).history["loss"].tolist())
        losses.append(fit(flat(), x, **options).history["loss"].tolist())
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="fewer than 25 samples"):
            likelihood.append(evaluation.log_likelihood(pair, data, num_samples=3).log_px.tolist())
        reported = pair_data("VAE", pair, EvaluationData.of(data))
        assert torch.equal(reported.x, COUNTS.float())
    assert all(loss == losses[0] for loss in losses)
    assert likelihood[0] == likelihood[1] == likelihood[2]


def test_bytes_under_a_poisson_have_its_mass():
    """log p(x | z) = Σ x log μ - μ - log x! of counts, and not of shares of 255."""
    pair = flat().replace(likelihood=likelihoods.Poisson(Constant(50.0))).double()
    x = COUNTS.double()
    exact = (x * math.log(50.0001) - 50.0001 - torch.lgamma(x + 1)).sum(-1).mean()
    data = from_tensor(COUNTS.to(torch.uint8))
    got = evaluation.elbo_terms(pair, data).reconstruction.mean
    assert got == pytest.approx(-exact.item(), rel=1e-9)


def test_a_scale_that_was_given_is_followed():
    data = from_tensor(COUNTS.to(torch.uint8), scale=255)
    with pytest.raises(ValueError, match="counts are whole numbers that no scale divides"):
        fit(flat(), data, steps=1, progress=False)
    same = Dataset(COUNTS.to(torch.uint8), scale=1)
    assert torch.equal(seen_by(flat(), same), COUNTS.float())
    for whole in (data, data.subset([0, 1]), data.split(0.5)[0], data.to("cpu")):
        assert whole.as_counts().scale == 255
    left_out = from_tensor(COUNTS.to(torch.uint8))
    for whole in (left_out, left_out.subset([0, 1]), left_out.split(0.5)[0], left_out.to("cpu")):
        assert (whole.scale, whole.as_counts().scale) == (255, 1)


def test_integers_are_exact_or_refused():
    """Never rounded without a word: float32 has all integers to 2^24, float64 to 2^53."""
    below, above = (Dataset(COUNTS - COUNTS.max() + 2**24 + by, name="n") for by in (0, 1))
    got = seen_by(flat(), below)
    assert torch.equal(got.long(), below.values)
    for call in (
        lambda: above.draw(torch.arange(20), binarise="none"),
        lambda: fit(flat(), above, steps=1, progress=False),
        lambda: fit(flat(likelihoods.Normal), above, steps=1, progress=False),
        lambda: prepare(flat(), Dataset(above.values.double(), name="n")),
    ):
        if above.values.max() > 2**24:
            with pytest.raises(
                ValueError, match=r"integers of 'n' must be at most 16777216 .*; use float64"
            ):
                call()


def test_large_integers_in_float64():
    data = Dataset(COUNTS + 2**30, name="n")
    pair = flat()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        got = seen_by(pair.double(), data)
        with pytest.raises(ValueError, match=r"at most 16777216 for torch.float32"):
            prepare(pair.float(), data)
        with pytest.raises(ValueError, match=r"at most 9007199254740992 for"):
            Dataset(COUNTS + 2**53, name="n").draw(torch.arange(2), binarise="none")
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(got.long(), data.values)


def test_what_no_integer_of_torch_holds_is_refused():
    with pytest.raises(ValueError, match=r"values must be below 2\^63"):
        from_numpy(np.full((2, 3), 2**64 - 1, dtype=np.uint64))


@pytest.mark.usefixtures("as_users_see_it")
def test_integers_for_programs_of_ones_own_are_not_made_floating():
    class Own:
        model = guide = nn.Linear(4, 4)

    with pytest.raises(TypeError, match=r"must be floating, .* torch.int64; give data.float\(\)"):
        fit(Own(), COUNTS, steps=1, progress=False)


# ------------------------------------------------------------------------------------------ images


def test_grey_images_are_of_one_channel():
    """(N, H, W) trains as (N, 1, H, W) does, bit for bit."""
    losses = []
    for values in (GREY, GREY.unsqueeze(1)):
        data = from_tensor(values)
        torch.manual_seed(0)
        pair = from_config(CONV, data=data)
        assert pair.observation.event_shape == (1, 8, 6)
        fitted = fit(pair, data, steps=3, validation=data, seed=0, progress=False)
        losses.append([*fitted.history["loss"], *fitted.validation["loss"]])
    assert losses[0] == losses[1]
    with pytest.raises(ValueError, match=r"arranged: items must be .* got Dataset"):
        from_tensor(GREY).arranged((1, 6, 8))


def test_images_without_a_channel_are_given_those_with_one():
    shape = (8, 6)
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nn.Sequential(nn.Flatten(-2), nn.Linear(48, 4))),
        likelihood=likelihoods.Bernoulli(
            nn.Sequential(nn.Linear(2, 48), nn.Unflatten(-1, shape)), event_dim=2
        ),
    )
    prepared, _ = prepare(pair, from_tensor(GREY.unsqueeze(1)))
    assert torch.equal(prepared.values, GREY)
    assert prepared.conversions == ("(1, 8, 6) taken as (8, 6)",)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_last_are_recognised(channels, tmp_path):
    x = np.resize(COLOUR, (20, 8, 6, channels))
    np.savez(tmp_path / "x.npz", x=x, mask=x > 10)
    first = np.moveaxis(x, -1, 1)
    for data in (from_numpy(x), from_tensor(torch.tensor(x)), from_file(tmp_path / "x.npz")):
        assert np.array_equal(data.values.numpy(), first)
        assert data.conversions == (f"channels last, (8, 6, {channels}), made first",)
        assert data.conversions[0] in repr(data)
    assert np.array_equal(from_file(tmp_path / "x.npz").mask.numpy(), first > 10)
    assert from_numpy(first).conversions == ()


def test_what_may_be_either_is_refused():
    x = np.resize(COLOUR, (5, 3, 32, 3))
    with pytest.raises(
        ValueError, match=r"\(N, 3, 32, 3\) may have 3 channels first or 3 last; give"
    ):
        from_numpy(x)
    assert from_numpy(x, channels="first").event_shape == (3, 32, 3)
    assert from_numpy(x, channels="last").event_shape == (3, 3, 32)
    assert from_numpy(x[:, :1]).event_shape == (1, 32, 3), "no image is one pixel high"
    with pytest.raises(ValueError, match='channels must be "first", "last" or None, got'):
        from_numpy(x, channels="middle")
    with pytest.raises(ValueError, match="channels='last' needs images of three dimensions"):
        from_numpy(x[..., 0], channels="last")


def test_channels_last_never_train_as_so_many_channels():
    data = Dataset(torch.tensor(COLOUR))  # as it is, and so refused
    with pytest.raises(ConfigError, match=r"channels first, .*give x.permute\(0, 3, 1, 2\)"):
        from_config(CONV, data=data)
    pair = from_config(CONV, data=from_numpy(COLOUR))
    assert pair.observation.event_shape == (3, 8, 6)
    with pytest.raises(ValueError, match=r"give x.permute\(0, 3, 1, 2\)"):
        fit(pair, data, steps=1, progress=False)


@pytest.mark.parametrize("shape", [(3, 32), (48, 3), (1, 48)])
def test_two_dimensions_that_may_be_channels_are_refused(shape):
    x = torch.zeros(4, *shape)
    with pytest.raises(ConfigError, match=r"may be grey images, or channels .*write") as caught:
        from_config(CONV, data=Dataset(x))
    advice = re.search(r"event_shape: (\[.*\])", str(caught.value)).group(1)
    same = {"posterior": "DiagonalNormal", "likelihood": "Bernoulli"}
    if min(shape) > 1:
        pair = from_config({**CONV, "event_shape": eval(advice)}, data=Dataset(x))
        assert pair.observation.event_shape == (1, *shape)
    assert from_config({**CONV, **same}, data=Dataset(x)).observation.event_shape == (x[0].numel(),)


@pytest.mark.parametrize("shape", [(48,), (8, 6), (1, 8, 6)])
def test_a_full_configuration_keeps_its_own_shape(shape):
    """What the advice leads to: the second reading is of a mapping without event_shape."""
    from ppl_vae import to_config

    data = Dataset(torch.rand(4, *shape))
    pair = from_config({**CONV, "event_shape": [1, 8, 6]}, data=data)
    again = from_config(to_config(pair), data=data)
    assert again.observation.event_shape == (1, 8, 6)
    with pytest.raises(ConfigError, match=r"model.posterior.net.image_shape is \[1, 8, 6\]"):
        from_config(to_config(pair), data=Dataset(torch.rand(4, 6, 8)))


# ----------------------------------------------------------------------------------------- folders


def deep_png(path, bits=16, colour=2):
    """A PNG of 16 bits per channel, which Pillow writes for grey alone."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    rows = b"".join(b"\0" + bytes(range(24)) for _ in range(4))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, colour, 0, 0, 0))
    body = header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.fixture
def colours(tmp_path):
    for i, page in enumerate(COLOUR[:3]):
        Image.fromarray(page).save(tmp_path / f"{i}.png")
    return tmp_path


def test_colour_is_kept(colours):
    data = from_folder(colours)
    assert np.array_equal(data.values.numpy(), np.moveaxis(COLOUR[:3], -1, 1))
    assert data.conversions == ()


def test_grey_folders_stay_grey(tmp_path):
    for i, page in enumerate(GREY[:3].numpy()):
        Image.fromarray(page).save(tmp_path / f"{i}.png")
    data = from_folder(tmp_path)
    assert torch.equal(data.values, GREY[:3].unsqueeze(1))
    assert data.conversions == ()
    assert from_folder(tmp_path, grey=False).conversions == (
        "grey made three equal channels in 3 of 3 images",
    )


@pytest.mark.parametrize("name", ["_.png", "z.png"])  # before all the others, and after them
def test_one_image_with_colour_makes_all_of_colour(colours, name):
    Image.fromarray(GREY[0].numpy()).save(colours / name)
    data = from_folder(colours)
    at = {"_.png": 3, "z.png": 3}[name]  # '_' sorts after digits
    assert torch.equal(data.values[at], GREY[0].expand(3, -1, -1))
    assert np.array_equal(data.values[:3].numpy(), np.moveaxis(COLOUR[:3], -1, 1))
    assert data.conversions == ("grey made three equal channels in 1 of 4 images",)


def test_colour_after_grey(tmp_path):
    for i in range(2):
        Image.fromarray(GREY[i].numpy()).save(tmp_path / f"{i}.png")
    Image.fromarray(COLOUR[0]).save(tmp_path / "2.png")
    data = from_folder(tmp_path)
    assert torch.equal(data.values[:2], GREY[:2, None].expand(-1, 3, -1, -1))
    assert np.array_equal(data.values[2].numpy(), COLOUR[0].transpose(2, 0, 1))
    assert data.conversions == ("grey made three equal channels in 2 of 3 images",)


def saved(image, path, kind, **options):
    image.save(path / f"one.{kind}", **options)


PAGE = Image.fromarray(COLOUR[0])
FORMATS = {
    "alpha": (
        lambda p: saved(PAGE.convert("RGBA"), p, "png"),
        (3, 8, 6),
        ["alpha (transparency) dropped in 1 of 1 images"],
    ),
    "grey with alpha": (
        lambda p: saved(PAGE.convert("LA"), p, "png"),
        (1, 8, 6),
        ["alpha (transparency) dropped in 1 of 1 images"],
    ),
    "palette": (
        lambda p: saved(PAGE.quantize(16), p, "png"),
        (3, 8, 6),
        ["palette made colours in 1 of 1 images"],
    ),
    "grey palette": (
        lambda p: saved(PAGE.convert("L"), p, "gif"),
        (1, 8, 6),
        ["palette made grey values in 1 of 1 images"],
    ),
    "bits": (lambda p: saved(PAGE.convert("1"), p, "png"), (1, 8, 6), []),
    "cmyk": (
        lambda p: saved(PAGE.convert("CMYK"), p, "jpg"),
        (3, 8, 6),
        ["CMYK converted to RGB in 1 of 1 images"],
    ),
    "frames": (
        lambda p: saved(PAGE, p, "gif", save_all=True, append_images=[Image.fromarray(COLOUR[1])]),
        (3, 8, 6),
        [
            "frames after the first dropped in 1 of 1 images",
            "palette made colours in 1 of 1 images",
        ],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_conversion_is_told(name, tmp_path):
    make, shape, conversions = FORMATS[name]
    make(tmp_path)
    data = from_folder(tmp_path)
    assert data.event_shape == shape
    assert list(data.conversions) == conversions


def test_sizes_and_grey_that_were_asked_for_are_told(colours):
    Image.new("RGB", (4, 4)).save(colours / "small.png")
    data = from_folder(colours, size=4, grey=True)
    assert data.event_shape == (1, 4, 4)
    assert sorted(data.conversions) == [
        "colour made grey in 4 of 4 images",
        "resized to 4 x 4 in 3 of 4 images",
    ]


def test_more_than_8_bits_are_refused_in_colour_too(tmp_path):
    deep_png(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"mode RGB of more than 8 bits per channel; save it with"):
        from_folder(tmp_path)
    (tmp_path / "a.png").unlink()
    (tmp_path / "a.pgm").write_bytes(b"P6\n2 2\n1023\n" + bytes(24))
    with pytest.raises(ValueError, match="more than 8 bits per channel"):
        from_folder(tmp_path)


# ------------------------------------------------------------------------------- what is said of it


def test_what_data_are_taken_to_be_in_two_lines():
    mask = torch.ones(20, 8, 6, dtype=torch.bool)
    mask[:10] = False
    grey = from_tensor(GREY, torch.arange(20) % 2, mask=mask, name="faces")
    lines = data_summary(flat(likelihoods.Bernoulli, 48), grey, grey).splitlines()
    low, high = GREY[10:].min(), GREY[10:].max()
    assert lines == [
        f"data: 'faces', 20 to train and 20 to validate, of shape (8, 6), flattened; uint8 from "
        f"{low} to {high}, divided by 255; 50 % missing; 2 classes",
        "likelihood: Bernoulli, of 0 and 1; grey values are drawn as 0 or 1 anew at each step "
        "(ContinuousBernoulli takes them as they are)",
    ]


KINDS = {
    "counts": (likelihoods.Poisson, COUNTS, "whole numbers (counts); values are taken as they are"),
    "bits": (likelihoods.Bernoulli, COUNTS % 2, "0 and 1; values are taken as they are"),
    "real": (likelihoods.Normal, COUNTS / 1, "real numbers (a density); values are taken as"),
    "grey": (likelihoods.ContinuousBernoulli, COUNTS / 99, "real numbers in [0, 1] (a density); v"),
    "levels": (likelihoods.Categorical, COUNTS % 2, "k / 1 for k = 0, ..., 1; values are taken as"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_second_line_is_of_the_likelihood(kind):
    likelihood, x, told = KINDS[kind]
    net = nets.MLP(2, 8 if kind == "levels" else 4, hidden=[3])
    options = {"levels": 2} if kind == "levels" else {}
    pair = flat().replace(likelihood=likelihood(net, **options))
    data, of = data_summary(pair, Dataset(x)).splitlines()
    assert of.startswith(f"likelihood: {likelihood.__name__}, of {told}")
    assert data_summary(pair, x).splitlines()[1] == of
    dtype = str(x.dtype).removeprefix("torch.")
    assert data == (
        f"data: 'data', 20 of shape (4,); {dtype} from {x.min().item():.6g} to "
        f"{x.max().item():.6g}, as they are; nothing missing; no labels"
    )


def test_data_that_a_pair_cannot_take_are_not_told_of():
    pair = flat().replace(likelihood=likelihoods.Poisson(nets.MLP(2, 4, hidden=[3])))
    with pytest.raises(ValueError, match="counts are whole numbers that no scale divides"):
        data_summary(pair, Dataset(COUNTS, scale=255))


def test_what_fit_refuses_or_takes_is_so_in_the_summary():
    bernoulli = flat(likelihoods.Bernoulli, 48)
    grey = from_tensor(GREY, name="faces")
    for refused in (data_summary, partial(fit, steps=1, progress=False)):
        with pytest.raises(ValueError, match="outside the support of the Bern"):
            refused(bernoulli, grey.batches(5, binarise="none"))
    values = np.random.default_rng(0).random((20, 48)).round()
    quiet = {"steps": 1, "progress": False}
    assert "20 of shape (48,)" in data_summary(bernoulli, values)
    fit(bernoulli, values, **quiet)
    assert "divided by 255" in data_summary(
        flat(likelihoods.Normal, 48), grey.batches(5, binarise="none")
    )
    built = from_config({"class": "VAE", "latent_dim": 2, "likelihood": "Bernoulli"}, data=values)
    assert built.observation.event_shape == (48,)


def test_a_scale_that_was_given_counts_also_after_replace(tmp_path):
    grey = Dataset(torch.randint(0, 256, (9, 12), dtype=torch.uint8))
    few = Dataset(torch.randint(0, 40, (9, 12), dtype=torch.uint8))
    assert (grey.scale, grey.as_counts().scale) == (255, 1)
    assert replace(few, scale=50.0).as_counts().scale == 50  # as Dataset(values, scale=50)
    assert replace(grey, values=torch.randn(9, 12)).scale == 1
    assert replace(grey, values=torch.ones(9, 12, dtype=torch.uint8)).scale == 255
    np.save(tmp_path / "x.npy", np.ones((9, 3), "f4"))
    mapped = from_file(tmp_path / "x.npy", memory_map=True)
    assert mapped.is_memory_mapped
    assert not replace(mapped, values=torch.rand(4, 3)).is_memory_mapped
    assert not pickle.loads(pickle.dumps(mapped)).is_memory_mapped  # it holds the values


def test_batches_are_told_as_they_are_drawn():
    grey = from_tensor(GREY, torch.arange(20) % 2, name="faces")
    normal = flat(likelihoods.Normal, 48)
    noisy = data_summary(normal, grey.batches(5, binarise="none", dequantise=True))
    assert noisy.endswith("; noise u is added at each step, (k + u) / 256")
    some = SemiSupervised(grey, [0, 1, 2], batch_size=5, binarise="none")
    assert "2 classes, 3 of 20 labels seen" in data_summary(normal, some)
    with pytest.raises(TypeError, match="data_summary: data must be a Dataset"):
        data_summary(normal, [GREY.float()])


def typed(capsys, *words):
    code = main(["fit", *words, "--quiet", "--fit.steps", "2", "--out", "run"])
    said = capsys.readouterr()
    return code, said.out.splitlines(), said.err


def test_the_command_line_says_it_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("faces.npy", GREY.numpy())
    config = "model: {}\n".format(str(CONV).replace("'", ""))
    (tmp_path / "conv.yaml").write_text(config)
    code, lines, _ = typed(capsys, "conv.yaml", "--data", "faces.npy")
    assert code == 0
    assert lines[0].startswith(
        "data: 'faces', 16 to train and 2 to validate, of shape (1, 8, 6); uint8"
    )
    assert lines[1].startswith("likelihood: Bernoulli, of 0 and 1; grey values are drawn as 0 or 1")
    assert lines[2] == "converted: (8, 6) taken as (1, 8, 6)"
    assert main(["reconstruct", "run", "-n", "2"]) == 0


def test_advice_at_the_command_line_works_when_it_is_followed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("faces.npy", GREY.numpy().reshape(20, -1))
    (tmp_path / "conv.yaml").write_text("model: {}\n".format(str(CONV).replace("'", "")))
    code, _, error = typed(capsys, "conv.yaml", "--data", "faces.npy")
    assert code == 2
    assert "give event_shape: [channels, height, width]" in error
    words = ("conv.yaml", "--data", "faces.npy", "--model.event_shape", "[1, 8, 6]")
    assert typed(capsys, *words)[0] == 0


def test_counts_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("counts.npy", COUNTS.numpy().astype(np.uint8))
    narrow = ["--model.posterior.net.hidden", "[3]", "--likelihood", "Poisson"]
    code, lines, _ = typed(capsys, "vae", "--data", "counts.npy", *narrow)
    assert code == 0
    assert "uint8 from 0 to " in lines[0]
    assert ", as they are; nothing missing; no labels" in lines[0]
    assert (
        lines[1] == "likelihood: Poisson, of whole numbers (counts); values are taken as they are"
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_photographs_are_turned_as_the_camera_was(tmp_path, suffix):
    pixels = np.zeros((16, 24), dtype=np.uint8)
    pixels[:8, :8] = 255  # the upper left corner, and the upper right one after a turn clockwise
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # a quarter clockwise
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    found = from_folder(tmp_path)
    assert found.conversions == ("rotated by its EXIF orientation in 1 of 1 images",)
    expected = torch.from_numpy(np.rot90(pixels, -1).copy()).int()
    assert found.event_shape == (1, 24, 16)
    assert (found.values[0, 0].int() - expected).abs().max() < 20  # JPEG is not exact


def test_what_macos_puts_into_an_archive_is_no_class(tmp_path):
    for folder in ("a", "b", "__MACOSX/a", ".cache"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(COLOUR[0]).save(tmp_path / folder / "0.png")
    data = from_folder(tmp_path)
    assert data.classes == ("a", "b")
    assert len(data) == 2
