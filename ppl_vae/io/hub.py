"""Pairs on the Hugging Face Hub, with the package ``huggingface_hub``."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ppl_vae.errors import describe
from ppl_vae.io.atomic import write_file
from ppl_vae.io.pairs import CONFIG, WEIGHTS, load, save
from ppl_vae.models import Pair, StackedVAE

CARD = "README.md"


def push(
    pair: Pair | StackedVAE,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a pair to the Hub in one commit, with a model card unless there is one.

    Args:
        pair: the pair.
        repo_id: ``user/name``; created if it does not exist.
        private: whether a new repository is private.
        token: of your account; that of ``hf auth login`` if not given.
        message: for the commit.

    Returns:
        The URL of the repository.

    Raises:
        ImportError: if ``huggingface_hub`` is not installed.
        ConfigError: as :func:`ppl_vae.save`; nothing was uploaded.
    """
    if not isinstance(pair, (Pair, StackedVAE)):
        raise TypeError(f"push: pair must be a pair, such as a ppl_vae.VAE, got {describe(pair)}")
    hub = _library("push", repo_id)
    with tempfile.TemporaryDirectory() as name:
        folder = save(pair, name)
        address = hub.create_repo(repo_id, private=private, token=token, exist_ok=True)
        if not hub.file_exists(repo_id, CARD, token=token):
            write_file(folder / CARD, _card(pair, repo_id))
        hub.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            token=token,
            commit_message=message or f"{type(pair).__name__} of ppl_vae",
        )
    return str(address)


def pull(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    allow: Collection[str] = (),
) -> Pair | StackedVAE:
    """Download a pair from the Hub. No code from there is run, see :func:`ppl_vae.load`.

    Args:
        repo_id: ``user/name``.
        revision: a branch, tag or commit; the latest if not given.
        token: of your account, for private repositories.
        allow: top-level packages of your own that may be imported.

    Raises:
        ImportError: if ``huggingface_hub`` is not installed.
        ValueError: as :func:`ppl_vae.load`.
    """
    hub = _library("pull", repo_id)
    folder = hub.snapshot_download(
        repo_id, revision=revision, token=token, allow_patterns=[CONFIG, WEIGHTS, CARD]
    )
    return load(Path(folder), allow=allow)


def _library(user: str, repo_id: object) -> Any:
    if not isinstance(repo_id, str) or not repo_id:
        wrong = ValueError if repo_id == "" else TypeError
        raise wrong(f"{user}: repo_id must be 'user/name', got {describe(repo_id)}")
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        fix = "pip install 'ppl-vae[hub]'"
        raise ImportError(f"{user} needs the package huggingface_hub: {fix}") from error


def _card(pair: Pair | StackedVAE, repo_id: str) -> str:
    return f"""---
library_name: ppl_vae
tags: [pyro, variational-autoencoder]
---

# {repo_id.rpartition("/")[2]}

A {type(pair).__name__} of ppl_vae (variational autoencoders as Pyro programs). The weights are
safetensors and the configuration is plain YAML: loading runs no code from here.

```python
from ppl_vae import io  # pip install 'ppl-vae[hub]'

pair = io.pull({repo_id!r})
```

It was built by

```python
{pair!r}
```
"""
