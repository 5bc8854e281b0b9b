"""Running a table: rows by seeds, each resumable, and what is written of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from ppl_vae import io
from ppl_vae.errors import path_of, positive_int
from ppl_vae.io.atomic import clear_leftovers, replaced_file, write_file
from ppl_vae.io.errors import suggestion
from ppl_vae.models import Pair
from ppl_vae.process_state import seeded
from ppl_vae.reproduction import records
from ppl_vae.reproduction.differences import add_differences
from ppl_vae.reproduction.machine import commit, machine
from ppl_vae.reproduction.markdown import markdown
from ppl_vae.reproduction.records import Record
from ppl_vae.reproduction.table import Row, Table
from ppl_vae.reproduction.training import EXTENTS, TRAINED, Data, Training
from ppl_vae.training.folder_lock import locked

PRECISIONS = ("32-true", "bf16-mixed")


def reproduce(
    table: Table,
    out: str | Path,
    *,
    seeds: int = 3,
    parts: Sequence[str] = (),
    extent: str = "shortened",
    precision: str = "32-true",
    compile: bool = True,
    device: str = "auto",
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> str:
    """Train and measure the rows of a table, and return it in Markdown.

    Each run, a row with one seed, has a folder in ``out`` with its checkpoints, its trained pair
    and ``record.json``. What is there is not done again: after Ctrl-C, or a power cut, the same
    command goes on. Several processes may share ``out``, with other rows, or other seeds: a run
    that another process is at is left to it. ``out`` also gets ``NAME.json``, with the records of
    all runs in it, ``NAME.md``, the table, and its figures, if it has any.

    Args:
        table: one of :data:`ppl_vae.reproduction.TABLES`.
        out: the folder.
        seeds: how many; 0, 1, ... are run in turn, all rows with the first one first.
        parts: names of rows, or how several start; all rows if none is given.
        extent: ``"shortened"``, where a row has a shortened protocol, and whole where it has none;
            ``"whole"``; or ``"smoke"``, on bundled digits and at sizes that take no time, to see
            that it runs.
        precision: of the training, ``"32-true"`` or ``"bf16-mixed"``.
        compile: compile steps and importance sampling.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        progress: show progress bars.
        say: called with what begins.

    Raises:
        KeyboardInterrupt: on Ctrl-C, or on SIGTERM in a training, after a checkpoint.
        ValueError: if no row has such a name, or ``out`` has runs of another table, or of a row
            at another extent, or a record that cannot be read.
    """
    seeds = positive_int("reproduce", "seeds", seeds)
    folder = path_of("reproduce", "out", out)
    if extent not in EXTENTS:
        raise ValueError(f"reproduce: extent must be one of {', '.join(EXTENTS)}, got {extent!r}")
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ValueError(f"reproduce: precision must be one of {known}, got {precision!r}")
    rows = _chosen(table, parts)
    extents = {row.name: row.extent(extent) for row in table.rows}
    for record in records.read_all(folder):
        _check_same(record, table, extents.get(record.row, record.extent), folder)
        if record.row not in extents:
            say(f"{record.row}, seed {record.seed}, left out: {table.name} has no such row")
    data = table.data(extent)
    environment = _environment(compile, device)
    for seed in range(seeds):
        for row in rows:
            run = records.folder_of(folder, row.name, seed, precision)
            training = Training(
                data=data,
                folder=run,
                seed=seed,
                extent=extents[row.name],
                precision=precision,
                compile=compile,
                device=device,
                progress=progress,
                say=say,
            )
            try:
                with locked(run):
                    _run(table, row, training, environment)
            except BlockingIOError as error:
                say(f"{row.name}, seed {seed}, left out: {str(error).splitlines()[0]}")
            _write(table, folder)
    if table.draw is not None:
        _draw(table, folder, data, precision)
    return _write(table, folder)


def _chosen(table: Table, parts: Sequence[str]) -> list[Row]:
    """Return the rows that ``parts`` name, whole or by how they start, in the order of the table.

    A whole name is that row alone, though others may start with it; case does not matter.
    """
    chosen = {row.name for part in parts for row in _named(table, part)}
    return [row for row in table.rows if not parts or row.name in chosen]


def _named(table: Table, part: str) -> list[Row]:
    start = part.lower()
    found = [row for row in table.rows if row.name.lower() == start]
    found = found or [row for row in table.rows if start and row.name.lower().startswith(start)]
    if not found:
        names = [row.name for row in table.rows]
        raise ValueError(
            f"reproduce: parts must be rows of {table.name}, or how their names start, got "
            f"{part!r}; {suggestion(part, names)}"
        )
    return found


def _check_same(record: Record, table: Table, extent: str, folder: Path) -> None:
    """Raise if a record in a folder is of another table, or of another extent."""
    for what, its, asked in (
        ("table", record.table, table.name),
        ("extent", record.extent, extent),
    ):
        if its != asked:
            raise ValueError(
                f"reproduce: {folder} has {record.row!r} of {what} {its!r}, not {asked!r}; give "
                f"another out="
            )


def _environment(compiled: bool, device: str) -> dict[str, Any]:
    """Return what a run's numbers depend on besides the row and the seed."""
    kind = Fabric(accelerator=device, devices=1).device.type
    found = machine()
    if kind != "cuda":
        found.pop("gpu", None)
    return {"commit": commit(), "compiled": compiled, "device": kind, **found}


def _run(table: Table, row: Row, training: Training, environment: dict[str, Any]) -> None:
    """Train a row, and make the measurements that are missing."""
    folder = training.folder
    clear_leftovers(folder)
    record = records.read(folder) or Record(
        table=table.name,
        row=row.name,
        seed=training.seed,
        extent=training.extent,
        precision=training.precision,
    )
    _check_same(record, table, training.extent, folder)
    missing = [name for name in row.measure if name not in record.seconds]
    if not missing:
        return
    if environment not in record.environments:
        record.environments.append(environment)
    record.write(folder)  # before anything else, so that after a kill it is known what is here
    run = f"{row.name}, seed {training.seed}"
    training.say(f"{run}: training")
    with _timed(record, "training", folder):
        pair = row.train(training)
    pair.eval()
    for name in missing:
        training.say(f"{run}: {name}")
        with _timed(record, name, folder, whole=True), seeded("reproduce", training.seed):
            record.add(row.measure[name](pair, training).items())


@contextmanager
def _timed(record: Record, what: str, folder: Path, *, whole: bool = False) -> Iterator[None]:
    """Add the wall time of the body to the record, and write it down; if it is interrupted, too.

    What is to be measured as a ``whole`` counts only once it is finished.
    """
    start = time.perf_counter()
    finished = False
    try:
        yield
        finished = True
    finally:
        if finished or not whole:
            taken = time.perf_counter() - start
            record.seconds[what] = round(record.seconds.get(what, 0.0) + taken, 1)
            record.write(folder)


def _write(table: Table, folder: Path) -> str:
    """Write the records of all runs with a measurement, and the table; return the table."""
    with _written(folder):
        found = _measured(folder)
        add_differences(table, found, folder)
        text = markdown(table, found)
        write_file(folder / f"{table.name}.json", records.dumped(table.name, found))
        write_file(folder / f"{table.name}.md", text)
    return text


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Wait until no other process writes what is of all runs.

    What is read within is then not older than what another process has written.
    """
    with locked(folder, wait=lambda holder: None):
        clear_leftovers(folder)
        yield


def _measured(folder: Path) -> list[Record]:
    return [record for record in records.read_all(folder) if record.quantities]


def _draw(table: Table, folder: Path, data: Data, precision: str) -> None:
    """Write the figures of what has been measured, of the trainings in a precision."""
    assert table.draw is not None
    found = [record for record in _measured(folder) if record.precision == precision]
    pairs: dict[str, Pair] = {}
    for record in sorted(found, key=lambda r: r.seed, reverse=True):
        model = records.folder_of(folder, record.row, record.seed, record.precision) / TRAINED
        if model.is_dir():
            pair = io.load(model)
            assert isinstance(pair, Pair)
            pairs[record.row] = pair.eval()
    for name, figure in table.draw(found, pairs, data).items():
        with _written(folder), replaced_file(folder / f"{name}.png") as file:
            figure.savefig(file, dpi=120)
