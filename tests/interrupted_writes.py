"""Writes that do not end: the process is killed, or the disk is full; run by test_atomic_writes.py.

Each runs in a process of its own, whose functions and limits it changes.
"""

import os
import resource
import signal

import pairs
import torch

import ppl_vae
from ppl_vae import io
from ppl_vae.io.atomic import new_folder, replaced_file, write_file


def run(name, folder):
    """Run a scenario; exit with 100 and the number of an error of the system."""
    try:
        SCENARIOS[name](folder)
    except OSError as error:
        os._exit(100 + error.errno)


def alternate(file, contents):
    """Write one content over the other, for ever."""
    while True:
        for content in contents:
            write_file(file, content)


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


def other():
    return pairs.vae(prior="mixture")


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
    ppl_vae.save(other(), folder)


def pair_between_the_renames(folder):
    die_at("replace", 1)
    ppl_vae.save(other(), folder)


def file_full(folder):
    full_disk(1000)
    write_file(folder / "file", bytes(5000))


def weights_full(folder):
    full_disk(1000)
    io.save_weights(other(), folder / "model.safetensors")


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
    ppl_vae.save(other(), folder)


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        file_half_written,
        file_before_the_rename,
        file_exit_before_the_rename,
        folder_before_the_rename,
        pair_before_the_renames,
        pair_between_the_renames,
        file_full,
        weights_full,
        state_full,
        folder_full,
        pair_full,
    )
}
