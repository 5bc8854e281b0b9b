"""The command lines of README and of the pages, as they are typed there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ppl_vae.cli import main
from ppl_vae.cli.main import _parsed

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINES = {
    line.strip(): None
    for page in PAGES
    for line in re.findall(r"^ppl-vae [a-z][^#\n]*", page.read_text(), re.M)
}
TRAININGS = [
    line
    for line in LINES
    if line.startswith("ppl-vae fit ")
    and not line.startswith("ppl-vae fit table")
    and "--devices" not in line
]


@pytest.mark.parametrize("line", LINES)
def test_every_line_is_parsed(line):
    command, *_ = _parsed(shlex.split(line)[1:])
    assert line.startswith(f"ppl-vae {command}")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with counts, labelled in part, and a run to start from."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 60)
    labels[::3] = -1
    np.savez("cells.npz", x=generator.poisson(3.0, (60, 8)), y=labels)
    short = ["--prior.components", "5", "--steps", "1", "--quiet"]
    assert main(["fit", "gmvae", "--data", "digits", "--out", "runs/gmvae", *short]) == 0


@pytest.mark.parametrize("line", TRAININGS)
def test_every_training_takes_a_step(line, here, as_users_see_it, capsys):
    line = line.replace("mnist", "digits").replace("--steps 5000", "")
    words = shlex.split(line.replace("--out runs/gmvae", "--out runs/another"))[1:]
    if "--resume" not in words:
        words += ["--steps", "1"]
    assert main([*words, "--quiet"]) == 0, capsys.readouterr().err


def test_the_commands_of_the_page_on_tables_run_in_their_order(
    tmp_path, monkeypatch, capsys, unrendered
):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "your_own_table.md").read_text()
    first, *_ = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(first, "snippet", "exec"), {})
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    for line in commands.splitlines():
        words = shlex.split(line.replace("--steps 1000", "--steps 5"), comments=True)[1:]
        assert main([*words, *(["--quiet"] if words[0] == "fit" else [])]) == 0
    assert "bound on held-out rows" in capsys.readouterr().out
    draws = pd.read_csv("draws.csv")
    assert draws.groupby("draw").size().tolist() == [200] * 20
    assert not draws.isna().any(axis=None)
    assert len(pd.read_csv("synthetic.csv")) == 1000
    assert set(pd.read_csv("forty.csv")["age"]) == {40}
