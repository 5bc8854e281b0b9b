"""Programs of a user's own get what they take by name, and what none takes is an error."""

import re
from functools import partial

import pytest
import torch
from gaps import (
    M8,
    X8,
    Y8,
    Anything,
    OnlyNames,
    Programs,
    X,
    XMask,
    XMaskY,
    conditional,
    made,
    masked,
    programs,
    same,
    weights,
)
from pairs import vae
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae.data import Dataset, Part, SemiSupervised
from ppl_vae.training import fit

quiet = partial(fit, progress=False)


@pytest.mark.parametrize("kind", [XMask, XMaskY, Anything, OnlyNames])
def test_programs_of_ones_own_get_the_mask_by_name_and_zeros_in_the_gaps(kind):
    """Zeros: 0 times NaN would be in their gradients."""
    x, mask = masked()
    labels = torch.arange(40)
    pair = programs(kind)
    given = Dataset(x, labels, mask=mask)
    if kind is OnlyNames:
        given = [{"x": x.nan_to_num(), "mask": mask}]
    quiet(pair, given, steps=3)
    assert pair.model.loc.isfinite().all()
    assert (pair.model.loc != 0).all()
    for seen, its_mask, further in pair.model.calls:
        assert (seen[~its_mask] == 0).all()
        if kind is XMaskY:
            assert torch.equal(its_mask, mask[further["y"]])
        if kind is Anything:
            assert torch.equal(its_mask, mask[further["args"][0]])
    guided = Programs(XMask(True), AutoNormal(XMask(True)))
    quiet(guided, Dataset(x, labels, mask=mask), steps=2, batch_size=40)
    assert guided.model.calls[-1][1] is not None


NOT_TAKEN = {
    "mask in a tuple": (vae, [(X8, M8)], r"2 tensors, .* takes 1 by position \(x\): .*torch.bool"),
    "labels in a tuple": (vae, [(X8, Y8)], r"\(8,\) and dtype torch.int64.*Leave it out"),
    "a DataLoader": (vae, DataLoader(TensorDataset(X8, Y8), 4), "give batches by name"),
    "a name": (vae, [{"x": X8, "labels": Y8}], "'labels', which the model does not take"),
    "a name of a part": (vae, [Part("a", (X8,), kwargs={"seen": M8})], "'seen', which the model"),
    "a part's labels": (vae, [(Part("a", (X8,)), Part("b", (X8, Y8)))], "has 2 tensors"),
    "streams": (
        vae,
        SemiSupervised(Dataset(X8, Y8), [0, 1], batch_size=4),
        r"has 2 tensors, .*dtype torch.int64",
    ),
    "no x": (vae, [{"mask": M8}], "the guide needs 'x'"),
    "no label": (conditional, [{"x": X8, "mask": M8}], "a label for each datum"),
    "twice": (vae, [Part("a", (X8,), kwargs={"x": X8})], "'x', which the model does not take"),
    "no mask taken": (partial(programs, X), Dataset(X8, mask=M8), "'mask', which the model does"),
    "nor by the guide": (
        partial(programs, XMask, X),
        Dataset(X8, mask=M8),
        "'mask', which the guide does not take .by name: x.; a program learns from mask=",
    ),
    "nor by position": (partial(programs, XMask, X), [(X8, M8)], "the guide takes 1 by position"),
}


@pytest.mark.parametrize("case", NOT_TAKEN)
@pytest.mark.filterwarnings("error")
def test_what_no_program_takes_is_an_error(case):
    build, given, message = NOT_TAKEN[case]
    pair = made(build)
    before = weights(pair)
    with pytest.raises((TypeError, ValueError)) as caught:
        quiet(pair, given, steps=2)
    assert re.search(message, str(caught.value)), caught.value
    assert len(str(caught.value)) < 420
    assert same(before, weights(pair)), "nothing has changed"


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ((X8, M8), "has 2 tensors"),
        ((X8, Y8), "has 2 tensors"),
        ({"x": X8, "y": Y8}, "'y', which the model does not take"),
        ({"x": X8, "mask": M8[:4]}, "as many entries each"),
        ({"x": X8, "mask": None, "z": "a"}, "validation must be a Dataset"),
        ({}, "validation must be a Dataset"),
    ],
)
def test_what_no_program_takes_is_an_error_in_a_validation(validation, message):
    with pytest.raises((TypeError, ValueError), match=message):
        quiet(made(), X8, steps=1, validation=validation)


def test_labels_of_a_data_set_are_left_out_where_none_are_taken():
    """It says which are labels; nothing else may go missing."""
    ours, theirs = made(), made()
    quiet(ours, Dataset(X8, Y8), steps=2, validation=Dataset(X8, Y8))
    quiet(theirs, Dataset(X8), steps=2)
    assert same(weights(ours), weights(theirs))
    given = list(Dataset(X8, Y8).batches(8))
    quiet(made(), given, steps=2)
    pair = programs(XMask)
    quiet(pair, Dataset(X8, Y8), steps=1)
    assert all(mask is None for _, mask, _ in pair.model.calls), "labels are no mask"
