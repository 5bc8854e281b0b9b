"""Data sets, batches, arrays and tensors are one thing to evaluation; items, loaders, encode."""

import pickle

import numpy as np
import pytest
import torch
from evaluated import Programs, conditional, hierarchical
from pairs import C, D, net, ssvae, vae
from pyro import distributions as dist
from pyro import plate, sample
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import (
    VAE,
    ConditionalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    evaluation,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.data import Dataset, Factors, MaskedBatch, Part, SemiSupervised
from ppl_vae.data.value_transform import ValueTransform
from ppl_vae.training import fit

N = 12
GREY = torch.rand(N, D, generator=torch.Generator().manual_seed(1))
Y = torch.arange(N) % C
MASK = torch.arange(N * D).reshape(N, D) % 3 != 0


def images():
    """Return a pair of images of one channel, 2 x D / 2."""
    shape = (1, 2, D // 2)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nn.Sequential(nn.Flatten(-3), net(D, 4))),
        likelihood=likelihoods.Bernoulli(
            nn.Sequential(net(2, D), nn.Unflatten(-1, shape)), event_dim=3
        ),
    )


def values(result):
    """Return the numbers of a result of any kind."""
    if isinstance(result, torch.Tensor):
        return result.double().flatten().nan_to_num(0.5)
    if isinstance(result, (tuple, list)):
        return torch.cat([values(r) for r in result])
    if isinstance(result, dict):
        return values(list(result.values()))
    if isinstance(result, evaluation.Estimate):
        return torch.tensor([result.mean, result.standard_error])
    if hasattr(result, "__dataclass_fields__"):
        return values([getattr(result, name) for name in result.__dataclass_fields__])
    return torch.tensor([float(result)]) if isinstance(result, (int, float)) else torch.zeros(0)


FACTORS = Factors(torch.arange(N).remainder(2).unsqueeze(1), ("a",))
FUNCTIONS = {
    "elbo_terms": evaluation.elbo_terms,
    "importance_bounds": lambda *a, **k: evaluation.importance_bounds(
        *a, num_particles=(1, 3), **k
    ),
    "log_likelihood": lambda *a, **k: evaluation.log_likelihood(*a, num_samples=30, **k),
    "annealed": lambda *a, **k: evaluation.annealed_importance_sampling(
        *a, num_chains=2, num_temperatures=1, **k
    ),
    "inference_gap": lambda *a, **k: evaluation.inference_gap(
        *a, steps=1, num_samples=2, importance_samples=3, **k
    ),
    "kl_decomposition": evaluation.kl_decomposition,
    "latent_units": lambda *a, **k: evaluation.latent_units(*a, num_samples=2, **k),
    "responsibilities": evaluation.responsibilities,
    "disentanglement": lambda *a, **k: evaluation.disentanglement(
        *a, factors=FACTORS, classifier=DecisionTreeClassifier(max_depth=1), folds=2, **k
    ),
}


def called(name, pair, x, *context, **named):
    torch.manual_seed(0)
    return values(FUNCTIONS[name](pair, x, *context, **named))


def same(left, right):
    """Tell whether all are equal; NaN is what is undefined of so few data."""
    return torch.equal(left.isnan(), right.isnan()) and torch.equal(
        left.nan_to_num(), right.nan_to_num()
    )


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n == "inference_gap" else ()) for n in FUNCTIONS],
)
def test_results_do_not_depend_on_the_kind_of_data(name, float64):
    pair, data = vae("mixture"), Dataset(GREY, Y)
    once = data.binarised(seed=0)
    x = once.tensor()
    expected = called(name, pair, x)
    forms = {
        "data set": data,
        "binarised": once,
        "array": x.float().numpy(),
        "batches": once.batches(5, shuffle=False),
        "list": [x[:5], x[5:]],
        "iterator": iter([{"x": x[:7]}, {"x": x[7:]}]),
    }
    for form, given in forms.items():
        assert same(called(name, pair, given), expected), form
    # A mask comes with the data set, and by name.
    masked = Dataset(GREY, Y, mask=MASK)
    hidden = masked.binarised(seed=0)
    x = hidden.tensor().nan_to_num()
    expected = called(name, pair, x, mask=MASK)
    loader = DataLoader(hidden, batch_size=5)
    next(iter(loader))
    for given in (masked, hidden.batches(5, shuffle=False), list(loader)):
        assert same(called(name, pair, given), expected)
    assert same(called(name, pair, x.numpy(), mask=MASK.numpy()), expected)


def test_labels_are_passed_unless_the_pair_infers_them(float64):
    data = Dataset(GREY, Y)
    x = data.binarised().tensor()
    pair = conditional()
    assert torch.equal(called("elbo_terms", pair, data), called("elbo_terms", pair, x, Y))
    without = Dataset(GREY)
    assert torch.equal(called("elbo_terms", pair, without, Y), called("elbo_terms", pair, x, Y))
    pair = ssvae()
    expected = called("elbo_terms", pair, x)
    batches = data.binarised().batches(5, shuffle=False)
    assert torch.equal(called("elbo_terms", pair, data), expected)
    assert torch.equal(called("elbo_terms", pair, batches), expected)
    loader = list(DataLoader(TensorDataset(x, Y), 5))  # says of no tensor that it is labels
    assert torch.equal(called("elbo_terms", pair, loader), called("elbo_terms", pair, x, Y))


def test_only_likelihoods_of_0_and_1_binarise(float64):
    data = Dataset(GREY.reshape(N, 1, 2, D // 2))
    pair = vae(likelihood="normal")
    assert torch.equal(called("elbo_terms", pair, data), called("elbo_terms", pair, GREY.double()))

    def model(data):
        with plate("data", len(data)):
            z = sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            sample("x", dist.Normal(z + torch.zeros(D), 1).to_event(1), obs=data)

    def guide(data):
        with plate("data", len(data)):
            sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))

    programs = Programs(model, guide)
    expected = called("elbo_terms", programs, GREY.double())
    assert torch.equal(called("elbo_terms", programs, data), expected)
    loader = DataLoader(Dataset(GREY), N)  # by their place, whatever the argument is called
    torch.manual_seed(0)
    assert values(evaluation.elbo_terms(programs, loader)).isfinite().all()


def test_data_sets_and_their_batches_have_the_shape_that_is_declared(float64):
    pair, flat = images(), Dataset(GREY)
    shaped = Dataset(GREY.reshape(N, 1, 2, D // 2))
    x = shaped.binarised().tensor(flat=False)
    expected = called("elbo_terms", pair, x)
    for given in (flat, shaped, flat.binarised().batches(N, shuffle=False)):
        assert torch.equal(called("elbo_terms", pair, given), expected)
    for given in (flat.binarised(), shaped.binarised()):
        loader = DataLoader(given, 5)
        assert fit(pair, loader, steps=2, validation=flat, progress=False)
    assert fit(pair, flat.binarised().batches(5), steps=2, progress=False)


def test_accuracy_takes_the_labels_of_data_and_grey_values_as_they_are(float64):
    pair, data = ssvae(), Dataset(GREY, Y)
    expected = evaluation.accuracy(pair, GREY.double(), Y)
    for given in (data, data.batches(5, binarise="none"), DataLoader(data, 5)):
        assert evaluation.accuracy(pair, given, batch_size=7) == expected
    assert evaluation.accuracy(pair, GREY.numpy(), Y.numpy()) == expected
    second = SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=net(2, C),
        posterior=posteriors.DiagonalNormal(net(2 + C, 4)),
        likelihood=likelihoods.Normal(net(2 + C, 2)),
        num_classes=C,
    )
    stacked = StackedVAE(first=vae(), second=second)
    expected = evaluation.accuracy(stacked, GREY.double(), Y)
    assert evaluation.accuracy(stacked, data) == expected


REFUSED = {
    "a mask beside": (lambda d: ((d,), {"mask": MASK}), TypeError, "mask= must not be given with"),
    "labels beside": (lambda d: ((d, Y), {}), TypeError, "has labels"),
    "few labels": (lambda d: ((Dataset(GREY), Y[1:]), {}), ValueError, "12 data, but a further"),
    "beside batches": (
        lambda d: ((d.batches(5), Y), {}),
        TypeError,
        "x is batches, got a tensor",
    ),
    "a mask beside batches": (lambda d: ((d.batches(5),), {"mask": MASK}), TypeError, "got mask="),
    "a name": (lambda d: (("digits",), {}), TypeError, "ppl_vae.data.load"),
    "a number": (lambda d: ((3,), {}), TypeError, "x must be a Dataset, its batches"),
    "a tuple": (lambda d: (((GREY, Y),), {}), TypeError, "tuple of tensors"),
    "one batch": (lambda d: (({"x": GREY},), {}), TypeError, "must not be a mapping"),
    "no batch": (lambda d: (([],), {}), ValueError, "got none"),
    "numbers": (lambda d: (([1.0],), {}), TypeError, "every batch must be"),
    "too many": (lambda d: (([(GREY, Y)],), {}), ValueError, "unused"),
    "unlike": (lambda d: (([GREY, GREY[:, 1:]],), {}), ValueError, "must be alike"),
    "steps": (lambda d: ((SemiSupervised(d, [0]),), {}), TypeError, "training steps"),
    "a weight": (lambda d: (([Part("x", (GREY,), 2.0)],), {}), TypeError, "training steps"),
    "grey": (lambda d: ((d.tensor().numpy(),), {}), ValueError, "outside the support"),
    "objects": (lambda d: ((np.array([["a"]]),), {}), TypeError, "numeric array"),
    "not in [0, 1]": (lambda d: ((Dataset(3 * GREY),), {}), ValueError, "outside the support"),
}


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("case", REFUSED)
def test_other_and_duplicate_data_raise(case):
    arguments, error, message = REFUSED[case]
    given, named = arguments(Dataset(GREY, Y))
    with pytest.raises(error, match=message):
        evaluation.elbo_terms(vae(), *given, **named)


def test_a_data_set_is_drawn_in_batches(monkeypatch):
    sizes = []
    values = ValueTransform.values

    def counted(self, data, index, *args):
        sizes.append(len(index))
        return values(self, data, index, *args)

    monkeypatch.setattr(ValueTransform, "values", counted)
    data = Dataset((GREY.repeat(500, 1) > 0.5).to(torch.uint8))
    evaluation.importance_bounds(vae(), data, num_particles=(4,))
    assert 0 < max(sizes) < len(data)


def test_items_and_slices():
    data = Dataset(GREY.reshape(N, 2, D // 2), Y, mask=MASK.reshape(N, 2, D // 2))
    item = data[3]
    assert isinstance(item, MaskedBatch)
    assert item.y == Y[3]
    assert torch.equal(item.mask, MASK[3].reshape(2, -1))
    assert torch.equal(item.x.nan_to_num(), (GREY * MASK)[3].reshape(2, -1))
    assert data[-1].y == data[np.int64(N - 1)].y == Y[-1]
    assert data[0]._fields == ("x", "y", "mask")
    assert Dataset(GREY, mask=MASK)[0]._fields == ("x", "mask")
    assert Dataset(GREY, Y)[0]._fields == ("x", "y")
    assert Dataset(GREY)[0]._fields == ("x",)
    assert len(list(data)) == N
    assert torch.equal(data[2:8:2].labels, Y[2:8:2])
    assert len(data[-3:]) == 3
    grey = Dataset((GREY * 255).to(torch.uint8), scale=255)
    assert torch.equal(grey.tensor(), grey.draw(torch.arange(N), binarise="none"))
    assert torch.equal(grey[4].x, grey.tensor()[4])
    assert data.tensor(flat=False).shape == (N, 2, D // 2)
    assert set(grey.tensor(binarise="static").unique().tolist()) == {0.0, 1.0}
    with pytest.raises(IndexError, match="has 12 items, got index 12"):
        data[N]


@pytest.mark.usefixtures("as_users_see_it")
@pytest.mark.parametrize("index", ["x", torch.arange(3), 1.5])
def test_invalid_indices_raise(index):
    with pytest.raises(TypeError, match=r"integer or a slice.*subset"):
        Dataset(GREY)[index]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
def test_loaders_collate_items_for_training_and_evaluation(missing, labelled):
    data = Dataset(GREY, Y if labelled else None, mask=MASK if missing else None).binarised()
    pair = vae()
    batch = next(iter(DataLoader(data, 5)))
    assert batch.x.shape == (5, D)
    loader = DataLoader(pickle.loads(pickle.dumps(data)), 5, shuffle=True)
    result = fit(pair, loader, steps=3, validation=data, validate_every=3, progress=False)
    assert len(result.history["step"]) > 0
    assert values(evaluation.elbo_terms(pair, loader)).isfinite().all()


def test_loaders_with_workers():
    loader = DataLoader(Dataset(GREY, Y, mask=MASK), 5, num_workers=1)
    x = torch.cat([batch.x for batch in loader])
    assert torch.equal(x.nan_to_num(), GREY * MASK)


ENCODED = {
    "vae": (vae, ()),
    "real": (lambda: vae(likelihood="normal"), ()),
    "conditional": (conditional, (Y,)),
    "semi-supervised": (ssvae, ()),
    "bottom-up": (hierarchical, ()),
}


@pytest.mark.parametrize("name", ENCODED)
@pytest.mark.parametrize("mask", [None, MASK])
def test_encode_takes_a_data_set_in_batches(name, mask, float64, monkeypatch):
    make, context = ENCODED[name]
    pair, data = make(), Dataset(GREY, Y, mask=mask)
    drawn_for = Dataset.drawn_for
    monkeypatch.setattr(Dataset, "drawn_for", lambda self, pair: drawn_for(self, pair, 5))
    seen = data if name == "real" else data.binarised(seed=0)
    named = {} if mask is None else {"mask": mask}
    expected = pair.encode(seen.tensor(), *context, **named)
    assert torch.allclose(values(pair.encode(data)), values(expected))
    torch.manual_seed(0)
    assert pair.reconstruct(data).shape == (N, D)
    if mask is not None:
        assert torch.equal(pair.impute(data, num_particles=5)[mask], seen.tensor()[mask])
        assert pair.impute(data, num_particles=5, num_samples=3).shape == (3, N, D)


@pytest.mark.usefixtures("as_users_see_it")
def test_encode_refuses_what_a_data_set_contains():
    pair, data = ssvae(), Dataset(GREY, Y)
    with pytest.raises(TypeError, match="encode: y cannot be given with"):
        pair.encode(data, Y)
    with pytest.raises(TypeError, match="encode: mask= cannot be given with"):
        pair.encode(data, mask=MASK)
    with pytest.raises(ValueError, match="encode: y must be a tensor with an entry for each of 12"):
        pair.encode(Dataset(GREY), Y[1:])
    with pytest.raises(TypeError, match="brings its own mask and labels"):
        pair.impute(data, MASK)
    with pytest.raises(TypeError, match="mask must be a boolean tensor, True where"):
        pair.impute(data.binarised().tensor())
    x = data.binarised().tensor()
    assert torch.allclose(pair.encode(Dataset(GREY), Y), pair.encode(x, Y), atol=1e-6)


def test_binary_values_are_not_binarised_again(float64):
    data = Dataset(GREY, Y)
    found = []
    for scale in (1.0, 255):
        given = Dataset((GREY > 0.5).to(torch.uint8) * int(scale), scale=scale)
        found.append([(b.x, len(b)) for b in given.drawn_for(vae())])
    assert torch.equal(found[0][0][0], found[1][0][0])
    (batch,) = data.drawn_for(vae())
    assert torch.equal(batch.x, data.binarised(seed=0).tensor())
    (batch,) = data.drawn_for(vae(likelihood="normal"))
    assert torch.equal(batch.x, data.tensor())


def test_arrays_beside_a_tensor_have_the_dtype_of_the_pair():
    pair = ConditionalVAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(6, 4, hidden=())),
        likelihood=likelihoods.Bernoulli(nets.MLP(4, 4, hidden=())),
        context_features=2,
    )
    x, c = torch.zeros(5, 4), torch.arange(10.0).view(5, 2)
    found = []
    for context in (c, c.double().numpy()):
        torch.manual_seed(0)
        found.append(evaluation.elbo_terms(pair, x, context).nelbo)
    assert found[0] == found[1]
