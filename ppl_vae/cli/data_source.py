"""Where the data of a run are, from whatever directory a command is called."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from ppl_vae.data import LOADERS
from ppl_vae.errors import reason
from ppl_vae.files import read_bytes
from ppl_vae.io import DamagedError
from ppl_vae.io.atomic import write_file
from ppl_vae.io.format import MANIFEST_BYTES

SOURCE = "data.json"
"""Where the file or folder of data is that a run was trained on."""


def note_source(run: Path, name: str) -> None:
    """Write into a run where its data are, unless it says so already or they have a name."""
    if name in LOADERS or not _exists(name) or (run / SOURCE).exists():
        return
    whole = Path(os.path.abspath(Path(name).expanduser()))
    where = whole.parent.resolve() / whole.name  # which may itself be a link
    found = {"path": str(where)}
    with suppress(ValueError):  # on another drive
        found["from_run"] = os.path.relpath(where, run.resolve())
    write_file(run / SOURCE, json.dumps(found) + "\n")


def places(run: Path, name: str) -> list[str]:
    """Return the paths at which the data of a run may be, or their name.

    They are where they lay beside the run, in case both were moved; where they were; and what was
    typed, from here, which is all that runs of earlier versions have.
    """
    file = run / SOURCE
    if name in LOADERS or not file.is_file():
        return [name]
    try:
        found = json.loads(read_bytes(file, MANIFEST_BYTES, error=DamagedError))
        beside = [os.path.normpath(run.resolve() / found[k]) for k in ("from_run",) if k in found]
        return [*beside, str(Path(found["path"])), name]
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise DamagedError(
            f"{file} does not say where the data are: {reason(error)}; remove it"
        ) from error


def located(run: Path, name: str) -> str:
    """Return the first place at which the data of a run are, or what was typed if at none."""
    return next((place for place in places(run, name) if _exists(place)), name)


def identity(run: Path, name: str) -> str:
    """Return the name of the data of a run, or their path, by which runs are compared."""
    found = located(run, name)
    is_path = found not in LOADERS and _exists(found)
    return str(Path(found).expanduser().resolve()) if is_path else found


def _exists(path: str) -> bool:
    return Path(path).expanduser().exists()
