"""Files and folders are complete or not there, and what was there stays when writing fails."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pairs
import pytest
import torch
from saving import names, same

from ppl_vae.io import (
    DamagedError,
    load,
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


# Each scenario runs in a process of its own, which is killed, or whose disk is full.
SCENARIOS = """
import os, resource, signal, sys
from pathlib import Path
import torch
import ppl_vae
from ppl_vae import io
from ppl_vae.io.atomic import new_folder, replaced_file, write_file
import pairs

root = Path(sys.argv[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step, call, how=die):
    real, count = getattr(os, step), iter(range(100))
    def patched(*given):
        if next(count) == call:
            how()
        return real(*given)
    setattr(os, step, patched)


def full_disk(size):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def file_half_written(folder):
    with replaced_file(folder / "file") as temporary, open(temporary, "wb") as file:
        file.write(b"half of")
        file.flush()
        die()


def file_before_the_rename(folder):
    die_at("replace", 0)
    write_file(folder / "file", b"new")


def file_exit_before_the_rename(folder):
    die_at("replace", 0, lambda: os._exit(3))
    write_file(folder / "file", b"new")


def folder_before_the_rename(folder):
    die_at("rename", 0)
    with new_folder(folder / "new") as new:
        (new / "file").write_text("new")


def pair_before_the_renames(folder):
    die_at("replace", 0)
    ppl_vae.save(other, folder)


def pair_between_the_renames(folder):
    die_at("replace", 1)
    ppl_vae.save(other, folder)


def file_full(folder):
    full_disk(1000)
    write_file(folder / "file", bytes(5000))


def weights_full(folder):
    full_disk(1000)
    io.save_weights(other, folder / "model.safetensors")


def state_full(folder):
    full_disk(1000)
    io.save_state({"numbers": torch.zeros(5000)}, folder / "file")


def folder_full(folder):
    full_disk(1000)
    with new_folder(folder / "new") as new:
        (new / "small").write_text("new")
        (new / "file").write_bytes(bytes(5000))


def pair_full(folder):
    full_disk(1000)
    ppl_vae.save(other, folder)


torch.manual_seed(1)
pair = pairs.vae()
other = pairs.vae(prior="mixture")
for name in sys.argv[2:]:
    folder = root / name
    folder.mkdir()
    (folder / "file").write_text("old")
    ppl_vae.save(pair, folder)
    child = os.fork()
    if not child:
        try:
            globals()[name](folder)
            os._exit(0)
        except OSError as error:
            os._exit(100 + error.errno)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    (root / f"{name}.status").write_text(str(status))

# Killed at random: two contents alternate, and one of them must be there.
file = root / "alternating"
contents = [b"a" * 300_000, b"b" * 500_000]
write_file(file, contents[0])
seen = set()
for i in range(12):
    child = os.fork()
    if not child:
        while True:
            for content in contents:
                write_file(file, content)
    import time
    time.sleep(0.002 + 0.0037 * i)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    seen.add(contents.index(file.read_bytes()))
(root / "random.status").write_text(str(sorted(seen)))
"""
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
    """One test, as importing the package in another process takes seconds."""
    here = str(Path(__file__).parents[1])
    subprocess.run(
        [sys.executable, "-c", SCENARIOS, str(tmp_path), *STATUS],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in (here, *sys.path) if p)},
    )
    torch.manual_seed(1)
    old = pairs.vae()
    for scenario, status in STATUS.items():
        folder = tmp_path / scenario
        assert int((tmp_path / f"{scenario}.status").read_text()) == status, scenario
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
    assert set((tmp_path / "alternating").read_bytes()) in ({ord("a")}, {ord("b")})
    assert json.loads((tmp_path / "random.status").read_text()) in ([0], [1], [0, 1])
