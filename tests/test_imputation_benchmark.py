"""The benchmark of imputation: its errors by hand, its methods, and that it goes on."""

import json
import math
import os
import sys
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from evaluated import unchecked

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import imputation  # noqa: E402
from imputation import Filled, Options, Table  # noqa: E402

pytestmark = unchecked
TINY = Options(seed=0, tiny=True)
FULL = Options(seed=0, tiny=False)


def mixed(rows, seed=0):
    """Return a table whose columns all follow the first: numbers, a level and a category."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    level = np.clip(np.round(x + 2), 0, 4)
    columns = [x, 3 * x + 5, np.round(np.exp(x + 1)), level, (x > 0) * 1.0, level % 3]
    kinds = ("real", "positive", "count", "ordinal", "binary", "categorical")
    return Table(np.stack(columns, axis=1), kinds, (0, 0, 0, 5, 2, 3))


def with_cells_hidden(table, share, seed=1):
    hidden = np.random.default_rng(seed).uniform(size=table.values.shape) < share
    return hidden, np.where(hidden, np.nan, table.values)


def test_errors_by_hand():
    nan = math.nan
    values = np.array(
        [[1.0, 0, 0, 7], [3.0, 1, 2, 7], [5.0, 2, 1, 7], [11.0, 3, 0, 7], [nan, nan, nan, 7]]
    )
    table = Table(values, ("positive", "ordinal", "categorical", "real"), (0, 5, 3, 0))
    hidden = np.zeros((5, 4), dtype=bool)
    hidden[[0, 1, 4], :3] = True
    best = values.copy()
    best[0, :3], best[1, :3], best[4, :3] = (4, 3, 0), (7, 0, 1), (100, 100, 100)
    # The missing cell of the source has no truth, and the last column nothing hidden.
    expected = [math.sqrt((3**2 + 4**2) / 2) / (11 - 1), (3 + 1) / 2 / 5, 1 / 2]
    *errors, unseen = imputation.column_errors(table, hidden, best)
    assert errors == pytest.approx(expected)
    assert math.isnan(unseen)
    best[2:4] = -1  # what is observed does not count
    assert imputation.column_errors(table, hidden, best)[:3] == errors
    complete = table._replace(values=values[:4])
    assert imputation.squared_error(complete, hidden[:4], best[:4]) == pytest.approx(
        (3**2 + 3**2 + 0 + 4**2 + 1 + 1) / 6
    )


def test_coverage_of_draws_from_the_truth_and_of_others():
    rng = np.random.default_rng(0)
    rows, draws = 20_000, 19  # few draws: quantiles by another rule would be off
    x = rng.normal(size=(1 + draws, rows, 1))
    mixture = np.where(rng.uniform(size=x.shape) < 0.5, 0.0, np.abs(x))  # half of it an atom
    error = math.sqrt(0.9 * 0.1 / rows)
    hidden = np.ones((rows, 1), dtype=bool)

    def of(truth, drawn):
        return imputation.coverage(Table(truth, ("real",), (0,)), hidden, drawn)

    found = of(x[0], x[1:])
    assert found["cells"] == rows
    assert found["interval"] == pytest.approx(0.9, abs=4 * error)
    assert found["ranks"] == pytest.approx(0.9, abs=4 * error)
    assert of(x[0], x[1:] * 0.5)["interval"] < 0.65
    found = of(mixture[0], mixture[1:])
    assert found["interval"] > 0.93
    assert found["ranks"] == pytest.approx(0.9, abs=4 * error)
    assert of(mixture[0], mixture[1:] + 0.1)["ranks"] < 0.6


def test_coverage_is_of_hidden_numbers_alone():
    table = mixed(50)
    hidden, _ = with_cells_hidden(table, 0.5)
    table.values[hidden[:, 0], 0] = math.nan
    draws = np.repeat(table.values[None], 10, axis=0)
    draws[:, :, 3:] = math.nan
    draws[:, ~hidden] = math.nan
    found = imputation.coverage(table, hidden, draws)
    assert found["cells"] == hidden[:, 1:3].sum()
    assert found["interval"] == 1


def test_constants_by_hand():
    nan = math.nan
    values = np.array([[1.0, 0, 2], [2.0, 1, 2], [6.0, 3, 0], [nan, nan, nan]])
    table = Table(values, ("count", "ordinal", "categorical"), (0, 4, 3))
    best = imputation.constants(values, table, FULL).best
    assert best[3].tolist() == [3, 1, 2]
    assert (best[:3] == values[:3]).all()


@pytest.mark.parametrize(
    ("method", "learned"),
    # Codes in no order, and what grows exponentially, are not for lines.
    [("ridge", [0, 1, 3, 4]), ("missForest", [0, 1, 2, 3, 4, 5])],
)
def test_baselines_learn_what_the_columns_share(method, learned):
    table = mixed(300)
    hidden, values = with_cells_hidden(table, 0.2)
    best = imputation.METHODS[method](values, table, TINY).best
    assert (best[~hidden] == values[~hidden]).all()
    errors = imputation.column_errors(table, hidden, best)
    centre = imputation.constants(values, table, TINY).best
    of_centre = imputation.column_errors(table, hidden, centre)
    for j in learned:
        assert errors[j] < 0.7 * of_centre[j]
    for j, size in enumerate(table.sizes):
        if size:
            assert set(best[:, j]) <= set(range(size))
        else:
            assert np.nanmin(values[:, j]) <= best[:, j].min()
            assert best[:, j].max() <= np.nanmax(values[:, j])


def test_miss_forest_stops_where_changes_grow(monkeypatch):
    """Its rounds move the one hidden number by 1, 4 and 2, and its category never again."""
    table = Table(np.array([[0.0, 0], [0, 0], [4, 1]]), ("real", "binary"), (0, 2))
    values = np.array([[0.0, 0], [0, 0], [math.nan, math.nan]])
    numbers = iter([1.0, 5, 7, 8, 100])

    class Forest:
        def __init__(self, nominal):
            self.nominal = nominal

        def fit(self, x, y):
            assert len(x) == len(y) == 2

        def predict(self, x):
            return np.array([1.0 if self.nominal else next(numbers)])

    monkeypatch.setattr(imputation, "_forest", lambda nominal, *_: Forest(nominal))
    # Changes over the sum of squares: 1, 16 / 25, 4 / 49, 1 / 64, and 92² / 100², which is more.
    assert imputation.miss_forest(values, table, FULL).best[2].tolist() == [8, 1]


def test_miss_forest_begins_with_the_column_that_misses_least(monkeypatch):
    nan = math.nan
    values = np.array([[nan, 0, nan], [nan, 1, 0], [2, nan, nan], [3, 1, nan]])
    observed = []

    class Forest:
        def fit(self, x, y):
            observed.append(len(y))

        def predict(self, x):
            return np.zeros(len(x))

    monkeypatch.setattr(imputation, "_forest", lambda *_: Forest())
    imputation.miss_forest(values, Table(values, ("real",) * 3, (0,) * 3), TINY)
    assert observed[:3] == [3, 2, 1]


def test_miss_forest_has_the_settings_of_its_package():
    regression, classes = (imputation._forest(nominal, 17, FULL) for nominal in (False, True))
    assert regression.n_estimators == classes.n_estimators == 100
    assert regression.max_features == classes.max_features == 4  # ⌊√17⌋
    assert (regression.min_samples_split, classes.min_samples_split) == (2, 6)


def test_positive_columns_with_zeros_are_nonnegative_to_ppl_vae():
    assert imputation._kind("positive", np.array([1.0, math.nan, 2])) == "positive"
    assert imputation._kind("positive", np.array([1.0, math.nan, 0])) == "nonnegative"
    assert imputation._kind("count", np.array([0.0])) == "count"


@pytest.fixture
def folder(tmp_path):
    """Return a folder with a table of each paper, of some forty rows."""
    table = mixed(40)
    wine = tmp_path / "data" / "tables" / "wine"
    wine.mkdir(parents=True)
    coded = table.values + np.array([0, 0, 0, 1, 1, 1])  # codes from 1, as they come
    text = [["NaN" if (i, j) == (3, 5) else f"{v:.5g}" for j, v in enumerate(row)]
            for i, row in enumerate(coded)]  # fmt: skip
    (wine / "data.csv").write_text("\n".join(map(",".join, text)) + "\n")
    types = ["real,1,", "pos,1,", "count,1,", "ordinal,5,5", "cat,2,2", "cat,3,3"]
    (wine / "data_types.csv").write_text("\n".join(["type,dim,nclass", *types]) + "\n")
    for rate in imputation.RATES:
        for mask in imputation.MASKS:
            cells = np.argwhere(with_cells_hidden(table, rate / 100, seed=mask)[0]) + 1
            path = wine / f"Missing{rate}_{mask}.csv"
            path.write_text("".join(f"{i},{j}\n" for i, j in cells))
    bank = np.c_[table.values[:, :2], table.values[:, :2] ** 2, table.values[:, 4]]
    path = wine.parent / "banknote_authentication.csv"
    path.write_text("".join(",".join(f"{v:.5g}" for v in row) + "\n" for row in bank))
    return tmp_path / "data"


def test_tables_and_masks_as_the_papers_have_them(folder):
    tables = folder / "tables"
    table = imputation.read_table(tables, "wine")
    expected = mixed(40)
    assert table.kinds == expected.kinds
    assert table.sizes == expected.sizes
    assert math.isnan(table.values[3, 5])
    table.values[3, 5] = expected.values[3, 5]
    np.testing.assert_allclose(table.values, expected.values, rtol=1e-4)
    hidden = imputation.read_mask(tables, "wine", 50, 2, table.values.shape)
    assert (hidden == with_cells_hidden(expected, 0.5, seed=2)[0]).all()
    table, hidden = imputation.read_miwae(tables, "banknote", seed=1)
    assert table.kinds == ("real",) * 4
    np.testing.assert_allclose(table.values.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(table.values.std(0), 1)
    assert hidden.sum() == 40 * 4 // 2
    assert (hidden != imputation.read_miwae(tables, "banknote", seed=2)[1]).any()


def main(monkeypatch, folder, out, *flags):
    argv = ["imputation.py", "--tiny", "--data", str(folder), "--out", str(out), *flags]
    monkeypatch.setattr(sys, "argv", argv)
    return imputation.main()


BASELINES = ("--methods", "mean", "ridge", "missForest")


def test_the_command_writes_numbers_tables_and_picture(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    assert main(monkeypatch, folder, out, "--tables", "wine", *BASELINES) == 0
    printed = capsys.readouterr().out
    found = json.loads((out / "imputation.json").read_text())
    assert len(found["runs"]) == 2 * 5 * 3
    assert "scikit-learn" in found["machine"]["packages"]
    for run in found["runs"].values():
        assert run["error"] == pytest.approx(np.mean(run["columns"]))
        assert len(run["columns"]) == 6
    assert printed == (out / "imputation.md").read_text() + "\n"
    rows = [line for line in printed.splitlines() if line.startswith("| wine |")]
    assert len(rows) == 2
    errors = [found["runs"][f"wine 50 {mask} mean"]["error"] for mask in imputation.MASKS]
    cell = f"{np.mean(errors):.4f} ± {np.std(errors, ddof=1):.4f} (5)"
    assert rows[0].split(" | ")[1] == cell
    assert (out / "imputation.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_there_is_not_run_again(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(imputation, "draw", lambda results: SavedNowhere())
    filled = []

    def noted(values, table, options):
        filled.append(len(table.kinds))
        return imputation.constants(values, table, options)

    monkeypatch.setitem(imputation.METHODS, "mean", noted)
    flags = ("--tables", "wine", "--methods", "mean", "--rates", "20")
    assert main(monkeypatch, folder, tmp_path, *flags, "--masks", "1", "2") == 0
    assert main(monkeypatch, folder, tmp_path, *flags, "--masks", "2", "3") == 0
    assert len(filled) == 3
    assert main(monkeypatch, folder, tmp_path, *flags, "--masks", "2", "--again") == 0
    assert len(filled) == 4
    miwae = ("--miwae", "--tables", "banknote", "--methods", "mean", "--masks", "1")
    assert main(monkeypatch, folder, tmp_path, *miwae) == 0
    assert filled[4:] == [4]
    assert "| banknote |" in capsys.readouterr().out
    keys = [f"wine 20 {mask} mean" for mask in (1, 2, 3)]
    runs = json.loads((tmp_path / "imputation.json").read_text())["runs"]
    assert list(runs) == [*keys, "banknote 0 1 mean"]
    with pytest.raises(SystemExit, match=r"has runs of .*'seed': 0"):
        main(monkeypatch, folder, tmp_path, *flags, "--seed", "1")
    with pytest.raises(SystemExit):
        main(monkeypatch, folder, tmp_path, "--miwae", "--tables", "wine")
    assert "--tables must be of banknote" in capsys.readouterr().err


class SavedNowhere:
    def savefig(self, path, dpi):
        pass


def test_the_page_says_who_is_ahead():
    results = json.loads((imputation.RESULTS / "imputation.json").read_text())
    found = imputation.grouped(results["runs"])
    error = {key: fmean(run["error"] for run in runs) for key, runs in found.items()}
    ahead = {
        (name, rate): error[name, rate, "ppl_vae"] < error[name, rate, "missForest"]
        for name, rate, method in found
        if method == "ppl_vae" and (name, rate, "missForest") in found
    }
    page = (imputation.RESULTS.parents[1] / "docs" / "your_own_table.md").read_text()
    assert (
        "imputations are ahead of missForest's on wine, adult and spam, and behind on letter"
        in page
    )
    assert "with a fifth missing, they are ahead on adult alone" in page
    assert [name for name in ("wine", "adult", "spam", "letter") if ahead[name, 50]] == [
        *("wine", "adult", "spam")
    ]
    assert [name for name in imputation.TABLES if ahead[name, 20]] == ["adult"]
    ranks = [r["coverage"]["ranks"] for runs in found.values() for r in runs if "coverage" in r]
    assert min(ranks) >= 0.88
    assert max(ranks) <= 0.92
    assert "between 88 and 92 %" in page


def test_a_method_that_draws_has_its_coverage_in_the_table(folder, tmp_path, monkeypatch, capsys):
    def drawing(values, table, options):
        best = imputation.constants(values, table, options).best
        return Filled(best, np.stack([best - 1, best + 1]))

    monkeypatch.setattr(imputation, "draw", lambda results: SavedNowhere())
    monkeypatch.setitem(imputation.METHODS, "ppl_vae", drawing)
    flags = ("--tables", "wine", "--methods", "ppl_vae", "--rates", "50")
    assert main(monkeypatch, folder, tmp_path, *flags) == 0
    assert "| wine, 50 %, ppl_vae | 0." in capsys.readouterr().out
    (run, *_) = json.loads((tmp_path / "imputation.json").read_text())["runs"].values()
    assert 0 < run["coverage"]["interval"] < 1


def test_no_value_and_no_method_are_told(folder, tmp_path, monkeypatch, capsys):
    flags = ("--tables", "wine", "--methods", "mean", "--rates", "50", "--masks", "1")
    monkeypatch.setitem(imputation.METHODS, "mean", lambda values, *_: Filled(values))
    with pytest.raises(ValueError, match="wine 50 1 mean: not all hidden cells are filled"):
        main(monkeypatch, folder, tmp_path, *flags)

    def absent(*_):
        raise ImportError("not here")

    monkeypatch.setitem(imputation.METHODS, "mean", absent)
    assert main(monkeypatch, folder, tmp_path, *flags) == 1
    assert "wine 50 1 mean ... ImportError: not here" in capsys.readouterr().err
    assert not (tmp_path / "imputation.json").exists()


def test_ppl_vae_fills_and_draws(folder):
    run = imputation.Run("wine", 50, 1, "ppl_vae")
    found = imputation.measure_run(run, folder / "tables", TINY)
    assert 0 < found["error"] < 1
    assert found["coverage"]["cells"] > 40


TABLES = Path(os.environ.get("PPL_VAE_DATA", "data")) / "tables"


@pytest.mark.skipif(not TABLES.is_dir(), reason=f"no tables in {TABLES}; set PPL_VAE_DATA")
@pytest.mark.parametrize(
    ("table", "rate"),
    [pytest.param("wine", 50, marks=pytest.mark.slow), ("banknote", imputation.MIWAE)],
)
def test_tables_of_the_papers_at_smoke_size(table, rate):
    found = imputation.measure_run(imputation.Run(table, rate, 1, "ppl_vae"), TABLES, TINY)
    assert 0 < found["error"] < 2
    assert 0 < found["coverage"]["interval"] <= 1
