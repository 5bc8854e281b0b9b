"""Exported files compute what the pair does; what has no graph is refused with the reason."""

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import conditional, hierarchical
from pairs import LIKELIHOODS, POSTERIORS, D, ssvae, vae
from torch import nn

from ppl_vae import (
    VAE,
    ConditionalVAE,
    export,
    from_config,
    likelihoods,
    nets,
    posteriors,
    priors,
    save,
    tables,
)
from ppl_vae.cli import main
from ppl_vae.export.graphs import PACKAGES, log_gamma

MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} missing: pip install 'ppl-vae[export]'"
)
pytestmark = pytest.mark.usefixtures("as_users_see_it")
X = (torch.arange(7 * D).reshape(7, D) % 3 == 0).float()
Y = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def given_vectors():
    return ConditionalVAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nn.Linear(D + 3, 4)),
        likelihood=likelihoods.Bernoulli(nn.Linear(2 + 3, D)),
        context_features=3,
    )


def runs(exported, name):
    """Return the function of a .pt2 file, with its outputs by name."""
    program = torch.export.load(exported.files[name]).module()
    card = json.loads((exported.folder / "export.json").read_text())["programs"][name]
    return lambda *inputs: dict(zip(card["outputs"], program(*inputs), strict=True))


def test_a_vae(tmp_path):
    pair = vae().train()
    before = torch.get_rng_state()
    found = export.to_torch(pair, tmp_path / "new" / "folder")
    assert torch.equal(before, torch.get_rng_state())
    assert all(part.training for part in pair.modules())
    assert {*found.files} == {"encoder", "decoder", "log_prob"}
    assert not found.refused
    assert max(found.differences.values()) < 1e-6
    pair.eval()
    q = runs(found, "encoder")(X)
    assert torch.allclose(q["mean"], pair.posterior(X).mean)
    assert torch.allclose(q["scale"], pair.posterior(X).stddev)
    p = runs(found, "decoder")(q["mean"])
    assert torch.allclose(p["mean"], pair.decode(q["mean"]))
    assert torch.allclose(p["logits"].sigmoid(), p["mean"])
    log_prob = runs(found, "log_prob")(X[:2], q["mean"][:2])["log_prob"]
    assert log_prob.shape == (2,)
    assert torch.allclose(log_prob, pair.likelihood(q["mean"][:2]).log_prob(X[:2]))
    card = json.loads((found.folder / "export.json").read_text())
    assert card["pair"] == "VAE"
    assert card["programs"]["encoder"]["inputs"] == {
        "x": {"shape": ["batch", D], "dtype": "float32"}
    }
    assert "encoder.pt2" in repr(found)
    assert "<table>" in found._repr_html_()


def test_labels(tmp_path):
    pair = ssvae()
    found = export.to_torch(pair, tmp_path)
    assert {*found.files} == {"classifier", "encoder", "decoder", "log_prob"}
    assert torch.allclose(runs(found, "classifier")(X)["probs"], pair.classify(X))
    encoder = runs(found, "encoder")
    z = encoder(X, Y)["mean"]
    assert torch.allclose(z, pair.encode(X, Y))
    assert torch.allclose(encoder(X, torch.full_like(Y, -1))["mean"], pair.encode(X))
    assert torch.allclose(runs(found, "decoder")(z, Y)["mean"], pair.decode(z, Y))


@pytest.mark.parametrize(
    ("make", "c"),
    [
        (conditional, Y),
        pytest.param(given_vectors, torch.rand(7, 3), marks=pytest.mark.slow),
    ],
)
def test_conditions(make, c, tmp_path):
    pair = make()
    found = export.to_torch(pair, tmp_path, programs=["encoder", "decoder"])
    z = runs(found, "encoder")(X, c)["mean"]
    assert torch.allclose(z, pair.encode(X, c))
    assert torch.allclose(runs(found, "decoder")(z, c)["mean"], pair.decode(z, c))


def test_layers(tmp_path):
    pair = hierarchical()
    found = export.to_torch(pair, tmp_path, programs=["encoder", "conditional1"])
    q = runs(found, "encoder")(X)
    latents = pair.encode(X)
    for i, z in enumerate(latents, start=1):
        assert torch.allclose(q[f"z{i}_mean"], z)
    p = runs(found, "conditional1")(latents[1])
    assert torch.allclose(p["mean"], pair.conditionals[0](latents[1]).mean)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_images(to, tmp_path):
    pair = from_config(
        {
            "class": "VAE",
            "latent_dim": 2,
            "event_shape": [1, 8, 8],
            "prior": "StandardNormal",
            "posterior": {"class": "DiagonalNormal", "net": "ConvEncoder"},
            "likelihood": {"class": "Bernoulli", "net": "ConvDecoder"},
        }
    )
    found = getattr(export, f"to_{to}")(pair, tmp_path)
    assert {*found.files} == {"encoder", "decoder", "log_prob"}
    assert max(found.differences.values()) < 1e-4


def table():
    random = np.random.default_rng(0)
    a = random.normal(size=60)
    frame = pd.DataFrame({"a": a, "town": np.where(a > 0, "Bern", "Graz")})
    frame.loc[::5, "town"] = None
    return frame


def test_a_table_and_its_command(tmp_path, capsys):
    frame = table()
    fitted = tables.fit(frame, latent_dim=2, hidden=(8,), steps=3, progress=False)
    fitted.save(tmp_path / "run")
    words = ["export", str(tmp_path / "run"), "--to", "torch"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "encoder: encoder.pt2, largest difference from the pair" in capsys.readouterr().out
    found = export.Exported(
        tmp_path / "out",
        {n: tmp_path / "out" / f"{n}.pt2" for n in ("encoder", "log_prob")},
        {},
        {},
    )
    values, mask = fitted.schema_.encode(frame)
    assert not mask.all()
    x, seen = torch.tensor(values).float(), torch.tensor(mask)
    z = runs(found, "encoder")(x)["mean"]  # NaN is missing
    assert torch.allclose(z, torch.tensor(fitted.transform(frame)).to(z), atol=1e-6)
    pair = fitted.pair_.eval()
    observation = pair.observation
    expected = observation.masked(pair.likelihood(z), seen).log_prob(observation.filled(x, seen))
    assert torch.allclose(runs(found, "log_prob")(x, z)["log_prob"], expected, atol=1e-5)
    card = json.loads((tmp_path / "out" / "export.json").read_text())
    assert tables.Schema.from_dict(card["schema"]).names == fitted.schema_.names
    assert "best_guess" in card["programs"]["decoder"]["outputs"]


@pytest.mark.parametrize("gate", ["learned", "per-pixel"])
def test_parameters_of_zero_inflated_counts(gate, tmp_path):
    cls = likelihoods.ZeroInflatedNegativeBinomial
    width = cls.net_shape((4,), gate=gate)[0]
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(4, 4)),
        likelihood=cls(nets.MLP(2, width), "learned", gate),
    )
    found = export.to_torch(pair, tmp_path, programs=["decoder"])
    z = torch.randn(5, 2)
    p = runs(found, "decoder")(z)
    expected = pair.likelihood(z).base_dist
    assert {*p} == {"mean", "total_count", "gate_logits"}
    for name, value in p.items():
        of = expected.base if name == "total_count" else expected
        assert torch.allclose(value, getattr(of, name).expand(5, 4)), name


def test_codes_of_a_vq_vae(tmp_path):
    q = posteriors.VectorQuantised(nets.MLP(9, 6), 3, codes=5, code_dim=2)
    p = likelihoods.Bernoulli(nets.MLP(6, 9))
    pair = VAE(prior=priors.Codebook(q), posterior=q, likelihood=p)
    found = export.to_torch(pair, tmp_path)
    assert not found.refused
    x = torch.rand(7, 9).round()
    assert torch.allclose(runs(found, "encoder")(x)["mean"], pair.encode(x))


def test_files_of_another_pair_are_not_left_beside_a_card_that_lacks_them(tmp_path):
    export.to_torch(vae(), tmp_path)
    export.to_torch(vae(), tmp_path)  # all of them again
    with pytest.raises(FileExistsError, match=r"encoder\.pt2, log_prob\.pt2 of an earlier export"):
        export.to_torch(vae(), tmp_path, programs=["decoder"])
    assert {*json.loads((tmp_path / "export.json").read_text())["programs"]} == {
        *("encoder", "decoder", "log_prob")
    }


def test_a_flow_has_no_mean_to_encode_with(tmp_path):
    pair = vae(posterior="iaf")
    found = export.to_torch(pair, tmp_path)
    assert {*found.files} == {"decoder", "log_prob"}
    assert "no closed form" in found.refused["encoder"]
    assert "encoder: not exported: the mean" in repr(found)
    with pytest.raises(export.ExportError, match="to_torch: encoder: the mean of a normalising"):
        export.to_torch(pair, tmp_path / "none", programs=["encoder"])
    assert not (tmp_path / "none").exists()


def test_a_graph_that_computes_something_else_is_refused(tmp_path):
    class OfTheBatch(nn.Linear):
        """Its output depends on a Python number, which a graph keeps."""

        calls = 0

        def forward(self, z):
            self.calls += 1
            return super().forward(z) + self.calls

    pair = vae()
    pair.likelihood.net = OfTheBatch(2, D)
    with pytest.raises(export.ExportError, match=r"decoder: its mean differs from the pair's by"):
        export.to_torch(pair, tmp_path, programs=["decoder"])


def test_log_gamma_is_torch_s(float64):
    x = torch.cat([torch.logspace(-6, 7, 200), torch.arange(1.0, 40)])
    assert torch.allclose(log_gamma(x), torch.lgamma(x), rtol=1e-9, atol=1e-8)
    x = x.float()
    error = (log_gamma(x).double() - torch.lgamma(x.double())).abs()
    assert (error <= 1e-5 + 3e-6 * torch.lgamma(x.double()).abs()).all()


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr("ppl_vae.export.graphs.importlib.import_module", missing)
    with pytest.raises(ImportError, match=r"to_onnx needs .* pip install 'ppl-vae\[export\]'"):
        export.to_onnx(vae(), tmp_path)
    assert not list(tmp_path.iterdir())


def onnx_runs(exported, name):
    import onnxruntime

    session = onnxruntime.InferenceSession(exported.files[name])
    outputs = [output.name for output in session.get_outputs()]

    def run(**inputs):
        found = session.run(None, {n: t.numpy() for n, t in inputs.items()})
        return {n: torch.from_numpy(v) for n, v in zip(outputs, found, strict=True)}

    return run


@needs_onnx
def test_onnx_of_counts(tmp_path, capsys):
    pair = vae(likelihood="poisson")
    save(pair, tmp_path / "pair")
    words = ["export", str(tmp_path / "pair"), "--to", "onnx", "--programs", "log_prob"]
    assert main(words) == 0
    assert "log_prob: log_prob.onnx, largest difference" in capsys.readouterr().out
    folder = tmp_path / "pair" / "onnx"
    found = export.Exported(folder, {"log_prob": folder / "log_prob.onnx"}, {}, {})
    z, x = torch.randn(5, 2), torch.arange(5.0)[:, None].expand(5, D).contiguous() * 100
    log_prob = onnx_runs(found, "log_prob")(x=x, z=z)["log_prob"]
    assert torch.allclose(log_prob, pair.likelihood(z).log_prob(x), rtol=1e-5)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", [*LIKELIHOODS, *POSTERIORS, "ssvae", "conditional", "layers"])
def test_onnx_of_every_pair(name, tmp_path):
    others = {"ssvae": ssvae, "conditional": conditional, "layers": hierarchical}
    if name in others:
        pair = others[name]()
    else:
        pair = vae(**{"likelihood" if name in LIKELIHOODS else "posterior": name})
    found = export.to_onnx(pair, tmp_path)
    expected = {"encoder"} if "no closed form" in found.refused.get("encoder", "") else set()
    assert {*found.refused} == expected
    assert max(found.differences.values()) < 1e-3
    if name == "ssvae":
        probs = onnx_runs(found, "classifier")(x=X)["probs"]
        assert torch.allclose(probs, pair.classify(X), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*LIKELIHOODS, *POSTERIORS])
def test_torch_of_every_pair(name, tmp_path):
    found = export.to_torch(
        vae(**{"likelihood" if name in LIKELIHOODS else "posterior": name}), tmp_path
    )
    assert max(found.differences.values()) < 1e-5
