"""Counts that stay sparse, and contexts that travel beside them."""

import copy
import pickle
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from ppl_vae import (
    VAE,
    ConditionalVAE,
    SemiSupervisedVAE,
    evaluation,
    io,
    likelihoods,
    nets,
    posteriors,
    priors,
    training,
)
from ppl_vae.data import Dataset, SemiSupervised, from_counts, from_h5ad, value_transform
from ppl_vae.data.columns import Columns
from ppl_vae.data.counts import _from_table
from ppl_vae.evaluation.inputs import DatasetInputs
from ppl_vae.training import validation
from ppl_vae.training.data_stream import validation_data

N, D, Z = 60, 8, 2
BATCH = np.array(["b", "a", "c"])[np.arange(N) % 3]
LABELS = np.arange(N) % 4


def matrix(seed=0):
    """Return counts of which every row has some."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.3, 4.0, (N, D)))
    x[:, 0] += 1
    return x


DENSE = matrix()
SPARSE = scipy.sparse.csr_matrix(DENSE)


def pair(features, size_factor="context"):
    seen = features - (size_factor is not None)
    return ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.Log1p(nets.MLP(D + features, 2 * Z, hidden=(8,)))),
        likelihood=likelihoods.NegativeBinomial(
            nets.MLP(Z + seen, D, hidden=(8,)), "per-element", elements=D, size_factor=size_factor
        ),
        context_features=features,
    )


def both(**options):
    return from_counts(SPARSE, LABELS, **options), from_counts(DENSE, LABELS, **options)


FORMS = {
    "csr": SPARSE,
    "csr array": scipy.sparse.csr_array(DENSE),
    "coo": scipy.sparse.coo_matrix(DENSE),
    "csc": scipy.sparse.csc_matrix(DENSE),
    "uint16": SPARSE.astype(np.uint16),
    "float32": SPARSE.astype(np.float32),
    "twice": scipy.sparse.coo_matrix(
        (np.ones(DENSE.sum()), np.repeat(DENSE.nonzero(), DENSE[DENSE > 0], axis=1)), (N, D)
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_sparse_data_set_draws_what_a_dense_one_does(form):
    given = FORMS[form].copy()
    sparse, dense = Dataset(given, LABELS), Dataset(DENSE, LABELS)
    assert sparse.is_sparse
    assert not dense.is_sparse
    assert (given != FORMS[form]).nnz == 0
    for seed in (0, 1):
        drawn = [d.batches(7, binarise="none", seed=seed) for d in (sparse, dense)]
        for a, b in zip(*drawn, strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.y, b.y)
    chosen = [5, -1, 0, 5]
    for change in (
        lambda d: d,
        lambda d: d.subset(chosen),
        lambda d: d.subset(torch.arange(N) % 2 == 1),
        lambda d: d[3:30:4],
        lambda d: d.split(0.3, seed=1)[1],
        lambda d: d.subset(chosen).subset([1, 0]),
        lambda d: d.to("cpu").as_counts(),
        copy.deepcopy,
        lambda d: pickle.loads(pickle.dumps(d)),
    ):
        assert change(sparse).is_sparse
        assert torch.equal(change(sparse).tensor(), change(dense).tensor())
        assert torch.equal(change(sparse).labels, change(dense).labels)
    assert torch.equal(sparse[7].x, dense[7].x)


def test_columns_without_entries_and_rows_without_entries_are_zeros():
    empty = scipy.sparse.csr_matrix((4, 3), dtype=np.int32)
    assert torch.equal(Dataset(empty).tensor(), torch.zeros(4, 3))
    full = Dataset(scipy.sparse.csr_matrix(np.full((2, 3), 5)))
    assert full.observed().min() == 5


def test_the_context_is_batch_covariates_and_log_library_size():
    covariates = np.random.default_rng(1).normal(size=(N, 2))
    sparse, dense = both(batch=BATCH, covariates=covariates)
    expected = np.concatenate(
        [BATCH[:, None] == ["a", "b", "c"], covariates, np.log(DENSE.sum(1))[:, None]], 1
    )
    for given in (sparse, dense):
        torch.testing.assert_close(given.context, torch.tensor(expected, dtype=torch.float32))
        assert "context of batch (3), covariates (2), log library size" in repr(given)
    assert "context of 6" in repr(sparse)
    assert "held" in sparse._repr_html_()
    # Other data number their batches alike.
    other = from_counts(DENSE[:1], batch=["c"], batches=["a", "b", "c"], size_factor=False)
    assert other.context.tolist() == [[0, 0, 1]]
    assert from_counts(DENSE, size_factor=False).context is None


def test_batches_carry_the_context_by_name():
    sparse, _ = both(batch=BATCH)
    batch = next(iter(sparse.batches(5, shuffle=False, binarise="none")))
    x, y, mask, c = batch
    assert (x.shape, y.tolist(), mask) == ((5, D), [0, 1, 2, 3, 0], None)
    assert torch.equal(c, sparse.context[:5])
    item = sparse[3]
    assert torch.equal(item.c, sparse.context[3])
    assert item.mask.all()
    loaded = next(iter(DataLoader(sparse, batch_size=5)))
    assert torch.equal(loaded.c, c)
    assert next(iter(DataLoader(from_counts(SPARSE), batch_size=5))).y.tolist() == [-1] * 5
    state = sparse.batches(5, binarise="none").state_dict()
    with pytest.raises(ValueError, match="context_features=4"):
        from_counts(SPARSE, LABELS).batches(5, binarise="none").load_state_dict(state)


@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")
def test_training_and_evaluation_take_sparse_counts_with_a_context():
    sparse, dense = both(batch=BATCH)
    trained = []
    for given in (sparse, dense, DataLoader(sparse, batch_size=20)):
        torch.manual_seed(0)
        vae = pair(4)
        kwargs = {} if isinstance(given, DataLoader) else {"batch_size": 20, "validation": given}
        fitted = training.fit(vae, given, steps=3, progress=False, **kwargs)
        trained.append(vae)
        assert np.isfinite(fitted.history["loss"]).all()
    first, second = (torch.cat([p.flatten() for p in v.parameters()]) for v in trained[:2])
    assert torch.equal(first, second)
    vae, x, c = trained[0], dense.tensor(), dense.context
    for result in (vae.encode(sparse), vae.encode(dense)):
        torch.testing.assert_close(result, vae.encode(x, c))
    assert vae.reconstruct(sparse).shape == (N, D)
    terms = []
    for given in ((sparse,), (x, c)):
        torch.manual_seed(0)
        terms.append(evaluation.elbo_terms(vae, *given).nelbo.mean)
    assert terms[0] == pytest.approx(terms[1], rel=1e-6)
    by_position, by_name, by_batches = (
        evaluation.log_likelihood(vae, *given, num_samples=30).log_px
        for given in ((x, c), (sparse,), (sparse.batches(N, shuffle=False, binarise="none"),))
    )
    torch.testing.assert_close(by_name, by_position)
    torch.testing.assert_close(by_batches, by_position)
    assert "context of 4 numbers" in training.data_summary(vae, sparse)
    # Data of 60 rows are imputed as a whole, if something is missing.
    seen = torch.rand(N, D) < 0.8
    masked = from_counts(DENSE, batch=BATCH)
    masked = Dataset(masked.values, scale=1, mask=seen, context=masked.context)
    filled = vae.impute(masked, num_particles=5)
    assert torch.equal(filled[seen], x[seen])
    assert training.fit(vae, masked, steps=1, batch_size=20, progress=False)


@pytest.mark.parametrize("particles", [1, 3])
def test_only_batches_are_dense_in_training_and_validation(particles, monkeypatch):
    asked = []

    def recorded(data, index):
        asked.append(len(index))
        return values_at(data, index)

    values_at = Columns.values_at
    monkeypatch.setattr(Columns, "values_at", recorded)
    monkeypatch.setattr(value_transform, "_CHECKED_VALUES", 2 * D)
    monkeypatch.setattr(validation, "DENSE_ROWS", 7)
    sparse, dense = both(batch=BATCH)
    losses = []
    for given in (sparse, dense):
        asked.clear()
        torch.manual_seed(0)
        fitted = training.fit(
            pair(4),
            given,
            steps=2,
            batch_size=5,
            validation=given,
            validate_every=1,
            validation_particles=particles,
            progress=False,
        )
        losses.append(fitted.validation["loss"])
        most = 7 if given is sparse else N
        assert max(asked) == most
        assert asked.count(most) == (2 * (N // 7) if given is sparse else 1)
    error = fitted.validation["standard_error"].max()
    assert losses[0] == pytest.approx(losses[1], abs=5 * error)  # with other draws


@pytest.mark.parametrize("ranks", [1, 3])
def test_each_process_reads_its_share_of_the_rows(ranks, monkeypatch):
    monkeypatch.setattr(validation, "DENSE_ROWS", 7)
    sparse, dense = both(batch=BATCH)
    vae = pair(4)
    like = next(vae.parameters())
    held, drawn = (validation_data(vae, given, 0, like) for given in (sparse, dense))
    seen, rows_of = [], DatasetInputs.rows

    def recorded(inputs, some):
        seen.append(rows_of(inputs, some))
        return seen[-1]

    monkeypatch.setattr(DatasetInputs, "rows", recorded)
    for rank in range(ranks):
        seen.clear()
        validation.Validation(vae, held, 1, 0).bound(OneOf(rank, ranks))
        mine = drawn.rows(slice(rank, None, ranks))
        for name, parts in enumerate(zip(*(part.tensors for part in seen), strict=True)):
            assert torch.equal(torch.cat(parts), mine.tensors[name])
        assert max(map(len, seen)) == 7


class OneOf(Fabric):
    """A process beside others that have nothing to say."""

    global_rank, world_size, device = 0, 1, torch.device("cpu")

    def __init__(self, rank, number):
        self.global_rank, self.world_size = rank, number

    def all_reduce(self, value, reduce_op="sum"):
        return value


def test_training_on_sparse_counts_is_resumed(tmp_path):
    sparse, _ = both(batch=BATCH)
    straight, resumed = pair(4), pair(4)
    resumed.load_state_dict(straight.state_dict())
    options = {"batch_size": 20, "progress": False}
    training.fit(straight, sparse, steps=5, **options)
    for steps in (2, 5):
        training.fit(resumed, sparse, steps=steps, out=tmp_path, resume=True, **options)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("cls", [ConditionalVAE, SemiSupervisedVAE])
def test_a_label_is_no_size_factor(cls):
    parts = {
        "prior": priors.StandardNormal(Z),
        "posterior": posteriors.DiagonalNormal(nets.MLP(D + 3, 2 * Z)),
        "likelihood": likelihoods.Poisson(nets.MLP(Z + 2, D), size_factor="context"),
        "num_classes": 3,
    }
    if cls is SemiSupervisedVAE:
        parts["classifier"] = nets.MLP(D, 3)
    with pytest.raises(ValueError, match="the context is a label"):
        cls(**parts)


@pytest.mark.slow
@pytest.mark.inductor
def test_compiled_steps_take_a_context():
    sparse, _ = both(batch=BATCH)
    curves = []
    for compiled in (False, True):
        torch.manual_seed(0)
        fitted = training.fit(
            pair(4), sparse, steps=3, batch_size=20, log_every=1, compile=compiled, progress=False
        )
        curves.append(fitted.history["loss"])
    np.testing.assert_allclose(*curves, rtol=1e-5)


def test_pairs_are_saved_and_configured_with_a_size_factor(tmp_path):
    sparse, _ = both(batch=BATCH)
    likelihood = {
        "class": "ZeroInflatedNegativeBinomial",
        "dispersion": "per-element",
        "size_factor": "context",
        "net": {"class": "MLP", "hidden": [4]},
    }
    config = {
        "class": "ConditionalVAE",
        "latent_dim": Z,
        "posterior": {"net": {"class": "Log1p", "net": {"class": "MLP", "hidden": [4]}}},
        "likelihood": likelihood,
    }
    vae = io.from_config(config, data=sparse)
    assert vae.context_features == 4
    assert vae.likelihood.net.in_features == Z + 3
    assert vae.likelihood.net.out_features == 2 * D
    assert vae.likelihood.elements == D
    assert vae.posterior.net.net.in_features == D + 4
    again = io.from_config(io.to_config(vae))
    assert repr(again) == repr(vae)
    training.fit(vae, sparse, steps=2, batch_size=20, progress=False)
    io.save(vae, tmp_path / "pair")
    loaded = io.load(tmp_path / "pair")
    torch.testing.assert_close(loaded.encode(sparse), vae.encode(sparse))


def test_a_size_factor_may_be_latent():
    sparse, _ = both()
    log_size = sparse.context[:, 0]
    config = {
        "class": "VAE",
        "latent_dim": Z + 1,
        "posterior": {"net": {"class": "Log1p", "net": {"class": "MLP", "hidden": [4]}}},
        "likelihood": {
            "class": "NegativeBinomial",
            "dispersion": "per-element",
            "size_factor": "latent",
            "log_size": [log_size.mean().item(), log_size.std().item()],
            "net": {"class": "MLP", "hidden": [4]},
        },
    }
    counts = Dataset(SPARSE, LABELS)
    vae = io.from_config(config, data=counts)
    assert vae.likelihood.net.in_features == Z
    assert repr(io.from_config(io.to_config(vae))) == repr(vae)
    training.fit(vae, counts, steps=2, batch_size=20, progress=False)
    assert vae.encode(counts).shape == (N, Z + 1)
    z = vae.prior().sample((50,))
    expected = log_size.mean() + log_size.std() * z[:, 0]
    torch.testing.assert_close(vae.decode(z).sum(-1).log(), expected)


def test_values_of_a_sparse_data_set_are_checked():
    with pytest.raises(ValueError, match=r"outside the support.*NegativeBinomial"):
        pair(1).check(Dataset(SPARSE * 0.5, scale=1))
    with pytest.raises(ValueError, match=r"expected x of shape \(batch, 8\)"):
        pair(1).check(Dataset(SPARSE[:, :5]))
    pair(1).check(Dataset(SPARSE.astype(np.uint8)))
    fractions = Dataset(SPARSE * 0.5, scale=1, context=from_counts(SPARSE).context)
    with pytest.raises(ValueError, match="outside the support"):
        training.fit(pair(1), fractions.batches(20, binarise="none"), steps=1, progress=False)
    real = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.MLP(D, 2 * Z)),
        likelihood=likelihoods.ContinuousBernoulli(nets.MLP(Z, D)),
    )
    real.check(Dataset(SPARSE / DENSE.max()))
    with pytest.raises(ValueError, match="outside the support"):
        real.check(Dataset(SPARSE * 1.0))
    bad = SPARSE.astype(float)
    bad[3, 0] = np.inf
    with pytest.raises(ValueError, match=re.escape("got inf at index (3, 0)")):
        Dataset(bad)


def test_all_of_a_large_matrix_is_never_dense():
    """100,000 x 20,000 numbers are 8 GB; a batch of 100, its network and its gradient are 50 MB."""
    import resource

    rng, shape = np.random.default_rng(0), (100_000, 20_000)
    number = 2 * shape[0]
    rows, columns = np.repeat(np.arange(shape[0]), 2), rng.integers(shape[1], size=number)
    large = scipy.sparse.csr_matrix((np.ones(number, np.int32), (rows, columns)), shape)
    vae = ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(nets.MLP(shape[1] + 1, 2 * Z, hidden=(4,))),
        likelihood=likelihoods.NegativeBinomial(
            nets.MLP(Z, shape[1], hidden=(4,)), size_factor="context"
        ),
        context_features=1,
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = from_counts(large)
    training.fit(vae, counts, steps=1, batch_size=20, progress=False)
    training.fit(vae, counts.batches(20, binarise="none"), steps=1, progress=False)
    _, test = counts.split(0.001)
    assert vae.encode(test).shape == (len(test), Z)
    risen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # kB
    assert risen < 400_000, f"{risen / 1000:.0f} MB"


def table(**columns):
    """Return what is used of an AnnData object."""

    class Obs(dict):
        @property
        def columns(self):
            return list(self)

    class Column(np.ndarray):
        def to_numpy(self):
            return np.asarray(self)

    obs = Obs({name: np.asarray(values).view(Column) for name, values in columns.items()})
    return SimpleNamespace(X=SPARSE * 0.5, layers={"counts": SPARSE}, obs=obs)


def read(given, **options):
    defaults = {"labels": None, "layer": "counts", "batch": None, "covariates": ()}
    options = defaults | {"size_factor": True, "classes": None, "batches": None} | options
    return _from_table(given, "cells", **options)


def test_an_annotated_matrix_gives_labels_batches_and_covariates():
    share = np.linspace(0, 1, N)
    given = table(cell_type=LABELS.astype(str), donor=BATCH, mito=share)
    found = read(given, labels="cell_type", batch="donor", covariates=["mito"])
    expected = from_counts(SPARSE, LABELS, batch=BATCH, covariates=share[:, None])
    assert found.is_sparse
    assert torch.equal(found.tensor(), expected.tensor())
    assert torch.equal(found.context, expected.context)
    assert found.classes == ("0", "1", "2", "3")
    for options, message in (
        ({"labels": "type"}, "labels must be a column of obs, got 'type'; there are cell_type"),
        ({"layer": "raw"}, "layer must be one of the file's, got 'raw'; there are counts"),
        ({"layer": None}, "counts 0, 1, 2.*not whole.*perhaps a layer"),
    ):
        with pytest.raises(ValueError, match=message):
            read(given, **options)
    with pytest.raises(TypeError, match="covariates must be real numbers"):
        read(given, covariates=["donor"])


def test_a_file_of_anndata_is_read(tmp_path):
    anndata = pytest.importorskip("anndata")
    import pandas

    obs = pandas.DataFrame(
        {"cell_type": pandas.Categorical(LABELS.astype(str)), "donor": BATCH}, map(str, range(N))
    )
    anndata.AnnData(SPARSE.astype(np.float32), obs).write_h5ad(tmp_path / "cells.h5ad")
    found = from_h5ad(tmp_path / "cells.h5ad", "cell_type", batch="donor")
    assert found.is_sparse
    assert torch.equal(found.tensor(), torch.tensor(DENSE).float())
    assert torch.equal(found.context, from_counts(SPARSE, batch=BATCH).context)
    assert found.labels.tolist() == LABELS.tolist()
    (tmp_path / "other.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match="must be an"):
        from_h5ad(tmp_path / "other.h5ad")


def test_without_anndata_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "anndata", None)
    (tmp_path / "cells.h5ad").touch()
    with pytest.raises(ImportError, match=re.escape('pip install "ppl-vae[counts]"')):
        from_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(FileNotFoundError, match="must be an existing"):
        from_h5ad(tmp_path / "missing.h5ad")


EMPTY = DENSE.copy()
EMPTY[4] = 0
ERRORS = {
    "an empty row": (
        lambda: from_counts(scipy.sparse.csr_matrix(EMPTY)),
        "1 empty rows, the first at index 4",
    ),
    "fractions": (lambda: from_counts(SPARSE * 0.5), "not whole.*raw counts"),
    "below 0": (lambda: from_counts(-DENSE), "must be counts.*from -"),
    "images": (lambda: from_counts(torch.ones(3, 2, 2)), r"shape \(N, D\)"),
    "no batch": (
        lambda: from_counts(DENSE, batch=["a", None] * (N // 2)),
        "batch must be given for each datum, got none at index 1",
    ),
    "names of no batches": (lambda: from_counts(DENSE, batches=["a"]), "names of batch="),
    "few batches": (
        lambda: from_counts(DENSE, batch=["a"]),
        r"batch must have shape \(60,\), got an array of shape \(1,\)",
    ),
    "a batch of none of the names": (
        lambda: from_counts(DENSE, batch=["a", "c"] * (N // 2), batches=["a", "b"]),
        r"batch must be among the batches \('a', 'b'\), got 'c'; add it to batches=",
    ),
    "one name": (
        lambda: from_counts(DENSE, batch=["a"] * N, batches="a"),
        "batches must be a sequence of strings, got 'a'",
    ),
    "few covariates": (
        lambda: from_counts(DENSE, covariates=torch.ones(3, 1)),
        r"covariates must be numbers of shape \(60, features\), got.*\(3, 1\)",
    ),
    "a context that is not finite": (
        lambda: Dataset(DENSE, context=torch.full((N, 1), torch.nan)),
        r"context must be finite, got nan at index \(0, 0\)",
    ),
    "a context that is no matrix": (lambda: Dataset(DENSE, context=torch.ones(N)), "a row for"),
    "a context of lists": (lambda: Dataset(DENSE, context=[[1.0]] * N), "context must be numbers"),
    "missing entries": (
        lambda: Dataset(SPARSE, mask=torch.ones(N, D, dtype=torch.bool)),
        "mask must be None for sparse values",
    ),
    "a sparse array of three dimensions": (
        lambda: Dataset(torch.ones(2, 3, 4).to_sparse_csr()),
        r"sparse values must have shape \(N, D\)",
    ),
    "all of it binarised": (
        lambda: Dataset(SPARSE / DENSE.max()).binarised(),
        "is sparse and would be made dense to be drawn once",
    ),
    "all of it dequantised": (
        lambda: Dataset(SPARSE, scale=99).dequantised(),
        "is sparse and would be made dense",
    ),
    "another shape": (lambda: Dataset(SPARSE).arranged((1, 2, 4)), "is sparse and would be made"),
    "two contexts": (
        lambda: evaluation.elbo_terms(pair(1), from_counts(SPARSE), torch.ones(N, 1)),
        "has a context, got",
    ),
    "a context and another": (
        lambda: pair(1).encode(from_counts(SPARSE), torch.ones(N, 1)),
        "which has a context",
    ),
    "labels to be inferred": (
        lambda: SemiSupervised(from_counts(SPARSE, LABELS)),
        "must have no context",
    ),
    "a pair without a context": (
        lambda: evaluation.elbo_terms(
            VAE(
                prior=priors.StandardNormal(Z),
                posterior=posteriors.DiagonalNormal(nets.MLP(D, 2 * Z)),
                likelihood=likelihoods.Poisson(nets.MLP(Z, D)),
            ),
            from_counts(SPARSE),
        ),
        "'c', which the model does not take",
    ),
    "a context of another width": (
        lambda: evaluation.elbo_terms(pair(2), from_counts(SPARSE)),
        r"expected c of shape \(\d+, 2\)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case, as_users_see_it):
    call, message = ERRORS[case]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_programs_with_labels_beside_a_context_get_both():
    class Program(torch.nn.Module):
        def forward(self, x, c, y):
            raise NotImplementedError

    from ppl_vae.evaluation.signature import Signature

    batch = next(iter(from_counts(SPARSE, LABELS).batches(5, binarise="none")))
    (part,) = Signature("here", Program(), Program()).of(batch)
    assert torch.equal(part.args[1], batch.c)
    assert torch.equal(part.kwargs["y"], batch.y)
