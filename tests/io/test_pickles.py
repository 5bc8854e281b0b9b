"""Pickles in the place of weights or states are not run."""

import os
import pickle
import warnings
import zipfile
from io import BytesIO

import pytest
import torch

from ppl_vae.io import (
    DamagedError,
    load_state,
)
from ppl_vae.io.tensors import read_tensors


class Evil:
    """What a pickle runs when it is read: it makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


class ByTorch(Evil):
    """The same by a function of torch that reads a pickle in a string."""

    def __reduce__(self):
        inner = BytesIO()
        torch.save(Evil(self.marker), inner)
        return torch.storage._load_from_bytes, (inner.getvalue(),)


class ByName(Evil):
    """The same by a function of Python's."""

    def __reduce__(self):
        return exec, (f"open({self.marker!r}, 'w').close()",)


def zipped(obj, **options):
    buffer = BytesIO()
    torch.save(obj, buffer, **options)
    return buffer.getvalue()


def compressed(data):
    out = BytesIO()
    with (
        zipfile.ZipFile(BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return out.getvalue()


def _upper(name):
    return name.replace("data.pkl", "DATA.PKL")


def with_two_pickles(data, evil, change=str):
    """Return an archive of which one program may read the first entry and another the second."""
    out = BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate name
        name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
        archive.writestr(change(name), pickle.dumps(evil, protocol=2))
    return out.getvalue()


PICKLES = {
    "a pickle": pickle.dumps,
    "an old pickle": lambda evil: pickle.dumps(evil, protocol=0),
    "a pickled state": lambda evil: pickle.dumps({"optimizer": evil}, protocol=2),
    "of torch": lambda evil: zipped({"optimizer": {"state": [evil]}}),
    "of torch, a new protocol": lambda evil: zipped({"a": evil}, pickle_protocol=4),
    "of torch, as before": lambda evil: zipped({"a": evil}, _use_new_zipfile_serialization=False),
    "of torch, compressed": lambda evil: compressed(zipped({"a": evil})),
    "of torch, two pickles": lambda evil: with_two_pickles(zipped({"a": 1}), evil),
    "of torch, two cases": lambda evil: with_two_pickles(zipped({"a": 1}), evil, _upper),
}


@pytest.mark.parametrize("kind", [Evil, ByTorch, ByName])
@pytest.mark.parametrize("case", PICKLES)
def test_pickles_are_not_run(tmp_path, marker, case, kind):
    file = tmp_path / "state.pt"
    file.write_bytes(PICKLES[case](kind(marker)))
    with pytest.raises(DamagedError, match=r"state\.pt is (a file of torch\.save|not a complete)"):
        load_state(file)
    with pytest.raises(DamagedError, match="not a complete safetensors file"):
        read_tensors(file)


def test_these_pickles_run_if_loaded_as_pickles(tmp_path):
    """So that the test above is one."""
    marker = tmp_path / "marker"
    for kind in (Evil, ByTorch, ByName):
        for read in (
            lambda evil: pickle.loads(pickle.dumps(evil)),
            lambda evil: torch.load(BytesIO(zipped({"a": evil})), weights_only=False),
        ):
            read(kind(marker))
            assert marker.exists()
            marker.unlink()
