"""``ppl-vae fit table``, ``impute``, and other commands on a table: CSV and Parquet files."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ppl_vae import tables
from ppl_vae.cli.arguments import OF_FILE
from ppl_vae.cli.class_names import table_settings
from ppl_vae.cli.configuration import TABLE_SETTINGS
from ppl_vae.cli.data_source import SOURCE, located, note_source, places
from ppl_vae.cli.errors import NOT_FINITE, SUCCESS, UsageError
from ppl_vae.cli.fit import say_interrupted, say_not_finite
from ppl_vae.cli.flags import Flag, apply, parsed_value
from ppl_vae.cli.output import show
from ppl_vae.cli.output_file import output_file
from ppl_vae.cli.registry import Named
from ppl_vae.cli.runs import CHECKPOINTS, device_of, program, resume
from ppl_vae.cli.table_messages import errors_in_flags, naming, warnings_in_flags
from ppl_vae.cli.table_values import columns, entries, given, kinds_as_spelled
from ppl_vae.errors import seed_of
from ppl_vae.io.atomic import write_file
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.files import dumped, read_file
from ppl_vae.io.config.signature import arguments_of, convert, plain, refuse_unknown
from ppl_vae.io.errors import brief
from ppl_vae.io.format import FORMAT, TABLE, check_format
from ppl_vae.random_state import seed_everything
from ppl_vae.report import TableReport, table_report
from ppl_vae.tables.fields import fields_of, with_fields
from ppl_vae.tables.files import SUFFIXES
from ppl_vae.tables.frames import library
from ppl_vae.version import __version__

DRAW = "draw"
"""The column with the number of an imputation, from 1."""
_HEADER = {"format": FORMAT, "ppl_vae": __version__}
_MAY_CHANGE = ("steps", "device")
"""Settings that may differ when a run is resumed."""
_NAMED = ("prior", "posterior", "estimator")
"""Settings that are classes with arguments."""


def fit(typed: Any, flags: Sequence[Flag]) -> int:
    """Train on a table, and return the exit code."""
    folder, before = _before(typed)
    settings = _settings(typed, flags, before)
    file = settings["data"]
    if file is None:
        raise UsageError("give the table, a .csv or .parquet file: --data people.csv")
    if folder is not None and before is not None and before["data"] == file:
        file = located(folder, file)
    with naming(file):
        frame = tables.read_table(Path(file).expanduser(), columns(settings["kinds"]))
        kinds = columns(settings["kinds"], frame)
        with warnings_in_flags():
            schema = tables.Schema.infer(frame, kinds=kinds)
    settings["kinds"] = {str(c.name): settings["kinds"].get(str(c.name), c.kind) for c in schema}
    if typed.print_config:
        show(dumped({**_HEADER, **settings}).rstrip("\n"))
        return SUCCESS
    folder = Path("runs") / Path(file).stem if folder is None else folder
    _check_folder(folder, settings, before)
    if before is None:
        show(schema, f"to correct a kind: --kinds NAME=KIND, of {', '.join(tables.KINDS)}", "")
    return _trained(frame, file, settings, columns(settings["kinds"], frame), folder, typed)


def impute(flags: Any) -> int:
    """Fill the missing cells of a table, and return the exit code."""
    run = Path(flags.run).expanduser()
    file = output_file("--out", flags.out, SUFFIXES, run, (flags.data, *sources(flags.run)))
    vae = loaded(flags.run, flags)
    if flags.draws is not None and DRAW in vae.schema_.names:
        raise UsageError(
            f"--draws: the table has a column {DRAW!r}, which would number the draws; rename it, "
            f"or use ppl_vae.tables.load({flags.run!r}).impute in Python"
        )
    with naming(flags.data):
        frame = vae.schema_.read(Path(flags.data).expanduser())
        missing = int((~vae.schema_.encode(frame)[1]).sum())
        filled = vae.impute(frame, flags.draws, **_particles(flags))
    each = [table[list(frame.columns)] for table in ([filled] if flags.draws is None else filled)]
    if file.suffix.lower() == ".csv":
        each = _for_csv(each, frame, Path(flags.data).expanduser(), vae)
    if flags.draws is None:
        (filled,), what = each, "the best guess of each"
    else:
        filled, what = _below_each_other(each), f"{flags.draws} draws, numbered by {DRAW!r}"
    tables.write_table(filled, file)
    show(f"filled: {file}, {missing} missing cell{'' if missing == 1 else 's'}, {what}")
    return SUCCESS


def sample(flags: Any) -> int:
    """Draw rows from a run of a table, and return the exit code."""
    run = Path(flags.run).expanduser()
    file = run / "samples.csv"
    if flags.file is not None:
        file = output_file(flags.file_flag, flags.file, SUFFIXES, run, sources(flags.run))
    if flags.given is None and flags.num_particles is not None:
        raise UsageError("--num-particles is for --given, which was not given; leave it out")
    vae = loaded(flags.run, flags)
    values = None if flags.given is None else given(vae, flags.given)
    with naming("--given"), warnings_in_flags():
        rows = vae.sample(flags.number, given=values, **_particles(flags))
    if file.suffix.lower() == ".csv":
        rows = _whole_numbers(rows, vae)
    tables.write_table(rows, file)
    show(f"rows: {file}, {flags.number} drawn")
    return SUCCESS


def latents(flags: Any) -> np.ndarray:
    """Return the posterior means of a table's rows, for ``encode``."""
    if flags.data is None:
        raise UsageError(f"DATA is missing: give the table, as in encode {flags.run} people.csv")
    others = ("samples", "labels", "split", *OF_FILE)
    for name in others:
        if getattr(flags, name):
            dashes = f"--data.{name}" if name in OF_FILE else f"--{name}"
            raise UsageError(f"{dashes} is for runs of other data; leave it out")
    vae = loaded(flags.run, flags)
    with naming(flags.data):
        return vae.transform(Path(flags.data).expanduser())


def check_evaluation(run: str, flags: Any) -> None:
    """Raise an error for flags, or a table, by which a run of a table cannot be evaluated."""
    if flags.data is None:
        raise UsageError(
            f"--data is missing: give a table of rows that {run} was not trained on, as in "
            f"--data held_out.csv"
        )
    for name in ("annealed_data", "gap_data", "sections", "compile"):
        if getattr(flags, name):
            raise UsageError(f"--{name.replace('_', '-')} is for runs of other data; leave it out")
    vae = loaded(run, flags)
    with naming(flags.data):
        vae.schema_.encode(Path(flags.data).expanduser())


def explored(
    runs: Sequence[str], names: Sequence[str], flags: Any
) -> tuple[dict[str, tables.TableVAE], Any]:
    """Return the models of runs by name, and the rows of a file, by default of the first's."""
    file = flags.data
    if file is None:
        if not (known := sources(runs[0])):
            raise UsageError("--data is missing: give a table of rows to look at")
        file = next((f for f in known if Path(f).expanduser().is_file()), None)
        if file is None:
            raise UsageError(
                f"--data is missing: give a table of rows to look at, as there is no file "
                f"{known[-1]!r} that {runs[0]} is of"
            )
    vaes = {name: loaded(run, flags) for name, run in zip(names, runs, strict=True)}
    with naming(file):
        frame = next(iter(vaes.values())).schema_.read(Path(file).expanduser())
        for vae in vaes.values():
            vae.schema_.encode(frame)
    return vaes, frame


def reported(run: str, flags: Any, out: Path, *, figures: bool = True) -> TableReport:
    """Evaluate a run of a table on the rows of a file, for ``evaluate`` and ``report``."""
    vae = loaded(run, flags)
    with naming(flags.data):
        return table_report(
            vae,
            Path(flags.data).expanduser(),
            out,
            num_data=None if flags.num_data == "all" else flags.num_data,
            num_samples=flags.num_samples,
            seed=flags.seed,
            progress=not flags.quiet,
            figures=figures,
        )


def _trained(
    frame: Any,
    file: str,
    settings: Mapping[str, Any],
    kinds: Mapping[Any, str | tables.Column],
    folder: Path,
    typed: Any,
) -> int:
    """Train, save and print the summary; return the exit code."""
    from ppl_vae import training  # slow to import

    vae = _made(settings, kinds, not typed.quiet)
    with _begun(folder, dumped({**_HEADER, **settings}), file):
        try:
            with errors_in_flags():
                vae.fit(frame, out=folder, resume=typed.resume)
        except training.Interrupted as error:
            say_interrupted(error, resume(folder, "fit table"))
            return 128 + error.signal
        except training.NotFiniteError as error:
            say_not_finite(error, folder, "A lower --learning-rate often helps")
            return NOT_FINITE
    vae.save(folder)
    show(_summary(vae, file, folder))
    return SUCCESS


@contextmanager
def _begun(folder: Path, settings: str, data: str) -> Iterator[None]:
    """Write the settings of a run; take them back if it is refused before it goes on."""
    file, checkpoints = folder / TABLE_SETTINGS, folder / CHECKPOINTS
    before = file.read_bytes() if file.exists() else None
    noted = (folder / SOURCE).exists()
    there = set(checkpoints.glob("*"))
    folder.mkdir(parents=True, exist_ok=True)
    write_file(file, settings)
    note_source(folder, data)
    try:
        yield
    except Exception:
        if set(checkpoints.glob("*")) <= there:  # nothing was trained
            if not noted:
                (folder / SOURCE).unlink(missing_ok=True)
            if before is not None:
                write_file(file, before)
            else:
                file.unlink()
                with suppress(OSError):  # if there are other files
                    folder.rmdir()
        raise


def _before(typed: Any) -> tuple[Path | None, dict[str, Any] | None]:
    """Return the folder of the run, None for the usual one, and the settings to resume with."""
    path = None if typed.settings is None else Path(typed.settings).expanduser()
    is_run = path is not None and (path.is_dir() or (typed.resume and not path.exists()))
    given = typed.out if typed.out is not None or not is_run else typed.settings
    folder = None if given is None else Path(given).expanduser()
    if not typed.resume:
        if is_run:
            raise UsageError(
                f"SETTINGS: {typed.settings} is a folder; go on with its training, "
                f"{resume(Path(typed.settings), 'fit table')}, or give its {TABLE_SETTINGS}"
            )
        return folder, None
    if folder is None:
        raise UsageError(
            f"--resume needs the folder of the run: {resume(Path('RUN'), 'fit table')}"
        )
    if not (folder / TABLE_SETTINGS).is_file():
        raise UsageError(f"--resume: {folder} is not a run of a table: it has no {TABLE_SETTINGS}")
    from ppl_vae.training.checkpoints import Checkpoints  # slow to import

    Checkpoints(folder / CHECKPOINTS).refuse_links(folder)
    return folder, _read(folder / TABLE_SETTINGS)


def _settings(
    typed: Any, flags: Sequence[Flag], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return all settings as plain data: those typed, of a file or run, or the defaults."""
    declared = table_settings()
    tree: dict[str, Any] = {"data": None, **{n: s.default for n, s in declared.items()}}
    if typed.settings is not None and Path(typed.settings).is_file():
        tree |= _read(Path(typed.settings))
    elif before is not None:
        tree |= before
    elif typed.settings is not None:
        raise UsageError(f"SETTINGS: there is no file {typed.settings!r}")
    tree["data"] = tree["data"] if typed.data is None else typed.data
    for name in declared:
        if (text := getattr(typed, name)) is None:
            continue
        if name in ("kinds", "families"):
            tree[name] = {**(tree[name] or {}), **entries(f"--{name}", text)}
        else:
            tree[name] = parsed_value(text) if isinstance(text, str) else text
    apply(tree, flags)
    tree["kinds"] = {} if tree["kinds"] is None else tree["kinds"]
    return _checked(tree)


def _read(file: Path) -> dict[str, Any]:
    """Return the settings in a file."""
    tree = read_file(file)
    known = {"data", *table_settings(), *_HEADER}
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold a mapping of settings, got {brief(tree)}")
    refuse_unknown("a training on a table", tree, known, str(file))
    if "format" in tree:
        check_format(file, tree["format"], tree.get("ppl_vae"))
    if "kinds" in tree:
        spelled: Any = read_file(file, as_text=True)
        tree["kinds"] = kinds_as_spelled(tree["kinds"], spelled["kinds"])
    return {name: value for name, value in tree.items() if name not in _HEADER}


def _checked(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with every default of a part written out; raise ConfigError for others."""
    arguments = arguments_of(tables.TableVAE, "table")
    found = dict(tree)
    for name, value in tree.items():
        if name in _NAMED:
            found[name] = None if value is None else Named.of(name, value).mapping()
        elif name == "kinds":
            found[name] = plain(value, name)
            columns(found[name])
        elif name in ("data", "device"):
            found[name] = None if value is None else str(value)
        else:
            found[name] = plain(convert(arguments[name], value, name), name)
    return found


def _made(
    settings: Mapping[str, Any], kinds: Mapping[Any, str | tables.Column], progress: bool
) -> tables.TableVAE:
    """Return what the settings describe, to be trained."""
    arguments = {name: value for name, value in settings.items() if name in table_settings()}
    seed_everything(seed_of("", settings["seed"]))  # of a prior's initial weights
    prior, posterior, estimator = (
        None if (given := settings[name]) is None else Named.of(name, given) for name in _NAMED
    )
    arguments["prior"] = None if prior is None else prior.make(settings["latent_dim"])
    arguments["posterior"] = None if posterior is None else posterior.partial()
    arguments["estimator"] = None if estimator is None else estimator.make()
    arguments["kinds"] = kinds
    arguments["device"] = device_of(settings["device"])
    return tables.TableVAE(**arguments, progress=progress)


def _check_folder(
    folder: Path, settings: Mapping[str, Any], before: Mapping[str, Any] | None
) -> None:
    """Raise an error if there is a run already, or one with other settings to resume."""
    if before is None:
        if any((folder / name).exists() for name in (TABLE_SETTINGS, TABLE, CHECKPOINTS)):
            raise UsageError(
                f"there is a run in {folder}; go on with {resume(folder, 'fit table')}, or give "
                f"another --out"
            )
        return
    for name, value in settings.items():
        if name not in _MAY_CHANGE and before.get(name) != value:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{folder} was trained with {flag} = {brief(before.get(name))}, and now it is "
                f"{brief(value)}; leave it out, or train anew in another --out"
            )


def _summary(vae: tables.TableVAE, file: str, folder: Path) -> str:
    fitted, run = vae.training_, shlex.quote(str(folder))
    lines = [f"{fitted.steps} steps" + (", stopped early" if fitted.stopped == "patience" else "")]
    if fitted.best_step is None:
        lines.append(f"bound {-fitted.history['loss'][-1]:.2f} nats per row, of those trained on")
    else:
        row = fitted.validation["step"].tolist().index(fitted.best_step)
        loss, error = (fitted.validation[k][row] for k in ("loss", "standard_error"))
        lines.append(f"bound on held-out rows {-loss:.2f} ± {error:.2f} nats per row")
    lines.append(f"run: {folder}")
    if any(column.missing for column in vae.schema_):
        lines.append(f"next: {program()} impute {run} {shlex.quote(file)} --out filled.csv")
    else:
        lines.append(f"next: {program()} sample {run} -n 1000 --out synthetic.csv")
    return "\n".join(lines)


def sources(run: str) -> list[str]:
    """Return the files that a run may have been trained on; none of a TableVAE that was saved."""
    folder = Path(run).expanduser()
    file = folder / TABLE_SETTINGS
    return places(folder, _read(file)["data"]) if file.is_file() else []


def loaded(run: str, flags: Any) -> tables.TableVAE:
    """Return the model of a run on the device, and with draws from the seed, that were typed."""
    folder = Path(run).expanduser()
    if (folder / TABLE_SETTINGS).is_file() and not (folder / TABLE).is_file():
        raise UsageError(
            f"{folder}: the training has not finished; go on with: {resume(folder, 'fit table')}"
        )
    if not (folder / TABLE).is_file():
        raise UsageError(f"RUN: {folder} is not a run of a table; {program()} fit table makes one")
    vae = tables.load(folder, device=device_of(getattr(flags, "device", "cpu")))
    vae.seed = flags.seed
    return vae


def _particles(flags: Any) -> dict[str, int]:
    return {} if flags.num_particles is None else {"num_particles": flags.num_particles}


def _for_csv(filled: list[Any], frame: Any, data: Path, vae: tables.TableVAE) -> list[Any]:
    """Return tables as CSV has them; cells that another CSV file has read as they do there."""
    if data.suffix.lower() != ".csv":
        return [_whole_numbers(table, vae) for table in filled]
    fields = fields_of(data)
    return [with_fields(table, frame, fields, vae.schema_) for table in filled]


def _whole_numbers(table: Any, vae: tables.TableVAE) -> Any:
    """Return a table whose whole numbers, which missing cells had made floats, are integers."""
    nw = library("narwhals", "write_table")
    frame = nw.from_native(table)
    whole = [
        column.name
        for column in vae.schema_
        if frame.schema[column.name].is_float()
        and (column.kind == "count" or _of_integers(column.categories))
    ]
    return frame.with_columns(nw.col(*whole).cast(nw.Int64)).to_native() if whole else table


def _of_integers(categories: Sequence[object] | None) -> bool:
    return categories is not None and all(type(category) is int for category in categories)


def _below_each_other(draws: Sequence[Any]) -> Any:
    """Return several tables as one, with the number of each in its first column."""
    nw = library("narwhals", "impute")
    numbered = [
        nw.from_native(table).select(nw.lit(number).alias(DRAW), nw.all())
        for number, table in enumerate(draws, start=1)
    ]
    return nw.concat(numbered).to_native()
