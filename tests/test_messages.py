"""Messages are short and safe for a terminal, whatever files and configurations contain."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from configs import SHORTEST
from torch import nn

import ppl_vae
from ppl_vae import cli, data, io
from ppl_vae.errors import describe, message, quoted, reason
from ppl_vae.io.config import ConfigError, from_config
from ppl_vae.io.tensors import write_tensors

STRANGE = {
    "a colour": "\x1b[31mred\x1b[0m",
    "a title": "\x1b]0;title\x07",
    "a screen": "\x1b[2J\x1b[H",
    "one byte": "\x9b31m",
    "a bell": "\x07\x08\x7f",
    "a carriage return": "error\rfine",
    "a turn of direction": "abc\u202ecba\u2066",
    "nothing wide": "a\u200b\ufeffb",
    "half a pair": "a\ud800b",
}
UNSEEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def assert_shown(text, most=2000):
    assert not UNSEEN.search(text), ascii(text)
    assert len(text) <= most


@pytest.mark.parametrize("case", STRANGE)
def test_values_are_escaped_and_cut(case):
    text = STRANGE[case]
    for value in (
        text,
        [text],
        {text: text},
        (text,),
        Path(text),
        text * 10**5,
        {"a": [text] * 9**5},
    ):
        assert_shown(describe(value), 250)
        assert_shown(quoted(value, 60), 60)
        assert_shown(reason(ValueError(str(value)[: 10**6]), 200), 200)
        assert_shown(message(value))


LONG = {
    "text": lambda: "a" * 10**8,
    "bytes": lambda: b"a" * 10**8,
    "list": lambda: list(range(10**7)),
    "integer": lambda: 10**5000,
    "negative": lambda: -(10**5000),
    "mapping": lambda: {i: i for i in range(10**6)},
}


@pytest.mark.parametrize("kind", LONG)
def test_long_values_are_described_at_once(kind):
    value = LONG[kind]()
    start = time.process_time()
    assert_shown(describe(value), 250)
    assert time.process_time() - start < 0.1


def test_short_values_are_described_as_python_writes_them():
    for value in (
        [],
        (),
        (1,),
        {},
        set(),
        {1},
        frozenset({2}),
        {"a": [1, (2.5, None)]},
        "ä",
        b"a",
        True,
    ):
        assert describe(value) == f"{value!r} ({type(value).__name__})"
    assert describe(nn.Linear(1, 2)) == "Linear(in_features=1, out_features=2, bias=True) (Linear)"


class Raises:
    def __repr__(self):
        raise RuntimeError


def test_an_object_without_a_repr_is_described():
    assert describe(Raises()).startswith("<")


PLACES = {
    "a class": lambda t: {"class": t},
    "a part": lambda t: {**SHORTEST, "prior": t},
    "a part's class": lambda t: {**SHORTEST, "prior": {"class": t}},
    "a part's argument": lambda t: {**SHORTEST, "prior": {"class": "StandardNormal", t: 1}},
    "an argument": lambda t: {**SHORTEST, t: 1},
    "a number": lambda t: {**SHORTEST, "latent_dim": t},
    "an activation": lambda t: {
        **SHORTEST,
        "likelihood": {"class": "Bernoulli", "net": {"activation": t}},
    },
    "a reference": lambda t: {**SHORTEST, "prior": f"${{{t}}}"},
    "a key beside model": lambda t: {"model": SHORTEST, t: 1},
}


@pytest.mark.parametrize("case", STRANGE)
@pytest.mark.parametrize("place", PLACES)
def test_messages_about_configurations_are_safe(place, case):
    for text in (STRANGE[case], STRANGE[case] * 20_000, "a" * 1_800_000):
        with pytest.raises(ConfigError) as caught:
            from_config(PLACES[place](text))
        assert_shown(str(caught.value))


@pytest.mark.parametrize("name", ["os.system", "subprocess.run", "builtins.eval", "torch.load"])
def test_messages_do_not_advise_to_trust_what_a_file_names(name, tmp_path, capsys):
    file = tmp_path / "pair.yaml"
    file.write_text(yaml.safe_dump({**SHORTEST, "prior": name}))
    with pytest.raises(ConfigError) as caught:
        from_config(file)
    assert repr(name) in str(caught.value)
    package = name.partition(".")[0]
    assert f"({package!r}" not in str(caught.value)
    assert "trust" not in str(caught.value)


def test_the_command_line_prints_no_control_characters(tmp_path, capsys):
    for i, text in enumerate(STRANGE.values()):
        text = text.replace("\ud800", "")
        file = tmp_path / f"{i}.yaml"
        file.write_text(yaml.safe_dump({"model": {**SHORTEST, "prior": text}, text: 1}))
        for words in (["fit", str(file)], ["fit", text], ["evaluate", text], ["fit", f"--{text}"]):
            assert cli.main(words) != 0
            shown = capsys.readouterr()
            assert_shown(shown.out + shown.err, 4000)


@pytest.mark.parametrize("case", [c for c in STRANGE if c != "half a pair"])
def test_messages_about_names_in_files_and_of_files_are_safe(case, tmp_path):
    text = STRANGE[case]
    tensors = {text: torch.ones(1), **{f"{text}{i}": torch.ones(1) for i in range(5)}}
    write_tensors(tensors, tmp_path / "w")
    np.savez(tmp_path / "a.npz", **{text: np.ones(3)})
    folder = tmp_path / text
    folder.mkdir()
    (folder / f"{text}.png").write_bytes(b"no image")
    (folder / f"{text}.npy").write_bytes(b"no array")
    for call in (
        lambda: io.load_weights(nn.Linear(1, 1), tmp_path / "w"),
        lambda: io.load_state(tmp_path / "w"),
        lambda: io.load_state(folder / f"{text}.npy"),
        lambda: data.load(tmp_path / "a.npz"),
        lambda: data.load(folder),
        lambda: data.load(folder / f"{text}.npy"),
        lambda: data.load(text),
        lambda: ppl_vae.load(folder),
    ):
        with pytest.raises((ValueError, OSError)) as caught:
            call()
        assert_shown(str(caught.value))
