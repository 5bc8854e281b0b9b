"""`ppl-vae list` and `ppl-vae show` say what Python would."""

import ast
import importlib
import inspect
import re

import pytest

import ppl_vae
from ppl_vae import zoo
from ppl_vae.cli import main
from ppl_vae.cli.catalogue import KINDS, entries, kind_of
from ppl_vae.cli.configuration import shipped
from ppl_vae.cli.registry import KINDS as REGISTERED

PACKAGES = {kind: {"networks": "nets", "pairs": "models"}.get(kind, kind) for kind in KINDS}
CLASSES = [
    (kind, name)
    for kind in KINDS
    if kind not in ("configs", "zoo")
    for name in importlib.import_module(f"ppl_vae.{PACKAGES[kind]}").__all__
]


def said(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", KINDS)
def test_a_line_each_in_the_singular_and_the_plural(kind, capsys):
    lines = said(capsys, "list", kind).splitlines()
    assert lines == said(capsys, "list", kind.removesuffix("s")).splitlines()
    assert lines == said(capsys, "list", kind.title()).splitlines()
    names = {line.split()[0] for line in lines}
    if kind in ("configs", "zoo"):
        assert names == ({*shipped()} if kind == "configs" else {*zoo.names()})
    else:
        own = {name for owner, name in CLASSES if owner == kind}
        assert names == own | ({*REGISTERED["estimator"]} if kind == "estimators" else set())
    for line in lines:
        _, sentence = re.split(r"\s{2,}", line, maxsplit=1)
        assert len(sentence) > 8


def test_without_a_kind_the_kinds(capsys):
    listed = said(capsys, "list")
    assert [line.split()[0] for line in listed.splitlines()[: len(KINDS)]] == [*KINDS]
    assert kind_of("networks") == kind_of("network") == "networks"
    assert kind_of("part") is None


@pytest.mark.parametrize(("kind", "name"), CLASSES)
def test_signature_and_sentence_are_those_of_the_class(kind, name):
    found = getattr(getattr(ppl_vae, PACKAGES[kind]), name)
    entry = entries(kind)[name]
    called = inspect.signature(found.__init__ if inspect.isclass(found) else found)
    arguments = {p for p in called.parameters if p not in ("self", "args", "kwargs")}
    (written,) = ast.parse(f"def {entry.signature}: ...").body
    assert {a.arg for a in (*written.args.args, *written.args.kwonlyargs)} == arguments
    bare = re.sub(r":\w+:|[`~]|\\(?=\|)", "", " ".join(inspect.getdoc(found).split()))
    sentence = entry.sentence.removesuffix(" …")
    assert (
        " ".join(bare.split()).replace("ppl_vae.", "").startswith(sentence.replace("ppl_vae.", ""))
    )


def test_what_is_shown(capsys):
    vamp = said(capsys, "show", "prior", "VampPrior")
    assert vamp.startswith("VampPrior(\n    posterior: nn.Module,")
    assert "arXiv 1705.07120" in vamp
    assert "``" not in vamp
    assert said(capsys, "show", "priors", "VampPrior") == vamp
    config = said(capsys, "show", "config", "gmvae")
    assert config.startswith("$ ppl-vae fit gmvae\n")
    assert shipped()["gmvae"].read_text().rstrip() in config
    card = said(capsys, "show", "zoo", "digits-vae")
    assert card.startswith('ppl_vae.zoo.load("digits-vae")\n')
    assert "NELBO: " in card
    assert "num_particles=1" in said(capsys, "show", "estimator", "TraceEnum_ELBO")
    assert r"\|" not in said(capsys, "show", "prior", "Flow")
    listed = said(capsys, "list", "estimators")
    assert "SVI that supports exhaustive enumeration over discrete sample sites" in listed
