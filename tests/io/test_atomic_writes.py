"""Files and folders are complete or not there, and what was there stays when writing fails."""

import os
from functools import partial
from pathlib import Path

import interrupted_writes
import pairs
import pytest
import torch
from forked import forked
from saving import names, same

from ppl_vae.io import (
    DamagedError,
    load,
    save,
)
from ppl_vae.io.atomic import PREFIX, clear_leftovers, new_folder, replaced_file, write_file


def test_a_file_is_replaced(tmp_path):
    file = tmp_path / "numbers.csv"
    file.write_text("old")
    with replaced_file(file) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".csv"
        temporary.write_text("new")
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert names(tmp_path) == ["numbers.csv"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_changes_nothing(tmp_path, failure, there):
    file = tmp_path / "file"
    if there:
        file.write_text("old")

    def write():
        with replaced_file(file) as temporary:
            temporary.write_text("half of")
            raise failure

    with pytest.raises(failure):
        write()
    assert names(tmp_path) == ["file"] * there
    assert not there or file.read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_of_the_disk_changes_nothing(tmp_path, monkeypatch, step):
    file = tmp_path / "file"
    file.write_text("old")

    def fail(*_):
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="input/output"):
        write_file(file, b"new")
    monkeypatch.undo()
    assert file.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_files_are_synchronised_before_they_are_renamed(tmp_path, monkeypatch):
    done = []

    def record(name):
        real = getattr(os, name)

        def call(*given):
            what = given[0] if name != "fsync" else os.readlink(f"/proc/self/fd/{given[0]}")
            done.append((name, Path(what).name.startswith(PREFIX)))
            return real(*given)

        monkeypatch.setattr(os, name, call)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc, by which to tell what was synchronised")
    for name in ("fsync", "replace", "rename"):
        record(name)
    write_file(tmp_path / "file", b"new")
    assert done == [("fsync", True), ("replace", True), ("fsync", False)]
    done.clear()
    with new_folder(tmp_path / "folder") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "file").write_text("new")
    *before, rename, last = done
    assert (rename, last) == (("rename", True), ("fsync", False))
    assert [name for name, _ in before] == ["fsync"] * 3  # the file, its folder, the folder


def test_nothing_written_or_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replaced_file(tmp_path / "file"):
        pass
    with pytest.raises(FileNotFoundError), replaced_file(tmp_path / "no folder" / "file") as file:
        file.write_text("new")
    with pytest.raises(IsADirectoryError, match="a folder of that name"):
        write_file(tmp_path, b"new")
    assert names(tmp_path) == []


def test_a_new_folder_appears_complete(tmp_path):
    with new_folder(tmp_path / "one") as folder:
        (folder / "file").write_text("new")
        assert not (tmp_path / "one").exists()
    assert names(tmp_path) == ["one"]
    assert (tmp_path / "one" / "file").read_text() == "new"


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failed_new_folder_leaves_nothing(tmp_path, failure):
    def fill():
        with new_folder(tmp_path / "one") as folder:
            (folder / "file").write_text("half of")
            raise failure

    with pytest.raises(failure):
        fill()
    assert names(tmp_path) == []


@pytest.mark.parametrize("late", [False, True])
def test_an_existing_folder_is_not_replaced(tmp_path, late):
    def fill():
        if not late:
            (tmp_path / "one").mkdir()
        with new_folder(tmp_path / "one"):
            if late:  # somebody else's, meanwhile
                (tmp_path / "one").mkdir()

    with pytest.raises(FileExistsError, match="remove it or choose another"):
        fill()
    assert names(tmp_path) == ["one"]


def test_leftovers_are_cleared_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / f"{PREFIX}0123.pt").write_text("half of")
    (tmp_path / f"{PREFIX}4567").mkdir()
    (tmp_path / f"{PREFIX}4567" / "file").write_text("half of")
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path)
    assert len(clear_leftovers(tmp_path)) == 3
    assert names(tmp_path) == ["file"]
    assert clear_leftovers(tmp_path / "nowhere") == []


KILLED, EXITED, FULL = -9, 3, 100 + 27
STATUS = {
    "file_half_written": KILLED,
    "file_before_the_rename": KILLED,
    "file_exit_before_the_rename": EXITED,
    "folder_before_the_rename": KILLED,
    "pair_before_the_renames": KILLED,
    "pair_between_the_renames": KILLED,
    "file_full": FULL,
    "weights_full": FULL,
    "state_full": FULL,
    "folder_full": FULL,
    "pair_full": FULL,
}


def test_old_files_stay_when_a_process_is_killed_or_the_disk_is_full(tmp_path):
    """Each of them in a process of its own, that is killed, or whose disk is full."""
    torch.manual_seed(1)
    old = pairs.vae()
    for scenario in STATUS:
        folder = tmp_path / scenario
        folder.mkdir()
        (folder / "file").write_text("old")
        save(old, folder)
        assert forked(partial(interrupted_writes.run, scenario, folder)) == STATUS[scenario]
    for scenario, status in STATUS.items():
        folder = tmp_path / scenario
        assert (folder / "file").read_text() == "old", scenario
        left = [name for name in names(folder) if name.startswith(PREFIX)]
        assert names(folder) == sorted([*left, "config.yaml", "file", "model.safetensors"])
        assert bool(left) == (status != FULL), scenario  # only a killed process cannot tidy up
        assert [path.name for path in clear_leftovers(folder)] == left
        if scenario == "pair_between_the_renames":
            with pytest.raises(DamagedError, match=r"not the file that config\.yaml was .*interr"):
                load(folder)
        else:
            same(load(folder), old)


def test_one_of_two_contents_is_there_whenever_a_process_is_killed(tmp_path):
    file, contents = tmp_path / "alternating", [b"a" * 300_000, b"b" * 500_000]
    write_file(file, contents[0])
    for i in range(6):
        life = partial(interrupted_writes.alternate, file, contents)
        assert forked(life, seconds=0.002 + 0.0074 * i) == KILLED
        assert file.read_bytes() in contents
