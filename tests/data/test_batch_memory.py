"""A batch is a tensor like any other: it owns its memory, and carries nothing else."""

import copy
import io
import pickle
from itertools import islice

import pyro
import pytest
import torch
from pairs import ssvae, vae
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from torch.utils.data import DataLoader

from ppl_vae import VAE, estimators, evaluation, likelihoods, nets, posteriors, priors
from ppl_vae.data import Dataset, SemiSupervised, from_tensor, load
from ppl_vae.training import compile_step, fit

D, C = 6, 3
GREY = Dataset(
    torch.randint(256, (5000, D), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)),
    torch.arange(5000) % C,
    scale=255,
)
REAL = Dataset(GREY.values.float() / 255, GREY.labels)
BINARY = GREY.binarised()


def of_semisupervised(dataset, mode):
    (x,), (labelled, y) = (
        part.args
        for part in next(
            iter(
                SemiSupervised(
                    dataset, range(50), batch_size=3, labelled_batch_size=3, binarise=mode
                )
            )
        )
    )
    return x, labelled, y


DRAWS = {
    "draw": lambda d, mode: (d.draw(torch.arange(3), binarise=mode),),
    "draw, not flat": lambda d, mode: (d.draw(torch.arange(3), binarise=mode, flat=False),),
    "batches": lambda d, mode: next(iter(d.batches(3, binarise=mode))),
    "two streams": of_semisupervised,
    "parts": lambda d, mode: (next(iter(d.subset([1, 2, 3]).batches(2).in_parts())),),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("mode", ["dynamic", "static", "threshold", "none"])
@pytest.mark.parametrize("dataset", [GREY, REAL, BINARY], ids=["grey", "real", "binary"])
def test_three_rows_are_written_as_three_rows(name, mode, dataset):
    """3 rows of 6 float32 are 72 bytes, and what is written beside them is below 2 kB."""
    for tensor in DRAWS[name](dataset, mode):
        assert vars(tensor) == {}
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() <= 72
        assert len(pickle.dumps(tensor)) < 2000
        file = io.BytesIO()
        torch.save({"x": tensor}, file)
        assert file.tell() < 2500
        file.seek(0)
        assert torch.equal(torch.load(file, weights_only=True)["x"], tensor)
        assert torch.equal(copy.deepcopy(tensor), tensor)


def test_a_data_set_of_some_rows_is_written_as_those():
    few = Dataset(GREY.values[:3], GREY.labels[:3], scale=255)
    few.draw(torch.arange(3), binarise="static")
    for whole in (few, GREY.subset(range(3)), copy.deepcopy(few)):
        assert len(pickle.dumps(whole)) < 4000
        again = pickle.loads(pickle.dumps(whole))
        assert torch.equal(again.values, whole.values)
        assert torch.equal(again.labels, whole.labels)


class Subclass(torch.Tensor):
    pass


WAYS = {
    "cloned": torch.clone,
    "copied": copy.deepcopy,
    "pickled": lambda t: pickle.loads(pickle.dumps(t)),
    "a view": lambda t: torch.stack([t, t])[1],
    "of a subclass": lambda t: t.as_subclass(Subclass),
    "detached": torch.detach,
    "out of numpy": lambda t: torch.from_numpy(t.numpy()),
}


def inferred(t):
    with torch.inference_mode():
        return t.clone()


WAYS["of inference mode"] = inferred


@pytest.mark.parametrize("way", WAYS)
def test_a_batch_that_came_another_way_trains_as_well(way):
    """The same numbers: loss and gradient are those of the tensor it was made of."""
    x, y = next(iter(GREY.batches(8, seed=1)))
    y[3] = -1
    mask = x.new_ones(x.shape, dtype=torch.bool)
    mask[2, 1] = False
    make = WAYS[way]

    def gradients(x, y, mask):
        found = []
        for pair, elbo, args in (
            (vae(), Trace_ELBO(), (x,)),
            (ssvae(), TraceEnum_ELBO(max_plate_nesting=1), (x, y)),
            (ssvae(), estimators.ImportanceWeightedELBO(2, "dreg"), (x, y)),
        ):
            if hasattr(pair, "classification_weight"):
                pair = pair.replace(classification_weight=2.0)
            pyro.clear_param_store()
            pyro.set_rng_seed(0)
            for kwargs in ({}, {"mask": mask}):
                loss = elbo.differentiable_loss(pair.model, pair.guide, *args, **kwargs)
                loss.backward()
                found.append(loss.detach())
            found += [p.grad.clone() for p in pair.parameters() if p.grad is not None]
        return found

    pyro.set_rng_seed(5)
    expected = gradients(x, y, mask)
    pyro.set_rng_seed(5)
    got = gradients(*map(make, (x, y, mask)))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), b)


@pytest.mark.filterwarnings("ignore:log_likelihood. Pareto")  # of three samples there is no k̂
def test_all_goes_on_under_inference_mode():
    with torch.inference_mode():
        x, y = next(iter(GREY.batches(8, seed=1)))
        pair = ssvae()
        pair.encode(x, y), pair.reconstruct(x), pair.classify(x)
        vae().check(from_tensor(torch.rand(4, D)))
        evaluation.accuracy(pair, x, y)
        inside = evaluation.log_likelihood(pair, x, num_samples=3, seed=0).log_px
        drawn = REAL.draw(torch.arange(4), binarise="none")
    outside = evaluation.log_likelihood(pair, x.clone(), num_samples=3, seed=0).log_px
    torch.testing.assert_close(inside.clone(), outside)
    dataset = Dataset(drawn)  # of values made there
    fit(vae(), dataset, steps=2, batch_size=2, progress=False)
    fit(ssvae(), [(x, y)], steps=2, progress=False)
    step = compile_step(trained := vae(), iwae(), torch.optim.Adam(trained.parameters()))
    step(x)


def iwae():
    return estimators.ImportanceWeightedELBO(1)


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    monkeypatch.setattr(
        "ppl_vae.compilation.compiled_function.inductor", lambda graph, **options: graph
    )


def test_batches_go_through_the_workers_of_a_loader():
    x = GREY.draw(torch.arange(20))
    labels = GREY.labels[:20]
    loader = DataLoader(list(zip(x, labels, strict=True)), batch_size=5, num_workers=1)
    pair = ssvae()
    for some, y in loader:
        pair.model(some, y), pair.guide(some, y)
    fit(ssvae(), loader, steps=3, progress=False)


# -------------------------------------------------------------------------------- their dtype


@pytest.mark.parametrize("values", [GREY, REAL, Dataset(REAL.values.double()), BINARY])
def test_draws_are_of_the_default_dtype_and_the_same_pixels(values):
    index = torch.arange(100)

    def drawn(mode):
        generator = torch.Generator().manual_seed(4)
        return values.draw(index, binarise=mode, generator=generator)

    single = {mode: drawn(mode) for mode in ("dynamic", "static", "threshold", "none")}
    torch.set_default_dtype(torch.float64)  # conftest.py puts it back
    for mode, x in single.items():
        assert x.dtype == torch.float32
        double = drawn(mode)
        assert double.dtype == torch.float64
        if mode != "none":
            assert torch.equal(double, x.double()), "binarised alike"
    exact = values.values[:100].double() / values.scale
    assert torch.equal(drawn("none"), exact), "and not by way of float32"


def test_the_loop_of_a_beginner_in_float64():
    torch.set_default_dtype(torch.float64)
    digits = load("digits")
    pair = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
    )
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    for x, _ in islice(digits.batches(100), 2):
        svi.step(x)
    x = digits.draw(torch.arange(9), binarise="none", dequantise=True)
    assert x.dtype == torch.float64
    level = (x * digits.levels).floor()
    assert torch.equal(level, digits.values[:9].flatten(1).double()), "the integers are there"


def test_another_dtype_is_named():
    pair, x = vae(), torch.zeros(3, D, dtype=torch.float64)
    for call in (pair.encode, pair.guide):
        with pytest.raises(
            ValueError, match=r"has torch.float32, but its input .* torch.float64"
        ) as caught:
            call(x)
        assert "leading dimensions" not in str(caught.value)
    with pytest.raises(ValueError, match=r"has torch.float64, but its input .* torch.float32"):
        vae().double().encode(x.float())
    with pytest.raises(ValueError, match=r"on cpu, .*on meta"):
        pair.posterior(torch.zeros(3, D, device="meta"))


# -------------------------------------------------------------------------------- their scale


@pytest.mark.parametrize(
    ("scale", "error"),
    [
        (float("inf"), ValueError),
        (float("nan"), ValueError),
        (0, ValueError),
        (-255, ValueError),
        (10**400, ValueError),
        (1e300, ValueError),
        (True, TypeError),
        (1j, TypeError),
        ("255", TypeError),
        (torch.tensor(255.0), TypeError),
    ],
)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.usefixtures("as_users_see_it")
def test_a_scale_is_a_number_that_can_mean_1(scale, error, dtype):
    with pytest.raises(error, match="scale"):
        from_tensor(torch.ones(3, 4).to(dtype), scale=scale).batches(2, binarise="none")


def test_values_beyond_the_dtype_that_is_drawn_are_refused():
    """1e200 is no float32: a draw of it would be infinite, and of 1e-200 zero."""
    for value in (1e200, 1e-200):
        dataset = Dataset(torch.full((3, 4), value, dtype=torch.float64))
        with pytest.raises(ValueError, match="be within the range of torch's default dtype, float"):
            dataset.draw(torch.arange(3), binarise="none")
        torch.set_default_dtype(torch.float64)
        assert (dataset.draw(torch.arange(3), binarise="none") == value).all()
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "values", [torch.ones(3), torch.tensor(1.0), torch.ones(3, 0), torch.ones(0, 3)]
)
def test_values_have_rows_and_entries(values):
    with pytest.raises(ValueError, match=r"\(N, \*event\)"):
        from_tensor(values)


@pytest.mark.usefixtures("as_users_see_it")
def test_no_tensor_is_no_data_set():
    with pytest.raises(TypeError, match="must be a tensor or an array"):
        Dataset([[1.0, 2.0]])
    for given in (torch.ones(3, 2).numpy(), [[1.0, 2.0]]):
        for missing in (None, "nan"):
            with pytest.raises(TypeError, match=r"must be a tensor, got .*; see from_numpy"):
                from_tensor(given, missing=missing)
    with pytest.raises(TypeError, match="labels must be a tensor"):
        Dataset(torch.ones(3, 2), "012")
    with pytest.raises(
        ValueError, match=r"x' must be at most 16777216 for .*, got 1152921504606846976"
    ):
        from_tensor(torch.full((3, 2), 2**60), name="x").draw(torch.arange(2), binarise="none")
