"""Nothing is written, renamed or removed through a link in the folder of a run."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from ppl_vae import cli, data
from ppl_vae.io import UnsafeError
from ppl_vae.io.atomic import PREFIX, clear_leftovers, refuse_links, replaced_file
from tests.training.test_optimizer_state import pair, resumed, trained

DIGITS = data.load("digits").subset(range(200))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    trained(folder, 6)
    return folder


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    (folder / f"{PREFIX}precious").mkdir(parents=True)
    (folder / f"{PREFIX}precious" / "file").write_text("precious")
    (folder / "file").write_text("precious")
    return folder


def everything(folder):
    return {p: p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def replace(path, target):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True, parents=True)
    path.symlink_to(target)


LINKS = {
    "the checkpoints": ("checkpoints", ""),
    "the history": ("history.csv", "file"),
    "the validation": ("validation.csv", "file"),
    "the configuration": ("config.yaml", "file"),
    "the model": ("model", ""),
    "a logger": ("csv/version_0", ""),
    "weights": ("checkpoints/step-000000006/weights.safetensors", "file"),
    "the best weights": ("checkpoints/step-000000006/best.safetensors", "file"),
    "a state": ("checkpoints/step-000000006/state.safetensors", "file"),
    "a manifest": ("checkpoints/step-000000006/manifest.json", "file"),
    "a leftover": (f"checkpoints/{PREFIX}0", ""),
    "something else": ("checkpoints/notes", "file"),
    "a link that leads nowhere": ("history.csv", "nothing"),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_is_refused_before_anything_is_written(case, run, outside):
    name, target = LINKS[case]
    replace(run / name, outside / target)
    before, there, vae = everything(outside), everything(run), pair()
    with pytest.raises(UnsafeError, match=rf"{run / name} is a link"):
        resumed(vae, run, steps=9)
    assert everything(outside) == before
    assert everything(run) == there
    assert all(torch.equal(t, pair().state_dict()[n]) for n, t in vae.state_dict().items())


def test_a_checkpoint_that_is_a_link_is_set_aside_and_not_followed(run, outside, tmp_path):
    last = run / "checkpoints" / "step-000000006"
    shutil.move(last, outside / "whole")
    last.symlink_to(outside / "whole")
    before, vae = everything(outside), pair()
    with pytest.warns(UserWarning, match="is a link or not a folder: set aside as"):
        resumed(vae, run, steps=9)
    assert everything(outside) == before
    assert last.with_name("step-000000006.damaged").is_symlink()
    resumed(pair(), run, steps=12)  # what was set aside stands in nobody's way
    assert everything(outside) == before
    whole = trained(tmp_path / "whole", 9)
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in vae.state_dict().items())


def test_a_link_where_damaged_ones_go_is_not_followed(run, outside):
    checkpoints = run / "checkpoints"
    (checkpoints / "step-000000006" / "manifest.json").write_text("{}")
    (checkpoints / "step-000000006.damaged").symlink_to(outside)
    before = everything(outside)
    with pytest.warns(UserWarning, match="set aside as step-000000006.damaged-1"):
        resumed(pair(), run, steps=9)
    assert everything(outside) == before
    assert (checkpoints / "step-000000006.damaged-1" / "manifest.json").read_text() == "{}"


def test_unknown_names_are_ignored_with_a_warning(run):
    for name in ("step-6", "step-", "step-x", "step-0000000000009", "step-٣", f"step-{10**30}"):
        (run / "checkpoints" / name).mkdir()
    with pytest.warns(UserWarning, match="3 more: ignored, not the name of a checkpoint"):
        resumed(pair(), run, steps=7)
    assert (run / "checkpoints" / "step-6").is_dir()


def test_the_folder_itself_may_be_reached_by_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    resumed(pair(), tmp_path / "link", steps=7)
    assert (run / "checkpoints" / "step-000000007").is_dir()


def test_a_file_is_not_written_through_a_link(outside, tmp_path):
    (tmp_path / "link.csv").symlink_to(outside / "file")
    with (
        pytest.raises(UnsafeError, match="is a link; write to its target"),
        replaced_file(tmp_path / "link.csv") as file,
    ):
        file.write_text("new")
    assert (outside / "file").read_text() == "precious"
    assert os.readlink(tmp_path / "link.csv") == str(outside / "file")


def test_leftovers_that_are_links_are_removed_alone(outside, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f"{PREFIX}1").symlink_to(outside)
    before = everything(outside)
    clear_leftovers(tmp_path / "run")
    assert everything(outside) == before
    refuse_links(tmp_path / "run")
    refuse_links(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints", "model", "history.csv"])
def test_the_command_refuses_links(name, outside, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["fit", "--data", "digits", "--out", str(out), "--fit.steps", "2", "--quiet"]
    small = ["--model.posterior.net.hidden", "[3]", "--model.likelihood.net.hidden", "[3]"]
    assert cli.main([*words, *small]) == 0
    replace(out / name, outside / ("file" if "." in name else ""))
    before = everything(outside)
    capsys.readouterr()
    longer = [w if w != "2" else "4" for w in words]
    assert cli.main([*longer, *small, "--resume"]) == 1
    assert "is a link" in capsys.readouterr().err
    assert everything(outside) == before
    if name == "model":
        (out / "report").symlink_to(outside)
        assert cli.main(["report", str(out), "--quiet"]) == 1
        assert everything(outside) == before
