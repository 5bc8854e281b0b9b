"""The sections of a report that are left out unless asked for."""

import math
import re
from importlib import import_module

import pytest
import torch
from pages import Page

from ppl_vae import (
    ConditionalVAE,
    HierarchicalVAE,
    data,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
    testing,
)
from ppl_vae.report import report

Z, D, C = 2, 64, 10
FEW = {"num_data": 40, "num_samples": 25, "num_particles": (1,)}
pytestmark = pytest.mark.usefixtures("as_users_see_it")
TITLES = ("Calibration of q(z | x)", "Expected coverage of q(z | x)", "Predictive checks")


def net(width_in, width_out):
    return nets.MLP(width_in, width_out, hidden=(8,))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", split="test").subset(range(60))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report on data of a model; on its posterior, and on another model, with a narrow guide."""
    right, wrong = testing.LinearGaussian(3, 1), testing.LinearGaussian(3, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        x = right.model.likelihood(right.model.prior().sample((100,))).sample()
        wrong.model.likelihood.bias.add_(2)
        for pair in (right, wrong):
            pair.set_exact_guide()
        wrong.guide.posterior.log_scale.sub_(math.log(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ppl_vae.report.figures.picture.PER_INCH", 40)
        patch.setattr(import_module("ppl_vae.report.figures.sections"), "SECTION_KINDS", ())
        return report(
            {"right": right, "wrong": wrong},
            x,
            tmp_path_factory.mktemp("report"),
            sections=("predictive checks", "calibration"),
            num_simulations=300,
            num_replicates=60,
            **{**FEW, "num_data": None},
        )


def test_what_is_wrong_is_said_and_measured(written):
    right, wrong = written.results["pairs"].values()
    assert right["verdicts"]["calibration"] == "calibrated, as far as 300 simulations show"
    assert wrong["verdicts"]["calibration"].startswith("not calibrated: ")
    assert "1 of 1 entries too narrow" in wrong["verdicts"]["calibration"]
    words = wrong["sections"]["calibration"]["z"]["words"]
    size, error = map(float, re.search(r"too narrow: ([\d.]+) ± ([\d.]+)", words).groups())
    assert abs(size - 0.5) < 4 * (error + 0.005)
    for pair in (right, wrong):
        table = pair["quantities"]
        assert table["quantities outside their calibration bands"]["unit"] == "of 3"
        inside = table["true z in 90 % regions of q(z|x)"]
        far = (0.9 - inside["value"]) / inside["standard_error"]
        assert abs(far) < 4 if pair is right else far > 4
    assert right["verdicts"]["predictive checks"].startswith(
        "the data are like 60 replicated data sets in all "
    )
    assert re.search(
        r"mean \([\d.]+ standard deviations below\)", wrong["verdicts"]["predictive checks"]
    )
    assert wrong["quantities"]["predictive p-value, mean"]["value"] > 0.99
    apart = wrong["sections"]["predictive checks"]["mean"]
    sampling_error = 4 * apart["replicated_sd"] * (1 + 1 / 60) ** 0.5
    assert apart["replicated_mean"] - apart["data"] == pytest.approx(2, abs=sampling_error)


def test_numbers_are_those_of_evaluation(tmp_path, numbers_only):
    pair, x = testing.LinearGaussian(3, 1), torch.randn(9, 3).double()
    found = report(
        {"pair": pair},
        x,
        tmp_path,
        sections=["calibration", "predictive checks"],
        num_simulations=20,
        num_replicates=20,
        seed=3,
        figures=False,
        **FEW,
    )
    table = found.results["pairs"]["pair"]
    ranked = evaluation.calibration(pair, like=x[torch.arange(20) % 9], seed=3)
    assert table["quantities"]["calibration p-value of all"]["value"] == ranked.p_value
    checks = evaluation.predictive_checks(pair, x, num_draws=20, seed=3)
    columns = checks.names, checks.p_value.tolist(), checks.standard_error.tolist()
    for name, p, error in zip(*columns, strict=True):
        quantity = table["quantities"][f"predictive p-value, {name}"]
        assert (quantity["value"], quantity["standard_error"]) == (p, error)
    of_all = table["quantities"]["predictive p-value of all, two-sided"]
    assert of_all["value"] == checks.adjusted.min()
    # Without figures the verdicts are a list.
    text = Page(found.page.read_text()).text
    for what, verdict in table["verdicts"].items():
        assert f"{what}: {verdict}" in text
        assert f"pair, {what}: {verdict}" in str(found)
        assert f"pair, {what}: {verdict}" in Page(found._repr_html_()).texts


def test_sections_have_figures_with_their_verdicts(written, tmp_path, numbers_only):
    page = Page(written.page.read_text())
    drawn = [image["alt"] for image in page.images]
    for name, pair in written.results["pairs"].items():
        for verdict in pair["verdicts"].values():
            assert f"{verdict[0].upper()}{verdict[1:]}." in page.texts
            assert any(alt.startswith(name) and alt.endswith(verdict) for alt in drawn)
    for title in TITLES:
        section = written.page.read_text().split(f"<h2>{title}</h2>")[1].split("</section>")[0]
        assert section.count("<img") == 2
    assert "sections=('calibration', 'predictive checks')" in page.text
    without = report(testing.LinearGaussian(3, 1), torch.randn(9, 3).double(), tmp_path, **FEW)
    assert not set(TITLES) & set(Page(without.page.read_text()).texts)
    assert without.results["pairs"]["LinearGaussian"]["verdicts"] == {}


def test_disentanglement_of_the_data_that_were_chosen(
    digits, tmp_path, monkeypatch, coarse, numbers_only
):
    asked = {}

    def quick(*args, site, **named):
        asked[site] = args, named
        asked[site] += (disentanglement(*args, site=site, folds=2, **named),)
        return asked[site][-1]

    disentanglement = evaluation.disentanglement
    monkeypatch.setattr(evaluation, "disentanglement", quick)
    pair = HierarchicalVAE(
        prior=priors.StandardNormal(2),
        conditionals=[priors.ConditionalNormal(net(2, 2 * Z))],
        posteriors=[
            posteriors.DiagonalNormal(net(D, 2 * Z)),
            posteriors.DiagonalNormal(net(Z, 2 * 2)),
        ],
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )
    known = data.Factors(torch.stack([digits.labels // 5, digits.labels % 2], 1), ("big", "odd"))
    known_digits = data.Dataset(
        digits.values, digits.labels, digits.name, scale=digits.scale, factors=known
    )
    found = report({"pair": pair}, known_digits, tmp_path, sections=["disentanglement"], **FEW)
    index = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40].sort().values
    x = digits.binarised(0).draw(index, binarise="none")
    (of, x_asked), named, expected = asked["z1"]
    assert of is pair
    assert torch.equal(x_asked, x)
    assert torch.equal(named["factors"].values, known.values[index])
    table = found.results["pairs"]["pair"]
    quantities = table["quantities"]
    for label, score in {
        "mutual information gap, z1": expected.mig,
        "DCI informativeness, z1": expected.informativeness,
    }.items():
        assert quantities[label]["value"] == score.mean
        assert quantities[label]["standard_error"] == score.standard_error
    assert table["sections"]["disentanglement, z1"]["factors"] == ["big", "odd"]
    assert "of 2 factors have a dimension of their own" in table["verdicts"]["disentanglement, z1"]
    assert "z1" in table["missing"]["disentanglement, z2"]  # on which q(z2 | z1) depends
    section = found.page.read_text().split("<h2>Disentanglement</h2>")[1].split("</section>")[0]
    assert section.count("<img") == 1
    assert "Not drawn for pair, z2" in section


def test_simulations_have_the_conditions_and_masks_of_the_data(digits, tmp_path, numbers_only):
    pair = ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )
    x, y = digits.binarised(0).draw(torch.arange(30), binarise="none"), digits.labels[:30]
    mask = torch.rand(x.shape) < 0.7
    options = {"sections": ("calibration",), "num_simulations": 50, **FEW}
    found = report({"pair": pair}, x, tmp_path, labels=y, mask=mask, figures=False, **options)
    index = torch.arange(50) % 30  # there are more simulations than data
    expected = evaluation.calibration(pair, y[index], mask=mask[index], num_simulations=50)
    table = found.results["pairs"]["pair"]
    assert table["quantities"]["calibration p-value of all"]["value"] == expected.p_value
