"""A VAE of a table: what comes back from every library, densities by quadrature, and files."""

import functools
import json
import math
import re
import shutil
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from polars.testing import assert_frame_equal as assert_polars_equal
from torch import nn

import ppl_vae
from ppl_vae import VAE, estimators, evaluation, likelihoods, nets, posteriors, priors, tables
from ppl_vae.columns import Encoder, num_features
from ppl_vae.random_state import snapshot
from ppl_vae.tables import Column, Schema, TableVAE

# Of trainings of two steps.
pytestmark = [
    pytest.mark.filterwarnings("ignore:(TableVAE.log_prob|log_likelihood). Pareto"),
    pytest.mark.filterwarnings("ignore:sample. the effective sample size"),
]

SMALL = {"latent_dim": 2, "hidden": (4,), "steps": 2}
NAN = float("nan")


def people(rows=12, seed=0):
    """Return a table of every kind of column; smokers are older."""
    random = np.random.default_rng(seed)
    smoker = np.arange(rows) % 2 == 0
    return pd.DataFrame(
        {
            "age": (40 + 10 * smoker + random.normal(size=rows)).astype("float32"),
            "shift": random.normal(size=rows),
            "visits": pd.array(random.poisson(3, rows), "Int64"),
            "smoker": pd.array(smoker, "boolean"),
            "city": pd.Categorical(
                random.choice(["Lyon", "Graz", "Bern"], rows), ["Lyon", "Graz", "Bern"]
            ),
            "grade": pd.Categorical(
                random.choice(["low", "mid", "high"], rows), ["low", "mid", "high"], ordered=True
            ),
            "town": pd.array(random.choice(["a", "b", "c"], rows), "string[python]"),
            "score": random.uniform(1, 99, rows),
        },
        index=[f"row {i}" for i in range(rows)],
    )


KINDS = {"score": Column("score", "bounded", low=0, high=100), "shift": "real", "visits": "count"}
WHOLE = people()
GAPS = np.random.default_rng(1).random(WHOLE.shape) < 0.25
GAPS[3] = True  # a row of which nothing is observed
TABLE = WHOLE.mask(GAPS)


@pytest.fixture(scope="module")
def vae():
    return TableVAE(kinds=KINDS, **SMALL).fit(TABLE)


# Every library.


def as_structured(frame):
    columns = {name: frame[name].to_numpy(dtype=object, na_value=None) for name in frame}
    array = np.empty(len(frame), [(name, object) for name in columns])
    for name, values in columns.items():
        array[name] = values
    return array


def observed_of(table):
    """Return the cells of a table as Python objects, None where missing, by column."""
    if isinstance(table, np.ndarray):
        if table.dtype.names:
            lists = {name: table[name].tolist() for name in table.dtype.names}
        else:
            lists = {f"x{j}": table[:, j].tolist() for j in range(table.shape[1])}
    elif isinstance(table, pa.Table):
        lists = table.to_pydict()
    elif isinstance(table, pl.DataFrame):
        lists = table.to_dict(as_series=False)
    else:
        lists = {name: table[name].astype(object).tolist() for name in table}
    return {
        name: [None if cell is None or cell is pd.NA or cell != cell else cell for cell in cells]
        for name, cells in lists.items()
    }


NUMBERS = TABLE[["age", "shift", "score"]].to_numpy(dtype=float)
LIBRARIES = {
    "pandas": TABLE,
    "polars": pl.from_pandas(TABLE),
    "pyarrow": pa.Table.from_pandas(TABLE, preserve_index=False),
    "structured array": as_structured(TABLE),
    "array": NUMBERS,
    "float32": NUMBERS.astype("float32"),
    "array of objects": TABLE.to_numpy(dtype=object, na_value=None),
    "list": TABLE.to_numpy(dtype=object, na_value=None).tolist(),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_every_method_on_every_library(name):
    table = LIBRARIES[name]
    kinds = KINDS if name in ("pandas", "polars", "pyarrow", "structured array") else None
    if name == "structured array":
        kinds = {**KINDS, "grade": "categorical"}
    fitted = TableVAE(kinds=kinds, **SMALL).fit(table)
    assert fitted.n_features_in_ == len(fitted.columns_) == len(fitted.schema_)
    assert fitted.transform(table).shape == (12, 2)
    assert fitted.log_prob(table, num_samples=50).log_px.shape == (12,)
    before = observed_of(np.array(table, object) if name == "list" else table)
    guess = fitted.impute(table, num_particles=20)
    drawn = fitted.impute(table, 1, num_particles=20)[0]
    for filled in (guess, drawn):
        after = observed_of(filled)
        assert list(after) == list(before)
        for column, cells in before.items():
            assert None not in after[column]
            seen = [i for i, cell in enumerate(cells) if cell is not None]
            assert [after[column][i] for i in seen] == [cells[i] for i in seen]
    assert type(guess) is (np.ndarray if name == "list" else type(table))
    synthetic = observed_of(fitted.sample(7))
    assert {len(cells) for cells in synthetic.values()} == {7}
    assert not any(None in cells for cells in synthetic.values())


def test_dtypes_categories_and_the_index_are_those_that_came(vae):
    filled = vae.impute(TABLE)
    pd.testing.assert_series_equal(filled.dtypes, TABLE.dtypes)
    pd.testing.assert_index_equal(filled.index, TABLE.index)
    assert list(filled["city"].cat.categories) == ["Lyon", "Graz", "Bern"]
    pd.testing.assert_frame_equal(filled[~pd.DataFrame(GAPS, TABLE.index, TABLE.columns)], TABLE)
    pd.testing.assert_series_equal(vae.sample(3).dtypes, TABLE.dtypes)
    as_polars = pl.from_pandas(TABLE)
    again = TableVAE(kinds=KINDS, **SMALL).fit(as_polars)
    assert again.impute(as_polars).schema == again.sample(3).schema == as_polars.schema


def test_a_table_of_another_library_comes_back_as_it_is(vae):
    as_polars = pl.from_pandas(TABLE)
    filled = vae.impute(as_polars)
    assert isinstance(filled, pl.DataFrame)
    assert_polars_equal(
        filled.select(pl.all().cast(pl.String)),
        pl.from_pandas(vae.impute(TABLE)).select(pl.all().cast(pl.String)),
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files(tmp_path, suffix):
    path = tmp_path / f"people.{suffix}"
    tables.write_table(TABLE, path)
    kinds = {**KINDS, "grade": "categorical"} if suffix == "csv" else KINDS
    fitted = TableVAE(kinds=kinds, **SMALL).fit(str(path))
    table = tables.read_table(path)
    pd.testing.assert_frame_equal(fitted.impute(path), fitted.impute(table))
    np.testing.assert_array_equal(fitted.transform(path), fitted.transform(table))
    one, other = (fitted.log_prob(each, num_samples=50) for each in (path, table))
    assert torch.equal(one.log_px, other.log_px)
    asked = tmp_path / f"asked.{suffix}"
    tables.write_table(pd.DataFrame({"town": ["c", "a"]}), asked)
    assert list(fitted.sample(2, given=asked, num_particles=100)["town"]) == ["c", "c", "a", "a"]


def test_columns_in_any_order(vae):
    turned = TABLE[TABLE.columns[::-1]]
    np.testing.assert_array_equal(vae.transform(turned), vae.transform(TABLE))
    pd.testing.assert_frame_equal(vae.impute(turned)[list(TABLE)], vae.impute(TABLE))


def test_a_table_without_missing_cells_is_returned_as_it_is(vae):
    whole = WHOLE.drop(index="row 3")
    pd.testing.assert_frame_equal(vae.impute(whole), whole)
    for drawn in vae.impute(whole, 2):
        pd.testing.assert_frame_equal(drawn, whole)


def test_the_table_itself_is_not_written_to():
    table = TABLE.copy()
    fitted = TableVAE(kinds=KINDS, **SMALL).fit(table)
    fitted.impute(table, 2, num_particles=5)
    fitted.log_prob(table, num_samples=5)
    pd.testing.assert_frame_equal(table, TABLE)


# Draws and seeds.


def test_draws_differ_and_seeds_repeat(vae):
    one, two = vae.impute(TABLE, 2, num_particles=50)
    cells = GAPS.nonzero()
    assert (one.to_numpy()[cells] != two.to_numpy()[cells]).mean() > 0.3
    for drawn, again in zip((one, two), vae.impute(TABLE, 2, num_particles=50), strict=True):
        pd.testing.assert_frame_equal(drawn, again)
    other = TableVAE(kinds=KINDS, seed=1, **SMALL).fit(TABLE)
    assert not np.array_equal(other.transform(TABLE), vae.transform(TABLE))
    pd.testing.assert_frame_equal(vae.sample(5), vae.sample(5))
    vae.seed = 1
    assert not vae.sample(5).equals(other.sample(5))
    vae.seed = 0
    assert not vae.sample(5).equals(other.sample(5))


def test_a_fit_repeats():
    first, second = (TableVAE(kinds=KINDS, **SMALL).fit(TABLE) for _ in range(2))
    for one, two in zip(first.pair_.parameters(), second.pair_.parameters(), strict=True):
        assert torch.equal(one, two)
    for name, values in first.training_.history.items():
        if name == "loss":
            np.testing.assert_array_equal(values, second.training_.history[name])


@pytest.mark.parametrize(
    "call",
    [
        lambda vae: TableVAE(kinds=KINDS, **SMALL).fit(TABLE),
        lambda vae: vae.transform(TABLE),
        lambda vae: vae.impute(TABLE, 2, num_particles=5),
        lambda vae: vae.sample(2),
        lambda vae: vae.sample(2, given={"smoker": True}, num_particles=5),
        lambda vae: vae.score(TABLE[:2]),
        lambda vae: vae.log_prob(TABLE, given=["age"], num_samples=5),
    ],
)
@pytest.mark.usefixtures("as_users_see_it")  # whose checks draw which items they look at
def test_the_global_random_state_is_unchanged(vae, call):
    before = snapshot()
    call(vae)
    after = snapshot()
    assert torch.equal(before[0], after[0])
    np.testing.assert_array_equal(before[2][1], after[2][1])
    assert before[3] == after[3]


# Conditional queries.


def test_given_values_are_in_every_row(vae):
    rows = vae.sample(3, given={"smoker": True, "age": 41.7, "city": "Bern"})
    assert rows["smoker"].tolist() == [True] * 3
    assert rows["age"].tolist() == [np.float32(41.7)] * 3
    assert rows["city"].tolist() == ["Bern"] * 3
    assert rows["shift"].nunique() == 3
    given = pd.DataFrame({"score": [1 / 3, 99.99, NAN], "town": ["a", None, "c"]})
    rows = vae.sample(2, given=given, num_particles=100)
    assert rows["score"].tolist()[:4] == [1 / 3, 1 / 3, 99.99, 99.99]
    assert rows["town"].tolist()[:2] + rows["town"].tolist()[4:] == ["a", "a", "c", "c"]
    assert rows.notna().all(axis=None)


def test_numbers_have_no_more_digits_than_the_network(vae):
    filled = vae.impute(TABLE)["shift"][TABLE["shift"].isna()]
    for drawn in (vae.sample(20)["shift"], vae.sample(3, given={"smoker": True})["shift"], filled):
        assert drawn.dtype == np.float64
        assert [float(str(np.float32(number))) for number in drawn] == drawn.tolist()


MIXED = pd.DataFrame(
    {
        "size": [1.5, -0.5, 2.5, NAN, 0.3, -1.2, 0.7, 1.9],
        "count": [3, 0, 1, 7, 2, None, 4, 5],
        "colour": ["red", "blue", None, "red", "green", "blue", "green", "red"],
        "price": [10.5, 20.25, NAN, 8.0, 30.5, 12.0, 19.0, 11.0],
    }
)


@pytest.fixture(scope="module")
def mixed():
    """A table of which the density is known by quadrature: two latent dimensions, in float64."""
    torch.set_default_dtype(torch.float64)
    fitted = TableVAE(latent_dim=2, hidden=(5,), steps=60, learning_rate=0.02).fit(MIXED)
    torch.set_default_dtype(torch.float32)
    return fitted


def quadrature(vae, table, names):
    """Return log p of some columns of each row, from a grid of z."""
    points = torch.linspace(-6, 6, 81, dtype=torch.float64)
    z = torch.cartesian_prod(points, points)
    cell = (points[1] - points[0]).log() * 2
    values, mask = vae.schema_.encode(table)
    x, mask = torch.as_tensor(np.nan_to_num(values)), torch.as_tensor(mask)
    mask &= torch.tensor([name in names for name in vae.schema_.names])
    with torch.no_grad():
        log_p_z = vae.pair_.prior().log_prob(z)
        found = []
        for row, seen in zip(x, mask, strict=True):
            row = torch.where(seen, row, 1.0)
            terms = vae.pair_.likelihood(z).base_dist.log_prob(row)
            found.append((log_p_z + terms[:, seen].sum(-1)).logsumexp(0) + cell)
    return torch.stack(found)


ALL = tuple(MIXED)


def test_log_prob_is_that_of_quadrature(mixed):
    found = mixed.log_prob(MIXED, num_samples=5000)
    expected = quadrature(mixed, MIXED, ALL)
    assert (found.pareto_k < 0.7).all()
    assert (found.standard_error < 0.1).all()
    assert ((found.log_px - expected).abs() < 5 * found.standard_error).all()


@pytest.mark.parametrize(
    "given",
    [
        ["size"],
        pytest.param(["colour", "count"], marks=pytest.mark.slow),
        ["price", "size", "count"],
    ],
)
def test_log_prob_given_is_a_ratio_of_two_densities(mixed, given):
    table = MIXED[2:6]
    found = mixed.log_prob(table, given=given, num_samples=5000)
    expected = quadrature(mixed, table, ALL) - quadrature(mixed, table, given)
    assert (found.standard_error < 0.1).all()
    assert ((found.log_px - expected).abs() < 5 * found.standard_error).all()
    assert ((found.ess >= 1) & (found.ess <= 5000)).all()


def test_a_row_without_an_observed_cell_has_the_probability_one(mixed):
    nothing = pd.DataFrame({name: [None] for name in MIXED})
    found = mixed.log_prob(nothing, num_samples=5000)
    assert (found.log_px.abs() < 5 * found.standard_error).all()
    assert quadrature(mixed, nothing, ALL).item() == pytest.approx(0, abs=1e-6)
    assert mixed.impute(nothing).notna().all(axis=None)


def test_draws_given_others_have_their_conditional_mean(mixed):
    points = torch.linspace(-6, 6, 161, dtype=torch.float64)
    z = torch.cartesian_prod(points, points)
    given = {"size": 1.2, "colour": "green"}
    values, _ = mixed.schema_.encode_some(given)
    x = torch.as_tensor(np.nan_to_num(values, nan=1.0))
    with torch.no_grad():
        p_x = mixed.pair_.likelihood(z).base_dist
        seen = torch.as_tensor(~np.isnan(values))[0]
        log_w = mixed.pair_.prior().log_prob(z) + p_x.log_prob(x)[:, seen].sum(-1)
        expected = log_w.softmax(0) @ p_x.mean
    rows = mixed.sample(4000, given=given)
    counts = rows["count"].astype(float)
    assert abs(counts.mean() - expected[1].item()) < 5 * counts.std() / math.sqrt(4000)


def test_numbers_do_not_depend_on_the_units(float64):
    """Of a column in billionths, log p differs by log 1e9 for each observed cell."""
    values = MIXED[["size", "price"]]
    scaled = values.assign(price=1e9 * values["price"], size=values["size"] / 1e9)
    fitted = []
    for table in (values, scaled):
        fitted.append(TableVAE(kinds={"price": "positive"}, **SMALL).fit(table))
        columns = fitted[-1].columns_
        torch.manual_seed(3)
        fitted[-1].pair_ = VAE(
            prior=priors.StandardNormal(2),
            posterior=posteriors.DiagonalNormal(Encoder(nets.MLP(4, 4), columns)),
            likelihood=likelihoods.Columns(nets.MLP(2, 4), columns),
        )
    one, other = (
        vae.log_prob(table).log_px for vae, table in zip(fitted, (values, scaled), strict=True)
    )
    cells = torch.as_tensor(values.notna().to_numpy(copy=True)).double()
    shift = cells @ torch.tensor([math.log(1e9), -math.log(1e9)])
    torch.testing.assert_close(other, one + shift, rtol=0, atol=1e-6)
    np.testing.assert_allclose(fitted[0].transform(values), fitted[1].transform(scaled), atol=1e-9)


def test_a_low_effective_sample_size_warns():
    with pytest.warns(UserWarning, match="effective sample size") as caught:
        TableVAE(**SMALL).fit(MIXED).sample(2, given={"size": 1.0}, num_particles=20)
    messages = [str(w.message) for w in caught]
    assert len(messages) == 1
    assert re.match(r"sample: the effective sample size is \d+ of 20 particles", messages[0])
    assert "below 50 for 1 of 1 rows" in messages[0]


def test_a_heavy_tail_is_warned_of_with_advice_for_tables():
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=40), "b": ["x", "y"] * 20})
    vae = TableVAE(latent_dim=2, hidden=(8,), steps=1).fit(frame)
    vae.pair_.posterior.load_state_dict(
        {k: v * 0 - 5.0 for k, v in vae.pair_.posterior.state_dict().items()}
    )
    for given in ((), ("b",)):
        with pytest.warns(
            UserWarning, match=r"TableVAE.log_prob: Pareto .* cell_dropout"
        ) as caught:
            vae.log_prob(frame, given=given)
        assert len(caught) == 1


def test_enough_particles_do_not_warn(mixed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed.sample(2, given={"size": 1.0})


# What is fitted.


def test_a_posterior_of_any_class_with_its_options():
    for posterior in (
        posteriors.FullRankNormal,
        posteriors.Flow,
        functools.partial(posteriors.Flow, kind="spline", context_features=3),
        functools.partial(posteriors.LowRankNormal, rank=1),
        functools.partial(posteriors.GaussianMixture, components=2),
    ):
        fitted = TableVAE(posterior=posterior, **SMALL).fit(MIXED)
        kind = getattr(posterior, "func", posterior)
        assert type(fitted.pair_.posterior) is kind
        latents = fitted.transform(MIXED)
        assert np.isfinite(latents).all()
        np.testing.assert_array_equal(latents, fitted.transform(MIXED))
        assert fitted.log_prob(MIXED, num_samples=30).log_px.isfinite().all()
        assert fitted.impute(MIXED, num_particles=10).notna().all(axis=None)
    assert fitted.pair_.posterior.components == 2


def test_any_prior_and_estimator():
    prior = priors.GaussianMixture(2, components=3)
    fitted = TableVAE(prior=prior, estimator=estimators.AnalyticKLELBO(), **SMALL)
    with pytest.raises(NotImplementedError, match="closed form"):
        fitted.fit(MIXED)
    fitted.set_params(estimator=estimators.ImportanceWeightedELBO(num_particles=3)).fit(MIXED)
    assert type(fitted.pair_.prior) is priors.GaussianMixture
    assert fitted.pair_.prior is not prior


def with_parts(**parts):
    """Return what makes a pair of small networks, with some parts of its own."""

    def make(columns):
        (outputs,) = likelihoods.Columns.net_shape(columns=columns)
        own = {name: part() for name, part in parts.items()}
        encoder = Encoder(nets.MLP(num_features(columns), posteriors.Flow.net_features(3)), columns)
        return VAE(
            **{
                "prior": priors.GaussianMixture(3, components=4),
                "posterior": posteriors.Flow(encoder, 3),
                "likelihood": likelihoods.Columns(nets.MLP(3, outputs), columns),
                **own,
            }
        )

    return make


def test_a_pair_of_your_own():
    fitted = TableVAE(make_pair=with_parts(), steps=2, batch_size=4).fit(MIXED)
    assert fitted.transform(MIXED).shape == (8, 3)
    assert type(fitted.pair_.posterior) is posteriors.Flow
    assert list(fitted.get_feature_names_out()) == ["tablevae0", "tablevae1", "tablevae2"]
    assert fitted.impute(MIXED, num_particles=10).notna().all(axis=None)


def test_values_that_are_not_missing_at_random():
    table = MIXED[["size", "price"]]
    mechanism = lambda: likelihoods.Bernoulli(nets.SelfMasking(2))  # noqa: E731
    fitted = TableVAE(make_pair=with_parts(missingness=mechanism), steps=3).fit(table)
    assert fitted.pair_.missingness is not None
    assert fitted.impute(table, num_particles=20).notna().all(axis=None)
    # log p(x_observed, m) = log p(x_observed) + log p(m), where the mask is two throws of a coin.
    for parameter in fitted.pair_.missingness.parameters():
        nn.init.zeros_(parameter)
    free = TableVAE(make_pair=with_parts(), steps=1).fit(table)
    free.pair_ = fitted.pair_.replace(missingness=None)
    joint, alone = (each.log_prob(table, num_samples=500) for each in (fitted, free))
    error = joint.standard_error.hypot(alone.standard_error)
    assert ((joint.log_px - alone.log_px + 2 * math.log(2)).abs() < 5 * error).all()
    # Cells that are not asked for did not go missing: p(price | size) has no part of p(m | x).
    one, other = (v.log_prob(table, given=["size"], num_samples=50) for v in (fitted, free))
    assert torch.equal(one.log_px, other.log_px)
    one, other = (v.sample(3, given={"size": 0.5}, num_particles=50) for v in (fitted, free))
    pd.testing.assert_frame_equal(one, other)


def test_rows_without_a_cell_teach_nothing():
    empty = pd.DataFrame({name: [None] for name in MIXED})
    longer = pd.concat([MIXED, empty, empty], ignore_index=True).astype(MIXED.dtypes)
    one, other = (TableVAE(**SMALL).fit(table) for table in (MIXED, longer))
    for first, second in zip(one.pair_.parameters(), other.pair_.parameters(), strict=True):
        assert torch.equal(first, second)


def test_families_and_kinds():
    kinds = {"size": "real", "count": "count"}
    families = {"real": "StudentT", "positive": "Gamma", "count": "Poisson"}
    fitted = TableVAE(kinds=kinds, families=families, **SMALL).fit(MIXED)
    names = [type(column).__name__ for column in fitted.columns_]
    assert names == ["StudentT", "Poisson", "Categorical", "Gamma"]
    assert [column.kind for column in fitted.schema_] == [
        "real",
        "count",
        "categorical",
        "positive",
    ]
    assert fitted.columns_ == list(fitted.pair_.likelihood.columns)


def test_a_column_of_one_value_that_is_declared():
    table = MIXED.assign(planet="Earth", floor=3)
    kinds = {"planet": "categorical", "floor": "ordinal"}
    fitted = TableVAE(kinds=kinds, **SMALL).fit(table)
    without = table.assign(planet=[None, *["Earth"] * 7])
    assert fitted.impute(without)["planet"].tolist() == ["Earth"] * 8
    assert set(fitted.sample(4)["floor"]) == {3}


def test_training_is_that_of_the_library(tmp_path):
    options = {"batch_size": 3, "validation_fraction": 0.25, "validate_every": 2, **SMALL}
    fitted = TableVAE(**{**options, "steps": 7}).fit(MIXED, out=tmp_path / "run")
    assert fitted.training_.steps == 7
    assert len(fitted.training_.validation["loss"]) == 4
    assert fitted.training_.best_step in (2, 4, 6, 7)
    longer = TableVAE(**{**options, "steps": 9}).fit(MIXED, out=tmp_path / "run", resume=True)
    assert longer.training_.steps == 9
    again = TableVAE(**{**options, "steps": 9}).fit(MIXED)
    np.testing.assert_array_equal(longer.transform(MIXED), again.transform(MIXED))
    without = TableVAE(validation_fraction=0, **SMALL).fit(MIXED)
    assert without.training_.best_step is None


def test_patience_ends_a_training():
    fitted = TableVAE(
        latent_dim=1,
        hidden=(2,),
        steps=200,
        learning_rate=5.0,
        validation_fraction=0.3,
        validate_every=1,
        patience=2,
    ).fit(MIXED)
    assert fitted.training_.stopped == "patience"
    assert fitted.training_.best_step == fitted.training_.steps - 2


def test_a_training_learns_what_columns_have_in_common():
    frame = people(100)[["age", "smoker"]]
    kinds = {"age": "real"}
    bound = estimators.ImportanceWeightedELBO(num_particles=5)
    options = {"latent_dim": 1, "hidden": (8,), "kinds": kinds, "estimator": bound}
    fitted = TableVAE(steps=120, learning_rate=0.03, **options).fit(frame)
    asked = pd.DataFrame({"smoker": [True, False]})
    rows = fitted.sample(200, given=asked, num_particles=2000)
    smokers, others = rows["age"][:200], rows["age"][200:]
    assert abs(smokers.mean() - 50) < 3
    assert abs(others.mean() - 40) < 3
    asked = pd.DataFrame({"age": [50.0, 40.0], "smoker": [None, None]})
    assert fitted.impute(asked)["smoker"].tolist() == [True, False]


def test_cell_dropout_is_the_encoders_in_training_alone():
    plain, hiding = (TableVAE(cell_dropout=r, **SMALL).fit(MIXED) for r in (0, 0.5))
    assert hiding.pair_.posterior.net.cell_dropout == 0.5
    weights = [next(fitted.pair_.likelihood.net.parameters()) for fitted in (plain, hiding)]
    assert not torch.equal(*weights)
    np.testing.assert_array_equal(hiding.transform(MIXED), hiding.transform(MIXED))


def test_the_number_beyond_what_a_network_holds(float64):
    table = MIXED.assign(price=1e9 + MIXED["price"])
    fitted = TableVAE(**SMALL).fit(table)  # in float64
    assert next(fitted.pair_.parameters()).dtype == torch.float64
    torch.set_default_dtype(torch.float32)
    assert np.isfinite(fitted.score(table))
    filled = fitted.impute(table)["price"]
    assert (abs(filled - 1e9) < 1e3).all()


# Files of a fitted model.


@pytest.fixture(scope="module")
def kept(vae, tmp_path_factory):
    return vae.save(tmp_path_factory.mktemp("kept") / "people")


@pytest.fixture
def saved(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "people")


def test_a_saved_model_answers_as_before(vae, saved):
    again = tables.load(saved)
    assert again.schema_ == vae.schema_
    assert (again.latent_dim, again.seed) == (2, 0)
    assert again.n_features_in_ == vae.n_features_in_
    assert list(again.feature_names_in_) == list(vae.feature_names_in_)
    np.testing.assert_array_equal(again.transform(TABLE), vae.transform(TABLE))
    pd.testing.assert_frame_equal(again.impute(TABLE), vae.impute(TABLE))
    pd.testing.assert_frame_equal(again.sample(4), vae.sample(4))
    one, other = (each.sample(given={"age": 45.0}, num_particles=50) for each in (vae, again))
    pd.testing.assert_frame_equal(one, other)
    assert again.score(TABLE[:4]) == vae.score(TABLE[:4])
    assert again.get_feature_names_out().tolist() == ["tablevae0", "tablevae1"]
    other = again.save(saved.parent / "again")
    assert (other / "table.json").read_text() == (saved / "table.json").read_text()


# Devices.


@pytest.mark.parametrize("device", [torch.device("cpu"), None])
def test_the_device_chosen_is_that_of_the_pair(vae, saved, device, monkeypatch):
    moved = []
    of_torch = nn.Module.to
    monkeypatch.setattr(
        VAE, "to", lambda self, *args: moved.append(args) or of_torch(self, *args), raising=False
    )
    chosen = TableVAE(kinds=KINDS, device=device, **SMALL).fit(TABLE)
    assert moved == ([] if device is None else [(device,)])
    np.testing.assert_array_equal(chosen.transform(TABLE), vae.transform(TABLE))
    again = tables.load(saved, device=device)
    assert again.device == device
    np.testing.assert_array_equal(again.transform(TABLE), vae.transform(TABLE))


def test_data_go_where_the_pair_is_and_not_to_the_default_device(vae, saved):
    with torch.device("meta"):
        again = tables.load(saved, device="cpu")
        latents, rows = again.transform(TABLE), again.sample(4)
    np.testing.assert_array_equal(latents, vae.transform(TABLE))
    pd.testing.assert_frame_equal(rows, vae.sample(4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu(vae, saved, tmp_path):
    on_gpu = TableVAE(kinds=KINDS, device="cuda", **SMALL).fit(TABLE)
    assert {p.device.type for p in on_gpu.pair_.parameters()} == {"cuda"}
    assert on_gpu.impute(TABLE).notna().all(axis=None)
    assert on_gpu.impute(TABLE, 2, num_particles=20)[1].notna().all(axis=None)
    assert len(on_gpu.sample(3, given={"age": 45.0}, num_particles=50)) == 3
    for given in ((), ["age"]):
        found = on_gpu.log_prob(TABLE, given=given, num_samples=50)
        assert found.log_px.device == found.pareto_k.device == torch.device("cpu")
    for folder in (saved, on_gpu.save(tmp_path / "gpu")):
        one, other = (tables.load(folder, device=name) for name in ("cpu", "cuda"))
        np.testing.assert_allclose(one.transform(TABLE), other.transform(TABLE), atol=1e-5)


def test_the_pair_is_one_of_the_library(vae, saved):
    pair = ppl_vae.load(saved)
    x, mask = vae.schema_.encode(TABLE)
    found = evaluation.log_likelihood(pair, np.nan_to_num(x), mask=mask, num_samples=50)
    assert torch.equal(found.log_px, vae.log_prob(TABLE, num_samples=50).log_px)


def edited(**changes):
    return lambda text: json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda text: text[:-20], ValueError, "table.json' is damaged"),
        (lambda text: "", ValueError, "table.json' is damaged"),
        (lambda text: "[]", ValueError, "table.json' is damaged"),
        (lambda text: "{}", ValueError, "table.json' is damaged: 'schema'"),
        (lambda text: "[" * 100_000, ValueError, "table.json' is damaged"),
        (lambda text: "\udcff", ValueError, "table.json' is damaged"),
        (edited(seed=-1), ValueError, "damaged: seed must be from 0"),
        (edited(seed="1"), ValueError, "damaged: seed must be an integer"),
        (edited(schema=3), ValueError, "damaged: a schema must be a mapping, got 3"),
        (
            lambda text: text.replace('"count"', '"number"'),
            ValueError,
            r"damaged: columns\[2\]: .*kind must be one of",
        ),
        (
            edited(schema=Schema.infer(MIXED).to_dict()),
            ValueError,
            "a table of 4 columns and a VAE of 8; they are of different trainings, save again",
        ),
    ],
)
@pytest.mark.usefixtures("as_users_see_it")
def test_a_damaged_file(saved, change, error, message):
    file = saved / "table.json"
    file.write_bytes(change(file.read_text()).encode("utf-8", "surrogateescape"))
    with pytest.raises(error, match=message) as caught:
        tables.load(saved)
    assert str(caught.value).count("\n") < 2


def test_a_folder_without_a_table(saved, tmp_path):
    (saved / "table.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no table.json; a pair alone is loaded by"):
        tables.load(saved)
    with pytest.raises(FileNotFoundError):
        tables.load(tmp_path / "nowhere")


def test_a_pair_of_pixels_is_no_table(saved, tmp_path):
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(4, 4)),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 4)),
    )
    folder = ppl_vae.save(pair, tmp_path / "pixels")
    (folder / "table.json").write_bytes((saved / "table.json").read_bytes())
    with pytest.raises(ValueError, match="a table of 8 columns and a VAE of 0"):
        tables.load(folder)
