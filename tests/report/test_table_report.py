"""The report on a table: its statistics, and the page."""

import json
import math
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from pages import Page, shown_without_errors
from scipy import stats
from sklearn.exceptions import NotFittedError
from torch import nn

from ppl_vae import VAE, columns, nets, posteriors, priors, tables
from ppl_vae.likelihoods import Columns
from ppl_vae.process_state import seeded
from ppl_vae.report import TableReport, table_report
from ppl_vae.report.figures import picture
from ppl_vae.report.table.associations import (
    associations,
    compared,
    correlation_ratio,
    cramers_v,
)
from ppl_vae.report.table.figures import is_skewed
from ppl_vae.report.table.held_out import (
    HeldOut,
    calibration,
    coverages,
    held_out,
    imputation_error,
    ranks,
    verdict,
)
from ppl_vae.report.table.marginals import distance

FEW = {"draws": 39, "num_samples": 30, "num_particles": 20}


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Draw pictures of few dots, which is faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture, "PER_INCH", 40)
        yield


# --- marginals ------------------------------------------------------------------------------------


def test_the_distance_of_numbers_is_that_of_kolmogorov_and_smirnov():
    real, synthetic = rng().normal(size=80), rng(1).normal(0.3, size=300)
    for round_to in (9, 0):  # without ties and with many
        x, y = real.round(round_to), synthetic.round(round_to)
        found = distance(x, y, coded=False, rng=rng())
        assert found.value == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-12)


def test_the_distance_of_categories_is_the_total_variation():
    real, synthetic = np.array([0.0, 0, 1, 2]), np.array([0.0, 1, 1, 3, 3, 3, 3, 3])
    found = distance(real, synthetic, coded=True, rng=rng())
    # Shares (1/2, 1/4, 1/4, 0) and (1/8, 1/4, 0, 5/8).
    assert found.value == pytest.approx((3 / 8 + 1 / 4 + 5 / 8) / 2)


def test_distances_of_like_samples_are_below_the_second_number_as_often_as_it_says():
    real, synthetic = rng().normal(size=(2, 60, 60))
    divisions = rng(1)
    found = [
        distance(x, y, coded=False, rng=divisions) for x, y in zip(real, synthetic, strict=True)
    ]
    larger = sum(d.is_larger for d in found)
    assert stats.binom.cdf(larger, 60, 0.05) > 1e-3
    assert stats.binom.sf(larger - 1, 60, 0.05) > 1e-3
    exact = stats.kstwobign.ppf(0.95) * math.sqrt(2 / 60)
    assert np.mean([d.alike_up_to for d in found]) == pytest.approx(exact, rel=0.1)
    assert distance(real[0], real[0] + 1, coded=False, rng=rng()).is_larger


@pytest.mark.parametrize(
    ("values", "log"),
    [
        (rng().normal(10, 1, 500), False),
        (np.exp(rng().normal(size=500)), True),
        (np.exp(rng().normal(size=500)) - 0.1, False),
        (np.full(9, 2.0), False),
    ],
)
def test_a_logarithmic_axis_is_for_skewed_values_above_zero(values, log):
    assert is_skewed(values) == log


# --- associations ---------------------------------------------------------------------------------


def test_associations_of_numbers_are_spearmans():
    x = rng().normal(size=(60, 3)) @ rng(1).normal(size=(3, 4))
    x[:, 3] = x[:, 3].round()  # ties
    expected = stats.spearmanr(x).statistic
    np.testing.assert_allclose(associations(x, [False] * 4), expected, atol=1e-12)


def test_associations_are_of_the_rows_where_both_are_observed():
    x = rng().normal(size=(80, 3))
    x[:, 1] += x[:, 0]
    x[10:30, 0] = np.nan
    x[70:, 2] = np.nan
    found = associations(x, [False] * 3)
    of_columns = stats.rankdata(x, axis=0, nan_policy="omit")
    for i, j in ((0, 1), (0, 2), (1, 2)):
        both = ~np.isnan(x[:, [i, j]]).any(1)
        expected = np.corrcoef(of_columns[both][:, [i, j]].T)[0, 1]
        assert found[i, j] == found[j, i] == pytest.approx(expected)


def test_cramers_v_by_hand():
    # 20, 10 / 10, 20: χ² = 4 · 5² / 15, n = 60.
    one = np.repeat([0.0, 0, 1, 1], [20, 10, 10, 20])
    other = np.repeat([0.0, 1, 0, 1], [20, 10, 10, 20])
    assert cramers_v(one, other) == pytest.approx(math.sqrt(4 * 25 / 15 / 60))
    assert cramers_v(one, one) == pytest.approx(1)
    assert cramers_v(one, np.where(one > 0, np.nan, one)) != pytest.approx(0)
    assert math.isnan(cramers_v(one, np.zeros(60)))


def test_the_correlation_ratio_by_hand():
    scores = [[45, 70, 29, 15, 21], [40, 20, 30, 42], [65, 95, 80, 70, 85, 73]]
    group = np.repeat([0.0, 1, 2], [5, 4, 6])
    marks = np.concatenate(scores).astype(float)
    between = 5 * (36 - 52) ** 2 + 4 * (33 - 52) ** 2 + 6 * (78 - 52) ** 2
    assert correlation_ratio(group, marks) == pytest.approx(math.sqrt(between / 9640))
    with_gaps = np.append(group, [np.nan, 1.0]), np.append(marks, [7.0, np.nan])
    assert correlation_ratio(*with_gaps) == correlation_ratio(group, marks)
    assert math.isnan(correlation_ratio(np.zeros(3), np.arange(3.0)))
    assert math.isnan(correlation_ratio(np.array([0.0, 1.0]), np.ones(2)))


def test_each_pair_has_the_measure_of_its_kinds():
    x = rng().integers(0, 3, size=(50, 2)).astype(float)
    y = np.column_stack([x, rng().normal(size=50) + x[:, 0], np.ones(50)])
    found = associations(y, [True, True, False, False])
    assert found[0, 1] == pytest.approx(cramers_v(x[:, 0], x[:, 1]))
    assert found[0, 2] == pytest.approx(correlation_ratio(x[:, 0], stats.rankdata(y[:, 2])))
    assert np.isnan(found[:, 3]).all()  # of one value
    np.testing.assert_array_equal(found, found.T)


def test_synthetic_tables_of_the_same_law_differ_by_the_noise():
    law = np.linalg.cholesky(np.array([[1, 0.6, 0], [0.6, 1, 0.2], [0, 0.2, 1]])).T
    draws = rng().normal(size=(41, 200, 3)) @ law
    real = draws[0].copy()
    real[:150, 0] = np.nan
    alike = compared(real, draws[1:], [False] * 3)
    assert alike.mean_difference < 3 * alike.noise
    # Of fewer rows, by the cells that are missing in the real table, the error is larger.
    assert alike.error[0, 2] == pytest.approx(1 / math.sqrt(50), rel=0.35)
    assert alike.error[1, 2] == pytest.approx(0.96 / math.sqrt(200), rel=0.35)
    independent = compared(real, rng().normal(size=(40, 200, 3)), [False] * 3)
    assert independent.mean_difference > 3 * independent.noise
    assert independent.largest(1) == [(0, 1)]
    assert independent.difference[0, 1] == pytest.approx(-0.58, abs=0.3)


# --- held-out cells -------------------------------------------------------------------------------


def cells(truth, guess, draws, seen):
    count = len(truth)
    return HeldOut(np.arange(count), np.zeros(count, int), truth, guess, draws, seen)


@pytest.mark.parametrize("law", [lambda r, *n: r.normal(size=n), lambda r, *n: r.poisson(0.7, n)])
@pytest.mark.parametrize("draws", [39, 100])
def test_ranks_among_draws_of_the_same_law_are_uniform(law, draws):
    count = 3000
    truth, others = law(rng(), count), law(rng(1), draws, count)
    u = ranks(cells(truth, truth, others, others), rng(2))
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    assert all(c.sign == 0 for c in coverages(u))


def test_coverage_counts_the_cells_in_central_intervals():
    u = np.array([0.01, 0.03, 0.08, 0.2, 0.5, 0.6, 0.74, 0.85, 0.93, 0.99])
    found = coverages(u)
    assert [c.level for c in found] == [0.5, 0.8, 0.9, 0.95]
    assert [c.share for c in found] == [0.3, 0.5, 0.7, 0.8]
    assert all(c.count == 10 for c in found)


def test_the_verdict_names_the_direction():
    u = (np.arange(2000) + 0.5) / 2000
    assert verdict(coverages(u)).startswith("calibrated")
    outwards = 0.5 + 0.5 * np.sign(u - 0.5) * np.abs(2 * u - 1) ** 0.5
    assert verdict(coverages(outwards)) == "too narrow"
    assert verdict(coverages(1 - outwards * 0)) == "too narrow"  # all above their draws
    inwards = 0.5 + 0.5 * np.sign(u - 0.5) * np.abs(2 * u - 1) ** 2
    assert verdict(coverages(inwards)) == "too wide"
    slightly = 0.5 + 1.04 * (u[100:1900] - 0.5)
    many = np.tile(slightly.clip(0, 1), 20)
    assert "too" in verdict(coverages(many))
    tails = np.concatenate([np.full(700, 0.5), np.full(60, 0.999), u[::10]])
    words = verdict(coverages(np.tile(tails, 5)))
    assert "too wide at 50 %" in words
    assert "too narrow at" in words


def linear_gaussian(factor=1.0):
    """Return a pair x_j = mean_j + std_j (w_j z + factor σ ε), and how far σ is from 1."""
    n = 4
    table = [columns.Normal(10.0 * j, 1.0 + j) for j in range(n)]
    floor = columns.Normal(0.0, 1.0).min_scale
    net = nn.Linear(1, 2 * n)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[0::2] = torch.tensor([[1.0], [-1.0], [0.8], [1.2]])
        net.bias.zero_()
        net.bias[1::2] = math.log(math.expm1(0.6 * factor - floor))  # softplus(·) + floor
    encoder = nets.MLP(columns.num_features(table), 2, hidden=(8,))
    return VAE(
        prior=priors.StandardNormal(1),
        posterior=posteriors.DiagonalNormal(columns.Encoder(encoder, table)),
        likelihood=Columns(net, table),
    )


@pytest.mark.parametrize(
    ("factor", "words"), [(1.0, "calibrated"), (0.5, "too narrow"), (2.0, "too wide")]
)
def test_intervals_of_another_scale_than_the_datas_are_detected(factor, words):
    with seeded("test", 0):
        values = linear_gaussian().generate(400).double().numpy()
        found = held_out(
            linear_gaussian(factor),
            values,
            share=0.25,
            draws=99,
            num_particles=500,
            rng=rng(),
            progress=False,
        )
    assert len(found) == 400
    u = ranks(found, rng())
    assert verdict(coverages(u)).startswith(words)
    if factor == 1:
        assert stats.kstest(u, "uniform").pvalue > 1e-3
        for j in range(4):
            error = imputation_error(found.of(j), "real")
            assert error.error.mean < 0.9 * error.baseline.mean


def test_held_out_cells_are_hidden_and_the_missing_are_left_alone():
    pair = linear_gaussian()
    values = pair.generate(30).double().numpy()
    values[:, 2] = np.nan
    seen = []
    impute = type(pair).impute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(pair), "impute", lambda p, x, m, **k: seen.append((x, m)) or impute(p, x, m, **k)
        )
        found = held_out(
            pair, values, share=0.2, draws=39, num_particles=5, rng=rng(), progress=False
        )
    assert len(found) == 18
    assert not (found.column == 2).any()
    np.testing.assert_allclose(found.truth, values[found.row, found.column], rtol=1e-6)
    assert np.isnan(found.seen[found.row, found.column]).all()
    x, mask = seen[0]
    rows = np.unique(found.row)
    hidden = np.isnan(found.seen[rows])
    np.testing.assert_array_equal(mask.numpy(), ~hidden)
    assert (x.numpy()[hidden] == 0).all()  # the values do not reach the pair
    assert found.draws.shape == (39, 18)


@pytest.mark.parametrize("draws", [39, 199])
def test_categories_are_calibrated_however_many_there_are_and_however_few_draws(draws):
    p = rng().dirichlet(np.full(16, 0.5), size=2000)
    u = rng(1).random((draws + 1, 2000, 1))
    truth, *others = (u > p.cumsum(1)[:, :-1]).sum(-1).astype(float)
    found = calibration(cells(truth, p.argmax(1).astype(float), np.array(others), p))
    right = found.overall_accuracy
    # The most frequent of 39 draws would have 30 %, and be right for 26 %.
    assert abs(found.overall_confidence - right.mean) < 3 * right.standard_error
    assert abs(right.mean - p.max(1).mean()) < 3 * right.standard_error
    sure = np.repeat(p.argmax(1)[None].astype(float), draws, axis=0)
    certain = calibration(cells(truth, sure[0], sure, p))
    assert certain.overall_confidence == 1
    assert certain.error == pytest.approx(1 - right.mean)


def test_errors_of_imputation_by_hand():
    seen = np.array([[1.0], [1], [2], [4], [np.nan]])
    none = np.zeros((39, 3))
    numbers = imputation_error(
        cells(np.array([1.0, 2, 3]), np.array([1.0, 4, 4]), none, seen), "real"
    )
    assert numbers.error.mean == pytest.approx(math.sqrt(5 / 3))
    assert numbers.baseline.mean == pytest.approx(math.sqrt((1 + 0 + 1) / 3))  # the mean is 2
    assert numbers.scale == pytest.approx(seen[:4].std())
    assert numbers.ratio == pytest.approx(math.sqrt(5 / 2))
    squares = np.array([0.0, 4, 1])
    error = squares.std(ddof=1) / math.sqrt(3) / (2 * math.sqrt(5 / 3))
    assert numbers.error.standard_error == pytest.approx(error)
    kinds = imputation_error(
        cells(np.array([1.0, 2, 1]), np.array([1.0, 2, 2]), none, seen), "categorical"
    )
    assert kinds.error.mean == pytest.approx(1 / 3)
    assert kinds.baseline.mean == pytest.approx(1 / 3)  # the most frequent is 1
    levels = imputation_error(
        cells(np.array([1.0, 2, 4]), np.array([1.0, 4, 4]), none, seen), "ordinal"
    )
    assert levels.error.mean == pytest.approx(2 / 3)
    assert levels.baseline.mean == pytest.approx((0.5 + 0.5 + 2.5) / 3)  # the median is 1.5


# --- the page -------------------------------------------------------------------------------------

NAME = "<b>city</b> & '$x^2"


def people(rows=60, seed=0):
    r = rng(seed)
    age = r.integers(18, 90, rows)
    frame = pd.DataFrame(
        {
            "age": age,
            "income": np.exp(r.normal(3 + 0.01 * age, 0.5)),
            "score": r.normal(size=rows) - 0.02 * age,
            NAME: r.choice(["Bern", "Graz", "Lyon & <i>"], rows),
            "smoker": r.random(rows) < 0.3,
            "grade": r.integers(1, 5, rows),
        }
    )
    frame.loc[::7, "income"] = np.nan
    frame.loc[3:6, NAME] = None
    return frame


KINDS = {"grade": tables.Column("grade", "ordinal")}


@pytest.fixture(scope="module")
def vae():
    options = {"latent_dim": 2, "hidden": (8,), "steps": 60, "kinds": KINDS}
    return tables.fit(people(120, 1), **options)


@pytest.fixture(scope="module")
def written(vae, tmp_path_factory):
    frame = people()
    return table_report(vae, frame, tmp_path_factory.mktemp("report"), **FEW)


def test_the_page_is_self_contained(written):
    text = written.page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    assert all(resource.startswith("data:") for resource in page.resources)
    assert not re.search(r"https?://|url\(|@import", text)
    assert not page.tags & {"script", "iframe", "object", "embed", "b", "i"}
    assert len(page.images) == 6 + 3 + 2
    assert all(len(image["alt"]) > 15 for image in page.images)
    assert "nan" not in page.text.lower().split()


@pytest.mark.slow  # of the same template as the page in test_report.py
def test_a_browser_shows_every_image_without_errors(written, tmp_path):
    shown_without_errors(written.page, tmp_path)


def test_page_and_json_hold_the_same_numbers(written):
    results = json.loads(written.numbers.read_text(encoding="utf-8"))
    assert results == json.loads(json.dumps(written.results))
    page = Page(written.page.read_text(encoding="utf-8"))
    pairs = results["associations"]
    tabled = [results["quantities"], results["intervals"], pairs["quantities"]]
    tabled += [column["quantities"] for column in results["columns"].values()]
    tabled += [{k: v for k, v in p.items() if k != "columns"} for p in pairs["largest"]]
    held = [q for table in tabled for q in table.values()]
    assert sorted(page.values) == sorted(q["value"] for q in held if q["value"] is not None)
    for quantity in held:
        assert quantity["text"] in page.text
    for sentence in results["summary"]:
        assert sentence in page.text


def test_the_numbers_are_those_of_the_table(written, vae):
    frame, results = people(), written.results
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of k̂
        log_px = vae.log_prob(frame, num_samples=30).log_px
    assert results["quantities"]["log p per row"]["value"] == pytest.approx(log_px.mean().item())
    values, mask = vae.schema_.encode(frame)
    nominal = [False, False, False, True, True, False]
    real = np.array(results["associations"]["real"])
    np.testing.assert_allclose(real, associations(values, nominal))
    found = list(results["columns"].values())
    assert [c["kind"] for c in found] == [c.kind for c in vae.schema_]
    assert [c["observed"] for c in found] == mask.sum(0).tolist()
    assert sum(c["held_out"] for c in found) == round(0.1 * mask.sum())
    assert {c["quantities"]["distance"]["unit"] for c in found[:3]} == {"Kolmogorov-Smirnov"}
    assert {c["quantities"]["distance"]["unit"] for c in found[3:]} == {"total variation"}


def test_cells_that_are_shown_are_those_of_the_table(written):
    frame, page = people(), Page(written.page.read_text())
    assert written.results["examples"]
    for example in written.results["examples"]:
        cell = frame.iloc[example["row"]][example["column"]]
        shown = example["truth"].replace("\N{MINUS SIGN}", "-")
        if isinstance(cell, (str, bool, np.bool_)):
            assert shown == str(cell)
            assert re.search(r"\d+ %", example["prediction"])
        else:
            assert float(shown) == pytest.approx(float(cell), rel=1e-3)
        assert example["truth"] in page.text
        assert example["prediction"] in page.text


def test_a_report_is_shown_in_short(written):
    assert repr(written) == f"TableReport({str(written.page)!r}, columns={list(people())})"
    assert isinstance(written, TableReport)
    text = str(written)
    for sentence in written.results["summary"]:
        assert sentence in text
    assert "log p per row" in text
    shown = Page(written._repr_html_())
    assert shown.resources == [written.page.as_posix(), written.numbers.as_posix()]
    assert written.results["quantities"]["log p per row"]["text"] in shown.texts


def test_a_report_follows_from_its_seed_and_leaves_the_state(vae, tmp_path):
    state = torch.get_rng_state()
    options = {**FEW, "num_data": 20, "figures": False, "examples": 0}
    first, again, other = (
        table_report(vae, people(), tmp_path / f"{i}.html", seed=seed, **options).results
        for i, seed in enumerate((3, 3, 4))
    )
    assert torch.equal(state, torch.get_rng_state())
    kept = ("summary", "quantities", "columns", "associations", "intervals", "examples")
    assert {k: first[k] for k in kept} == {k: again[k] for k in kept}
    assert first["quantities"] != other["quantities"]
    assert first["data"] == {"name": "a table", "number": 20, "of": 60}
    page = Page((tmp_path / "0.html").read_text())
    assert not page.images
    assert "20 of 60 rows, chosen at random" in page.text
    assert "Some rows" not in page.text


def test_odd_tables_are_reported(vae, tmp_path, unrendered):
    frame = people(12)
    frame["score"] = np.nan  # a column without a cell
    frame[NAME] = "Bern"  # of one category
    frame = frame.astype(object)
    frame.loc[2] = None  # a row without a cell
    frame.to_csv(tmp_path / "few.csv", index=False)
    found = table_report(vae, tmp_path / "few.csv", tmp_path, **FEW)
    page = Page(found.page.read_text())
    assert "Report on few.csv" in page.texts
    score = found.results["columns"]["score"]
    assert score["quantities"]["distance"] == {
        "value": None,
        "standard_error": None,
        "unit": "",
        "text": "no cell observed",
    }
    assert score["held_out"] == 0
    assert found.results["associations"]["real"][2][0] is None
    assert found.results["data"]["number"] == 12


def test_a_table_of_one_column_has_no_pairs(tmp_path, unrendered):
    frame = pd.DataFrame({"x": rng().normal(size=40)})
    one = tables.fit(frame, latent_dim=1, hidden=(4,), steps=5)
    found = table_report(one, frame, tmp_path, **FEW)
    assert found.results["associations"] is None
    assert "Associations" not in found.page.read_text()
    assert "Held-out categories" not in found.page.read_text()


def test_invalid_arguments_are_refused(vae, tmp_path, as_users_see_it):
    frame, out = people(9), tmp_path / "r"
    for arguments, options, kind, message in [
        ((vae.pair_, frame), {}, TypeError, "vae must be a TableVAE"),
        ((tables.TableVAE(), frame), {}, NotFittedError, "not fitted"),
        ((vae, 3), {}, TypeError, "table must be"),
        ((vae, frame.drop(columns="age")), {}, ValueError, "lacks column 'age'"),
        ((vae, frame[:1]), {}, ValueError, "2 rows or more, got 1"),
        ((vae, frame.assign(**dict.fromkeys(frame, np.nan))), {}, ValueError, "an observed cell"),
        ((vae, frame), {"held_out": 0}, ValueError, "held_out must be"),
        ((vae, frame), {"held_out": 1}, ValueError, "held_out must be"),
        ((vae, frame), {"draws": 38}, ValueError, "draws must be 39 or more"),
        ((vae, frame), {"num_data": 1}, ValueError, "num_data must be 2 or more"),
        ((vae, frame), {"num_samples": 0}, ValueError, "num_samples"),
        ((vae, frame), {"num_particles": "5"}, TypeError, "num_particles"),
        ((vae, frame), {"examples": -1}, ValueError, "examples"),
        ((vae, frame), {"seed": -1}, ValueError, "seed"),
        ((vae, frame), {"progress": 1}, TypeError, "progress"),
        ((vae, frame), {"figures": "no"}, TypeError, "figures"),
    ]:
        with pytest.raises(kind, match=message):
            table_report(*arguments, out, **options)
    (tmp_path / "page.html").mkdir()
    with pytest.raises(OSError, match="table_report: cannot write to out="):
        table_report(vae, frame, tmp_path / "page.html")
    assert not list(out.iterdir())
