"""``ppl-vae encode``: what the file holds is what the pair gives, for every pair."""

import csv
import os

import numpy as np
import pyro
import pytest
import torch
from pairs import POSTERIORS, C, D, Z, net, ssvae, vae

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    data,
    io,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.cli import encode, main, sample

pytestmark = pytest.mark.usefixtures("as_users_see_it")
N = 30
RNG = np.random.default_rng(0)
X = RNG.integers(0, 2, (N, D), dtype=np.uint8)
NAMES = ("cat", "dog", "eel")


def conditional(**condition):
    width = C if "num_classes" in condition else 2
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + width, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + width, D)),
        **condition,
    )


def hierarchical():
    return HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[posteriors.DiagonalNormal(net(Z, 2 * 4))],
        posteriors=[
            posteriors.DiagonalNormal(net(D, 2 * 4)),
            posteriors.DiagonalNormal(net(4, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(net(4, D)),
    )


def stacked():
    second = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(4, C),
        posterior=posteriors.DiagonalNormal(net(4 + C, 2 * Z)),
        likelihood=likelihoods.Normal(net(Z + C, 4)),
        num_classes=C,
    )
    first = VAE(
        prior=priors.StandardNormal(4),
        posterior=posteriors.DiagonalNormal(net(D, 2 * 4)),
        likelihood=likelihoods.Bernoulli(net(4, D)),
    )
    return StackedVAE(first=first, second=second)


PAIRS = {
    "vae": vae,
    "flow": lambda: vae(posterior="spline flow"),
    "ssvae": ssvae,
    "conditional": lambda: conditional(num_classes=C),
    "hierarchical": hierarchical,
    "stacked": stacked,
}
MEANS = {**PAIRS, **{name: (lambda q=name: vae(posterior=q)) for name in POSTERIORS}}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with data, some of a name, in each form that a command takes."""
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", x=X, y=np.array(NAMES)[np.arange(N) % C])
    np.save("x.npy", X)


def encoded(*words):
    assert main(["encode", "pair", *words]) == 0


def arrays(file):
    with np.load(file) as found:
        return dict(found)


@pytest.mark.parametrize("name", MEANS)
def test_the_file_holds_the_means_of_every_pair(name):
    io.save(pair := MEANS[name](), "pair")
    encoded("x.npz", "--data.scale", "1", "--out", "z.npz")
    dataset = data.from_file("x.npz", scale=1)
    pyro.set_rng_seed(0)
    expected = pair.eval().encode(dataset)
    named = {"z": expected}
    if isinstance(expected, tuple):
        named = {f"z{i}": z for i, z in enumerate(expected, start=1)}
    found = arrays("z.npz")
    assert found.keys() == named.keys()
    for key, z in named.items():
        assert z.shape[0] == N
        np.testing.assert_array_equal(found[key], z)


@pytest.mark.parametrize(
    "name", ["vae", "conditional", "hierarchical", pytest.param("ssvae", marks=pytest.mark.slow)]
)
def test_draws_have_the_moments_of_the_posterior(name):
    torch.manual_seed(1)
    io.save(PAIRS[name](), "pair")
    words = ["x.npz", "--data.scale", "1"]
    encoded(*words, "--out", "mean.npz")
    encoded(*words, "--samples", "100", "--out", "draws.npz")
    means, draws = arrays("mean.npz"), arrays("draws.npz")
    assert draws.keys() == means.keys()
    first = "z1" if name == "hierarchical" else "z"  # z2's mean depends on the draw of z1
    z, mean = draws[first], means[first]
    assert z.shape == (100, *mean.shape)
    error = z.std(0) / 10
    if name != "ssvae":  # whose draws are of other labels, too
        assert (abs(z.mean(0) - mean) < 5 * error).all()
    assert (z.std(0) > 0).all()
    encoded(*words, "--samples", "100", "--out", "again.npz")
    np.testing.assert_array_equal(arrays("again.npz")[first], z)
    encoded(*words, "--samples", "100", "--seed", "1", "--out", "other.npz")
    assert not (arrays("other.npz")[first] == z).any()


def table(file):
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def test_each_kind_of_file_holds_the_same():
    io.save(vae(), "pair")
    words = ["x.npz", "--data.scale", "1"]
    for file in ("z.npy", "z.npz", "z.csv"):
        encoded(*words, "--out", file, *(["--labels"] if file != "z.npy" else []))
    z = np.load("z.npy")
    assert z.shape == (N, Z)
    assert z.dtype == np.float32
    found = arrays("z.npz")
    np.testing.assert_array_equal(found["z"], z)
    assert found["y"].tolist() == [NAMES[i % C] for i in range(N)]
    rows = table("z.csv")
    assert list(rows[0]) == ["z1", "z2", "label"]
    read = np.array([[row["z1"], row["z2"]] for row in rows], dtype=np.float32)
    np.testing.assert_array_equal(read, z)
    assert [row["label"] for row in rows] == found["y"].tolist()
    encoded(*words, "--samples", "3", "--out", "draws.csv")
    encoded(*words, "--samples", "3", "--out", "draws.npy")
    rows, draws = table("draws.csv"), np.load("draws.npy")
    assert draws.shape == (3, N, Z)
    for row in (rows[0], rows[4], rows[-1]):
        value = np.float32(row["z2"])
        assert value == draws[int(row["draw"]), int(row["row"]), 1]
    assert [(r["row"], r["draw"]) for r in rows[:4]] == [
        ("0", "0"),
        ("0", "1"),
        ("0", "2"),
        ("1", "0"),
    ]


def test_several_latents_have_columns_of_their_own():
    io.save(hierarchical(), "pair")
    encoded("x.npy", "--data.scale", "1", "--out", "z.csv")
    assert list(table("z.csv")[0]) == ["z1_1", "z1_2", "z1_3", "z1_4", "z2_1", "z2_2"]


def test_labels_that_are_numbers_or_missing(tmp_path):
    io.save(vae(), "pair")
    np.savez("n.npz", x=X, y=np.arange(N) % 3 - 1)
    encoded("n.npz", "--data.scale", "1", "--labels", "--out", "z.npz")
    assert arrays("z.npz")["y"].tolist() == [i % 3 - 1 for i in range(N)]
    np.savez("s.npz", x=X, y=np.array(["", "dog"])[np.arange(N) % 2])
    encoded("s.npz", "--data.scale", "1", "--labels", "--out", "z.csv")
    assert [row["label"] for row in table("z.csv")[:2]] == ["", "dog"]


def test_missing_values_are_not_seen():
    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D, 2 * Z)),
        likelihood=likelihoods.Normal(net(Z, D)),
    )
    io.save(pair, "pair")
    x = RNG.standard_normal((N, D)).astype(np.float32)
    x[:, 2] = np.nan
    np.save("gaps.npy", x)
    encoded("gaps.npy", "--data.missing", "nan", "--out", "z.npy")
    mask = torch.from_numpy(~np.isnan(x))
    expected = pair.eval().encode(torch.from_numpy(x).nan_to_num(), mask=mask)
    np.testing.assert_array_equal(np.load("z.npy"), expected)


def test_a_run_encodes_its_test_data_and_files_with_its_settings():
    narrow = ["--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"]
    np.savez("own.npz", images=RNG.integers(0, 8, (60, 6)), target=np.arange(60) % 3)
    own = ["--data", "own.npz", "--data.x", "images", "--data.y", "target", "--data.scale", "7"]
    words = ["--steps", "2", "--quiet", "--latent-dim", "2", "--out", "run"]
    assert main(["fit", "cvae", *own, *narrow, *words]) == 0
    assert main(["encode", "run"]) == 0
    assert arrays("run/latents.npz")["z"].shape == (6, 2)
    assert main(["encode", "run", "--out", "z.npy", "own.npz"]) == 0
    pair = io.load("run/model").eval()
    whole = data.from_file("own.npz", x="images", y="target", scale=7)
    np.testing.assert_array_equal(np.load("z.npy"), pair.encode(whole))
    np.save("x6.npy", np.ones((4, 6)))
    assert main(["encode", "run", "x6.npy", "--out", "z.npy"]) == 2  # no labels


def test_images_and_named_data(capsys):
    from PIL import Image

    pair = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 2 * Z, hidden=(4,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(Z, 64, hidden=(4,))),
    )
    io.save(pair, "pair")
    for name in ("a", "b"):
        os.makedirs(f"images/{name}")
        for i in range(2):
            Image.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)).save(
                f"images/{name}/{i}.png"
            )
    encoded("images", "--labels", "--out", "z.npz")
    found = arrays("z.npz")
    assert found["y"].tolist() == ["a", "a", "b", "b"]
    np.testing.assert_array_equal(found["z"], pair.eval().encode(data.from_folder("images")))
    for split, rows in (("train", 1437), ("test", 360)):
        encoded("digits", "--split", split, "--out", "z.npy")
        assert np.load("z.npy").shape == (rows, Z)
    assert f"latents: z.npy, means of the posterior, z (360, {Z})" in capsys.readouterr().out


def test_a_failure_leaves_the_file_as_it_was(monkeypatch):
    io.save(vae(), "pair")
    with open("z.npy", "w") as file:
        file.write("before")

    def fail(file, *arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device", file.name)

    monkeypatch.setattr("ppl_vae.cli.encode.np.save", fail)
    assert main(["encode", "pair", "x.npy", "--data.scale", "1", "--out", "z.npy"]) == 1
    with open("z.npy") as file:
        assert file.read() == "before"
    assert sorted(os.listdir()) == ["pair", "x.npy", "x.npz", "z.npy"]


WRONG = {
    "two latents": (hierarchical, ["--out", "z.npy"], "z.npy: there are 2 latents, z1, z2|.npz"),
    "no labels": (lambda: conditional(num_classes=C), [], "needs the label of every datum, and 30"),
    "vectors": (lambda: conditional(context_features=2), [], "conditioned on vectors"),
    "draws without a guide": (stacked, ["--samples", "2"], "--samples|a StackedVAE has none"),
    "labels": (vae, ["--labels"], "--labels: 'x' has no labels"),
    "width": (lambda: vae_of(5), [], "5"),
}


def vae_of(width):
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.MLP(width, 2 * Z)),
        likelihood=likelihoods.Bernoulli(nets.MLP(Z, width)),
    )


@pytest.mark.parametrize("case", WRONG)
def test_what_a_pair_cannot_do_is_said(case, capsys):
    make, words, named = WRONG[case]
    io.save(make(), "pair")
    before = sorted(os.listdir())
    out = [] if "--out" in words else ["--out", "z.npz"]
    assert main(["encode", "pair", "x.npy", "--data.scale", "1", *words, *out]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in named.split("|")), said
    assert len(said.splitlines()) <= 2
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(("dtype", "text"), [("float32", "0.1"), ("float64", "0.1000000014901161")])
def test_numbers_in_csv_have_the_digits_of_their_dtype(dtype, text, tmp_path):
    x = np.array([[float(text), 2.0]], dtype)
    encode._as_csv(tmp_path / "z.csv", {"z": x}, None)
    sample._as_csv(tmp_path / "x.csv", {"x": torch.from_numpy(x)})
    for file in ("z.csv", "x.csv"):
        assert (tmp_path / file).read_text().split()[1] == f"{text},2.0"


def test_data_are_never_written_over(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("mine.npy", X)
    words = ["--epochs", "1", "--data.scale", "1", "--quiet"]
    assert main(["fit", "vae", "--data", "mine.npy", "--out", "run", *words]) == 0
    capsys.readouterr()
    before = os.listdir(".")
    os.makedirs("faces/a")
    np.save("others.npy", X)
    for command in (
        "encode run mine.npy --out mine.npy",
        "encode run others.npy --out mine.npy",
        "encode run others.npy --out ./others.npy",
        "sample run --out mine.npy",
        "reconstruct run --out mine.npy",
        "encode run faces --out faces/a/z.npy",
    ):
        assert main(command.split()) == 2
        out = command.split()[-1]
        assert f"--out {out} would change the data, " in capsys.readouterr().err
    for file in ("mine.npy", "others.npy"):
        assert (np.load(file) == X).all()
    assert {*before, "faces", "others.npy"} == {*os.listdir(".")}


def test_commands_warn_of_data_that_have_changed_since(tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    os.makedirs("faces/a")
    np.save("mine.npy", X)
    words = ["--epochs", "1", "--data.scale", "1", "--quiet"]
    assert main(["fit", "vae", "--data", "mine.npy", "--out", "run", *words]) == 0
    os.utime("mine.npy", (1, 1))
    assert main(["reconstruct", "run", "--out", "x.csv"]) == 0
    assert main(["encode", "run", "--out", "z.npy"]) == 0
    assert not [w for w in recwarn if "has changed" in str(w.message)]
    np.save("mine.npy", X[::-1])
    for command in ("reconstruct run --out x.csv", "encode run --out z.npy"):
        with pytest.warns(UserWarning, match=r"mine.npy has changed since run was trained"):
            assert main(command.split()) == 0
    # The refused training does not take the new data for those of the run.
    assert main(["fit", "run", "--resume", "--epochs", "2", "--quiet"]) != 0
    with pytest.warns(UserWarning, match=r"mine.npy has changed since run was trained"):
        assert main(["encode", "run", "--out", "z.npy"]) == 0


def test_data_are_found_from_any_directory(tmp_path, monkeypatch, capsys):
    os.makedirs(tmp_path / "there/sub")
    os.makedirs(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "there")
    np.save("mine.npy", X)
    words = ["--steps", "1", "--data.scale", "1", "--quiet"]
    few = ["--num-samples", "3", "--quiet"]
    for name, source in (("run", "mine.npy"), ("same", "./mine.npy")):
        assert main(["fit", "vae", "--data", source, "--out", name, *words]) == 0
    monkeypatch.chdir(tmp_path / "here")
    run, mine = "../there/run", "../there/mine.npy"
    np.save("mine.npy", X[:20])  # the name as it was typed
    for command in ("sample", "reconstruct", "encode"):
        assert main([command, run, "--out", mine]) == 2
        assert f"--out {mine} would change the data, " in capsys.readouterr().err
        assert main([command, run, "--out", f"{run}/history.csv"]) == 2
        assert f"history.csv would change the run, {run}" in capsys.readouterr().err
    assert main(["encode", run, "--out", "Z.NPY"]) == 0
    assert len(np.load("Z.NPY")) == N // 10
    assert main(["sample", run, "-n", "4", "--out", "X.NPY"]) == 0
    assert len(np.load("X.NPY")) == 4
    assert main(["evaluate", run, *few]) == 0
    assert main(["report", run, "../there/same", *few, "--out", "report"]) == 0
    assert main(["fit", "vae", "--data", "mine.npy", "--out", "other", *words]) == 0
    assert main(["report", run, "other", *few]) == 2
    assert "data.name" in capsys.readouterr().err
    assert main(["fit", run, "--resume", "--steps", "2", "--quiet"]) == 0
    assert (np.load(mine) == X).all()


def test_data_are_found_where_they_were_moved_with_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("MINE.NPY", "wb") as file:
        np.save(file, X)
    words = ["--steps", "1", "--data.scale", "1", "--quiet"]
    assert main(["fit", "vae", "--data", "MINE.NPY", "--out", "run", *words]) == 0
    os.mkdir("moved")
    for name in ("run", "MINE.NPY"):
        os.rename(name, f"moved/{name}")
    assert main(["encode", "moved/run", "--out", "z.npy"]) == 0
    assert main(["encode", "moved/run", "--out", "moved/MINE.NPY"]) == 2
    os.rename("moved/MINE.NPY", "MINE.NPY")  # where it was
    assert main(["encode", "moved/run", "--out", "z.npy"]) == 0
    os.remove("moved/run/data.json")  # of earlier versions, where the name is from here
    assert main(["encode", "moved/run", "--out", "MINE.NPY"]) == 2
