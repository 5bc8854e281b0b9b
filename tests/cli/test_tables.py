"""``fit table``, ``impute`` and ``sample`` of a table: what is typed, written and refused."""

import csv
import inspect
import json
import os
import re
import shlex
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from ppl_vae import tables, training
from ppl_vae.cli import main
from ppl_vae.cli.class_names import table_settings
from ppl_vae.cli.commands import parsers
from ppl_vae.cli.runs import program

pytestmark = pytest.mark.usefixtures("as_users_see_it")
SMALL = ["--latent-dim", "2", "--hidden", "[8]", "--estimator.num-particles", "2", "--quiet"]
SMALL += ["--estimator", "ImportanceWeightedELBO", "--validate-every", "2"]
SIZES = "size={kind: ordinal, categories: [S, M, L]}"


def people(rows=60):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 80, rows),
            "smoker": rng.random(rows) < 0.3,
            "income": rng.lognormal(8, 0.5, rows).round(2),
            "children": rng.integers(0, 2, rows),
            "size": rng.choice(["S", "M", "L"], rows),
        }
    )
    return table.mask(rng.random(table.shape) < 0.1)


def fit(*words, steps=4):
    return main(["fit", "table", *words, *SMALL, "--steps", str(steps)])


def weights(run):
    return tables.load(run).pair_.state_dict()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def settings(run):
    with open(f"{run}/settings.yaml") as file:
        return yaml.safe_load(file)


def write_wrong_files():
    with open("wrong.yaml", "w") as file:
        file.write("data: people.csv\nstepz: 3\n")
    with open("list.yaml", "w") as file:
        file.write("[1, 2]\n")
    with open("ragged.csv", "w") as file:
        file.write("a,b\n1,2\n3\n")
    days = pd.date_range("2000-01-01", periods=60).astype(str)
    people().assign(day=days).to_csv("dates.csv", index=False)
    given = pd.read_csv("people.csv")
    given.drop(columns="size").to_csv("other.csv", index=False)
    given.assign(size=["S", "XL", *["M"] * 58]).to_csv("far.csv", index=False)
    given.assign(age=["young", *["old"] * 59]).to_csv("text.csv", index=False)
    given.assign(more=1).to_csv("more.csv", index=False)
    given.assign(age=["?", *map(str, range(59))]).to_csv("marked.csv", index=False)
    given.assign(time=10**9 + given.index + given.index % 2).to_csv("time.csv", index=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table and a run of it, for the tests that only look at them."""
    folder = tmp_path_factory.mktemp("tables")
    people().to_csv(folder / "people.csv", index=False)
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert fit("--data", "people.csv", "--kinds", SIZES, "--out", "run") == 0
        write_wrong_files()
    finally:
        os.chdir(here)
    return folder


@pytest.fixture(autouse=True)
def _here(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, ".", dirs_exist_ok=True)


def test_a_run_shows_the_kinds_and_ends_with_a_model_and_what_to_do_next(capsys):
    assert fit("--data", "people.csv", "--kinds", SIZES, "--out", "again") == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Schema of 5 columns (pandas)"
    assert [line.split()[:2] for line in shown[2:7]] == [
        ["age", "count"],
        ["smoker", "binary"],
        ["income", "positive"],
        ["children", "binary"],
        ["size", "ordinal"],
    ]
    assert shown[7].startswith("to correct a kind: --kinds NAME=KIND")
    assert shown[-4] == "4 steps"
    vae = tables.load("again")
    validation = pd.read_csv("again/validation.csv")
    best = validation.loc[validation["loss"].idxmin()]
    assert len(validation) == 2
    assert best["step"] == 4
    assert shown[-3].startswith(f"bound on held-out rows {-best['loss']:.2f} ± ")
    assert shown[-2:] == [
        "run: again",
        f"next: {program()} impute again people.csv --out filled.csv",
    ]
    assert vae.schema_["size"].categories == ("S", "M", "L")
    assert same(weights("again"), weights("run"))
    assert not vae.impute(people()).isna().any(axis=None)


def test_every_setting_of_the_run_is_written_and_repeats_it(capsys):
    written = settings("run")
    assert written["kinds"] == {
        "age": "count",
        "smoker": "binary",
        "income": "positive",
        "children": "binary",
        "size": {"kind": "ordinal", "categories": ["S", "M", "L"]},
    }
    assert written["posterior"]["class"] == "DiagonalNormal"
    assert written["estimator"]["num_particles"] == 2
    assert main(["fit", "table", "run/settings.yaml", "--out", "again", "--quiet"]) == 0
    assert same(weights("again"), weights("run"))
    capsys.readouterr()
    assert main(["fit", "table", "run/settings.yaml", "--seed", "3", "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {**written, "seed": 3}


def test_flags_follow_the_signature():
    parameters = inspect.signature(tables.TableVAE).parameters
    found = table_settings()
    assert parameters.keys() - found.keys() == {"make_pair", "progress"}
    for name, setting in found.items():
        default = "auto" if name == "device" else parameters[name].default  # of all commands
        assert setting.default == getattr(default, "__name__", default)
        assert setting.help
    flags = parsers()[1]["fit table"].flags
    assert {f"--{name.replace('_', '-')}" for name in found} <= set(flags)


def test_a_prolonged_run_is_the_long_one(capsys):
    assert fit("--data", "people.csv", "--kinds", SIZES, "--out", "long", steps=9) == 0
    assert main(["fit", "table", "run", "--resume", "--steps", "9", "--quiet"]) == 0
    assert "9 steps" in capsys.readouterr().out
    assert same(weights("run"), weights("long"))
    assert settings("run")["steps"] == 9
    assert settings("run")["device"] == "auto"  # as is written of other runs, and may change
    assert main(["fit", "table", "run", "--resume", "--device", "cpu", "--quiet"]) == 0
    assert settings("run")["device"] == "cpu"
    assert main(["fit", "table", "run", "--resume", "--device", "auto", "--quiet"]) == 0
    assert main(["fit", "table", "run", "--resume", "--learning-rate", "1e-4"]) == 2
    assert "--learning-rate = 0.001" in capsys.readouterr().err
    assert settings("run") == settings("long")


def test_a_signal_ends_a_run_with_the_command_that_resumes_it(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise training.Interrupted(3, signal.SIGTERM, "")

    with monkeypatch.context() as patched:
        patched.setattr(tables.TableVAE, "fit", interrupted)
        assert fit("--data", "people.csv", "--kinds", SIZES, "--out", "my run") == 143
    said = capsys.readouterr().err
    assert "SIGTERM after step 3, saved" in said
    assert said.endswith("fit table 'my run' --resume\n")
    assert main(["impute", "my run", "people.csv", "--out", "filled.csv"]) == 2
    assert "has not finished" in capsys.readouterr().err
    assert main(["fit", "table", "my run", "--resume", "--quiet"]) == 0
    assert same(weights("my run"), weights("run"))


def test_a_run_that_is_refused_leaves_nothing(capsys):
    assert fit("--data", "people.csv", "--families", "real=Cauchy", "--out", "a") == 2
    assert "'Cauchy'" in capsys.readouterr().err
    assert not os.path.exists("a")
    os.mkdir("mine")
    with open("mine/notes", "w"):
        pass
    assert fit("--data", "people.csv", "--batch-size", "0", "--out", "mine") == 2
    assert "--batch-size" in capsys.readouterr().err
    assert os.listdir("mine") == ["notes"]


def test_kinds_and_families_come_from_flags_and_files():
    with open("kinds.yaml", "w") as file:
        file.write("age: real\nincome: {kind: bounded, low: 0, high: 1.0e+6}\n")
    words = ["--data", "people.csv", "--kinds", "kinds.yaml", "--kinds", "age=positive"]
    words += ["--families", "positive=Gamma", "--prior", "GaussianMixture"]
    words += ["--prior.components", "3", "--posterior", "LowRankNormal", "--posterior.rank=1"]
    assert fit(*words, "--out", "a", "--validation-fraction", "0", steps=1) == 0
    vae = tables.load("a")
    assert [c.kind for c in vae.schema_][:3] == ["positive", "binary", "bounded"]
    assert [type(c).__name__ for c in vae.columns_][:3] == ["Gamma", "Bernoulli", "LogitNormal"]
    assert vae.pair_.prior.components == 3
    assert vae.pair_.posterior.rank == 1


def test_missing_cells_are_filled_and_others_stay(capsys):
    assert main(["impute", "run", "people.csv", "--out", "filled.csv"]) == 0
    given, filled = pd.read_csv("people.csv"), pd.read_csv("filled.csv")
    assert str(given.isna().sum().sum()) in capsys.readouterr().out
    assert not filled.isna().any(axis=None)
    assert ((filled == given) | given.isna()).all(axis=None)
    with open("people.csv") as before, open("filled.csv") as after:
        for old, new in zip(csv.reader(before), csv.reader(after), strict=True):
            assert all(a in ("", b) for a, b in zip(old, new, strict=True))
            assert old[0] == "age" or all(new[i].endswith(".0") for i in (0, 3))  # as those there


def test_draws_stand_below_each_other(capsys):
    assert main(["impute", "run", "people.csv", "--draws", "3", "--out", "draws.parquet"]) == 0
    given, draws = pd.read_csv("people.csv"), pd.read_parquet("draws.parquet")
    assert list(draws) == ["draw", *given]
    assert draws["draw"].tolist() == [1] * 60 + [2] * 60 + [3] * 60
    parts = [part.drop(columns="draw") for _, part in draws.groupby("draw")]
    for part in parts:
        assert not part.isna().any(axis=None)
        assert ((part.reset_index(drop=True) == given) | given.isna()).all(axis=None)
    assert not parts[0].reset_index(drop=True).equals(parts[1].reset_index(drop=True))
    people().rename(columns={"age": "draw"}).to_csv("draw.csv", index=False)
    assert fit("--data", "draw.csv", "--out", "other", steps=1) == 0
    assert main(["impute", "other", "draw.csv", "--draws", "3", "--out", "draws.csv"]) == 2
    assert "a column 'draw', which would number the draws; rename it" in capsys.readouterr().err


def test_the_table_itself_is_never_written():
    with open("people.csv", "rb") as file:
        before = file.read()
    os.symlink("people.csv", "link.csv")
    os.link("people.csv", "hard.csv")
    shutil.copy("people.csv", "others.csv")
    for out in ("people.csv", "./people.csv", "link.csv", "hard.csv"):
        assert main(["impute", "run", "people.csv", "--out", out]) == 2
        # Nor is that of the training.
        assert main(["impute", "run", "others.csv", "--out", out]) == 2
        assert main(["sample", "run", "-n", "2", "--out", out]) == 2
        assert main(["encode", "run", "others.csv", "--out", out]) == 2
    assert main(["encode", "run", "others.csv", "--out", "others.csv"]) == 2
    for name in ("people.csv", "others.csv"):
        with open(name, "rb") as file:
            assert file.read() == before


def test_the_table_is_found_from_any_directory(monkeypatch, capsys):
    with open("people.csv", "rb") as file:
        before = file.read()
    os.makedirs("else/where")
    monkeypatch.chdir("else/where")
    shutil.copy("../../people.csv", "others.csv")
    run, table = "../../run", "../../people.csv"
    assert main(["impute", run, "others.csv", "--out", table]) == 2
    assert main(["sample", run, "-n", "2", "--out", table]) == 2
    assert main(["encode", run, "others.csv", "--out", table]) == 2
    with open(table, "rb") as file:
        assert file.read() == before
    assert settings(run)["data"] == "people.csv"
    assert main(["fit", "table", run, "--resume", "--steps", "5", "--quiet"]) == 0
    assert settings(run)["data"] == "people.csv"


def test_the_table_is_found_where_it_was_moved_with_the_run(monkeypatch):
    os.mkdir("moved")
    for name in ("run", "people.csv"):
        shutil.move(name, "moved")
    assert main(["sample", "moved/run", "-n", "2", "--out", "moved/people.csv"]) == 2
    shutil.move("moved/run", "run")  # without it
    assert main(["sample", "run", "-n", "2", "--out", "rows.csv"]) == 0
    shutil.move("moved/people.csv", ".")
    os.remove("run/data.json")  # of earlier versions, where the name is from here
    assert main(["sample", "run", "-n", "2", "--out", "people.csv"]) == 2
    with open("run/data.json", "w") as file:
        file.write("[]")
    assert main(["sample", "run", "-n", "2", "--out", "rows.csv"]) == 1


@pytest.mark.parametrize("name", ["history.csv", "validation.csv", "./checkpoints/x.csv"])
def test_what_a_training_wrote_is_not_written_over(name, capsys):
    out = f"run/{name}"
    before = sorted(os.listdir("run")), pd.read_csv("run/history.csv")
    for words in (["impute", "run", "people.csv"], ["sample", "run"], ["encode", "run", "far.csv"]):
        assert main([*words, "--out", out]) == 2
        assert f"--out {out} would change the run, run" in capsys.readouterr().err
    assert sorted(os.listdir("run")) == before[0]
    assert pd.read_csv("run/history.csv").equals(before[1])
    for _ in range(2):  # one that is not the training's may be there already
        assert main(["impute", "run", "people.csv", "--out", "run/filled.csv"]) == 0


def test_suffixes_may_be_in_capitals():
    people().to_csv("PEOPLE.CSV", index=False)
    assert main(["impute", "run", "PEOPLE.CSV", "--out", "FILLED.CSV"]) == 0
    assert not pd.read_csv("FILLED.CSV").isna().any(axis=None)
    assert main(["sample", "run", "-n", "2", "--out", "ROWS.PARQUET"]) == 0
    assert pd.read_parquet("ROWS.PARQUET").shape == (2, 5)
    for suffix, read in (("NPY", np.load), ("NPZ", np.load), ("CSV", pd.read_csv)):
        assert main(["encode", "run", "people.csv", "--out", f"z.{suffix}"]) == 0
        assert len(read(f"z.{suffix}")) == (1 if suffix == "NPZ" else 60)
    assert not [name for name in os.listdir() if ".npy" in name.lower() and name != "z.NPY"]


def test_a_run_is_evaluated_and_reported_on_a_file(capsys, unrendered):
    few = ["--data", "people.csv", "--num-samples", "20", "--quiet"]
    assert main(["evaluate", "run", *few, "--num-data", "40"]) == 0
    shown = capsys.readouterr().out
    assert "log p" in shown
    assert "numbers: run/evaluation.json" in shown
    with open("run/evaluation.json") as file:
        found = json.load(file)
    assert found["data"] == {"name": "people.csv", "number": 40, "of": 60}
    assert found["options"]["num_samples"] == 20
    assert not os.path.exists("run/report")
    assert main(["report", "run", *few, "--num-data", "all", "--seed", "3"]) == 0
    assert "report: run/report/report.html" in capsys.readouterr().out
    with open("run/report/report.json") as file:
        found = json.load(file)
    assert found["data"]["number"] == 60
    assert found["options"]["seed"] == 3
    with open("run/report/report.html", encoding="utf-8") as file:
        assert "data:image/" in file.read()


def test_rows_are_drawn_given_others(capsys):
    assert main(["sample", "run", "-n", "7", "--out", "rows.parquet"]) == 0
    rows = pd.read_parquet("rows.parquet")
    assert rows.shape == (7, 5)
    given = ["--given", "smoker=True", "--given", "age=40", "--given", "size=M"]
    with pytest.warns(UserWarning, match="of 100 particles"):
        assert main(["sample", "run", "-n", "3", *given, "--num-particles", "100"]) == 0
    assert "rows: run/samples.csv, 3 drawn" in capsys.readouterr().out
    rows = pd.read_csv("run/samples.csv")
    assert rows[["age", "smoker", "size"]].to_numpy().tolist() == [[40, True, "M"]] * 3
    assert len(set(rows["income"])) == 3
    again = ["sample", "run", "-n", "7", "--seed", "1", "--out", "other.parquet"]
    assert main(again) == 0
    assert not pd.read_parquet("other.parquet").equals(pd.read_parquet("rows.parquet"))


def test_a_table_saved_in_python_is_taken():
    vae = tables.fit("people.csv", latent_dim=2, hidden=(8,), steps=1)
    vae.save("saved")
    assert main(["impute", "saved", "people.csv", "--out", "filled.csv"]) == 0
    assert pd.read_csv("filled.csv")["age"].tolist() == vae.impute("people.csv")["age"].tolist()


def test_a_category_that_yaml_reads_as_something_else_can_be_given():
    answers = people().assign(size=["yes", "no"] * 30)
    tables.fit(answers, latent_dim=2, hidden=(8,), steps=1).save("saved")
    assert main(["sample", "saved", "-n", "2", "--given", "size=yes", "--out", "rows.csv"]) == 0
    assert pd.read_csv("rows.csv")["size"].tolist() == ["yes", "yes"]


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("age=040", 40),
        ("age=4e1", 40),
        ("smoker=true", True),
        ("smoker=True", True),
        ("children=1.0", 1),
        ("size=M", "M"),
    ],
)
def test_what_is_given_is_read_as_the_column_is(typed, found):
    assert main(["sample", "run", "-n", "1", "--given", typed, "--out", "rows.csv"]) == 0
    assert pd.read_csv("rows.csv")[typed.partition("=")[0]].tolist() == [found]


@pytest.mark.parametrize(
    "typed", ["age=1:10", "age=yes", "age=1_0", "age=nan", "age=1e400", "age=", "smoker=yes"]
)
def test_what_is_given_is_no_other_value(typed, capsys):
    assert main(["sample", "run", "-n", "1", "--given", typed, "--out", "rows.csv"]) == 2
    named, _, text = typed.partition("=")
    error = capsys.readouterr().err
    assert f"'{named}'" in error
    assert f"'{text}'" in error
    assert not os.path.exists("rows.csv")


def test_codes_and_numbers_as_text_come_back():
    lines = [f"00{i % 7}1,{'12A'[i % 3]},{'' if i == 3 else i}" for i in range(40)]
    with open("codes.csv", "w") as file:
        file.write("\n".join(["zip,grade,n=2", *lines, ""]))
    assert fit("--data", "codes.csv", "--out", "codes") == 0
    with open("some.csv", "w") as file:
        file.write("n=2,zip,grade\n1,0011,2\n,0021,\n5,,1\n")
    assert main(["impute", "codes", "some.csv", "--out", "filled.csv"]) == 0
    with open("filled.csv") as file:
        head, *rows = file.read().splitlines()
    assert head == "n=2,zip,grade"  # as in the file
    assert rows[0] == "1,0011,2"
    assert rows[1].split(",")[1] == "0021"
    assert len(rows[2].split(",")[1]) == 4
    given = ["--given", "zip=0031", "--given", "n=2=4"]
    assert main(["sample", "codes", "-n", "2", *given, "--out", "rows.csv"]) == 0
    with open("rows.csv") as file:
        assert [row.split(",")[::2] for row in file.read().splitlines()[1:]] == [["0031", "4"]] * 2


def test_kinds_may_have_words_that_were_bools_and_numbers_beside_text():
    answers = people().assign(size=["yes", "no"] * 30, grade=["1", "2", "A"] * 20)
    answers.to_csv("answers.csv", index=False)
    kinds = ["size={kind: ordinal, categories: [no, yes]}"]
    kinds += ["grade={kind: ordinal, categories: [A, 2, 1]}"]
    words = [word for kind in kinds for word in ("--kinds", kind)]
    assert fit("--data", "answers.csv", *words, "--out", "answers") == 0
    schema = tables.load("answers").schema_
    assert schema["size"].categories == ("no", "yes")
    assert schema["grade"].categories == ("A", "2", "1")
    assert fit("answers/settings.yaml", "--out", "again") == 0
    assert tables.load("again").schema_ == schema


def test_categories_of_text_are_taken_as_they_are_spelled():
    days = ["2026-01-01", "2026-02-01", "2026-03-01"]
    answers = {"a=b": ["False", "maybe", "True"], "size": ["1.50", "1_0", "x"], "day": days}
    table = pd.DataFrame({name: words * 20 for name, words in answers.items()})
    table.assign(**{"y=z": range(60), "2026": range(60)}).to_csv("spelled.csv", index=False)
    with open("kinds.yaml", "w") as file:
        file.write("day: {kind: ordinal, categories: [2026-01-01, 2026-02-01, 2026-03-01]}\n")
        file.write("2026: real\n")
    kinds = ["a=b={kind: ordinal, categories: [False, maybe, True]}", "y=z=real", "kinds.yaml"]
    kinds += ["size={kind: ordinal, categories: [1_0, 1.50, x]}"]
    words = [word for kind in kinds for word in ("--kinds", kind)]
    assert fit("--data", "spelled.csv", *words, "--out", "spelled") == 0
    schema = tables.load("spelled").schema_
    assert schema["a=b"].categories == ("False", "maybe", "True")
    assert schema["size"].categories == ("1_0", "1.50", "x")
    assert schema["day"].categories == tuple(days)
    assert schema["y=z"].kind == schema["2026"].kind == "real"
    assert fit("spelled/settings.yaml", "--out", "again") == 0
    assert tables.load("again").schema_ == schema
    with open("spelled/settings.yaml") as file:
        text = file.read()
    with open("edited.yaml", "w") as file:  # as one writes it by hand
        file.write(text.replace("'", ""))
    assert fit("edited.yaml", "--out", "edited") == 0
    assert tables.load("edited").schema_ == schema
    assert main(["fit", "table", "spelled", "--resume", "--quiet"]) == 0


def test_warnings_are_in_terms_of_flags():
    people().assign(year=2000 + np.arange(60) % 20).to_csv("years.csv", index=False)
    with pytest.warns(UserWarning, match=r"^column 'year' .* give --kinds 'year=real'$"):
        assert fit("--data", "years.csv", "--out", "years") == 0
    words = ["--given", "age=40", "--num-particles", "20", "--out", "rows.csv"]
    with pytest.warns(UserWarning, match=r"^the effective .* give a larger --num-particles"):
        assert main(["sample", "run", "-n", "3", *words]) == 0


def test_columns_of_parquet_may_be_numbered():
    numbers = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)).round(1))
    numbers.columns = [0, 1]
    numbers.to_parquet("numbered.parquet")
    assert fit("--data", "numbered.parquet", "--kinds", "1=real", "--out", "numbered") == 0
    assert tables.load("numbered").schema_.names == (0, 1)
    words = ["sample", "numbered", "-n", "2", "--given", "1=0.5", "--out", "rows.csv"]
    assert main(words) == 0
    assert pd.read_csv("rows.csv")["1"].tolist() == [0.5, 0.5]
    assert main(["impute", "numbered", "numbered.parquet", "--out", "filled.csv"]) == 0


def test_a_resumption_that_is_refused_leaves_the_settings(capsys):
    before = settings("run")
    assert main(["fit", "table", "run", "--resume", "--steps", "2", "--quiet"]) != 0
    assert settings("run") == before
    people().head(30).to_csv("people.csv", index=False)
    assert main(["fit", "table", "run", "--resume", "--steps", "9", "--quiet"]) != 0
    assert settings("run") == before


# The words, the exit code, and what must be named, divided by |.
WRONG = [
    ("fit table", 2, "--data"),
    ("fit table none.yaml", 2, "'none.yaml'"),
    ("fit table --data none.csv", 1, "none.csv"),
    ("fit table --data people.xlsx", 2, "people.xlsx|.csv or .parquet"),
    ("fit table --data ragged.csv", 2, "ragged.csv|line 3 has 1 fields"),
    ("fit table --data dates.csv", 2, "dates.csv|'day'|--kinds 'day=categorical'"),
    ("fit table --data people.csv --out run", 2, "a run in run|fit table run --resume|--out"),
    ("fit table run", 2, "run is a folder|fit table run --resume"),
    ("fit table --resume", 2, "--resume|fit table RUN --resume"),
    ("fit table none --resume", 2, "none|--resume"),
    ("fit table --resume --out none", 2, "--resume|none"),
    ("fit table run --resume --steps 3", 2, "--steps 3|step 4"),
    ("fit table run --resume --kinds age=real", 2, "--kinds|'age': 'count'"),
    ("fit table wrong.yaml", 2, "wrong.yaml|'stepz'|'steps'"),
    ("fit table list.yaml", 2, "list.yaml|mapping"),
    ("fit run --resume", 2, "run is a run of a table|fit table run --resume"),
    ("fit table --data people.csv --stepz 3", 2, "--stepz|did you mean --steps?|fit table"),
    ("fit table --data people.csv --lr 3", 2, "--lr is a flag of ppl-vae fit"),
    ("fit table --data people.csv --steps many", 2, "--steps|'many'"),
    ("fit table --data people.csv --steps", 2, "--steps needs a value"),
    ("fit table --data people.csv --hidden 3", 2, "--hidden|list of integers"),
    ("fit table --data people.csv --seed -3", 2, "--seed|-3"),
    ("fit table --data people.csv --latent-dim 0 --out a", 2, "--latent-dim|0"),
    ("fit table --data people.csv --kinds age", 2, "--kinds|'age'|NAME=VALUE"),
    ("fit table --data people.csv --kinds =count", 2, "--kinds|'=count'"),
    ("fit table --data people.csv --kinds list.yaml", 2, "list.yaml|mapping"),
    ("fit table --data people.csv --kinds age=number", 2, "'age'|'number'|'count'"),
    ("fit table --data people.csv --kinds old=count", 2, "'old'|'age'"),
    ("fit table --data people.csv --kinds size=ordinal", 2, "--kinds 'size={kind: ordinal, cat"),
    ("fit table --data people.csv --kinds 'age={kind: bounded}'", 2, "bounded, low: 0, high: 100}"),
    ("fit table --data people.csv --kinds 'age={kin: real}'", 2, "'kin'|kind"),
    ("fit table --data people.csv --kinds a=count --kinds a=real", 2, "--kinds|'a' twice|'real'"),
    ("fit table --data people.csv --families real=A --families real=B", 2, "--families|'real' tw"),
    ("fit table --data people.csv --families real=Cauchy --out a", 2, "error: --families: a real"),
    ("fit table --data people.csv --kinds age={}", 2, "error: --kinds: |'kind'"),
    ("fit table --data people.csv --kinds old=count", 2, "--kinds names column 'old'"),
    ("fit table --data marked.csv", 2, "marked.csv: row 0, column 'age' is '?'|leave the cell em"),
    ("fit table --data time.csv --kinds time=real --out a", 2, "'time'|hold: subtract a constant"),
    ("fit table --data people.csv --prior VampPrior", 2, "prior|'VampPrior'|GaussianMixture"),
    ("fit table --data people.csv --prior GaussianMixture", 2, "prior.components is missing"),
    ("fit table --data people.csv --prior.spread x", 2, "prior"),
    ("fit table --data people.csv --posterior Categorical", 2, "'Categorical'|DiagonalNormal"),
    ("fit table --data people.csv --estimator IWAE", 2, "'IWAE'|ImportanceWeightedELBO"),
    ("impute run people.csv", 2, "--out is missing|RUN DATA"),
    ("impute run --out x.csv", 2, "DATA is missing|RUN DATA"),
    ("impute run people.csv --out x.xlsx", 2, "--out|'x.xlsx'|.csv or .parquet"),
    ("impute run people.csv --out none/x.csv", 2, "--out none/x.csv|none"),
    ("impute run people.csv --draws 0 --out x.csv", 2, "--draws|0"),
    ("impute run none.csv --out x.csv", 1, "none.csv"),
    ("impute none people.csv --out x.csv", 2, "none|fit table"),
    ("impute run other.csv --out x.csv", 2, "other.csv|lacks|'size'"),
    ("impute run far.csv --out x.csv", 2, "far.csv: row 1, column 'size'|'XL'"),
    ("impute run text.csv --out x.csv", 2, "text.csv: row 0, column 'age'|'young'"),
    ("impute run more.csv --out x.csv", 2, "more.csv: |column 'more'; take such columns out of"),
    ("sample run --num-particles 5", 2, "--num-particles is for --given|leave it out"),
    ("sample run --given age=40 --given age=50", 2, "--given|'age' twice, '40' and '50'|once"),
    ("sample run --given size", 2, "--given|'size'|NAME=VALUE"),
    ("sample run --given sise=M", 2, "--given|'sise'|size"),
    ("sample run --given size=XL", 2, "--given|'size'|'XL'"),
    ("sample run --given age=old", 2, "--given|'age'|'old'"),
    ("sample run --out x.png", 2, "--out|'x.png'|.csv or .parquet"),
    ("fit table --data people.csv --device tpu --out a", 2, "--device must be cpu, cuda|'tpu'"),
    ("impute run people.csv --out x.csv --device tpu", 2, "--device must be cpu, cuda|'tpu'"),
    ("sample run --device tpu", 2, "--device must be cpu, cuda|'tpu'"),
    ("encode run people.csv --device cpu:x", 2, "--device must be cpu, cuda|'cpu:x'"),
    ("encode run --out z.npy", 2, "DATA is missing|encode run people.csv"),
    ("encode run people.csv --samples 3", 2, "--samples|leave it out"),
    ("encode run people.csv --data.scale 3", 2, "--data.scale|leave it out"),
    ("encode run far.csv --out z.npy", 2, "far.csv: row 1, column 'size'|'XL'"),
    ("evaluate run", 2, "--data is missing|--data held_out.csv"),
    ("report run", 2, "--data is missing|--data held_out.csv"),
    ("report run run --data people.csv", 2, "run is a run of a table|alone"),
    ("report run --data other.csv", 2, "other.csv|'size'"),
    ("report run --data none.csv", 1, "none.csv: No such file"),
    ("evaluate run --data people.csv --compile", 2, "--compile"),
    ("evaluate run --data people.csv --gap-data 3", 2, "--gap-data"),
    ("report run --data people.csv --sections calibration", 2, "--sections"),
    ("evaluate run --data people.csv --device tpu", 2, "--device must be cpu, cuda|'tpu'"),
    ("reconstruct run", 2, "run is a run of a table|impute"),
]


@pytest.mark.parametrize(("words", "code", "named"), WRONG)
def test_a_wrong_command_says_what_is_wrong(words, code, named, trained, monkeypatch, capsys):
    monkeypatch.chdir(trained)
    before = sorted(os.listdir())
    assert main(shlex.split(words)) == code
    said = capsys.readouterr().err
    assert said.startswith("ppl-vae: error: ")
    assert len(said.splitlines()) <= 2
    assert "Traceback" not in said
    for part in named.split("|"):
        assert part in said, said
    assert re.search(r"torch|frame\[|schema\.|num_particles", said) is None, said
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("suffix", ["npy", "npz", "csv"])
def test_rows_are_encoded(suffix, capsys):
    assert main(["encode", "run", "people.csv", "--out", f"z.{suffix}"]) == 0
    assert f"latents: z.{suffix}, means of the posterior" in capsys.readouterr().out
    if suffix == "csv":
        found = pd.read_csv("z.csv").to_numpy()
    else:
        found = np.load(f"z.{suffix}")
        found = found if suffix == "npy" else found["z"]
    expected = tables.load("run").transform(pd.read_csv("people.csv"))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_flags_of_tables_are_for_tables_alone(capsys):
    words = ["--model.latent_dim", "2", "--steps", "1", "--quiet", "--out", "digits"]
    narrow = ["--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"]
    assert main(["fit", "vae", *words, *narrow]) == 0
    for flag in (["--given", "a=1"], ["--num-particles", "3"]):
        assert main(["sample", "digits", *flag]) == 2
        assert f"{flag[0]} is for a run of a table" in capsys.readouterr().err
    for command in ("evaluate", "report"):
        assert main([command, "digits", "--data", "people.csv"]) == 2
        assert "--data is for a run of a table" in capsys.readouterr().err
    assert not os.path.exists("digits/report")
    assert main(["report", "run", "digits", "--data", "people.csv"]) == 2
    assert "run is a run of a table; report it alone" in capsys.readouterr().err
    assert main(["report", "run"]) == 2
    assert not os.path.exists("run/report")
