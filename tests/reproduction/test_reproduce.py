"""Tables are run row by row, go on after any interruption, and are written as they grow."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.metadata import version
from threading import Event

import pytest

from ppl_vae import VAE, data, evaluation
from ppl_vae.cli import main
from ppl_vae.evaluation import Estimate
from ppl_vae.io import load
from ppl_vae.io.atomic import PREFIX
from ppl_vae.process_state import seeded
from ppl_vae.reproduction import (
    TABLES,
    Data,
    Published,
    Row,
    Table,
    loaded,
    markdown,
    measurements,
    rate_distortion,
    reproduce,
)
from ppl_vae.reproduction import training as training_of_rows
from ppl_vae.reproduction.records import Record, folder_of, read
from ppl_vae.training.folder_lock import locked

reproducing = import_module("ppl_vae.reproduction.reproduce")

MODEL = {
    "class": "VAE",
    "latent_dim": 2,
    "posterior": {"class": "DiagonalNormal", "net": {"class": "MLP", "hidden": [8]}},
    "likelihood": {"class": "Bernoulli", "net": {"class": "MLP", "hidden": [8]}},
}
run = partial(reproduce, compile=False, progress=False, say=lambda text: None)


def digits(extent):
    return Data(data.load("digits"), data.load("digits", split="test"))


def train(training):
    pair = training.pair(MODEL)
    training.fit(pair, training.data.train, steps=training.choose(9, shortened=6, smoke=3))
    return pair


def nelbo(pair, training):
    x = training.binarised_test(50)
    return {"NELBO": evaluation.elbo_terms(pair, x).nelbo}


def units(pair, training):
    return {"active units": Estimate(2.0, float("nan"))}


def table(**measure):
    published = {"NELBO": [Published("40", "A", "0.5")]}
    measure = measure or {"bound": nelbo, "units": units}
    rows = (
        Row(name="first | row", train=train, measure=measure, published=published),
        Row(name="second", train=train, measure=measure, shortened="6 steps for 9"),
    )
    return Table(
        name="small",
        title="two rows",
        data=digits,
        rows=rows,
        sources={"A": "a paper"},
        protocol="As in the paper.",
        minutes=1,
    )


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


@pytest.mark.parametrize("at", ["training", pytest.param("measurement", marks=pytest.mark.slow)])
def test_what_was_interrupted_goes_on_and_ends_the_same(tmp_path, monkeypatch, at):
    whole = run(table(), tmp_path / "whole", seeds=1)
    calls = []

    def interrupted(pair, training):
        calls.append("units")
        if len(calls) == 1:
            raise KeyboardInterrupt
        return units(pair, training)

    if at == "measurement":
        broken = table(bound=nelbo, units=interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(broken, tmp_path / "parts", seeds=1)
        left = read(tmp_path / "parts" / "first-row" / "seed-0")
        assert left.quantities.keys() == {"NELBO"}  # what was measured is kept
        run(broken, tmp_path / "parts", seeds=1)
        assert calls == ["units"] * 3
    else:
        fit = training_of_rows.training.fit

        def killed(pair, data, **arguments):
            fit(pair, data, **{**arguments, "steps": 2})
            raise KeyboardInterrupt

        monkeypatch.setattr(training_of_rows.training, "fit", killed)
        with pytest.raises(KeyboardInterrupt):
            run(table(), tmp_path / "parts", seeds=1)
        assert "training" in read(tmp_path / "parts" / "first-row" / "seed-0").seconds
        monkeypatch.setattr(training_of_rows.training, "fit", fit)
        run(table(), tmp_path / "parts", seeds=1)
    lines = (tmp_path / "parts" / "small.md").read_text().splitlines()
    assert lines[:6] == whole.splitlines()[:6]


def test_the_time_of_a_training_is_kept_if_its_first_measurement_is_interrupted(tmp_path):
    def interrupted(pair, training):
        raise KeyboardInterrupt

    def slow(training):
        time.sleep(0.2)
        return training.pair(MODEL)

    row = Row(name="a", train=slow, measure={"n": interrupted})
    with pytest.raises(KeyboardInterrupt):
        run(replace(table(), rows=(row,)), tmp_path, seeds=1)
    left = read(tmp_path / "a" / "seed-0")
    assert left.quantities == {}
    assert left.seconds.keys() == {"training"}
    assert left.seconds["training"] >= 0.2


def test_what_is_there_is_not_done_again(tmp_path, monkeypatch):
    first = run(table(), tmp_path, seeds=1)

    def never(training):
        raise AssertionError("trained again")

    done = table()
    for row in done.rows:
        object.__setattr__(row, "train", never)
    assert run(done, tmp_path, seeds=1) == first


def test_a_run_of_another_process_is_left_to_it(tmp_path):
    said = []
    with locked(folder_of(tmp_path, "second", 0, "32-true")):
        run(table(), tmp_path, seeds=1, say=said.append)
    text = f"second, seed 0, left out: fit: another training writes into {tmp_path}"
    assert any(line.startswith(text) and "\n" not in line for line in said)
    assert [r.row for r in loaded((tmp_path / "small.json").read_text())] == ["first | row"]


def test_a_shared_stage_is_trained_once_for_all_rows(tmp_path, monkeypatch):
    def train(hidden, training):
        first = training.pair(MODEL)
        steps = training.choose(3, smoke=3)
        training.fit(first, training.data.train, stage="M1", shared=True, steps=steps)
        second = training.pair({**MODEL, "latent_dim": hidden})
        training.fit(second, training.data.train, steps=steps)
        return second

    rows = [Row(name=f"{h}", train=partial(train, h), measure={"bound": nelbo}) for h in (1, 2)]
    trained = []
    fit = training_of_rows.training.fit

    def counted(pair, data, *, out, **arguments):
        trained.append("M1" if "M1" in str(out) else "second")
        return fit(pair, data, out=out, **arguments)

    monkeypatch.setattr(training_of_rows.training, "fit", counted)
    both = replace(table(), rows=rows)
    run(both, tmp_path / "both", seeds=2)
    assert trained == ["M1", "second", "second"] * 2
    # The second row is what it is if it trains the stage itself.
    run(both, tmp_path / "alone", seeds=1, parts=["2"])
    found = [read(tmp_path / name / "2" / "seed-0").quantities for name in ("both", "alone")]
    assert found[0] == found[1]


A_CPU = {"processor": "a CPU", "threads": 1, "packages": {"torch": "2.14"}}


def measured(seed, value, precision="32-true", row="second"):
    return Record(
        table="small",
        row=row,
        seed=seed,
        extent="shortened" if row == "second" else "whole",
        precision=precision,
        quantities={"NELBO": {"value": value, "standard_error": 0.3}},
        seconds={"training": 1800.0},
        environments=[A_CPU],
    )


def test_the_table_of_known_records():
    known = table()
    published = {"NELBO": [Published("40.0", "A", "0.5")], "KL": [Published("20", "A")]}
    object.__setattr__(known.rows[1], "published", published)
    text = markdown(known, [measured(1, 41.0), measured(0, 43.0), measured(0, 44.0, "bf16-mixed")])
    assert text == (
        "| row | quantity | published | ours | s.e. | difference |\n"
        "|---|---|---|---|---|---|\n"
        "| second (shortened), 2 seeds | KL | 20 [A] |  |  |  |\n"
        "|  | NELBO | 40.0 ± 0.5 [A] | 42.00 ± 1.41 | 0.30 | +2.00 |\n"
        "| second, bf16-mixed (shortened), 1 seed | KL | 20 [A] |  |  |  |\n"
        "|  | NELBO | 40.0 ± 0.5 [A] | 44.00 | 0.30 | +4.00 |\n"
        "\n"
        "As in the paper. second: 6 steps for 9.\n"
        "\n"
        "Sources: [A] a paper.\n"
        "\n"
        "Not run yet: first | row.\n"
        "\n"
        "`ppl-vae reproduce small --seeds 2` (2 of its 4 runs) and "
        "`ppl-vae reproduce small --seeds 1 --precision bf16-mixed` (1 of its 2 runs), "
        "1.5 hours of wall time in all on a CPU, 1 thread, torch 2.14.\n"
    )


def test_without_published_numbers_quantities_stand_side_by_side():
    one, other = measured(1, 41.0), measured(0, 43.0)
    for record in (one, other):
        record.quantities["active units"] = {"value": 2.0, "standard_error": None}
    unknown = replace(table(), rows=(replace(table().rows[1], published={}),))
    assert markdown(unknown, [one, other]).splitlines()[:3] == [
        "| row | NELBO | active units |",
        "|---|---|---|",
        "| second (shortened), 2 seeds | 42.00 ± 1.41 (0.30) | 2.00 ± 0.00 |",
    ]


def likelihood(pair, training):
    return measurements.log_likelihood(50)(pair, training)


def compared(**changed):
    """Return the small table, its second row compared with the first."""

    def longer(training):
        pair = training.pair(MODEL)
        training.fit(pair, training.data.train, steps=50)
        return pair

    made = table(likelihood=likelihood, units=units)
    first, second = made.rows
    second = replace(second, train=longer, against=(first.name,), **changed)
    return replace(made, rows=(first, second))


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


def test_differences_between_rows_stand_beside_those_in_print():
    known = compared(published={"NELBO": [Published("38.50", "A")]}, shortened="6 steps")
    one, other = measured(0, 44.0, row="first | row"), measured(0, 41.0)
    other.differences = {"first | row": {"NELBO": {"value": -3.0, "standard_error": 0.05}}}
    lines = markdown(known, [one, other]).splitlines()
    assert lines[3:5] == [
        "| second (shortened), 1 seed | NELBO | 38.50 [A] | 41.00 | 0.30 | +2.50 |",
        "|  | NELBO minus that of first \\| row | -1.50 [A] | -3.00 | 0.05 | -1.50 |",
    ]
    # From another source, there is none in print.
    first, second = known.rows
    second = replace(second, published={"NELBO": [Published("38.5", "B")]})
    known = replace(known, rows=(first, second), sources={"A": "", "B": ""})
    line = markdown(known, [one, other]).splitlines()[4]
    assert line == "|  | NELBO minus that of first \\| row |  | -3.00 | 0.05 |  |"
    # What two sources have stands side by side.
    both = [Published("38.5", "B"), Published("44.00", "A")]
    known = replace(known, rows=(first, replace(second, published={"NELBO": both})))
    assert markdown(known, [one, other]).splitlines()[3:5] == [
        "| second (shortened), 1 seed | NELBO | 38.5 [B]; 44.00 [A] | 41.00 | 0.30 | "
        "+2.50; -3.00 |",
        "|  | NELBO minus that of first \\| row | 4.00 [A] | -3.00 | 0.05 | -7.00 |",
    ]
    unpublished = tuple(replace(row, published={}) for row in known.rows)
    assert markdown(replace(known, rows=unpublished), [one, other]).splitlines()[:4] == [
        "| row | NELBO | NELBO minus that of first \\| row |",
        "|---|---|---|",
        "| first \\| row, 1 seed | 44.00 (0.30) |  |",
        "| second (shortened), 1 seed | 41.00 (0.30) | -3.00 (0.05) |",
    ]


def test_rows_that_were_shortened_alike_are_said_once():
    alike = partial(Row, train=train, measure={}, shortened="9 steps")
    rows = (
        *table().rows,
        *(alike(name=name) for name in ("third", "fourth")),
        alike(name="fifth", deviation="other networks"),
        *(alike(name=f"two layers, K = {k}", shortened="5 steps") for k in (1, 5)),
    )
    made = replace(table(), rows=rows)

    def below(*names):
        found = [replace(measured(0, 41.0, row=name), extent="shortened") for name in names]
        return markdown(made, found).split("\n\n")[1]

    assert below("third", "fourth") == "As in the paper. All rows: 9 steps."
    assert below("third") == "As in the paper. third: 9 steps."
    assert below("fifth", "fourth", "second", "third", "first | row") == (
        "As in the paper. second: 6 steps for 9. third; fourth: 9 steps. fifth: 9 steps; other "
        "networks."
    )
    layers = ("two layers, K = 1", "two layers, K = 5")
    assert below("third", *layers) == (
        "As in the paper. third: 9 steps. Two layers, all rows: 5 steps."
    )


def test_a_smoke_run_is_compared_with_nothing(tmp_path):
    text = run(table(), tmp_path, seeds=1, extent="smoke")
    line = next(line for line in text.splitlines() if "NELBO" in line)
    cells = line.replace("\\|", "").strip("|").split("|")
    assert cells[0].strip() == "first  row (smoke), 1 seed"
    assert not cells[2].strip()
    assert not cells[5].strip()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parts": ["third"]}, "parts: no row of small starts with 'third'; accepted: first"),
        ({"parts": ["secnd"]}, "no row of small starts with 'secnd'; did you mean 'second'"),
        ({"parts": [""]}, "parts: no row of small starts with ''"),
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


def test_runs_of_another_extent_are_not_mixed(tmp_path):
    run(table(), tmp_path, seeds=1, extent="smoke", parts=["second"])
    for parts in ((), ["first"]):  # rows are compared: nor beside those of others
        with pytest.raises(ValueError, match="has 'second' of extent 'smoke', and extent is 'who"):
            run(table(), tmp_path, seeds=1, extent="whole", parts=parts)


def test_a_row_without_a_shortened_protocol_is_whole_in_both(tmp_path):
    shortened = run(table(), tmp_path, seeds=1, parts=["first"])
    assert run(table(), tmp_path, seeds=1, parts=["first"], extent="whole") == shortened
    run(table(), tmp_path, seeds=1, parts=["second"])
    with pytest.raises(ValueError, match="has 'second' of extent 'shortened'"):
        run(table(), tmp_path, seeds=1, extent="whole")


def test_what_was_killed_is_not_continued_at_another_extent(tmp_path):
    def killed(training):
        assert read(training.folder).extent == "smoke"  # after SIGKILL, this is all there is
        train(training)
        raise SystemExit  # with the trained pair written, and no time

    row = replace(table().rows[1], train=killed)
    with pytest.raises(SystemExit):
        run(replace(table(), rows=(row,)), tmp_path, seeds=1, extent="smoke")
    with pytest.raises(ValueError, match="has 'second' of extent 'smoke'"):
        run(table(), tmp_path, seeds=1, parts=["second"])
    text = run(table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
    assert "second (smoke), 1 seed" in text


def test_what_another_process_began_meanwhile_at_another_extent_is_not_continued(tmp_path):
    def meanwhile(extent):
        run(table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
        return digits(extent)

    with pytest.raises(ValueError, match="has 'second' of extent 'smoke'"):
        run(replace(table(), data=meanwhile), tmp_path, seeds=1, parts=["second"])


def test_tables_do_not_share_a_folder(tmp_path):
    run(table(), tmp_path, seeds=1, parts=["second"])
    other = replace(table(), name="other")
    with pytest.raises(ValueError, match="has 'second' of table 'small', and table is 'other'"):
        run(other, tmp_path, seeds=1, parts=["second"])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"row": "second"}'])
def test_a_record_that_cannot_be_read_is_named(tmp_path, text):
    run(table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
    folder = folder_of(tmp_path, "second", 0, "32-true")
    (folder / "record.json").write_text(text)
    with pytest.raises(ValueError, match="is not a record of this version") as caught:
        run(table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
    assert f"remove {folder} to run it again" in str(caught.value)


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


def test_a_run_that_went_on_elsewhere_names_both(tmp_path, monkeypatch):
    def interrupted(pair, training):
        raise KeyboardInterrupt

    commits = iter("abc")
    # The module has the name of the function that the package exports.
    monkeypatch.setattr(reproducing, "commit", lambda: next(commits))
    with pytest.raises(KeyboardInterrupt):
        run(table(bound=nelbo, units=interrupted), tmp_path, seeds=1)
    for _ in range(2):  # the second time, nothing is missing
        run(table(), tmp_path, seeds=1)
        found = loaded((tmp_path / "small.json").read_text())
        commits_of = [[e["commit"] for e in record.environments] for record in found]
        assert commits_of == [["a", "b"], ["b"]]


def test_a_gpu_is_named_where_it_is_used(monkeypatch):
    monkeypatch.setattr(reproducing, "machine", lambda: {"gpu": "a GPU", **A_CPU})
    found = reproducing._environment(True, "cpu")
    assert found == {"commit": found["commit"], "compiled": True, "device": "cpu", **A_CPU}


def test_what_has_fewer_seeds_than_its_row_says_so():
    known = [measured(0, 41.0), measured(1, 43.0)]
    known[0].quantities["KL"] = {"value": 20.0, "standard_error": 0.1}
    lines = markdown(table(), known).splitlines()
    assert lines[2:4] == [
        "| second (shortened), 2 seeds | NELBO |  | 42.00 ± 1.41 | 0.30 |  |",
        "|  | KL, 1 seed |  | 20.00 | 0.10 |  |",
    ]
    unpublished = tuple(replace(row, published={}) for row in table().rows)
    line = markdown(replace(table(), rows=unpublished), known).splitlines()[2]
    assert line == "| second (shortened), 2 seeds | 42.00 ± 1.41 (0.30) | 20.00 (0.10), 1 seed |"


def test_rows_whose_folders_would_be_one_are_refused():
    first, second = table().rows
    for name in ("first - row!", "β"):
        with pytest.raises(AssertionError):
            replace(table(), rows=(first, replace(second, name=name)))


def test_a_difference_of_zero_has_no_sign_of_its_own():
    known = [replace(measured(0, 39.999), row="first | row", extent="whole")]
    assert markdown(table(), known).splitlines()[2].endswith("| 40.00 | 0.30 | +0.00 |")


def test_a_count_of_one_seed_is_whole():
    counted = measured(0, 40.0, row="first | row")
    counted.quantities["active units"] = {"value": 19.0, "standard_error": None}
    published = {"active units": [Published("20", "A")], "NELBO": [Published("40", "A")]}
    one = replace(table(), rows=(replace(table().rows[0], published=published),))
    lines = markdown(one, [counted]).splitlines()[2:4]
    assert lines[0].endswith("| NELBO | 40 [A] | 40.00 | 0.30 | +0.00 |")
    assert lines[1] == "|  | active units | 20 [A] | 19 |  | -1 |"
    share = replace(counted, quantities={"k̂ > 0.7, %": {"value": 98.68, "standard_error": None}})
    assert "| 98.68 |" in markdown(one, [share])
    several = markdown(one, [counted, replace(counted, seed=1)])
    assert "| 19.00 ± 0.00 |  | -1.00 |" in several


def test_a_kill_while_the_trained_pair_is_written_is_made_good(tmp_path, monkeypatch):
    def killed(pair, folder):
        (folder / "config.yaml").write_text("format: 1")
        raise KeyboardInterrupt

    save = training_of_rows.io.save
    monkeypatch.setattr(training_of_rows.io, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(table(), tmp_path, seeds=1, extent="smoke")
    monkeypatch.setattr(training_of_rows.io, "save", save)
    folder = folder_of(tmp_path, "first | row", 0, "32-true") / "training"
    assert not (folder / "model").exists()
    (folder / f"{PREFIX}1").mkdir()  # what a kill without notice leaves
    run(table(), tmp_path, seeds=1, extent="smoke")
    assert isinstance(load(folder / "model"), VAE)
    assert not list(tmp_path.rglob(f"{PREFIX}*"))


@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_what_is_half_written_is_not_read(tmp_path):
    run(compared(), tmp_path, seeds=1, extent="smoke", parts=["first"])
    folder = folder_of(tmp_path, "first | row", 0, "32-true")
    # Of a process that was killed, or that is writing.
    left = [
        folder / "values" / f"{PREFIX}1.npy",
        folder / f"{PREFIX}2.json",
        tmp_path / f"{PREFIX}3",
    ]
    for file in left:
        file.touch()
    run(compared(), tmp_path, seeds=1, extent="smoke")
    (of_second,) = (r for r in loaded((tmp_path / "small.json").read_text()) if r.row == "second")
    assert of_second.differences.keys() == {"first | row"}
    assert [file.exists() for file in left] == [True, False, False]


def test_who_needs_a_shared_stage_waits_for_who_trains_it(tmp_path):
    def train(training):
        first = training.pair(MODEL)
        training.fit(first, training.data.train, stage="M1", shared=True, steps=2)
        return first

    alone = replace(table(), rows=(Row(name="1", train=train, measure={"bound": nelbo}),))
    said, waited = [], Event()

    def say(text):
        said.append(text)
        if "waiting" in text:
            waited.set()

    with ThreadPoolExecutor() as pool, locked(tmp_path / "shared" / "M1-32-true" / "seed-0"):
        row = pool.submit(run, alone, tmp_path, seeds=1, say=say)
        assert waited.wait(60)
        assert not row.done()
        held = f"M1, seed 0: waiting for its training by process {os.getpid()} on "
        assert any(text.startswith(held) for text in said)
    assert "NELBO" in row.result()


def test_the_table_has_what_another_process_has_measured_meanwhile(tmp_path, monkeypatch):
    run(table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
    other = replace(read(folder_of(tmp_path, "second", 0, "32-true")), seed=1)
    waiting = Event()
    lock = reproducing.locked

    def noted(folder, **options):
        if folder == tmp_path:
            waiting.set()
        return lock(folder, **options)

    monkeypatch.setattr(reproducing, "locked", noted)
    with ThreadPoolExecutor() as pool:
        with lock(tmp_path):
            written = pool.submit(run, table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
            assert waiting.wait(60)
            folder_of(tmp_path, "second", 1, "32-true").mkdir()
            other.write(folder_of(tmp_path, "second", 1, "32-true"))
        assert "second (smoke), 2 seeds" in written.result()
    assert len(loaded((tmp_path / "small.json").read_text())) == 2


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
