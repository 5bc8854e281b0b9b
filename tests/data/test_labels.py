"""Labels of a data set: numbers, whole floats and strings; -1, NaN and nothing are no label."""

import json
import warnings

import numpy as np
import pytest
import torch
import yaml
from evaluated import conditional
from matplotlib.figure import Figure
from pairs import D, ssvae
from PIL import Image

from ppl_vae import data, evaluation, plots
from ppl_vae.cli import main
from ppl_vae.data import Dataset, SemiSupervised, from_file, from_folder, from_numpy, from_tensor
from ppl_vae.evaluation import clustering, expected_calibration_error, linear_probe
from ppl_vae.report import report
from ppl_vae.training import fit

NAN = float("nan")
VARIABLE = getattr(np.dtypes, "StringDType", lambda: object)()
# What is given -> the numbers and the names.
GIVEN = {
    "a tensor": (torch.tensor([1, -1, 0, 2]), [1, -1, 0, 2], None),
    "a list": ([1, -1, 0, 2], [1, -1, 0, 2], None),
    "none": ([1, None, 0, 2], [1, -1, 0, 2], None),
    "whole floats": (torch.tensor([1.0, NAN, 0.0, -1.0]), [1, -1, 0, -1], None),
    "half precision": (np.array([1, NAN, 0, 2], np.float16), [1, -1, 0, 2], None),
    "unsigned": (np.array([1, 3, 0, 2], np.uint16), [1, 3, 0, 2], None),
    "other bytes": (np.array([1, -1, 0, 2], ">i4"), [1, -1, 0, 2], None),
    "backwards": (np.array([2, 0, -1, 1])[::-1], [1, -1, 0, 2], None),
    "hidden": (np.ma.masked_array([1, 7, 0, 2], [0, 1, 0, 0], "u1"), [1, -1, 0, 2], None),
    "objects": (np.array([1, NAN, 0.0, None], object), [1, -1, 0, -1], None),
    "strings": (np.array(["dog", "", "cat", "dog"]), [1, -1, 0, 1], ("cat", "dog")),
    "names": (["dog", None, "cat", NAN], [1, -1, 0, -1], ("cat", "dog")),
    "bytes": (np.array([b"dog", b"", b"cat", b"dog"]), [1, -1, 0, 1], ("cat", "dog")),
    "of any length": (np.array(["dog", "", "cat", "dog"], VARIABLE), [1, -1, 0, 1], ("cat", "dog")),
    "hidden strings": (
        np.ma.masked_array(["dog", "a", "cat", "dog"], [0, 1, 0, 0]),
        [1, -1, 0, 1],
        ("cat", "dog"),
    ),
    "hidden objects": (
        np.ma.masked_array(np.array(["dog", [], "cat", "dog"], object), [0, 1, 0, 0]),
        [1, -1, 0, 1],
        ("cat", "dog"),
    ),
    "no label at all": ([None] * 4, [-1] * 4, None),
    "empty strings alone": ([""] * 4, [-1] * 4, None),
}
X = torch.arange(8.0).reshape(4, 2) / 8


@pytest.mark.parametrize("case", GIVEN)
def test_labels_come_in_many_kinds(case):
    given, numbers, names = GIVEN[case]
    for make in (Dataset, from_tensor, lambda x, y: from_numpy(x.numpy(), y)):
        dataset = make(X, given)
        assert dataset.labels.dtype == torch.int64
        assert dataset.labels.tolist() == numbers
        assert dataset.classes == names
        assert dataset.labelled.tolist() == [n >= 0 for n in numbers]


def test_what_a_mask_hides_is_not_looked_at():
    hidden = np.ma.masked_array([1.0, 0.5, -7.0, 0.0], [0, 1, 1, 0])
    assert Dataset(X, hidden).labels.tolist() == [1, -1, -1, 0]


WRONG = {
    "a fraction": ([0.5, 1, 2, 3], ValueError, "whole numbers, got 0.5; give class numbers .* -1"),
    "infinity": ([0, np.inf, 1, 2], ValueError, "whole numbers, got inf"),
    "negative": ([0, -2, 1, 2], ValueError, "-1 or more, got -2"),
    "booleans": (np.array([True, False] * 2), TypeError, "got a tensor .* torch.bool"),
    "both": (["cat", 1, 2, 3], TypeError, "all strings or all numbers, got int, str"),
    "lists": ([[1], [2], [3], [4]], TypeError, "all strings or all numbers, got list"),
    "nan as a word": (
        np.array(["cat", "nan"] * 2),
        ValueError,
        "have the string 'nan', .* give '' for an unl",
    ),
    "-1 as a word": (np.array(["cat", -1] * 2), ValueError, "have the string '-1'"),
    "a word": ("abcd", TypeError, "a tensor, an array or a list, got str"),
    "too few": (["a", "b"], ValueError, r"shape \(4,\), got an array of shape \(2,\) .*U1"),
    "no text": (np.array([b"\xff"] * 4), TypeError, "must be text, got bytes"),
    "dates": (np.array(["2020"] * 4, "M8[Y]"), TypeError, "numeric array, got dtype datetime64"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("case", WRONG)
def test_labels_that_are_none_are_refused(case):
    given, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        Dataset(X, given)


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize(
    ("labels", "classes", "error", "message"),
    [
        (["a", "b", "c", "a"], ["b", "a"], ValueError, r"among the classes \('b', 'a'\), got 'c'"),
        ([0, 1, 2, 1], ["a", "b"], ValueError, "less than 2, the number of classes, got 2"),
        ([0, 1, 0, 1], ["a", "a"], ValueError, "distinct"),
        ([0, 1, 0, 1], ["a", ""], ValueError, "not empty"),
        ([0, 1, 0, 1], ["a", 1], TypeError, "classes must be strings, got 1"),
        ([0, 1, 0, 1], "ab", TypeError, "classes must be a sequence of strings"),
        (None, ["a", "b"], ValueError, "classes name the labels, and 'data' has none"),
    ],
)
def test_classes_that_name_nothing_are_refused(labels, classes, error, message):
    with pytest.raises(error, match=message):
        Dataset(X, labels, classes=classes)


def test_classes_say_how_names_are_numbered():
    few = Dataset(X, ["b", None, "a", "b"], classes=["c", "b", "a"])
    assert few.labels.tolist() == [1, -1, 2, 1]
    assert few.num_classes == 3
    assert Dataset(X, [1, 0, -1, 0], classes=("no", "yes")).classes == ("no", "yes")
    assert few.subset([2, 0]).classes == few.to("cpu").classes == ("c", "b", "a")
    assert few.binarised().classes == few.classes
    assert Dataset(X, ["nan", "a", "a", "a"], classes=["nan", "a"]).labels.tolist() == [0, 1, 1, 1]


def test_a_data_set_says_what_labels_it_has():
    assert repr(Dataset(X, [0, 1, 2, 2])).endswith("/ 1, 3 classes)")
    assert repr(Dataset(X, [0, -1, 2, -1])).endswith("3 classes, 2 without a label)")
    assert repr(Dataset(X, ["b", "a", "", "a"])).endswith("2 classes (a, b), 1 without a label)")
    assert repr(Dataset(X, [NAN] * 4)).endswith("no labels)")
    many = repr(Dataset(torch.ones(99, 1), [f"class number {i}" for i in range(99)]))
    assert len(many) < 300


PARTLY = torch.tensor([0] * 40 + [1] * 20 + [-1] * 60)


def test_what_has_no_label_is_no_class():
    dataset = Dataset(torch.rand(120, 2), PARTLY)
    assert dataset.num_classes == 2
    _, test = dataset.split(0.25, seed=1)
    counts = [(test.labels == c).sum().item() for c in (0, 1, -1)]
    assert counts == [10, 5, 15]
    chosen = dataset.labelled_subset(3)
    assert dataset.labels[chosen].tolist() == [0] * 3 + [1] * 3
    fewer = dataset.labelled_subset(30, fewer=True)
    assert dataset.labels[fewer].bincount().tolist() == [30, 20]
    nobody = Dataset(torch.rand(3, 2), [-1] * 3)
    for call in (lambda: nobody.num_classes, lambda: nobody.labelled_subset(1)):
        with pytest.raises(ValueError, match="must have labels, got none for all 3 items"):
            call()


def test_labels_that_are_known_are_a_stream():
    x = torch.arange(120.0).reshape(120, 1) / 120
    dataset = Dataset(x, PARTLY)
    steps = SemiSupervised(dataset, batch_size=60, labelled_batch_size=7, binarise="none")
    for unlabelled, labelled in steps:
        assert len(unlabelled) == 60
        seen, y = labelled.args
        index = (seen * 120).round().long().flatten()
        assert torch.equal(PARTLY[index], y)
        assert (y >= 0).all()
    with pytest.raises(ValueError, match="items that have a label, got 1 of 2 without one"):
        SemiSupervised(dataset, [0, 119])
    with pytest.raises(ValueError, match="dataset must have labels"):
        SemiSupervised(Dataset(x, [-1] * 120))


def test_a_set_without_labels_is_the_unlabelled_stream():
    few, many = Dataset(torch.zeros(4, 1), ["a", "b", None, "a"]), Dataset(torch.ones(9, 1))
    options = {"batch_size": 9, "binarise": "none", "seed": 3}
    for steps in (SemiSupervised(few, many, **options), SemiSupervised(few, unlabelled=many)):
        unlabelled, labelled = next(iter(steps))
        assert (unlabelled.args[0] == 1).all()
        assert sorted(labelled.args[1].tolist()) == [0, 0, 1]
    with pytest.raises(TypeError, match="labelled must be indices if unlabelled is given"):
        SemiSupervised(few, many, unlabelled=many)


# -------------------------------------------------------------------------------------------- files


def test_labels_of_a_file_may_be_strings(tmp_path):
    np.savez(tmp_path / "a.npz", x=X.numpy(), y=np.array(["b", "", "a", "b"]))
    dataset = from_file(tmp_path / "a.npz")
    assert dataset.labels.tolist() == [1, -1, 0, 1]
    assert dataset.classes == ("a", "b")
    assert from_file(tmp_path / "a.npz", classes=["b", "a"]).labels.tolist() == [0, -1, 1, 0]


def test_arrays_of_a_file_are_taken_by_name(tmp_path):
    x, seen = X.numpy(), np.array([[True, False]] * 4)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(4), seen=seen, x_test=x, x=x + 1)
    dataset = from_file(tmp_path / "a.npz", x="x_train", y="y_train", mask="seen")
    assert torch.equal(dataset.values, X)
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(dataset.mask, torch.from_numpy(seen))
    assert from_file(tmp_path / "a.npz", x="x_test").labels is None


def test_folders_of_classes_have_their_names(tmp_path):
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name / "1.png")
    assert from_folder(tmp_path).classes == ("cat", "dog")
    again = from_folder(tmp_path, classes=["dog", "bird", "cat"])
    assert again.labels.tolist() == [2, 0]
    assert again.num_classes == 3


# ----------------------------------------------------------------------------------------- training


def binary_data(labels, **options):
    x = torch.randint(0, 2, (len(labels), D), generator=torch.Generator().manual_seed(0))
    return Dataset(x.to(torch.uint8), labels, **options)


SOME = [0, 1, -1, 2, -1, -1, 0, 1, 2, -1]


def quiet(pair, given, **options):
    return fit(pair, given, **{"steps": 2, "batch_size": 5, "progress": False, **options})


@pytest.mark.usefixtures("as_users_see_it")
def test_a_semi_supervised_pair_is_trained_on_labels_in_part():
    torch.manual_seed(0)
    pair, given = ssvae(alpha=1.0), binary_data(SOME)
    assert np.isfinite(quiet(pair, given, log_every=1).history["loss"]).all()
    with pytest.raises(ValueError, match=r"got values from -1 to 3"):
        quiet(pair, binary_data([*SOME[:-1], 3]))
    with pytest.raises(ValueError, match=r"4 of 10 have none; give data\.subset"):
        quiet(conditional(), given)
    quiet(conditional(), given.subset(given.labelled))


@pytest.mark.usefixtures("as_users_see_it")
def test_classes_of_the_validation_are_those_of_the_training():
    train = binary_data(["a", "b", "c"] * 4)
    other = binary_data(["b", "c", "d"] * 2)
    for given in (train, train.batches(4)):
        options = {} if given is train else {"batch_size": None}
        with pytest.raises(ValueError, match=r"fit: validation must have the classes .*'a', 'b', "):
            quiet(conditional(), given, validation=other, **options)
    quiet(conditional(), train, validation=binary_data(["c"] * 3, classes=train.classes))


@pytest.mark.usefixtures("as_users_see_it")
def test_a_training_goes_on_with_the_same_labels_alone(tmp_path):
    pair = ssvae()
    names = ["a", "b", None, "c", None]
    quiet(pair, binary_data(names), out=tmp_path)
    others = {
        "data.labels": binary_data(["a", "b", "a", "c", None]),
        "data.classes": binary_data(["a", "b", None, "d", None]),
    }
    for name, given in others.items():
        with pytest.raises(ValueError, match=f"cannot resume from .*: {name}"):
            quiet(pair, given, out=tmp_path, resume=True, steps=3)
    quiet(pair, binary_data(np.array(names)), out=tmp_path, resume=True, steps=3)


# --------------------------------------------------------------------------------------- evaluation


def test_data_without_a_label_are_left_out():
    torch.manual_seed(0)
    y = torch.tensor(SOME)
    known = y >= 0
    x = torch.randint(0, 2, (10, D)).float()
    pair, z, k = ssvae(), torch.randn(10, 2), torch.arange(10) % 4
    of = {
        "accuracy": lambda i: evaluation.accuracy(pair, x[i], y[i]),
        "clustering": lambda i: clustering(k[i], y[i]).accuracy,
        "probe": lambda i: linear_probe(z[i], y[i], z.flip(0)[i.flip(0)], y.flip(0)[i.flip(0)]),
        "neighbours": lambda i: evaluation.nearest_neighbours(z[i], y[i], z[i], y[i], neighbours=6),
    }
    whole = torch.ones(10, dtype=torch.bool)
    for name, call in of.items():
        assert call(whole) == call(known), name
        assert call(whole).count == 6
    p = pair.classify(x)
    assert expected_calibration_error(p, y).count.sum() == 6
    assert (
        expected_calibration_error(p, y).error
        == expected_calibration_error(p[known], y[known]).error
    )
    with pytest.raises(ValueError, match="at most the 6 training data, got 7"):
        evaluation.nearest_neighbours(z, y, z, y, neighbours=7)


FEW = {"num_samples": 4, "num_particles": (2,)}


@pytest.mark.usefixtures("as_users_see_it", "coarse")
def test_the_report_says_how_many_have_a_label(tmp_path):
    names = ["cat", "$dog$", "_cow", None] * 10
    given = binary_data(names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = report(ssvae(), given, tmp_path, train=given, **FEW)
    quantities = json.loads(found.numbers.read_text())["pairs"]["SemiSupervisedVAE"]["quantities"]
    assert quantities["data with a label"]["text"] == "30 of 40"
    page = found.page.read_text()
    assert "3 different ($dog$, _cow, cat); 10 data are unlabelled" in page
    with pytest.raises(ValueError, match="conditional on labels, and 10 of 40 data have none"):
        report(conditional(), given, tmp_path, **FEW)
    with pytest.raises(ValueError, match="report: data must have the classes of the training"):
        report(ssvae(), given, tmp_path, train=binary_data(["a", "b"] * 9), **FEW)


def test_pictures_name_the_classes():
    ax = Figure().subplots()
    labels = [0, 1, 2, -1]
    plots.latents(torch.randn(4, 2), labels, classes=("cat", "$dog$", "_cow"), ax=ax)
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["no label", "cat", r"\$dog\$", " _cow"]


# ------------------------------------------------------------------------------------- command line


NARROW = [
    *("--model.posterior.net.hidden", "[4]", "--model.likelihood.net.hidden", "[4]"),
    *("--model.classifier.hidden", "[4]", "--model.latent_dim", "2"),
    *("--fit.steps", "2", "--quiet", "--fit.batch_size", "10"),
]


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    y = np.array(["cat"] * 10 + ["dog"] * 20 + [""] * 70)
    x = (np.random.RandomState(0).rand(100, 4) > 0.5).astype(float)
    np.savez("pets.npz", pixels=x, animal=y, of=np.arange(3))
    return ["--data", "pets.npz", "--data.x", "pixels", "--data.y", "animal"]


@pytest.mark.usefixtures("as_users_see_it")
def test_labels_that_are_known_are_shown_by_command_line(pets, capsys):
    words = ["fit", "ssvae", *pets, *NARROW, "--out", "run"]
    assert main(words) == 0
    assert "shown for 24 of 81 training data (cat 8, dog 16)" in capsys.readouterr().err
    with open("run/config.yaml") as file:
        kept = yaml.safe_load(file)["data"]
    assert kept["classes"] == ["cat", "dog"]
    assert kept["labels"] is None
    assert main([*words[:-2], "--out", "few", "--data.labels", "20"]) == 0
    said = capsys.readouterr().err
    assert "shown for 18 of 81 training data, of 24 that have one (cat 8, dog 10)" in said
    # Whatever has become of the file, its classes keep their numbers.
    with np.load("pets.npz") as file:
        arrays = dict(file)
    arrays["animal"] = np.where(arrays["animal"] == "dog", "ape", arrays["animal"])
    np.savez("pets.npz", **arrays)
    assert main(["evaluate", "run", "--quiet"]) == 2
    assert "labels must be among the classes ('cat', 'dog'), got 'ape'" in capsys.readouterr().err


@pytest.mark.usefixtures("as_users_see_it")
def test_names_of_arrays_are_offered_by_command_line(pets, capsys):
    assert main(["fit", "vae", *pets[:2], *NARROW[:4], "--quiet"]) == 2
    assert "give the names of its arrays: --data.x, --data.y" in capsys.readouterr().err
    np.savez("none.npz", x=np.ones((20, 4)))
    words = ["fit", "ssvae", "--data", "none.npz", "--model.num_classes", "3", *NARROW]
    assert main(words) == 2
    assert "has no labels; give it some, y in a .npz file, -1" in capsys.readouterr().err


def test_named_data_have_labels_as_before():
    digits = data.load("digits")
    assert digits.classes is None
    assert digits.labelled.all()
