"""Bits per dimension: of masses, of densities of dequantised data, and of nothing else."""

import math
import re
from importlib import import_module

import pyro
import pytest
import torch
from evaluated import Programs
from pyro import distributions as dist
from torch import nn

from ppl_vae import VAE, likelihoods, posteriors, priors
from ppl_vae.data import Dataset
from ppl_vae.evaluation import log_likelihood
from ppl_vae.report import report
from ppl_vae.report.evaluation_data import EvaluationData
from ppl_vae.report.latents import Latents
from ppl_vae.report.metrics import measure
from ppl_vae.report.options import Options
from ppl_vae.report.pair_data import pair_data

Z, N, FEW = 2, 20, {"num_samples": 30, "num_particles": (1, 3)}
SECTIONS = "ppl_vae.report.figures.sections"
OPTIONS = {"num_data": None, "num_train": None, "annealed_data": 0, "annealed_chains": 1}
OPTIONS |= {"annealed_temperatures": 1, "gap_data": 0, "gap_steps": 1, "seed": 0}
OPTIONS |= {"progress": False, "compile": False}
OPTIONS |= {"sections": (), "num_simulations": 1, "num_replicates": 19}


class Constant(nn.Module):
    """Return the same, whatever comes; the gradient is 0."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, x):
        return self.value.expand(*x.shape[:-1], *self.value.shape)


class Flattened(nn.Module):
    """Return 0 and a scale of 1 before it is made positive: q(z | x) is p(z)."""

    def __init__(self, event_dim):
        super().__init__()
        self.event_dim = event_dim
        self.out = nn.Parameter(torch.tensor([0.0] * Z + [math.log(math.e - 1)] * Z))

    def forward(self, x):
        return self.out.expand(*x.shape[: x.dim() - self.event_dim], 2 * Z)


def independent(likelihood, event_dim=1):
    """Return a pair whose x does not depend on z, and whose posterior is its prior."""
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(Flattened(event_dim)),
        likelihood=likelihood,
    )


def uniform_mass(levels, *event):
    out = Constant(torch.zeros(levels * event[0], *event[1:]))
    return independent(likelihoods.Categorical(out, levels, event_dim=len(event)), len(event))


def uniform_density(*event):
    out = Constant(torch.zeros(event))
    return independent(likelihoods.ContinuousBernoulli(out, event_dim=len(event)), len(event))


def normal(loc, scale, size):
    return independent(likelihoods.Normal(Constant(torch.full((size,), loc)), scale=scale))


def levels_dataset(levels, *event, count=N, **options):
    k = torch.randint(levels, (count, *event))
    return Dataset(k.float(), scale=levels - 1, **options)


def measured(pair, data):
    inputs = pair_data("pair", pair, EvaluationData.of(data))
    with torch.no_grad():
        return measure(Latents(inputs), None, Options(**OPTIONS, **FEW))


def bits(pair, data):
    """Return the row, or why there is none."""
    found = measured(pair, data)
    row = found.quantities.get("IS-30, bits per dimension")
    assert (row is None) == ("bits per dimension" in found.missing)
    return found.missing["bits per dimension"] if row is None else row.value


# ------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize(("levels", "event"), [(256, (7,)), (17, (3, 2, 4)), (2, (5,))])
def test_uniform_masses_and_densities_have_the_bits_of_their_levels(levels, event):
    data = levels_dataset(levels, *event)
    assert bits(uniform_mass(levels, *event), data) == pytest.approx(math.log2(levels), rel=1e-5)
    noisy = data.dequantised(seed=1)
    assert bits(uniform_density(*event), noisy) == pytest.approx(math.log2(levels), rel=1e-5)
    # a mass is given the levels, without the noise
    assert bits(uniform_mass(levels, *event), noisy) == pytest.approx(math.log2(levels), rel=1e-5)


def test_a_normal_on_grey_levels_against_its_discretised_integral():
    size, loc, scale = 400, 0.4, 0.2
    k = (256 * (loc + scale * torch.randn(N, size)).clamp(0, 0.999)).floor()
    pair = normal(loc, scale, size)
    found = bits(pair, Dataset(k, scale=255).dequantised(seed=3))
    p, k = torch.distributions.Normal(torch.tensor(loc).double(), scale), k.double()
    exact = -(p.cdf((k + 1) / 256) - p.cdf(k / 256)).log2().mean().item()
    assert 5 < exact < 8
    # E over the noise is that at its middle, and a term of its variance; the integral is lower
    middle = -p.log_prob((k + 0.5) / 256).mean().item() / math.log(2) + 8
    expected = middle + 1 / (24 * 256**2 * scale**2) / math.log(2)
    slope = ((k + 0.5) / 256 - loc) / scale**2 / math.log(2)
    error = (slope.square().mean() / 12).sqrt().item() / 256 / math.sqrt(k.numel())
    assert abs(found - expected) < 4 * error + 1e-5
    assert abs(expected - exact) < 1e-4
    assert found == pytest.approx(exact, abs=4 * error + 1e-3)


def test_other_densities_have_no_bits():
    for pair in (normal(0.5, 0.2, 4), uniform_density(4)):
        assert "x with 256 levels and no noise" in bits(pair, levels_dataset(256, 4))
        for real in (Dataset(torch.rand(N, 4)), torch.rand(N, 4)):
            assert "unit of x" in bits(pair, real)
        hidden = torch.randint(256, (N, 4)) / 255  # no one says that these are levels
        assert "unit of x" in bits(pair, Dataset(hidden))


def test_only_observed_dimensions_count():
    mask = torch.zeros(N, 4, dtype=torch.bool)
    mask[: N // 2, 1:], mask[N // 2 :, :3] = True, True
    pairs = uniform_mass(16, 4), uniform_density(4)
    data = levels_dataset(16, 4, mask=mask)
    for pair, of in zip(pairs, (data, data.dequantised(0)), strict=True):
        assert bits(pair, of) == pytest.approx(4, rel=1e-5)
    mask = mask.clone()
    mask[0] = True
    assert "observed elements varies" in bits(pairs[0], levels_dataset(16, 4, mask=mask))


# ------------------------------------------------------------------------------ programs


def program(*sites):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            for i, d in enumerate(sites):
                pyro.sample(f"x{i}", d, obs=d.sample((len(x),)))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return Programs(model, guide)


class Silent(dist.Normal):
    """A distribution that does not say where it is."""

    @property
    def support(self):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("sites", "kind"),
    [
        ([dist.Bernoulli(0.5)], "mass"),
        ([dist.Poisson(2.0), dist.Bernoulli(0.5)], "mass"),
        ([dist.Normal(0.0, 1.0), dist.Beta(1.0, 1.0)], "density"),
        ([dist.Normal(0.0, 1.0), dist.Poisson(2.0)], "both"),
        ([Silent(0.0, 1.0, validate_args=False)], None),
        ([], None),
    ],
)
def test_the_kind_of_p_is_that_of_the_observed_sites(sites, kind):
    result = log_likelihood(program(*sites), torch.zeros(3), num_samples=30)
    assert result.kind == kind
    noise = {"dequantised_levels": 256}
    if kind in ("mass", None):
        assert math.isfinite(result.bits_per_dim((1,)).mean)
    else:
        with pytest.raises(ValueError, match=r"bits_per_dim: p\(x\) is a (density|mass in some)"):
            result.bits_per_dim((1,))
    if kind in ("density", None):
        per_dimension = result.nll.mean / math.log(2) + 8
        assert result.bits_per_dim((1,), **noise).mean == pytest.approx(per_dimension)
    else:
        with pytest.raises(ValueError, match="bits_per_dim"):
            result.bits_per_dim((1,), **noise)


def test_dequantised_data_declare_their_levels():
    data, pair = levels_dataset(16, 4), uniform_density(4)
    batches = data.batches(5, binarise="none", dequantise=True)
    for x in (data.dequantised(0), batches, data.dequantised(0).batches(5, binarise="none")):
        result = log_likelihood(pair, x, num_samples=30)
        for levels in ({}, {"dequantised_levels": 16}):
            assert result.bits_per_dim((4,), **levels).mean == pytest.approx(4, rel=1e-5)
        with pytest.raises(ValueError, match=r"=256 was given, but the data were .* from 16"):
            result.bits_per_dim((4,), dequantised_levels=256)
    for x in (data, data.batches(5, binarise="none")):
        with pytest.raises(ValueError, match=r"p\(x\) is a density"):
            log_likelihood(pair, x, num_samples=30).bits_per_dim((4,))


# ------------------------------------------------------------------------------ side by side


def test_a_report_compares_only_what_is_comparable(tmp_path, monkeypatch, unrendered):
    monkeypatch.setattr(
        import_module(SECTIONS), "SECTION_KINDS", ()
    )  # of all sections those of several pairs alone
    data = levels_dataset(16, 4, labels=torch.arange(N) % 2).dequantised(0)
    pairs = {
        "mass": uniform_mass(16, 4),
        "binary": independent(likelihoods.Bernoulli(Constant(torch.zeros(4)))),
        "flat": uniform_density(4),
        "normal": normal(0.5, 0.3, 4),
    }
    curves = {name: [2.0, 1.0] for name in pairs}
    found = report(pairs, data, tmp_path, history=curves, **FEW)
    (warning,) = found.results["warnings"]
    assert "a mass on 16 levels for mass, a mass on 2 levels for binary" in warning
    assert "dequantised from 16 levels for flat and normal" in warning
    assert warning.endswith("compare the bits per dimension of mass, flat and normal.")
    assert f"warning: {warning}" in str(found)
    prepared = found.results["data"]["prepared"]
    assert prepared["normal"] == "dequantised from 16 levels"
    assert prepared["mass"] == "16 levels, without dequantisation noise"
    alts = re.findall(r'alt="([^"]*)"', found.page.read_text())
    assert sum(alt.startswith("in bits per dimension, mass: ") for alt in alts) == 1
    assert sum(alt.startswith("in nats per datum, binary: ") for alt in alts) == 1
    assert {alt for alt in alts if alt.startswith("training")} == {
        "training curves of mass",
        "training curves of binary",
        "training curves of flat, normal",
    }
    assert len([alt for alt in alts if "bars of the negative ELBO" in alt]) == 3
    alone = report({n: pairs[n] for n in ("flat", "normal")}, data, tmp_path, **FEW)
    assert alone.results["warnings"] == []


def test_levels_are_recovered_from_dequantised_values():
    k = torch.randint(256, (6, 1, 3, 2), dtype=torch.uint8)
    mask = torch.rand(6, 1, 3, 2) < 0.7
    data = Dataset(k, torch.arange(6), "grey", scale=255, mask=mask)
    noisy = data.dequantised(2)
    for same in (noisy, noisy.subset([1, 2]), noisy.to("cpu"), noisy.split(0.5)[0]):
        assert same.dequantised_levels == 256
    again = noisy.quantised()
    assert again.scale == 255
    assert torch.equal(again.values[mask], k[mask].float())
    assert again.levels == data.levels == 256
    assert again.dequantised_levels is noisy.binarised(0).dequantised_levels is None
    assert "dequantised from 256 levels" in repr(noisy)
    with pytest.raises(ValueError, match="'grey' must be dequantised"):
        data.quantised()


@pytest.mark.parametrize(
    ("values", "options", "kind"),
    [
        (torch.rand(3, 2), {"dequantised_levels": 1}, ValueError),
        (torch.rand(3, 2), {"dequantised_levels": 256.0}, TypeError),
        (torch.rand(3, 2) + 1, {"dequantised_levels": 256}, ValueError),
        (torch.rand(3, 2), {"dequantised_levels": 256, "scale": 255}, ValueError),
        (torch.ones(3, 2, dtype=torch.uint8), {"dequantised_levels": 256}, ValueError),
    ],
)
def test_other_data_declare_no_levels(values, options, kind, as_users_see_it):
    with pytest.raises(kind, match="dequantised_levels"):
        Dataset(values, **options)
