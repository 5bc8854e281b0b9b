"""Tables and settings that a VAE of a table cannot use: named, and nothing half fitted remains."""

import functools
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from ppl_vae import VAE, estimators, likelihoods, nets, posteriors, priors, tables
from ppl_vae.columns import Encoder, num_features
from ppl_vae.tables import TableVAE

NAN, INF = float("nan"), float("inf")
SMALL = {"latent_dim": 2, "hidden": (4,), "steps": 1}

pytestmark = pytest.mark.usefixtures("as_users_see_it")

# The rows of the schema's own test, through fit and impute.

_spec = importlib.util.spec_from_file_location(
    "rows_of_tables", Path(__file__).with_name("test_wrong_tables.py")
)
of_schema = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(of_schema)


@functools.cache
def fitted():
    """Return a model of the table of the schema's rows."""
    kinds = {"score": of_schema.BOUNDED}
    return TableVAE(kinds=kinds, **SMALL).fit(of_schema.people())


def state(vae):
    """Return what must not change: the fitted attributes, and the weights."""
    weights = [p.detach().clone() for p in vae.pair_.parameters()]
    return {name: value for name, value in vars(vae).items() if name != "kinds"}, weights


class Through:
    """Calls of a schema, as those of a fitted model."""

    @staticmethod
    def infer(frame, kinds=None):
        vae = fitted()
        before, weights = state(vae)
        vae.kinds = kinds
        try:
            vae.fit(frame)
        finally:
            after, _ = state(vae)
            assert before == after, "a refused fit changed the model"
            assert all(map(torch.equal, weights, vae.pair_.parameters()))

    def encode(self, frame):
        fitted().impute(frame, num_particles=2)


# Arrays and lists are read as scikit-learn reads them, and one row is no table.
OTHERS = {
    "Schema.infer([[1, 2]])": (ValueError, "one row"),
    "Schema.infer(np.arange(3))": (ValueError, "Expected 2D array", "Reshape your data"),
    "Schema.infer(np.zeros((2, 2, 2)))": (ValueError, "dim 3"),
    "Schema.infer(np.zeros((0, 3)))": (ValueError, "0 sample(s)", "minimum of 1"),
    "Schema.infer(np.zeros((3, 0)))": (ValueError, "0 feature(s)", "minimum of 1"),
    "Schema.infer(np.zeros((2, 2), complex))": (ValueError, "Complex data"),
    "Schema.infer(pd.Series([1, 2]))": (ValueError, "2-dimensional container", "Series"),
    "Schema.infer(np.array([(b'x',)], [('a', 'S1')]))": (ValueError, "one row"),
    "Schema.infer(pa.table([[1], [2]], names=['a', 'a']))": (ValueError, "one row"),
    "column(pd.array(['x'], pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))))": (
        ValueError,
        "one row",
    ),
    "column([datetime.time(1)], pa.table)": (ValueError, "one row"),
    "column([decimal.Decimal(1)], pl.DataFrame)": (ValueError, "one row"),
    "schema.encode(array)": (ValueError, "X has 3 features", "expecting 6 features"),
    "schema.encode(people().to_numpy()[0])": (ValueError, "Expected 2D array"),
}
ROWS = [
    (call, *OTHERS.get(call, (error, *parts)))
    for call, error, *parts in of_schema.INFER + of_schema.ENCODE
]


@pytest.mark.parametrize("row", ROWS, ids=[call for call, *_ in ROWS])
def test_what_a_schema_refuses_no_model_is_fitted_to(row, monkeypatch):
    call, error, *parts = row
    monkeypatch.setattr(of_schema, "Schema", Through)
    with pytest.raises(error) as caught:
        eval(call, {**of_schema.NAMES, "Schema": Through, "schema": Through()})
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message


def test_the_rows_are_many():
    assert len(ROWS) >= 100
    assert OTHERS.keys() <= {call for call, *_ in ROWS}


# What only a model refuses.


def many(rows=20, **columns):
    numbers = np.random.default_rng(0).random(rows)
    return pd.DataFrame({"a": numbers, "b": ["x", "y"] * (rows // 2), **columns})


FRAME = many()


def fit(frame=FRAME, **options):
    return TableVAE(**{**SMALL, **options}).fit(frame)


def pair_of(columns, likelihood=None):
    (outputs,) = likelihoods.Columns.net_shape(columns=columns)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(Encoder(nets.MLP(num_features(columns), 4), columns)),
        likelihood=likelihood or likelihoods.Columns(nets.MLP(2, outputs), columns),
    )


def fit_pair(make_pair, **options):
    return TableVAE(make_pair=make_pair, steps=1, **options).fit(FRAME)


BOUNDED = {"c": tables.Column("c", "bounded", low=0, high=1)}
NAMES = {
    "fit": fit,
    "many": many,
    "fit_pair": fit_pair,
    "pair_of": pair_of,
    "np": np,
    "pd": pd,
    "pl": pl,
    "pa": pa,
    "nn": nn,
    "torch": torch,
    "scipy": scipy,
    "functools": functools,
    "NAN": NAN,
    "INF": INF,
    "FRAME": FRAME,
    "TableVAE": TableVAE,
    "tables": tables,
    "priors": priors,
    "posteriors": posteriors,
    "estimators": estimators,
    "likelihoods": likelihoods,
    "nets": nets,
    "BOUNDED": BOUNDED,
}

TABLES = [
    ("fit([[1, 2], 3])", ValueError, "2 cells in row 0 and 0 in row 1", "with None"),
    ("fit([])", ValueError, "no rows"),
    ("fit(many(c=np.arange(1, 21) * 5e-324))", ValueError, "row 0, column 'c'", "rescale"),
    ("fit(FRAME[:1])", ValueError, "one row", "two or more"),
    ("fit(pl.DataFrame({'a': [1.5]}))", ValueError, "one row"),
    ("fit(pa.table({'a': [1.5]}))", ValueError, "one row"),
    ("fit([[1, 2]])", ValueError, "one row"),
    ("fit([[1], [2, 3]])", ValueError, "1 cells in row 0 and 2 in row 1"),
    ("fit([{'a': 1}, {'a': 2}])", ValueError, "Expected 2D array"),
    ("fit([[1, 'x'], [2, 3], [4, 'y']])", TypeError, "'x1' mixes text (row 0: 'x') and int (row 1"),
    ("fit(iter([[1]]))", TypeError, "list_iterator"),
    ("fit(b'people.csv')", TypeError, "bytes"),
    ("fit('people.csv')", FileNotFoundError, "people.csv"),
    ("fit('')", ValueError, "path must not be empty"),
    ("fit(torch.zeros(3))", ValueError, "Expected 2D array"),
    ("fit(scipy.sparse.eye(4).tocsr())", TypeError, "Sparse data", "toarray"),
    ("fit(pa.record_batch({'a': [1.5, 2.5]}))", TypeError, "RecordBatch"),
    (
        "fit(many(c=np.arange(20) * 1e300 + 0.5))",
        ValueError,
        "row 1, column 'c' is 1e+300",
        "float64",
    ),
    ("fit(many(c=np.arange(1, 21) / 1e60))", ValueError, "row 0, column 'c' is 1e-60", "float32"),
    ("fit(many(c=-1e9 - FRAME['a']))", ValueError, "column 'c'", "float32", "subtract a constant"),
    ("fit(many(c=1e9 + FRAME['a']))", ValueError, "column 'c'", "1e+09", "subtract a constant"),
    ("fit(many(c=1e20 * (FRAME['a'] - 0.5)))", ValueError, "column 'c'", "float32", "rescale"),
    ("fit(many(c=1e-20 * (FRAME['a'] - 0.5)))", ValueError, "column 'c'", "e-21", "rescale"),
    (
        "fit(many(c=(1e9 + FRAME['a']) * (FRAME['a'] > 0.5)))",
        ValueError,
        "column 'c'",
        "subtract a constant",
    ),
    ("fit(many(c=np.arange(20) % 7 * 1e-50))", ValueError, "row 1, column 'c' is 1e-50", "float32"),
    (
        "fit(many(c=10**9 + np.arange(20) % 7), kinds={'c': 'count'})",
        ValueError,
        "column 'c'",
        "subtract a constant",
    ),
    ("fit(many(c=1e-9 * FRAME['a'] + 0.5), kinds=BOUNDED)", ValueError, "'c'", "within (0, 1)"),
    ("fit(many(c=1 - FRAME['a'] / 1e9), kinds=BOUNDED)", ValueError, "'c'", "within (0, 1)"),
    (
        "vae.impute(FRAME.assign(a=[1e39] * 20))",
        ValueError,
        "impute: row 0, column 'a' is 1e+39, which torch.float32 does not hold",
    ),
    ("fit(kinds={'c': 'real'})", ValueError, "kinds names column 'c'"),
    ("vae.impute(FRAME.assign(a=1e60))", ValueError, "impute: row 0, column 'a' is 1e+60"),
    ("vae.transform(FRAME.assign(a=1e60))", ValueError, "transform: row 0, column 'a' is 1e+60"),
    ("vae.log_prob(FRAME.assign(a=1e-60))", ValueError, "log_prob: row 0, column 'a' is 1e-60"),
    ("vae.score(FRAME.assign(b='z'))", ValueError, "row 0, column 'b' is 'z'", "('x', 'y')"),
    ("vae.impute(FRAME.assign(c=1))", ValueError, "does not have column 'c'"),
    ("vae.impute(FRAME[['a']])", ValueError, "lacks column 'b'"),
    ("vae.impute(FRAME.to_numpy())", ValueError, "an array has no names", "['a', 'b']"),
    ("vae.impute('nothing.csv')", FileNotFoundError, "nothing.csv"),
    ("vae.impute(None)", TypeError, "DataFrame", "None"),
    ("numbers.impute([[1.0, 2.0, 3.0]])", ValueError, "X has 3 features", "expecting 2 features"),
    ("numbers.transform(np.ma.ones((2, 1)))", ValueError, "X has 1 features", "expecting 2"),
    ("numbers.transform([[INF, 1.0]])", ValueError, "row 0, column 'x0' is inf"),
    ("numbers.transform([['1', 1.0]])", TypeError, "row 0, column 'x0' is '1'", "needs numbers"),
    ("numbers.transform(FRAME)", ValueError, "lacks columns ['x0', 'x1']"),
]

SETTINGS = [
    ("fit(latent_dim=0)", ValueError, "latent_dim", "0"),
    ("fit(latent_dim='2')", TypeError, "latent_dim", "'2'"),
    ("fit(latent_dim=2.0)", TypeError, "latent_dim", "2.0"),
    ("fit(device='tpu')", ValueError, "TableVAE: device must be available", "'cpu'", "got 'tpu'"),
    ("fit(device='meta')", ValueError, "device must hold numbers", "got 'meta'"),
    ("fit(device=99)", ValueError, "device must be available", "got 99"),
    ("fit(device=True)", TypeError, "device", "got True"),
    ("fit(device=nn.Linear(2, 2))", TypeError, "device", "Linear"),
    ("fit(prior=priors.StandardNormal)", TypeError, "prior", "priors.StandardNormal(2)"),
    ("fit(prior=priors.StandardNormal(3))", ValueError, "prior", "latent_dim=2", "3"),
    ("fit(prior=nn.Linear(2, 2))", TypeError, "prior Linear"),
    ("fit(prior='normal')", TypeError, "prior", "'normal'"),
    ("fit(posterior='DiagonalNormal')", TypeError, "posterior", "'DiagonalNormal'"),
    ("fit(posterior=posteriors.DiagonalNormal(nn.Linear(2, 4)))", TypeError, "posterior", "class"),
    ("fit(posterior=lambda net: net)", TypeError, "posterior", "net_features"),
    ("fit(posterior=posteriors.GaussianMixture)", TypeError, "GaussianMixture", "'components'"),
    (
        "fit(posterior=functools.partial(posteriors.Flow, kynd='iaf'))",
        TypeError,
        "posterior Flow",
        "'kynd'",
    ),
    ("fit(posterior=posteriors.Categorical)", ValueError, "prior and posterior"),
    ("fit(hidden=4)", TypeError, "hidden", "4", "(4,)"),
    ("fit(hidden=(0,))", ValueError, "hidden", "0"),
    ("fit(hidden=None)", TypeError, "hidden", "None"),
    ("fit(cell_dropout=1.5)", ValueError, "cell_dropout", "1.5"),
    ("fit(cell_dropout='half')", TypeError, "cell_dropout", "'half'"),
    ("fit(kinds='real')", TypeError, "kinds", "'real'"),
    ("fit(kinds={'a': 'number'})", ValueError, "kinds", "'number'"),
    ("fit(families=['StudentT'])", TypeError, "families", "['StudentT']"),
    ("fit(families={'real': 'Cauchy'})", ValueError, "'Normal' or 'StudentT'", "'Cauchy'"),
    ("fit(families={'real': ['Normal']})", ValueError, "'Normal' or 'StudentT'", "['Normal']"),
    ("fit(families={'binary': 'Bernoulli'})", ValueError, "families", "'binary'"),
    ("fit(estimator='elbo')", TypeError, "estimator", "'elbo'"),
    ("fit(estimator=estimators.ImportanceWeightedELBO)", TypeError, "estimator", "class"),
    ("fit(steps=0)", ValueError, "steps", "0"),
    ("fit(steps=None)", TypeError, "steps", "None"),
    ("fit(batch_size=0)", ValueError, "batch_size", "0"),
    ("fit(batch_size='all')", TypeError, "batch_size", "'all'"),
    ("fit(learning_rate=0)", ValueError, "learning_rate", "0"),
    ("fit(learning_rate=NAN)", ValueError, "learning_rate", "nan"),
    ("fit(learning_rate='1e-3')", TypeError, "learning_rate", "'1e-3'"),
    ("fit(validation_fraction=1)", ValueError, "validation_fraction", "1"),
    ("fit(validation_fraction=-0.1)", ValueError, "validation_fraction", "-0.1"),
    ("fit(validation_fraction=None)", TypeError, "validation_fraction", "None"),
    ("fit(validation_fraction=0.99)", ValueError, "validation_fraction=0.99", "20 rows"),
    ("fit(patience=0)", ValueError, "patience", "0"),
    ("fit(validate_every=2.5)", TypeError, "validate_every", "2.5"),
    ("fit(compile=1)", TypeError, "compile", "1"),
    ("fit(progress=None)", TypeError, "progress", "None"),
    ("fit(seed=-1)", ValueError, "seed", "-1"),
    ("fit(seed=None)", TypeError, "seed", "None"),
    ("fit_pair(3)", TypeError, "make_pair", "3"),
    ("fit_pair(lambda columns: None)", TypeError, "make_pair must return a VAE", "None"),
    ("fit_pair(lambda columns: pair_of(columns[:1]))", ValueError, "2 columns", "1"),
    (
        "fit_pair(lambda c: pair_of(c, likelihoods.Bernoulli(nets.MLP(2, 2))))",
        TypeError,
        "likelihoods.Columns",
    ),
    ("fit_pair(pair_of, hidden=(3,))", ValueError, "make_pair", "without hidden", "(3,)"),
    ("fit_pair(pair_of, cell_dropout=0.5)", ValueError, "make_pair", "without cell_dropout"),
    ("fit_pair(pair_of, latent_dim=2)", ValueError, "make_pair", "without latent_dim", "2"),
    ("fit_pair(pair_of, prior=priors.StandardNormal(2))", ValueError, "make_pair", "without prior"),
    (
        "fit_pair(pair_of, posterior=posteriors.Flow)",
        ValueError,
        "make_pair",
        "without posterior",
    ),
    ("TableVAE(**{'latent_dims': 3})", TypeError, "latent_dims"),
    ("TableVAE(3)", TypeError, "positional"),
    ("TableVAE().fit(FRAME, resume=True)", ValueError, "resume", "out="),
    ("TableVAE().fit(FRAME, out=3)", TypeError, "out", "3"),
    ("tables.fit(FRAME, steps=0)", ValueError, "steps", "0"),
]

CALLS = [
    ("TableVAE().transform(FRAME)", NotFittedError, "fit"),
    ("TableVAE().impute(FRAME)", NotFittedError, "fit"),
    ("TableVAE().sample()", NotFittedError, "fit"),
    ("TableVAE().score(FRAME)", NotFittedError, "fit"),
    ("TableVAE().save('here')", NotFittedError, "fit"),
    ("vae.impute(FRAME, 0)", ValueError, "draws", "0"),
    ("vae.impute(FRAME, draws=1.5)", TypeError, "draws", "1.5"),
    ("vae.impute(FRAME, draws=True)", TypeError, "draws", "True"),
    ("vae.impute(FRAME, num_particles=0)", ValueError, "num_particles", "0"),
    ("vae.sample(0)", ValueError, "n must", "0"),
    ("vae.sample('3')", TypeError, "n must", "'3'"),
    ("vae.sample(num_particles=-1)", ValueError, "num_particles", "-1"),
    ("vae.sample(given={})", ValueError, "given", "{}"),
    ("vae.sample(given={'a': None})", ValueError, "given must have a value"),
    ("vae.sample(given={'c': 3})", KeyError, "'c'", "('a', 'b')"),
    ("vae.sample(given={'b': 'z'})", ValueError, "'b' is 'z'", "('x', 'y')"),
    ("vae.sample(given={'a': -1.0})", ValueError, "'a' is -1.0", "above zero"),
    ("vae.sample(given={'a': '1'})", TypeError, "'a' is '1'", "needs numbers"),
    ("vae.sample(given={'a': INF})", ValueError, "'a' is inf"),
    ("vae.sample(given={'a': 1e60})", ValueError, "sample: row 0, column 'a' is 1e+60"),
    ("vae.sample(given=['a'])", TypeError, "['a']"),
    ("vae.sample(given=3)", TypeError, "3"),
    ("vae.sample(given=FRAME[['a']][:0])", ValueError, "no rows"),
    ("vae.log_prob(FRAME, given='a')", TypeError, "given", "'a'"),
    ("vae.log_prob(FRAME, given=['c'])", KeyError, "'c'", "('a', 'b')"),
    ("vae.log_prob(FRAME, given=3)", TypeError, "given", "3"),
    ("vae.log_prob(FRAME, num_samples=0)", ValueError, "num_samples", "0"),
    ("vae.save(3)", TypeError, "3"),
    ("tables.load(3)", TypeError, "folder", "3"),
    ("tables.load('')", ValueError, "folder", "''"),
    ("tables.load('people', device='tpu')", ValueError, "load: device must be", "got 'tpu'"),
]

REFUSED = [*TABLES, *SETTINGS, *CALLS]


@pytest.fixture(scope="module")
def names():
    """Return what calls name, with two models that are fitted."""
    numbers = FRAME[["a"]].to_numpy() * [[1.0, 2.0]]
    return {**NAMES, "vae": fit(), "numbers": fit(numbers)}


@pytest.mark.parametrize("row", REFUSED, ids=[call for call, *_ in REFUSED])
def test_what_is_wrong_is_named(row, names):
    call, error, *parts = row
    with pytest.raises(error) as caught:
        eval(call, names)
    message = str(caught.value)
    assert [part for part in parts if part not in message] == [], message
    ours = not any(words in message for words in ("Expected 2D array", "Complex data"))
    assert not ours or message.count("\n") < 2, message


def test_each_call_is_there_once():
    calls = [call for call, *_ in REFUSED]
    assert len(set(calls)) == len(calls) >= 100


# What may look wrong, and has a rule.

ACCEPTED = {
    "large and small units": many(c=1e12 * FRAME["a"] - 1e11, d=1e-12 * FRAME["a"] - 1e-13),
    "amounts of which one is above zero": many(c=[0.0] * 19 + [0.5]),
    "a row without an observed cell": FRAME.mask(np.repeat(np.arange(20)[:, None] == 3, 2, axis=1)),
    "most cells missing": FRAME.mask(np.random.default_rng(1).random((20, 2)) < 0.8),
    "two rows": FRAME[:2],
    "one column": FRAME[["a"]],
    "a column of bools that are all true": many(c=True),
    "a declared category that no row has": many(c=pd.Categorical(["u"] * 20, ["u", "v", "w"])),
    "names that are integers": FRAME.set_axis([0, 1], axis=1),
    "zeros of both signs": many(c=[0.0, -0.0, 1.5, 2.5] * 5),
    "bools with a cell missing": many(c=pd.array([True, False, None, True] * 5, "boolean")),
    "text held by pyarrow": many(c=pd.array(["u", "v", None, "w"] * 5, "string[pyarrow]")),
    "a level that no row has": many(c=pd.Categorical(["u", "v"] * 10, ["u", "v", "w"])),
    "an index with an entry twice": FRAME.set_axis([7] * 20),
    "an empty string": many(c=["", "u"] * 10),
    "a number repeated, with outliers": many(c=[1.0] * 18 + [1e6, 1e-6]),
    "integers beyond float32": many(c=np.arange(20) * 2**40),
    "an array of objects": many(c=range(20)).to_numpy(),
    "an array with a hidden cell": np.ma.array(
        FRAME[["a"]].to_numpy(), mask=[[True]] + [[False]] * 19
    ),
    "a tensor": torch.linspace(0.1, 0.9, 20).reshape(10, 2),
    "a list of rows": [[0.5, "x"], [None, "y"], [1.5, "z"], [2.5, None]],
    "float16": FRAME[["a"]].to_numpy().astype("float16"),
    "a column in Fortran's order": np.asfortranarray(np.random.default_rng(0).random((9, 3))),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_looks_wrong_and_has_a_rule(name):
    table = ACCEPTED[name]
    vae = fit(table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of one step of training
        assert vae.log_prob(table, num_samples=20).log_px.isfinite().all()
    rows = len(table)
    assert vae.transform(table).shape == (rows, 2)
    filled, drawn = (vae.impute(table, draws, num_particles=2) for draws in (None, 1))
    drawn = drawn[0]
    for each in (filled, drawn, vae.sample(2)):
        assert vae.schema_.encode(each)[1].all()


def test_ten_thousand_categories():
    words = [f"w{i}" for i in range(10_000)]
    table = pd.DataFrame({"word": words, "length": np.arange(10_000.0)})
    vae = fit(table, kinds={"word": "categorical"}, batch_size=10, validation_fraction=0)
    asked = pd.DataFrame({"word": [None], "length": [3.0]})
    assert vae.impute(asked, num_particles=5)["word"][0] in words


def test_a_training_that_fails_leaves_the_earlier_one():
    vae = fit()
    before, weights = state(vae)
    latents = vae.transform(FRAME)

    def diverging(columns):
        pair = pair_of(columns)
        nn.init.constant_(list(pair.likelihood.parameters())[-1], NAN)
        return pair

    vae.set_params(make_pair=diverging, **{name: TableVAE().get_params()[name] for name in SMALL})
    with pytest.raises(ValueError, match="NaN"):
        vae.fit(many(c=range(20)))
    kept = ("schema_", "columns_", "pair_", "training_", "n_features_in_", "feature_names_in_")
    assert all(vars(vae)[name] is before[name] for name in kept)
    assert all(map(torch.equal, weights, vae.pair_.parameters()))
    np.testing.assert_array_equal(vae.transform(FRAME), latents)
