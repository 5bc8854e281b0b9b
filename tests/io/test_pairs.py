"""Every kind of pair comes back from a folder."""

import sys
import textwrap

import pairs
import pyro
import pytest
import safetensors.torch
import torch
import yaml
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS, C, D, Z, net
from saving import ExtraState, bits, names, same, same_tensors
from torch import nn

import ppl_vae
from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.io import (
    ConfigError,
    MismatchError,
    load,
    load_state,
    save,
    save_state,
)


def hierarchical():
    conditional = priors.ConditionalNormal(net(Z, 2 * 4))
    return HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[conditional],
        posteriors=[
            posteriors.PrecisionWeighted(net(D, 2 * 4), conditional),
            posteriors.DiagonalNormal(net(D, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(net(4, D)),
        inference="top-down",
    )


def stacked():
    second = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(4, C),
        posterior=posteriors.DiagonalNormal(net(4 + C, 2 * Z)),
        likelihood=likelihoods.Normal(net(Z + C, 4)),
        num_classes=C,
    )
    first = VAE(
        prior=priors.StandardNormal(4),
        posterior=posteriors.DiagonalNormal(net(D, 2 * 4)),
        likelihood=likelihoods.Bernoulli(net(4, D)),
    )
    return StackedVAE(first=first, second=second)


def images():
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.ConvEncoder((1, 8, 8), 2 * Z, channels=(4,))),
        likelihood=likelihoods.Bernoulli(
            nets.ConvDecoder(Z, (1, 8, 8), channels=(4,)), event_dim=3
        ),
    )


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )


ALL = {
    **{f"prior: {name}": lambda name=name: pairs.vae(prior=name) for name in PRIORS},
    **{f"posterior: {name}": lambda name=name: pairs.vae(posterior=name) for name in POSTERIORS},
    **{f"likelihood: {n}": lambda n=n: pairs.vae(likelihood=n) for n in LIKELIHOODS},
    **{f"ssvae: {n}": lambda n=n: pairs.ssvae(n) for n in (*CONDITIONAL_PRIORS, "vamp")},
    "conditional": conditional,
    "hierarchical, ladder": hierarchical,
    "stacked": stacked,
    "images": images,
}


@torch.no_grad()
def values(pair, x, *further):
    """Return the log-densities of every site, at what the guide draws from one seed."""
    torch.manual_seed(5)
    if isinstance(pair, StackedVAE):
        z = pair.first.posterior(x).sample()
        return values(pair.first, x) | {
            ("second", *k): v for k, v in values(pair.second, z).items()
        }
    guide = pyro.poutine.trace(pair.guide).get_trace(x, *further)
    model = pyro.poutine.trace(pyro.poutine.replay(pair.model, trace=guide)).get_trace(x, *further)
    found = {}
    for label, trace in (("guide", guide), ("model", model)):
        for name, site in trace.nodes.items():
            if site["type"] == "sample" and not type(site["fn"]).__name__.startswith("_"):
                found[label, name] = site["fn"].log_prob(site["value"])
    return found


def given_to(pair, name):
    kind = name.partition(": ")[2] if name.startswith("likelihood") else "bernoulli"
    x = pairs.observations(kind) if name != "images" else torch.rand(7, 1, 8, 8).round()
    labels = isinstance(pair, (SemiSupervisedVAE, ConditionalVAE))
    return (x, torch.arange(7) % C) if labels else (x,)


IN_DOUBLE = {
    *("prior: vamp, fixed inputs", "prior: spline", "prior: mixture, learned weights"),
    *("posterior: iaf", "likelihood: columns", "likelihood: normal"),
    *("hierarchical, ladder", "stacked", "images"),
}
"""What holds tensors of every kind: which dtype they have does not depend on the class."""


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *((case, "float32") for case in ALL),
        *(
            pytest.param(case, "float64", marks=() if case in IN_DOUBLE else pytest.mark.slow)
            for case in ALL
        ),
    ],
)
def test_a_pair_comes_back(tmp_path, case, dtype):
    torch.set_default_dtype(getattr(torch, dtype))
    pair = ALL[case]()
    x, *further = given_to(pair, case)
    torch.set_default_dtype(torch.float32)  # whatever it is when it is loaded
    assert save(pair, tmp_path / "runs" / "pair") == tmp_path / "runs" / "pair"
    assert names(tmp_path / "runs" / "pair") == ["config.yaml", "model.safetensors"]
    again = ppl_vae.load(tmp_path / "runs" / "pair")
    assert type(again) is type(pair)
    assert repr(again) == repr(pair)
    assert again.training
    same(pair, again)
    ours, theirs = values(pair, x, *further), values(again, x, *further)
    assert len(ours) >= 3
    assert ours.keys() == theirs.keys()
    for site in ours:
        assert torch.equal(ours[site], theirs[site]), site
        assert ours[site].dtype == getattr(torch, dtype)
    shared = {id(p) for p in pair.parameters()}
    assert len({id(p) for p in again.parameters()}) == len(shared)


def test_the_files_have_the_documented_content(saved):
    text = (saved / "config.yaml").read_text()
    config = yaml.safe_load(text)
    assert list(config) == ["format", "ppl_vae", "weights", "dtype", "model"]
    assert (config["format"], config["ppl_vae"]) == (1, ppl_vae.__version__)
    torch.manual_seed(1)
    vae = pairs.vae()
    assert config["model"] == ppl_vae.to_config(vae)
    stored = safetensors.torch.load_file(saved / "model.safetensors")
    vae.load_state_dict(stored)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("made", ["float32", "float64", "converted", "bfloat16", "float16"])
def test_constants_come_back_in_every_dtype(tmp_path, made, default):
    """A scale of 0.7 is another number in each dtype, and is not in the state_dict."""
    torch.set_default_dtype(torch.float64 if made == "float64" else torch.float32)
    pair = pairs.vae(likelihood="normal")
    if made not in ("float32", "float64"):
        pair.to({"converted": torch.float64}.get(made) or getattr(torch, made))
    torch.set_default_dtype(default)
    again = load(ppl_vae.save(pair, tmp_path))
    scale, back = pair.likelihood._fixed_scale, again.likelihood._fixed_scale
    assert (scale.dtype, bits(scale)) == (back.dtype, bits(back))
    assert again.prior().mean.dtype == pair.prior().mean.dtype == scale.dtype
    same(pair, again)
    assert torch.get_default_dtype() == default


def test_parts_of_several_dtypes_come_back(tmp_path):
    pair = pairs.vae("vamp")
    pair.likelihood.net.to(torch.bfloat16)
    pair.posterior.net.layers[0].to(torch.float64)
    again = load(ppl_vae.save(pair, tmp_path))
    same(pair, again)
    assert again.prior.posterior is again.posterior
    assert len(list(again.parameters())) == len(list(pair.parameters()))
    again.likelihood.net.layers[0].weight.grad = torch.zeros(5, 2, dtype=torch.bfloat16)


def test_loading_leaves_the_random_state(saved):
    before = torch.get_rng_state()
    load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_device_is_chosen(saved):
    assert load(saved, device="cpu").prior.loc.device == torch.device("cpu")
    for tensor in load(saved, device=torch.device("cpu")).state_dict().values():
        assert tensor.device == torch.device("cpu")
    with torch.device("meta"), pytest.raises(MismatchError, match="on meta"):  # the default
        load(saved)
    with torch.device("meta"):
        assert load(saved, device="cpu").prior.loc.device == torch.device("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_pairs_go_to_a_gpu_and_back(tmp_path):
    pair = pairs.vae("vamp").to("cuda")
    again = load(ppl_vae.save(pair, tmp_path), device="cuda")
    assert all(t.device.type == "cuda" for t in again.state_dict().values())
    assert again.prior.posterior is again.posterior
    home = load(tmp_path)
    same_tensors({n: t.cpu() for n, t in pair.state_dict().items()}, home.state_dict())
    save_state({"x": torch.ones(3, device="cuda")}, tmp_path / "state.pt")
    assert load_state(tmp_path / "state.pt")["x"].device.type == "cpu"


def test_an_older_pair_is_replaced_and_other_files_stay(saved):
    (saved / "notes.txt").write_text("mine")
    pair = pairs.vae("mixture")
    save(pair, saved)
    same(pair, load(saved))
    assert names(saved) == ["config.yaml", "model.safetensors", "notes.txt"]


@pytest.mark.usefixtures("as_users_see_it")
def test_a_pair_that_cannot_be_saved_changes_nothing(saved, tmp_path):
    before = {name: (saved / name).read_bytes() for name in names(saved)}
    strange = pairs.vae().replace(likelihood=likelihoods.Bernoulli(nn.Linear(Z, D)))
    extra = pairs.vae()
    extra.model.add_module("extra", ExtraState(1, 1))
    for pair, error, words in (
        (net(1, 1), TypeError, "save: pair must be a pair, such as a ppl_vae.VAE, got"),
        (strange, ConfigError, r"model\.likelihood\.net is a torch\.nn\.Linear"),
        (extra, TypeError, r"'model\.extra\._extra_state' is"),
    ):
        for folder in (saved, tmp_path / "new"):
            with pytest.raises(error, match=words):
                save(pair, folder)
        assert {name: (saved / name).read_bytes() for name in names(saved)} == before
        assert not (tmp_path / "new").exists()


OWN = """
import pyro.distributions as dist, torch
from pathlib import Path
from torch import nn

Path(__file__).with_name("imported").touch()


class Wide(nn.Module):
    def __init__(self, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.log_scale = nn.Parameter(torch.randn(latent_dim))

    def forward(self):
        return dist.Normal(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)
"""


def test_users_parts_need_allow(tmp_path, monkeypatch):
    (tmp_path / "ppl_vae_own_parts.py").write_text(textwrap.dedent(OWN))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = __import__("ppl_vae_own_parts")
    pair = pairs.vae().replace(prior=module.Wide(Z))
    folder = ppl_vae.save(pair, tmp_path / "saved")
    monkeypatch.delitem(sys.modules, "ppl_vae_own_parts")
    (tmp_path / "imported").unlink()
    with pytest.raises(ConfigError, match=r"'ppl_vae_own_parts\.Wide' is outside ppl_vae"):
        load(folder)
    assert not (tmp_path / "imported").exists()
    again = load(folder, allow=("ppl_vae_own_parts",))
    same(pair, again)
    assert (tmp_path / "imported").exists()
    monkeypatch.delitem(sys.modules, "ppl_vae_own_parts")
