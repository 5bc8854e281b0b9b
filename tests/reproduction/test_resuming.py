"""What is interrupted goes on; processes and tables do not mix what they write."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib import import_module
from threading import Event

import pytest
from small_table import MODEL, compared, digits, nelbo, run, table, train, units

from ppl_vae import VAE
from ppl_vae.io import load
from ppl_vae.io.atomic import PREFIX
from ppl_vae.reproduction import Row, loaded
from ppl_vae.reproduction import training as training_of_rows
from ppl_vae.reproduction.records import folder_of, read
from ppl_vae.training.folder_lock import locked

reproducing = import_module("ppl_vae.reproduction.reproduce")


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


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"row": "second"}'])
def test_a_record_that_cannot_be_read_is_named(tmp_path, text):
    run(table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
    folder = folder_of(tmp_path, "second", 0, "32-true")
    (folder / "record.json").write_text(text)
    with pytest.raises(ValueError, match="is not a record of this version") as caught:
        run(table(), tmp_path, seeds=1, parts=["second"], extent="smoke")
    assert f"remove {folder} to run it again" in str(caught.value)


def test_runs_of_another_extent_are_not_mixed(tmp_path):
    run(table(), tmp_path, seeds=1, extent="smoke", parts=["second"])
    for parts in ((), ["first"]):  # rows are compared: nor beside those of others
        with pytest.raises(ValueError, match="has 'second' of extent 'smoke', not 'who"):
            run(table(), tmp_path, seeds=1, extent="whole", parts=parts)


def test_a_row_without_a_shortened_protocol_is_whole_in_both(tmp_path):
    shortened = run(table(), tmp_path, seeds=1, parts=["first"])
    assert run(table(), tmp_path, seeds=1, parts=["first"], extent="whole") == shortened
    run(table(), tmp_path, seeds=1, parts=["second"])
    with pytest.raises(ValueError, match="has 'second' of extent 'shortened'"):
        run(table(), tmp_path, seeds=1, extent="whole")


def test_tables_do_not_share_a_folder(tmp_path):
    run(table(), tmp_path, seeds=1, parts=["second"])
    other = replace(table(), name="other")
    with pytest.raises(ValueError, match="has 'second' of table 'small', not 'other'"):
        run(other, tmp_path, seeds=1, parts=["second"])
