"""The report: a self-contained page, and the same numbers as JSON."""

import base64
import contextlib
import io
import json
import math
import re
import warnings
from importlib import import_module
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from pages import Page, shown_without_errors

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    data,
    likelihoods,
    nets,
    posteriors,
    priors,
    testing,
)
from ppl_vae.evaluation import annealing, linear_probe, nearest_neighbours
from ppl_vae.evaluation.likelihood import log_likelihood
from ppl_vae.report import report
from ppl_vae.report.evaluation_data import EvaluationData
from ppl_vae.report.figures import picture
from ppl_vae.report.latents import Latents
from ppl_vae.report.pair_data import pair_data
from ppl_vae.report.quantities import plain

Z, D, C = 3, 64, 10
WANTED = [
    *("NELBO", "KL", "Reconstruction", "IWAE-1", "IWAE-5", "IS-60", "active units"),
    *("IS-60, bits per dimension", "data with k̂ > 0.7", "mutual information"),
    *("linear probe", "k-NN (10)"),
]
LABELS = "AIS on the first 2 data", "IS-60 on the same 2 data"
FEW = {"num_data": 40, "num_samples": 60, "num_particles": (1, 5)}


def net(width_in, width_out):
    return nets.MLP(width_in, width_out, hidden=(8,))


def vae(prior=None, latent=Z):
    return VAE(
        prior=prior or priors.StandardNormal(latent),
        posterior=posteriors.DiagonalNormal(net(D, 2 * latent)),
        likelihood=likelihoods.Bernoulli(net(latent, D)),
    )


def conditional():
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )


def semisupervised():
    return SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(D, C),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
        classification_weight=1.0,
    )


def hierarchical():
    return HierarchicalVAE(
        prior=priors.StandardNormal(2),
        conditionals=[priors.ConditionalNormal(net(2, 2 * Z))],
        posteriors=[
            posteriors.DiagonalNormal(net(D, 2 * Z)),
            posteriors.DiagonalNormal(net(Z, 2 * 2)),
        ],
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", split="test").subset(range(60))


@pytest.fixture(scope="module")
def pairs():
    torch.manual_seed(0)
    return {"<b>VAE</b> & 'co' $x^2": vae(), "mixture": vae(priors.GaussianMixture(2, 4), 2)}


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Draw pictures of few dots, which is faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "PER_INCH", 40)
        yield


@pytest.fixture(scope="module")
def written(pairs, digits, tmp_path_factory):
    history = {"loss": [3.0, 2.0, math.nan, 1.0]}
    folder = tmp_path_factory.mktemp("report")
    return report(pairs, digits, folder, history=history, **FEW)


def test_the_page_is_self_contained(written):
    text = written.page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    assert all(resource.startswith("data:") for resource in page.resources)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not page.tags & {"script", "iframe", "object", "embed"}
    assert len(page.images) > 15
    for image in page.images:
        kind, code = image["src"].split(",")
        assert kind == "data:image/png;base64"
        assert plt.imread(io.BytesIO(base64.b64decode(code))).ndim == 3
        assert len(image["alt"]) > 15


def test_names_are_escaped(written, pairs):
    page = Page(written.page.read_text(encoding="utf-8"))
    assert "b" not in page.tags
    name = next(iter(pairs))
    assert f"{name}, mixture on digits" in page.texts
    assert any(image["alt"].startswith(name) for image in page.images)


def test_page_and_json_hold_the_same_numbers(written):
    results = json.loads(written.numbers.read_text(encoding="utf-8"))
    assert results == json.loads(json.dumps(written.results))
    quantities = [table["quantities"] for table in results["pairs"].values()]
    page = Page(written.page.read_text(encoding="utf-8"))
    held = sorted(q["value"] for table in quantities for q in table.values())
    assert sorted(page.values) == held
    for table in quantities:
        for label, quantity in table.items():
            assert label in page.text
            assert quantity["text"] in page.text
            number = float(re.match(r"[^ ]+", quantity["text"])[0].replace("\N{MINUS SIGN}", "-"))
            scale = 100 if quantity["unit"] == "share" and "%" in quantity["text"] else 1
            assert number == pytest.approx(scale * quantity["value"], abs=0.5)


def test_the_table_has_the_quantities_asked_for(written, pairs):
    for table in written.results["pairs"].values():
        for label in WANTED:
            assert label in table["quantities"], label
    first, second = written.results["pairs"].values()
    assert "clustering" in first["missing"]
    assert {"clustering NMI", "clustering AMI"} <= second["quantities"].keys()
    assert "Warnings" in written.page.read_text()
    assert "NELBO" in str(written)


def test_iwae_1_is_the_nelbo(written):
    for table in written.results["pairs"].values():
        assert table["quantities"]["IWAE-1"] == table["quantities"]["NELBO"]
    page = Page(written.page.read_text(encoding="utf-8"))
    (drawn,) = (i["alt"] for i in page.images if i["alt"].startswith("in nats per datum"))
    assert "IWAE-5" in drawn
    assert "IWAE-1 " not in drawn  # it would lie on the NELBO
    assert "IWAE-1 is the NELBO" in page.text


def test_a_report_is_shown_by_its_numbers_and_links(written, pairs):
    assert repr(written) == f"Report({str(written.page)!r}, pairs={list(pairs)})"
    html = written._repr_html_()
    shown = Page(html)  # with names escaped, or the tags would not match
    assert shown.resources == [written.page.as_posix(), written.numbers.as_posix()]
    assert set(pairs) <= set(shown.texts)
    for table in written.results["pairs"].values():
        for label in ("NELBO", "IS-60", "active units"):
            assert table["quantities"][label]["text"] in shown.texts
    assert "script" not in shown.tags


def test_templates_are_installed_with_the_package():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    root = Path(__file__).parents[2]
    options = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = options["package-data"]["ppl_vae"]
    templates = list((root / "ppl_vae/report/templates").iterdir())
    assert templates
    for template in templates:
        assert any(template.match(pattern) for pattern in patterns), template


def test_numbers_that_were_not_computed_say_so(tmp_path, numbers_only):
    oracle = testing.LinearGaussian(5, 2)
    x = torch.randn(9, 5, dtype=next(oracle.parameters()).dtype)
    for samples, absent in (
        (24, {"data with k̂ > 0.7"}),
        (1, {"data with k̂ > 0.7", "IS-1, Monte Carlo error of the mean"}),
    ):
        options = {"num_samples": samples, "num_particles": (1,)}
        found = report({"oracle": oracle}, x, tmp_path, **options)
        table = json.loads(found.numbers.read_text())["pairs"]["oracle"]
        quantities = table["quantities"]
        assert {name for name, q in quantities.items() if q["value"] is None} == absent
        assert all(quantities[name]["text"].startswith("not computed: ") for name in absent)
        assert any("k̂ not computed" in warning for warning in table["warnings"])
        assert "warning: oracle: log_likelihood: Pareto" in str(found)
        text = Page(found.page.read_text()).text
        assert "not computed: fewer than 25 samples" in text
        assert "nan" not in text


def test_more_clusters_than_classes_give_a_warning(digits, tmp_path, numbers_only):
    few = digits.subset(digits.labels < 2)
    pair = vae(priors.GaussianMixture(2, 40), 2)
    found = report(pair, few, tmp_path, **FEW).results["pairs"]["VAE"]
    clusters = found["quantities"]["clusters with labelled data"]["value"]
    assert clusters > 2
    (caveat,) = (text for text in found["warnings"] if text.startswith("Clustering accuracy"))
    assert f"each of 2 classes with one of {clusters} clusters" in caveat
    assert "clustering AMI" in found["quantities"]


def test_slow_estimates_are_of_the_first_data_only(
    pairs, digits, tmp_path, monkeypatch, numbers_only
):
    monkeypatch.setattr(annealing, "_FEWEST_TUNED", 5)
    monkeypatch.setattr(annealing, "_WARM_UP", 5)
    options = {"annealed_data": 2, "annealed_temperatures": 3, "gap_data": 3, "gap_steps": 3}
    found = report(pairs["mixture"], digits, tmp_path, **{**FEW, "num_data": 10}, **options)
    quantities = found.results["pairs"]["VAE"]["quantities"]
    annealed, same = (quantities[n]["value"] for n in LABELS)
    assert abs(annealed - same) < 3
    assert abs(same - quantities["IS-60"]["value"]) > 1e-3
    parts = [quantities[f"{p} gap on the first 3 data"] for p in ("approximation", "amortisation")]
    assert all(math.isfinite(part["value"]) for part in parts)


def test_numbers_equal_those_of_evaluation(written, pairs, digits):
    index = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:40].sort().values
    x = digits.binarised(0).draw(index, binarise="none")
    pair = pairs["mixture"]
    with pytest.warns(UserWarning, match="k̂") if _warns(pair, x) else contextlib.nullcontext():
        expected = log_likelihood(pair, x, num_samples=60, seed=0)
    found = written.results["pairs"]["mixture"]["quantities"]["IS-60"]
    assert found["value"] == expected.nll.mean
    assert found["standard_error"] == expected.nll.standard_error


def _warns(pair, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return log_likelihood(pair, x, num_samples=60, seed=0).unreliable > 0


def test_probes_are_fitted_on_training_data(written, pairs, digits, tmp_path, numbers_only):
    pair, train = pairs["mixture"], data.load("digits").subset(range(100))
    found = report({"mixture": pair}, digits, tmp_path, train=train, num_train=80, **FEW)
    (fit, test) = (
        torch.randperm(n, generator=torch.Generator().manual_seed(0))[:number].sort().values
        for n, number in ((100, 80), (60, 40))
    )
    with torch.no_grad():
        z, z_test = (
            pair.posterior(source.binarised(0).draw(index, binarise="none")).mean
            for source, index in ((train, fit), (digits, test))
        )
    labels = train.labels[fit], digits.labels[test]
    quantities = dict(found.results["pairs"]["mixture"]["quantities"])
    others = dict(written.results["pairs"]["mixture"]["quantities"])
    for name, classifier in (("linear probe", linear_probe), ("k-NN (10)", nearest_neighbours)):
        expected, got = classifier(z, labels[0], z_test, labels[1]), quantities.pop(name)
        assert got["value"] == expected.mean
        assert got["standard_error"] == expected.standard_error
        del others[name]
    assert quantities == others  # nothing else is touched
    assert found.results["train"] == {"name": "digits", "number": 80, "of": 100}
    assert written.results["train"] is None
    text = Page(found.page.read_text()).text
    assert "training data (80 of 100 data, chosen at random with seed 0)" in text
    assert "train=train" in text
    assert "num_train=80" in text


def test_incompatible_training_data_are_refused(pairs, digits, tmp_path, as_users_see_it):
    vector = ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + 2, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + 2, D)),
        context_features=2,
    )
    few = data.load("digits").subset(range(30))
    values = few.draw(torch.arange(30), binarise="none")
    for pair, train, options, kind, message in [
        (pairs, values, {}, TypeError, "train must be a Dataset with labels"),
        (pairs, data.Dataset(values), {}, ValueError, "train must be a .* with labels"),
        (pairs, data.Dataset(values[:, :9], few.labels), {}, ValueError, r"got \(9,\)"),
        (pairs, few, {"num_train": 1}, ValueError, "num_train must be 2 or more"),
        (vector, few, {"context": [torch.zeros(60, 2)]}, ValueError, "leave train out"),
    ]:
        with pytest.raises(kind, match=message):
            report(pair, digits, tmp_path / "r", train=train, **options)


def test_latents_that_are_not_given_follow_those_above_them(digits):
    pair = hierarchical()
    z2 = torch.randn(4, 2)
    with torch.no_grad():
        got = Latents(pair_data("pair", pair, EvaluationData.of(digits))).decode(
            {"z2": z2}, torch.arange(4)
        )
        expected = pair.likelihood(pair.conditionals[0](z2).mean).mean
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("value", "text"), [(-0.004, "0.00"), (-0.006, "\N{MINUS SIGN}0.01"), (0.0, "0.00")]
)
def test_a_number_that_rounds_to_0_has_no_sign(value, text):
    assert plain(value, 2).text == text


def test_the_callers_state_is_restored(pairs, digits, tmp_path, monkeypatch):
    sections = import_module("ppl_vae.report.figures.sections")
    drawn = ("Samples from the model", "Reconstructions")  # at random
    kinds = tuple(kind for kind in sections.SECTION_KINDS if kind.title in drawn)
    monkeypatch.setattr(sections, "SECTION_KINDS", kinds)
    pair = pairs["mixture"].train()
    state, figures = torch.get_rng_state(), plt.get_fignums()
    options = {"num_data": 12, "num_samples": 20, "num_particles": (1,)}
    first = report(pair, digits, tmp_path / "a.html", **options)
    assert torch.equal(state, torch.get_rng_state())
    assert plt.get_fignums() == figures
    assert pair.training
    assert pair.model.training
    torch.rand(3)
    again = report(pair, digits, tmp_path / "b.html", **options)
    assert first.results["pairs"] == again.results["pairs"]
    images = [[i["src"] for i in Page(r.page.read_text()).images] for r in (first, again)]
    assert images[0] == images[1]
    assert list(first.results["pairs"]) == ["VAE"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.json", "b.html", "b.json"]


@pytest.mark.parametrize(
    ("make", "drawn", "quantities"),
    [
        (conditional, "Components and classes", ["linear probe"]),
        (
            semisupervised,
            "Reliability of q(y | x)",
            ["accuracy of q(y|x)", "expected calibration error"],
        ),
        (hierarchical, "Latent traversals", ["active units, z1", "active units, z2"]),
    ],
)
def test_reports_on_other_pairs(make, drawn, quantities, digits, tmp_path, unrendered):
    options = {"num_data": 30, "num_samples": 20, "num_particles": (1,)}
    found = report(make(), digits, tmp_path, **options)
    assert set(quantities) <= set(next(iter(found.results["pairs"].values()))["quantities"])
    section = found.page.read_text().split(f"<h2>{drawn}</h2>")[1].split("</section>")[0]
    assert section.count("<img") == (2 if make is hierarchical else 1)  # one for each layer
    assert "Not drawn" not in section


def test_reports_on_data_other_than_images(tmp_path, unrendered):
    oracle = testing.LinearGaussian(5, 2)
    x = torch.randn(20, 5, dtype=next(oracle.parameters()).dtype)
    found = report({"oracle": oracle}, x, tmp_path, **FEW)
    text = found.page.read_text()
    # Sections without a picture are left out, and the reason is given once.
    assert text.count("the data, of shape (5,), are not images") == 1
    for title in ("Samples from the model", "Reconstructions", "Reliability of q(y | x)"):
        assert f"<h2>{title}</h2>" not in text
        assert title in text.split("What is left out")[1]
    sections = re.findall("<section>.*?</section>", text, re.DOTALL)
    assert sections
    assert all("<img" in section for section in sections)
    exact = -oracle.log_px(x).mean().item()
    table = found.results["pairs"]["oracle"]["quantities"]
    assert table["IS-60"]["value"] == pytest.approx(exact, abs=0.5)
    assert "Linear probe" not in text
    assert found.results["pairs"]["oracle"]["missing"]["labels"] == "no labels were given"


def test_an_unwritable_path_is_refused_before_computing(digits, tmp_path):
    (tmp_path / "file").write_text("in the way")

    class Untouchable(torch.nn.Module):
        def forward(self, *args):
            raise AssertionError("ran")

    pair = vae()
    pair.model, pair.guide = Untouchable(), Untouchable()
    (tmp_path / "page.html").mkdir()
    for out in (tmp_path / "file" / "report", tmp_path / "page.html"):
        with pytest.raises(OSError, match="report: cannot write to out="):
            report(pair, digits, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "page.html"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_failed_report_leaves_the_old_one(pairs, digits, tmp_path):
    (tmp_path / "report.html").write_text("old")
    bad = vae()
    with torch.no_grad():
        next(bad.likelihood.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"log_likelihood|NaN|invalid values"):
        report({"good": pairs["mixture"], "bad": bad}, digits, tmp_path, **FEW)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "old"


def test_invalid_arguments_are_refused(pairs, digits, tmp_path, as_users_see_it):
    for arguments, options, kind, message in [
        (({}, digits), {}, ValueError, "pairs must have one pair or more"),
        (({"a": 1}, digits), {}, TypeError, r"\.model and \.guide"),
        ((pairs, digits), {"num_samples": 0}, ValueError, "num_samples"),
        ((pairs, digits), {"num_data": 1}, ValueError, "num_data"),
        (
            (pairs, digits),
            {"labels": torch.zeros(3).long()},
            ValueError,
            r"labels of shape \(60,\)",
        ),
        ((pairs, digits), {"image_shape": (3, 3)}, ValueError, "image_shape"),
        ((pairs, torch.rand(9, D)), {}, ValueError, "support|0 or 1|boolean"),
        ((pairs, torch.ones(1, D)), {}, ValueError, "2 data or more"),
        ((conditional(), torch.ones(9, D)), {}, ValueError, "labels="),
        ((pairs, digits), {"context": [torch.ones(3, 1)]}, ValueError, "context must have 60 ent"),
        ((pairs, digits), {"context": [torch.ones(60, 1)]}, ValueError, "context is for condition"),
        (
            (pairs, digits),
            {"history": {"loss": []}},
            ValueError,
            r"report: history\['loss'\] must n",
        ),
        (
            (pairs, digits),
            {"history": {"loss": [[1, math.nan], [2, math.nan]]}},
            ValueError,
            r"report: history\['loss'\] must have a finite value",
        ),
        ((pairs, digits), {"history": [1.0]}, TypeError, "history must map names to curves"),
    ]:
        with pytest.raises(kind, match=message):
            report(*arguments, tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_the_context_of_a_data_set_is_taken(tmp_path, numbers_only):
    pair = ConditionalVAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(net(5 + 2, 4)),
        likelihood=likelihoods.Normal(net(2 + 2, 5)),
        context_features=2,
    )
    x, c = torch.randn(60, 5), torch.randn(60, 2)
    given = report(pair, x, tmp_path / "a", context=[c.numpy()], **FEW).results["pairs"]
    source = data.Dataset(x, torch.arange(60) % 2, context=c)
    own = report(pair, source, tmp_path / "b", train=source, **FEW).results["pairs"]
    nelbo = [found["ConditionalVAE"]["quantities"]["NELBO"] for found in (given, own)]
    assert nelbo[0] == nelbo[1]
    with pytest.raises(ValueError, match=r"has a context, got .* as well; leave context out"):
        report(pair, source, tmp_path / "c", context=[c], **FEW)


def test_what_a_mask_hides_is_in_no_picture():
    x, mask = torch.rand(20, 64).round(), torch.ones(20, 64, dtype=torch.bool)
    mask[:, 32:] = False
    for given in (
        EvaluationData.of(x, image_shape=(8, 8), mask=mask),
        EvaluationData.of(data.Dataset(x, mask=mask), image_shape=(8, 8)),
    ):
        inputs = pair_data("vae", vae(), given)
        images = torch.as_tensor(inputs.images(inputs.grey)).flatten(1)
        assert images[:, 32:].isnan().all()
        assert torch.equal(images[:, :32], x[:, :32])


def test_pictures_of_counts_are_scaled_and_say_so(tmp_path):
    counts = torch.arange(60 * 64).reshape(60, 1, 8, 8) % 41
    pair = vae().replace(likelihood=likelihoods.Poisson(net(Z, D)))
    inputs = pair_data("vae", pair, EvaluationData.of(data.Dataset(counts)))
    assert inputs.black_and_white == (0, 40)
    images = inputs.images(inputs.grey)
    assert (images.min(), images.max()) == (0, 1)
    page = report(pair, data.Dataset(counts), tmp_path, figures=False, **FEW).page.read_text()
    assert "black is 0, white 40" in page


def test_a_browser_shows_every_image_without_errors(written, tmp_path):
    shown_without_errors(written.page, tmp_path)


def test_a_likelihood_given_labels_is_not_compared_with_one_without(digits, tmp_path, numbers_only):
    found = report({"vae": vae(), "cvae": conditional()}, digits, tmp_path / "r", **FEW)
    (text,) = found.results["warnings"]
    assert (
        "a mass on 2 levels for vae, conditional on a context and a mass on 2 levels for cvae"
        in text
    )
    assert "cannot be compared with one another" in text
