"""The estimator and the imputer by scikit-learn's own checks, and in its pipelines and searches."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

from ppl_vae import estimators, posteriors, priors
from ppl_vae.tables import TableImputer, TableVAE

pytestmark = [
    pytest.mark.usefixtures("as_users_see_it"),
    pytest.mark.filterwarnings("ignore:TableVAE.log_prob. Pareto"),  # of one step of training
]

SMALL = {"latent_dim": 2, "hidden": (4,), "steps": 1, "validation_fraction": 0}
ESTIMATORS = [TableVAE(**SMALL), TableImputer(TableVAE(**SMALL), num_particles=5)]
# In float32 the last digit of a row's product with a matrix depends on its place in the batch.
IN_FLOAT64 = "check_methods_sample_order_invariance"
# Not among those that scikit-learn runs on other libraries' estimators. The rest of them give an
# array to what was fitted to a DataFrame, which a schema refuses, or take another order of columns
# for an error, whereas a schema finds columns by their names.
FURTHER = [
    "check_get_feature_names_out_error",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_set_output_transform",
]
# Before, the checks read other tags; and pytest has come to warn of how they are handed out.
NEW = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 6)
skipped = pytest.mark.skipif(not NEW, reason="needs scikit-learn 1.6")


def by_checks(estimator):
    return estimator_checks.parametrize_with_checks([estimator]) if NEW else skipped


def passes(check, estimator):
    if IN_FLOAT64 in str(check):
        torch.set_default_dtype(torch.float64)
    check(estimator)


@by_checks(ESTIMATORS[0])
def test_checks_of_scikit_learn(estimator, check):
    passes(check, estimator)


@pytest.mark.slow  # the same base class; what imputers do is tested below
@by_checks(ESTIMATORS[1])
def test_checks_of_scikit_learn_on_imputers(estimator, check):
    passes(check, estimator)


@skipped
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("check", FURTHER)
def test_its_checks_of_names_and_containers(estimator, check):
    getattr(estimator_checks, check)(type(estimator).__name__, estimator)


def people(rows=40, seed=0):
    """Return a table of which smokers are older, with a fifth of the cells missing."""
    random = np.random.default_rng(seed)
    smoker = random.random(rows) < 0.5
    frame = pd.DataFrame(
        {
            "age": np.where(smoker, 50, 30) + random.normal(size=rows).round(2),
            "height": 1.7 + 0.1 * random.normal(size=rows),
            "visits": random.poisson(3, rows).astype(float),
            "city": pd.Categorical(random.choice(["Bern", "Graz", "Lyon"], rows)),
        }
    )
    gone = random.random(frame.shape) < 0.2
    return frame.mask(gone), smoker


TABLE, SMOKER = people()
NUMBERS = TABLE.drop(columns="city").to_numpy()


def test_a_search_chooses_by_the_log_likelihood_of_rows_held_out():
    grid = [{"latent_dim": [1]}, {"families": [{"positive": "Gamma"}]}]
    search = GridSearchCV(TableVAE(**SMALL), grid, cv=2, error_score="raise")
    table = TABLE[:24]
    search.fit(table, SMOKER[:24])
    results = search.cv_results_
    assert len(results["params"]) == 2
    by_hand = [
        clone(search.estimator).set_params(**search.best_params_).fit(train)
        for train in (table[12:], table[:12])
    ]
    held_out = [table[:12], table[12:]]
    expected = [vae.score(rows) for vae, rows in zip(by_hand, held_out, strict=True)]
    best = search.best_index_
    assert [results[f"split{k}_test_score"][best] for k in range(2)] == pytest.approx(expected)
    assert results["mean_test_score"][best] == max(results["mean_test_score"])
    assert search.best_estimator_.impute(table).notna().all(axis=None)


def test_the_score_is_the_mean_log_likelihood():
    vae, rows = TableVAE(**SMALL).fit(TABLE, SMOKER), TABLE[:5]
    assert vae.score(rows, SMOKER[:5]) == pytest.approx(vae.log_prob(rows).log_px.mean().item())
    scores = cross_val_score(TableVAE(**SMALL), NUMBERS[:16], cv=2)
    assert np.isfinite(scores).all()


def test_steps_of_a_pipeline_with_missing_cells():
    latents = make_pipeline(TableVAE(**SMALL), LogisticRegression())
    assert latents.fit(TABLE, SMOKER).predict(TABLE).shape == (40,)
    scaled = make_pipeline(StandardScaler(), TableVAE(**SMALL).set_output(transform="pandas"))
    assert list(scaled.fit_transform(NUMBERS)) == ["tablevae0", "tablevae1"]


def test_a_column_transformer_gives_it_some_columns():
    some = ColumnTransformer(
        [("z", TableVAE(**SMALL), ["age", "city"]), ("rest", "passthrough", ["height"])]
    )
    both = some.set_output(transform="pandas").fit_transform(TABLE)
    assert list(both) == ["z__tablevae0", "z__tablevae1", "rest__height"]
    pd.testing.assert_series_equal(both["rest__height"], TABLE["height"], check_names=False)


def test_frames_of_latents_have_the_rows_of_the_table():
    table = TABLE.set_axis([f"row {i}" for i in range(40)])
    vae = TableVAE(**SMALL).fit(table)
    plain = vae.transform(table)
    assert isinstance(plain, np.ndarray)
    named = vae.set_output(transform="pandas").transform(table)
    assert list(named.index) == list(table.index)
    np.testing.assert_array_equal(named.to_numpy(), plain)
    assert vae.set_output(transform="polars").transform(table).columns == [
        "tablevae0",
        "tablevae1",
    ]


PARTS = {
    **SMALL,
    "prior": priors.GaussianMixture(2, components=3),
    "estimator": estimators.ImportanceWeightedELBO(num_particles=2),
    "families": {"count": "Poisson"},
    "kinds": {"visits": "count"},
}


def test_parameters_are_left_as_they_are():
    vae = TableVAE(**PARTS)
    before = {name: value.clone() for name, value in PARTS["prior"].state_dict().items()}
    vae.fit(TABLE)
    assert {name: getattr(vae, name) for name in PARTS} == PARTS
    for name, value in PARTS["prior"].state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    trained = vae.pair_.prior.state_dict().values()
    assert any(not torch.equal(a, b) for a, b in zip(before.values(), trained, strict=True))


def test_clones_and_pickles():
    vae = TableVAE(posterior=posteriors.FullRankNormal, **PARTS).fit(TABLE)
    other = clone(vae)
    assert not hasattr(other, "pair_")
    np.testing.assert_array_equal(other.fit(TABLE).transform(TABLE), vae.transform(TABLE))
    again = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(again.transform(TABLE), vae.transform(TABLE))
    pd.testing.assert_frame_equal(again.sample(5), vae.sample(5))


def test_another_table_starts_anew():
    vae = TableVAE(**SMALL).fit(TABLE)
    assert list(vae.feature_names_in_) == list(TABLE)
    vae.fit(NUMBERS[:, :2])
    assert vae.n_features_in_ == 2
    assert not hasattr(vae, "feature_names_in_")
    np.testing.assert_array_equal(
        vae.transform(NUMBERS[:, :2]), TableVAE(**SMALL).fit_transform(NUMBERS[:, :2])
    )


def imputer(**options):
    return TableImputer(TableVAE(**SMALL), num_particles=20, **options)


def test_an_imputer_of_arrays():
    filled = imputer().fit_transform(NUMBERS, SMOKER)
    seen = ~np.isnan(NUMBERS)
    assert isinstance(filled, np.ndarray)
    assert filled.dtype == NUMBERS.dtype
    assert not np.isnan(filled).any()
    np.testing.assert_array_equal(filled[seen], NUMBERS[seen])
    fitted = imputer().fit(NUMBERS)
    expected = fitted.vae_.impute(NUMBERS, num_particles=20)
    np.testing.assert_array_equal(fitted.transform(NUMBERS), expected)


def test_an_imputer_of_frames():
    table = TABLE.set_axis([f"row {i}" for i in range(40)])
    filled = imputer().fit_transform(table)
    assert filled.notna().all(axis=None)
    pd.testing.assert_series_equal(filled.dtypes, table.dtypes)
    pd.testing.assert_frame_equal(filled[table.notna()], table)
    named = imputer().set_output(transform="pandas").fit_transform(table)
    pd.testing.assert_frame_equal(named, filled)
    as_polars = imputer().set_output(transform="polars").fit_transform(table)
    assert as_polars.columns == list(table)
    assert as_polars.null_count().sum_horizontal().item() == 0
    assert imputer().fit(table).get_feature_names_out().tolist() == list(table)
    polars = pl.from_pandas(table)
    assert imputer().fit_transform(polars).schema == polars.schema


def test_draws_of_an_imputer_follow_from_its_seed():
    missing = np.isnan(NUMBERS)
    drawn = imputer(sample_posterior=True).fit(NUMBERS)
    first = drawn.transform(NUMBERS)
    np.testing.assert_array_equal(first, drawn.transform(NUMBERS))
    np.testing.assert_array_equal(first, drawn.vae_.impute(NUMBERS, 1, num_particles=20)[0])
    other = imputer(sample_posterior=True).set_params(vae__seed=1).fit_transform(NUMBERS)
    assert (first[missing] != other[missing]).mean() > 0.5
    assert not np.array_equal(first, imputer().fit_transform(NUMBERS))


def test_an_imputer_before_a_classifier():
    whole = make_pipeline(imputer(), StandardScaler(), LogisticRegression())
    search = GridSearchCV(whole, {"tableimputer__vae__latent_dim": [1, 2]}, cv=2)
    search.fit(NUMBERS, SMOKER)
    # Ages tell smokers apart where they are observed, in four rows of five.
    assert search.best_score_ > 0.75
    assert search.predict([[50.0, np.nan, np.nan], [30.0, np.nan, 3.0]]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vae": "mean"}, TypeError, "vae must be a TableVAE or None, got 'mean'"),
        ({"vae": TableVAE}, TypeError, "vae must be a TableVAE or None, got <class"),
        ({"sample_posterior": 1}, TypeError, "sample_posterior must be True or False, got 1"),
        ({"num_particles": 0}, ValueError, "num_particles must be 1 or more, got 0"),
        ({"num_particles": 1.5}, TypeError, "num_particles must be an integer of 1 or more"),
    ],
)
def test_settings_of_an_imputer(options, error, message):
    with pytest.raises(error, match=message):
        TableImputer(**options).fit(NUMBERS)
