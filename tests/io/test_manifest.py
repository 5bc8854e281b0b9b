"""A manifest finds damage to the files of a folder, and does not lead out of it."""

import json
import os

import pytest

import ppl_vae
from ppl_vae.io import (
    DamagedError,
    NewerFormatError,
    UnsafeError,
)
from ppl_vae.io.manifest import check, seal


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "sealed"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.bin").write_bytes(bytes(range(100)))
    (folder / "inner" / "b.bin").write_bytes(b"abc")
    (folder / "empty").write_bytes(b"")
    seal(folder)
    return folder


def test_a_sealed_folder_is_whole(sealed):
    assert check(sealed) == ["a.bin", "empty", "inner/b.bin"]
    listed = json.loads((sealed / "manifest.json").read_text())
    assert (listed["format"], listed["ppl_vae"]) == (1, ppl_vae.__version__)
    (sealed / "another").write_text("not looked at")
    assert len(check(sealed)) == 3
    seal(sealed)
    assert len(check(sealed)) == 4
    moved = sealed.rename(sealed.with_name("moved"))
    assert len(check(moved)) == 4


@pytest.mark.parametrize("at", [0, 1, 50, 99])
def test_a_changed_byte_is_found(sealed, at):
    data = bytearray((sealed / "a.bin").read_bytes())
    data[at] ^= 1
    (sealed / "a.bin").write_bytes(data)
    with pytest.raises(DamagedError, match=r"sealed: a\.bin is corrupt: its SHA-256"):
        check(sealed)


@pytest.mark.parametrize("length", [0, 1, 99])
def test_a_truncated_file_is_found(sealed, length):
    os.truncate(sealed / "a.bin", length)
    with pytest.raises(DamagedError, match=rf"sealed: a\.bin is truncated: {length} of 100 bytes"):
        check(sealed)


def test_missing_and_longer_files_are_found(sealed):
    (sealed / "empty").write_text("more")
    with pytest.raises(DamagedError, match="empty is too long: 4 instead of 0 bytes"):
        check(sealed)
    (sealed / "empty").unlink()
    with pytest.raises(DamagedError, match="sealed: empty is missing"):
        check(sealed)
    (sealed / "manifest.json").unlink()
    with pytest.raises(DamagedError, match=r"sealed: manifest\.json is missing"):
        check(sealed)
    with pytest.raises(FileNotFoundError, match="no folder"):
        check(sealed / "nowhere")


def manifest(**changes):
    return json.dumps({"format": 1, "ppl_vae": "0.1.0", "files": {}, **changes})


MANIFESTS = {
    "no JSON": ('{"format": 1,', DamagedError, "cannot be read"),
    "empty": ("", DamagedError, "cannot be read"),
    "no text": (b"\xff\xfe\x00", DamagedError, "cannot be read"),
    "nested": ("[" * 100_000, DamagedError, "cannot be read"),
    "a number of many digits": ("9" * 10_000, DamagedError, r"cannot be read|must be a mapping"),
    "a list": ("[]", DamagedError, "must be a mapping"),
    "no format": ("{}", DamagedError, "the format must be an integer"),
    "format true": (manifest(format=True), DamagedError, "the format must be an integer"),
    "format 0": (manifest(format=0), DamagedError, "the format must be an integer"),
    "newer": (
        manifest(format=3, ppl_vae="0.9"),
        NewerFormatError,
        r"written by ppl_vae 0\.9 in format 3; ppl_vae .* reads up to format 1; update",
    ),
    "files are a list": (manifest(files=[]), DamagedError, "files must be a mapping"),
    "no size": (manifest(files={"a.bin": {"sha256": ""}}), DamagedError, "no size for a.bin"),
    "no entry": (manifest(files={"a.bin": None}), DamagedError, "no size for a.bin"),
    "no sum": (manifest(files={"a.bin": {"bytes": 100}}), DamagedError, "a.bin is corrupt"),
    "a folder": (manifest(files={"inner": {"bytes": 1}}), DamagedError, "inner is missing"),
    "very long": (" " * (2**24 + 1), DamagedError, "longer than"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_that_cannot_be_read(sealed, case):
    text, error, words = MANIFESTS[case]
    (sealed / "manifest.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(error, match=words):
        check(sealed)


@pytest.mark.parametrize(
    "name", ["../secret", "inner/../../secret", "/etc/passwd", "", ".", "..", "in\\..\\x", "a\0b"]
)
def test_paths_outside_the_folder_are_refused(sealed, name, monkeypatch):
    (sealed.parent / "secret").write_text("s")
    files = {"a.bin": {"bytes": 100, "sha256": ""}, name: {"bytes": 1, "sha256": ""}}
    (sealed / "manifest.json").write_text(manifest(files=files))
    monkeypatch.setattr("ppl_vae.io.manifest.sha256", lambda _: pytest.fail("was read"))
    with pytest.raises(UnsafeError, match=r"lists .*, not a file in this folder"):
        check(sealed)


def test_links_are_refused(sealed):
    (sealed.parent / "secret").write_text("abc")
    (sealed / "inner").rename(sealed.parent / "elsewhere")
    (sealed / "inner").symlink_to(sealed.parent / "elsewhere")
    with pytest.raises(UnsafeError, match=r"'inner/b\.bin', outside this folder by a link"):
        check(sealed)
    with pytest.raises(ValueError, match="inner is a link"):
        seal(sealed)
    (sealed / "empty").unlink()
    (sealed / "empty").symlink_to(sealed.parent / "secret")
    with pytest.raises(UnsafeError, match="'empty', not a file in this folder"):
        check(sealed)
