"""Pairs go to the Hugging Face Hub and back."""

import shutil
import sys
import types

import pairs
import pytest
import yaml
from pairs import D, Z
from saving import names, same
from torch import nn

from ppl_vae import (
    io,
    likelihoods,
)
from ppl_vae.io import (
    ConfigError,
    DamagedError,
    load,
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put folders in the place of the Hub's repositories."""
    calls = []
    root = tmp_path / "hub"

    def create_repo(repo_id, *, private, token, exist_ok):
        assert exist_ok
        calls.append(("create_repo", private, token))
        (root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://huggingface.co/{repo_id}"

    def file_exists(repo_id, filename, *, token):
        return (root / repo_id / filename).exists()

    def upload_folder(*, repo_id, folder_path, token, commit_message):
        calls.append(("upload_folder", commit_message, token))
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def snapshot_download(repo_id, *, revision, token, allow_patterns):
        calls.append(("snapshot_download", revision, token))
        cache = tmp_path / "cache" / "snapshots"
        cache.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:  # links, as in the cache of the Hub
            if (root / repo_id / name).exists():
                (cache / name).symlink_to(root / repo_id / name)
        return str(cache)

    functions = (create_repo, file_exists, upload_folder, snapshot_download)
    fake = types.SimpleNamespace(root=root, calls=calls, **{f.__name__: f for f in functions})
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return fake


def test_a_pair_goes_to_the_hub_and_back(hub):
    pair = pairs.vae("mixture")
    address = io.push(pair, "me/digits", private=True, token="secret", message="first")
    assert address == "https://huggingface.co/me/digits"
    folder = hub.root / "me" / "digits"
    assert names(folder) == ["README.md", "config.yaml", "model.safetensors"]
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["library_name"] == "ppl_vae"
    assert "io.pull('me/digits')" in card
    assert repr(pair) in card
    assert "secret" not in card
    same(pair, io.pull("me/digits", revision="main", token="secret"))
    assert hub.calls == [
        ("create_repo", True, "secret"),
        ("upload_folder", "first", "secret"),
        ("snapshot_download", "main", "secret"),
    ]


def test_an_existing_model_card_stays(hub):
    io.push(pairs.vae(), "me/digits")
    card = hub.root / "me" / "digits" / "README.md"
    card.write_text("mine")
    pair = pairs.vae()
    io.push(pair, "me/digits")
    assert card.read_text() == "mine"
    same(pair, load(card.parent))


def test_a_pair_that_cannot_be_saved_is_not_uploaded(hub):
    strange = pairs.vae().replace(likelihood=likelihoods.Bernoulli(nn.Linear(Z, D)))
    with pytest.raises(ConfigError):
        io.push(strange, "me/digits")
    assert hub.calls == []


def test_pulling_runs_nothing(hub, marker):
    io.push(pairs.vae(), "me/digits")
    folder = hub.root / "me" / "digits"
    call = f"!!python/object/apply:os.system ['touch {marker}']"
    (folder / "config.yaml").write_text(f"model: {call}")
    with pytest.raises(DamagedError, match=r"cannot be read: .*is plain YAML"):
        io.pull("me/digits")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"push needs .*pip install 'ppl-vae\[hub\]'"):
        io.push(pairs.vae(), "me/digits")
    with pytest.raises(ImportError, match=r"pull needs .*pip install 'ppl-vae\[hub\]'"):
        io.pull("me/digits")


def test_the_calls_fit_huggingface_hub():
    import inspect

    hub = pytest.importorskip("huggingface_hub", reason="the extra 'hub' is not installed")
    inspect.signature(hub.create_repo).bind("a/b", private=True, token=None, exist_ok=True)
    inspect.signature(hub.file_exists).bind("a/b", "README.md", token=None)
    inspect.signature(hub.upload_folder).bind(
        repo_id="a/b", folder_path=".", token=None, commit_message="a"
    )
    inspect.signature(hub.snapshot_download).bind(
        "a/b", revision=None, token=None, allow_patterns=["a"]
    )
