"""A saved pair that is damaged, newer or hostile is refused, and nothing in it is run."""

import shutil
import time

import pytest
import torch
import yaml

from ppl_vae.io import (
    ConfigError,
    DamagedError,
    MismatchError,
    NewerFormatError,
    load,
)


def rewrite(folder, change):
    file = folder / "config.yaml"
    config = yaml.safe_load(file.read_text())
    change(config)
    file.write_text(yaml.safe_dump(config))


def set_to(*path):
    *path, last, value = path

    def change(config):
        for name in path:
            config = config[name]
        config[last] = value

    return change


CLASSES = {
    "os.system": (set_to("model", "class", "os.system"), r"model: 'os\.system' is outside ppl_vae"),
    "builtins.eval": (
        set_to("model", "prior", "class", "builtins.eval"),
        r"builtins\.eval' is out",
    ),
    "as a part": (set_to("model", "prior", "os.system"), r"model\.prior: 'os\.system' is outside"),
    "with arguments": (
        set_to("model", "prior", {"class": "subprocess.run", "args": "touch marker"}),
        r"'subprocess\.run' is outside",
    ),
    "exec as an activation": (
        set_to("model", "likelihood", "net", "activation", "builtins.exec"),
        r"model\.likelihood\.net\.activation: 'builtins\.exec' is outside",
    ),
    "a room's own imports": (
        set_to("model", "prior", "class", "priors.torch.load"),
        "is not a public class of ppl_vae",
    ),
    "a module of the package": (
        set_to("model", "prior", "class", "ppl_vae.io.state.io.open"),
        "is not a public class of ppl_vae",
    ),
    "strange names": (set_to("model", "prior", "class", "__import__('os')"), "the name of a class"),
    "a reference": (set_to("model", "prior", "${__class__.__init__}"), "is not a part of the pair"),
    "a network": (set_to("model", {"class": "nets.MLP", "in_features": 1}), "is not a pair"),
    "a tuple": (set_to("model", "prior", 3), "model.prior must be"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_classes_that_are_not_public_parts_are_not_loaded(saved, marker, case):
    change, words = CLASSES[case]
    rewrite(saved, change)
    with pytest.raises(ConfigError, match=words):
        load(saved)
    with pytest.raises(ConfigError):
        load(saved, allow=("os", "builtins", "subprocess", "torch"))


LAUGHS = "a0: &a0 [lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
TEXTS = {
    "a call": "model: !!python/object/apply:os.system ['touch {marker}']",
    "a call, deep": "format: 1\nmodel: {a: [!!python/object/apply:os.system ['touch {marker}']]}",
    "an object": "model: !!python/object/new:os.system ['touch {marker}']",
    "a name": "model: !!python/name:os.system",
    "a module": "model: !!python/module:os",
    "an unknown tag": "model: !mine {a: 1}",
    "a billion laughs": LAUGHS,
    "a billion merges": MERGES,
    "an endless list": "model: &a [*a]",
    "nested": "[" * 100_000,
    "nested mappings": "{a: " * 50_000,
    "very many": "model: [" + "a, " * 100_000 + "]",
    "many digits": "format: " + "9" * 100_000,
    "a 13th month": "format: 2024-13-40",
    "two documents": "a: 1\n---\nb: 2",
    "no text": b"\xff\xfe\x00",
    "no YAML": "model: {",
    "empty": "",
    "a list": "[1, 2]",
    "a list as a key": "? [1, 2]\n: 3",
}


@pytest.mark.parametrize("case", TEXTS)
def test_configurations_that_are_not_plain_data_are_refused_at_once(saved, marker, case):
    text = TEXTS[case]
    if isinstance(text, str):
        text = text.replace("{marker}", str(marker)).encode()
    (saved / "config.yaml").write_bytes(text)
    start = time.process_time()
    with pytest.raises(
        DamagedError,
        match=r"config\.yaml'?:? (cannot|must hold|is longer|.*more than|.*alias|.*deeply|.*long)",
    ):
        load(saved)
    assert time.process_time() - start < 3


def test_a_long_configuration_is_not_read(saved):
    with open(saved / "config.yaml", "a") as file:
        file.write("#" * 2**20)
    with pytest.raises(DamagedError, match=r"config\.yaml' is longer than 262144 bytes"):
        load(saved)


def test_this_yaml_runs_if_loaded_unsafely(tmp_path):
    marker = tmp_path / "marker"
    yaml.unsafe_load(TEXTS["a call"].replace("{marker}", str(marker)))
    assert marker.exists()


HEADS = {
    "no format": (lambda c: c.pop("format"), DamagedError, "format must be an integer"),
    "newer": (
        lambda c: c.update(format=2, ppl_vae="0.9"),
        NewerFormatError,
        r"config\.yaml: written by ppl_vae 0\.9 in format 2; ppl_vae .* up to format 1; update",
    ),
    "no sum": (lambda c: c.pop("weights"), DamagedError, "weights is missing"),
    "another sum": (set_to("weights", "0" * 64), DamagedError, "not the file that"),
    "no model": (lambda c: c.pop("model"), DamagedError, "model is missing"),
    "no dtype": (lambda c: c.pop("dtype"), DamagedError, "dtype is missing"),
    "another dtype": (set_to("dtype", "int64"), DamagedError, "must be float32 or float64, got"),
    "another pair": (
        set_to("model", "prior", {"class": "DiagonalNormal", "latent_dim": 2}),
        MismatchError,
        r"saved: .* incompatible with the configuration: .*missing keys 'model\.prior\.loc'",
    ),
    "other widths": (
        set_to("model", "likelihood", "net", "hidden", [7]),
        MismatchError,
        r"are incompatible with .* is \(5, 2\) in the file and \(7, 2\) in the module",
    ),
    "an argument": (set_to("model", "prior", "more", 1), ConfigError, "has no 'more'"),
}


@pytest.mark.parametrize("case", HEADS)
def test_configurations_of_other_pairs_and_versions(saved, case):
    change, error, words = HEADS[case]
    rewrite(saved, change)
    before = torch.get_rng_state()
    with pytest.raises(error, match=words):
        load(saved)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32


def test_folders_without_a_pair(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        load(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"other holds no pair: config\.yaml and model"):
        load(tmp_path / "other")
    for name in ("config.yaml", "model.safetensors"):
        folder = shutil.copytree(saved, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(DamagedError, match=f"{name} is missing; saving was interrupted"):
            load(folder)


def test_damage_to_the_weights_of_a_pair_is_found(saved):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    for at in (0, 8, 20, len(whole) // 2, len(whole) - 1):
        data = bytearray(whole)
        data[at] ^= 1
        file.write_bytes(data)
        with pytest.raises(DamagedError, match=r"model\.safetensors is not the file that"):
            load(saved)
    for length in (0, 1, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"model\.safetensors is not the file that"):
            load(saved)
    file.write_bytes(whole)
    load(saved)
