"""Arrays of NumPy, of any order of bytes and strides, are taken where tensors of data are."""

import warnings

import numpy as np
import pytest
import torch
from evaluated import conditional, hierarchical
from pairs import C, D, Z, net, ssvae, vae

from ppl_vae import SemiSupervisedVAE, StackedVAE, likelihoods, posteriors, priors
from ppl_vae.data import Dataset
from ppl_vae.tensors import as_tensor
from ppl_vae.training import fit

X = np.random.RandomState(0).randint(0, 2, (6, D)).astype(np.float64)
Y = np.arange(6) % C


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


KINDS = {
    "as it is": lambda x: x,
    "other bytes": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "backwards": lambda x: x[::-1].copy()[::-1],
    "every other": lambda x: np.repeat(x, 2, 0)[::2],
    "columns first": np.asfortranarray,
    "read-only": read_only,
    "a view": lambda x: x.view(np.matrix),
}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_are_tensors_of_the_same_numbers(kind):
    given = KINDS[kind](X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = as_tensor("x", given)
        dataset = Dataset(given, KINDS[kind](Y) if kind != "a view" else Y, mask=given >= 0)
    assert torch.equal(x, torch.from_numpy(X))
    assert torch.equal(dataset.values, x)
    assert dataset.labels.tolist() == Y.tolist()
    assert dataset.mask.all()
    x.zero_()  # a copy, that may be written to
    assert np.array_equal(given, X)
    assert dataset.draw(torch.arange(6), binarise="none").dtype == torch.get_default_dtype()


REFUSED = {
    "hidden": (
        np.ma.masked_array(X),
        "must not be a masked array; give its .data",
    ),
    "objects": (X.astype(object), "x must be a numeric array, got dtype object; convert it"),
    "text": (X.astype(str), "got dtype <U"),
    "dates": (X.astype("M8[D]"), "got dtype datetime64"),
    "records": (np.zeros(3, [("a", "f8")]), "got dtype .*'a'"),
    "long": (X.astype(np.longdouble), "got dtype (float128|longdouble)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_arrays_that_are_no_numbers_are_refused(case):
    given, message = REFUSED[case]
    with pytest.raises(TypeError, match=message):
        as_tensor("x", given)


def methods(pair):
    """Return calls of all methods that take data, given x, y and the mask as they come."""
    if isinstance(pair, StackedVAE):
        names = ("encode", "reconstruct", "classify")
        return {name: lambda x, y, m, n=name: getattr(pair, n)(x, mask=m) for name in names}
    given = pair.labels is not None
    calls = {
        "encode": lambda x, y, m: pair.encode(x, *([y] if given else []), mask=m),
        "reconstruct": lambda x, y, m: pair.reconstruct(x, *([y] if given else []), mask=m),
        "impute": lambda x, y, m: pair.impute(x, m, *([y] if given else []), num_particles=2),
    }
    if hasattr(pair, "classify"):
        calls["classify"] = lambda x, y, m: pair.classify(x, mask=m)
        calls["generate"] = lambda x, y, m: pair.generate(6, y=y)
    elif given:
        calls["generate"] = lambda x, y, m: pair.generate(y)
    return calls


def stacked():
    second = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(Z, C),
        posterior=posteriors.DiagonalNormal(net(Z + C, 2 * Z)),
        likelihood=likelihoods.Normal(net(Z + C, Z)),
        num_classes=C,
    )
    return StackedVAE(first=vae(), second=second)


PAIRS = {
    "vae": vae,
    "ssvae": ssvae,
    "conditional": conditional,
    "hierarchical": hierarchical,
    "stacked": stacked,
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_take_arrays_in_their_own_dtype(name, dtype):
    torch.manual_seed(0)
    pair = PAIRS[name]().to(dtype)
    mask = X < 2
    mask[0, 0] = False
    for of, call in methods(pair).items():
        torch.manual_seed(1)
        found = call(X, Y, mask)
        torch.manual_seed(1)
        x = torch.from_numpy(X).to(dtype)
        expected = call(x, torch.from_numpy(Y), torch.from_numpy(mask))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other), of
    if name != "stacked":
        pair.check(X)


@pytest.mark.usefixtures("as_users_see_it")
def test_arrays_are_checked_as_tensors_are():
    with pytest.raises(TypeError, match=r"x must be a floating-point tensor, .*torch.int64"):
        vae().encode(X.astype(int))
    with pytest.raises(ValueError, match=r"got a tensor of shape \(6, 5\)"):
        vae().encode(X[:, :5])
    with pytest.raises(TypeError, match="mask must be a numeric array, got dtype object"):
        vae().encode(X, mask=(X > 0).astype(object))
    with pytest.raises(TypeError, match="a further argument must be a numeric array, got dtype <U"):
        conditional().impute(X, X > 0, Y.astype(str))


@pytest.mark.usefixtures("as_users_see_it")
def test_arrays_are_trained_on_as_tensors_are():
    def trained(data, validation):
        torch.manual_seed(0)
        pair = vae()
        options = {"steps": 2, "batch_size": 3, "validate_every": 1, "progress": False}
        found = fit(pair, data, validation=validation, **options)
        return found.validation["loss"].tolist(), pair.state_dict()

    x = torch.from_numpy(X).float()
    expected, weights = trained(x, x)
    for validation in (X, (X,), {"x": X}):
        found, others = trained(X, validation)
        assert found == expected
        assert all(torch.equal(weights[name], others[name]) for name in weights)
