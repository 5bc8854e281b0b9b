"""The files of a report, and what they say of how it was made."""

from __future__ import annotations

import json
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ppl_vae.io.atomic import write_files


def write(page_path: Path, json_path: Path, html: str, results: dict[str, Any]) -> None:
    """Write both files, whole or not at all."""
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_files({page_path: html, json_path: text})


def made_now() -> str:
    """Return the time, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name, package in {"torch": "torch", "pyro": "pyro-ppl", "ppl_vae": "ppl-vae"}.items():
        try:
            found[name] = version(package)
        except PackageNotFoundError:  # a source tree that was never installed
            found[name] = "unknown"
    return found


def versions_in_words() -> str:
    """Return `versions` on a line."""
    return ", ".join(f"{name} {number}" for name, number in versions().items())
