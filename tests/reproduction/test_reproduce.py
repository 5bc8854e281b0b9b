"""Tables are run row by row, measured and written, and wrong calls are refused."""

import json
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version

import pytest
from small_table import A_CPU, MODEL, compared, digits, measured, run, table, units

from ppl_vae import evaluation
from ppl_vae.cli import main
from ppl_vae.io import load
from ppl_vae.process_state import seeded
from ppl_vae.reproduction import (
    TABLES,
    Row,
    loaded,
    markdown,
    measurements,
    rate_distortion,
    reproduce,
)
from ppl_vae.reproduction.records import folder_of, read

reproducing = import_module("ppl_vae.reproduction.reproduce")


def test_a_table_with_a_figure_writes_it(tmp_path):
    drawn = []

    def draw(records, pairs, data):
        drawn.append([[record.row for record in records], pairs, data.test.name])
        return {"curves": rate_distortion.curves([])}

    run(replace(table(), draw=draw), tmp_path, parts=["second"], seeds=2)
    ((rows, pairs, name),) = drawn
    assert (rows, name) == (["second", "second"], "digits")
    first = load(folder_of(tmp_path, "second", 0, "32-true") / "training" / "model")
    for mine, its in zip(pairs.pop("second").parameters(), first.parameters(), strict=True):
        assert mine.equal(its)
    assert not pairs
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_rates_and_distortions_are_drawn_in_the_order_of_beta():
    def record(name, rate, distortion, seed=0):
        values = {"KL": rate, "reconstruction": distortion}
        quantities = {k: {"value": v, "standard_error": 0.1} for k, v in values.items()}
        return replace(measured(seed, 0.0, row=name), quantities=quantities)

    records = [
        record("z of 2, beta = 1", 6.0, 141.0),
        record("z of 2, beta = 1", 8.0, 139.0, seed=1),
        record("z of 2, beta = 0.1", 12.0, 130.0),
        record("z of 2, beta = 10", 3.0, 160.0),
        record("z of 2, the KL alone", 0.0, 200.0),
    ]
    (ax,) = rate_distortion.curves(records).axes
    ten, two = ax.get_lines()[:2]
    assert not len(ten.get_xdata())
    assert list(two.get_xdata()) == [12.0, 7.0, 3.0]
    assert list(two.get_ydata()) == [130.0, 140.0, 160.0]
    assert [label.get_text() for label in ax.texts] == ["0.1", "1", "10"]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert left < 3 < 12 < right
    assert bottom < 130 < 160 < top


def test_each_row_and_seed_is_trained_and_measured(tmp_path):
    text = run(table(), tmp_path, seeds=2)
    found = loaded((tmp_path / "small.json").read_text())
    assert [(r.row, r.seed) for r in found] == [
        *[("first | row", 0), ("first | row", 1), ("second", 0), ("second", 1)]
    ]
    assert (tmp_path / "small.md").read_text() == text == markdown(table(), found)
    one = found[0]
    assert one.quantities["active units"] == {"value": 2.0, "standard_error": None}
    assert one.quantities["NELBO"]["standard_error"] > 0
    assert one.seconds.keys() == {"training", "bound", "units"}
    assert (one.table, one.extent, one.precision) == ("small", "whole", "32-true")
    assert found[2].extent == "shortened"  # the first row has no shortened protocol
    (environment,) = one.environments
    assert environment["packages"]["torch"] == version("torch")
    assert not environment["compiled"]


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        (["K = 5"], {"K = 5"}),  # a whole name, though that of another row starts with it
        (["k = "], {"K = 50", "K = 5"}),
        (["second", "K = 50"], {"K = 50", "second"}),
    ],
)
def test_a_part_is_a_whole_name_or_the_start_of_several(tmp_path, parts, rows):
    def row(name):
        return Row(name=name, train=lambda training: training.pair(MODEL), measure={"n": units})

    rows_of = replace(table(), rows=tuple(row(name) for name in ("K = 50", "K = 5", "second")))
    run(rows_of, tmp_path, seeds=1, parts=parts)
    assert {r.row for r in loaded((tmp_path / "small.json").read_text())} == rows


def test_another_seed_is_another_run_and_the_same_seed_the_same(tmp_path):
    run(table(), tmp_path / "a", seeds=2, parts=["second"])
    run(table(), tmp_path / "b", seeds=1, parts=["second"])
    first, other = (read(tmp_path / "a" / "second" / f"seed-{s}") for s in (0, 1))
    again = read(tmp_path / "b" / "second" / "seed-0")
    assert first.quantities == again.quantities
    assert first.quantities["NELBO"] != other.quantities["NELBO"]


def test_the_extent_decides_the_length(tmp_path):
    for extent, whole, steps in (("whole", 9, 9), ("shortened", 9, 6), ("smoke", 3, 3)):
        run(table(), tmp_path / extent, seeds=1, extent=extent)
        # The first row has no shortened protocol.
        for row, number in (("first-row", whole), ("second", steps)):
            folder = tmp_path / extent / row / "seed-0" / "training"
            assert (folder / "checkpoints").is_dir()
            lines = (folder / "history.csv").read_text().splitlines()
            assert lines[-1].split(",")[0] == str(number)
        first = "smoke" if extent == "smoke" else "whole"
        found = loaded((tmp_path / extent / "small.json").read_text())
        assert [r.extent for r in found] == [first, extent]


@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_a_row_is_compared_with_another_datum_by_datum(tmp_path):
    run(compared(), tmp_path, seeds=2, parts=["second"], extent="smoke")
    found = loaded((tmp_path / "small.json").read_text())
    assert not any(record.differences for record in found)  # there is nothing to compare with yet
    run(compared(), tmp_path, seeds=2, extent="smoke")
    found = loaded((tmp_path / "small.json").read_text())
    for seed, record in enumerate(r for r in found if r.row == "second"):
        x = digits("smoke").test[: measurements.SMOKE_DATA].binarised(seed=0).tensor()
        log_px = {}
        for row in ("second", "first | row"):
            pair = load(folder_of(tmp_path, row, seed, "32-true") / "training" / "model").eval()
            with seeded("test", seed):
                log_px[row] = evaluation.log_likelihood(pair, x, num_samples=30).log_px.double()
        expected = log_px["first | row"] - log_px["second"]
        assert expected.mean() < 0
        difference = record.differences["first | row"]["IS-30"]
        assert difference["value"] == pytest.approx(expected.mean().item(), rel=1e-6)
        error = expected.std().item() / len(expected) ** 0.5
        assert difference["standard_error"] == pytest.approx(error, rel=1e-5)
        assert record.differences.keys() == {"first | row"}
        assert record.differences["first | row"].keys() == {"IS-30"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parts": ["third"]}, "parts must be rows of small, .*, got 'third'; accepted: first"),
        ({"parts": ["secnd"]}, "rows of small, .*, got 'secnd'; did you mean 'second'"),
        ({"parts": [""]}, "parts must be rows of small, .*, got ''"),
        ({"extent": "all"}, "extent must be one of whole, shortened, smoke, got 'all'"),
        ({"seeds": 0}, "seeds must be"),
        ({"precision": "16-true"}, "precision must be one of 32-true, bf16-mixed, got '16-true'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        run(table(), tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


def test_names_with_commas_are_told_apart():
    with pytest.raises(ValueError, match="one layer, DReG, K = 5; one layer, DReG, K = 50; one"):
        reproduce(TABLES["iwae"], "unused", parts=["one layer, k = 7"])


def test_runs_of_rows_that_a_table_does_not_have_are_left_out(tmp_path):
    before = run(table(), tmp_path, seeds=1, parts=["second"])
    alone = replace(table(), rows=table().rows[:1])
    said = []
    text = run(alone, tmp_path, seeds=1, say=said.append)
    assert said[0] == "second, seed 0, left out: small has no such row"
    assert "second" not in text
    known = [measured(0, 41.0), measured(0, 41.0, row="renamed")]
    assert "0.5 hours" in markdown(table(), known)
    assert run(table(), tmp_path, seeds=1, parts=["second"]).count("second (shortened)") == 1
    assert "second (shortened)" in before


def test_a_gpu_is_named_where_it_is_used(monkeypatch):
    monkeypatch.setattr(reproducing, "machine", lambda: {"gpu": "a GPU", **A_CPU})
    found = reproducing._environment(True, "cpu")
    assert found == {"commit": found["commit"], "compiled": True, "device": "cpu", **A_CPU}


def test_rows_whose_folders_would_be_one_are_refused():
    first, second = table().rows
    for name in ("first - row!", "β"):
        with pytest.raises(AssertionError):
            replace(table(), rows=(first, replace(second, name=name)))


def test_figures_are_of_the_precision_asked_for(tmp_path):
    drawn = []

    def draw(records, pairs, data):
        drawn.append([(record.precision, list(pairs)) for record in records])
        return {}

    for precision in ("32-true", "bf16-mixed"):
        both = replace(table(), draw=draw)
        run(both, tmp_path, parts=["second"], seeds=1, extent="smoke", precision=precision)
    assert drawn == [[("32-true", ["second"])], [("bf16-mixed", ["second"])]]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--smoke"], "--smoke is for a table: give its NAME, one of cs236, iwae"),
        (["--part", "VAE"], "--part is for a table: give its NAME"),
        (["--seeds", "2"], "--seeds is for a table: give its NAME"),
        (
            ["iwae", "--smoke", "--whole"],
            "--whole and --smoke exclude each other; give one of them",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(words, message, capsys):
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce"]) == 0
    assert "cs236" in capsys.readouterr().out
    assert main(["reproduce", "cs237"]) == 2
    assert "did you mean 'cs236'?" in capsys.readouterr().err
    words = ["reproduce", "cs236", "--smoke", "--part", "SSVAE, generative weight 0", "--quiet"]
    assert main([*words, "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "| SSVAE, generative weight 0 (smoke), 1 seed | accuracy, % |" in out
    file = tmp_path / "runs" / "reproduce-smoke" / "cs236" / "cs236.json"
    assert json.loads(file.read_text())["table"] == "cs236"
