"""The folder of a saved model of tables: a pair, and the schema beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ppl_vae import io
from ppl_vae.errors import device_of, path_of, quoted, reason, seed_of
from ppl_vae.files import read_bytes
from ppl_vae.io.atomic import write_file
from ppl_vae.io.format import TABLE
from ppl_vae.models import VAE
from ppl_vae.tables.schema import Schema


def write_folder(folder: str | os.PathLike[str], pair: VAE, schema: Schema, seed: int) -> Path:
    """Save a pair, its schema and the seed of its methods; return the folder."""
    path = io.save(pair, folder)
    table = {"schema": schema.to_dict(), "seed": seed}
    write_file(path / TABLE, json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    return path


def read_folder(folder: str | os.PathLike[str], device: Any) -> tuple[VAE, Schema, int]:
    """Return what `write_folder` wrote, the pair on a device."""
    path = path_of("load", "folder", folder)
    pair: Any = io.load(path, device=device_of("load", device))
    file = path / TABLE
    try:
        table = json.loads(read_bytes(file))
        schema, seed = Schema.from_dict(table["schema"]), seed_of("", table["seed"])
    except FileNotFoundError:
        raise FileNotFoundError(
            f"load: {quoted(path)} has no {TABLE}; a pair alone is loaded by ppl_vae.load"
        ) from None
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"load: {quoted(file)} is damaged: {reason(error)}") from error
    columns = getattr(getattr(pair, "likelihood", None), "columns", ())
    if not isinstance(pair, VAE) or len(columns) != len(schema):
        raise ValueError(
            f"load: {quoted(path)} has a table of {len(schema)} columns and a "
            f"{type(pair).__name__} of {len(columns)}; they are of different trainings, save again"
        )
    return pair, schema, seed
