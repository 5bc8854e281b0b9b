"""Pyro's parameter store: two pairs alive in one process both train, or an error is raised."""

import copy

import pyro
import pytest
import torch
from pairs import Z, binary, vae
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

from ppl_vae import priors


def snapshot(pair):
    return [p.detach().clone() for p in pair.parameters()]


def moved(pair, before):
    return [not torch.equal(p, b) for p, b in zip(pair.parameters(), before, strict=True)]


def train(pair, x, steps=1):
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(steps):
        svi.step(x)


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 1, 0), (1, 1, 0)])
def test_two_pairs_both_train_in_any_order(order):
    pairs, x = [vae(), vae()], binary()
    for index in order:
        before, other = snapshot(pairs[index]), snapshot(pairs[1 - index])
        train(pairs[index], x)
        assert all(moved(pairs[index], before))
        assert not any(moved(pairs[1 - index], other))


def test_interleaved_pairs_equal_pairs_trained_alone():
    def run(interleaved):
        pyro.clear_param_store()
        torch.manual_seed(0)
        pairs, x = [vae(), vae("mixture")], binary()
        svis = [SVI(p.model, p.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO()) for p in pairs]
        order = [0, 1, 0, 1] if interleaved else [0, 0, 1, 1]
        step = [0, 0]
        for index in order:
            torch.manual_seed(10 * index + step[index])
            step[index] += 1
            svis[index].step(x)
        return [p.detach().clone() for pair in pairs for p in pair.parameters()]

    for a, b in zip(run(True), run(False), strict=True):
        assert torch.equal(a, b)


def test_clearing_the_store_does_not_stop_training():
    pair, x = vae(), binary()
    train(pair, x)
    pyro.clear_param_store()
    before = snapshot(pair)
    train(pair, x)
    assert all(moved(pair, before))


@pytest.mark.parametrize("how", ["deepcopy", "load_state_dict", "double", "replace"])
def test_copies_and_changes_in_place_train(how):
    pair, x = vae(), binary()
    train(pair, x)
    if how == "deepcopy":
        pair = copy.deepcopy(pair)
    elif how == "load_state_dict":
        pair.load_state_dict(vae().state_dict())
    elif how == "double":
        pair, x = pair.double(), x.double()
    else:
        pair = pair.replace(prior=priors.GaussianMixture(Z, components=2))
    before = snapshot(pair)
    train(pair, x)
    assert all(moved(pair, before))


def test_a_store_loaded_from_a_file_raises_instead_of_silently_not_training(tmp_path):
    pair, x = vae(), binary()
    train(pair, x)
    pyro.get_param_store().save(str(tmp_path / "store"))
    pyro.clear_param_store()
    pyro.get_param_store().load(str(tmp_path / "store"))
    before = snapshot(pair)
    with pytest.raises(RuntimeError, match=r"silently not be trained.*clear_param_store"):
        train(pair, x)
    assert not any(moved(pair, before))


def test_lifting_parameters_raises_instead_of_being_ignored():
    pair, x = vae(), binary()
    lifted = poutine.lift(pair.model, prior=pyro.distributions.Normal(0.0, 1.0))
    with pytest.raises(RuntimeError, match=r"poutine\.lift"):
        lifted(x)


def test_render_model_tracks_dependencies():
    relations = pyro.infer.inspect.get_model_relations(vae("mixture").model, (binary(),))
    assert relations["sample_sample"]["x"] == ["z"]


def test_parameters_that_are_not_contiguous_raise():
    pair, x = vae(), binary()
    weight = pair.likelihood.net.layers[0].weight
    weight.data = weight.data.t().contiguous().t()
    with pytest.raises(RuntimeError, match="contiguous"):
        train(pair, x)


def test_frozen_parameters_stay_and_the_rest_trains():
    pair, x = vae("mixture"), binary()
    pair.prior.requires_grad_(False)
    before = snapshot(pair.prior)
    rest = snapshot(pair.guide)
    train(pair, x)
    assert not any(moved(pair.prior, before))
    assert all(moved(pair.guide, rest))


def test_a_tensor_shared_by_model_and_guide_has_one_name_and_one_step():
    # As with a VampPrior: the posterior's network is reachable from both programs.
    pair, x = vae(), binary()
    pair.model.shared = pair.posterior.net
    train(pair, x)
    names = list(pyro.get_param_store().keys())
    values = [pyro.param(n) for n in names]
    assert len({id(v) for v in values}) == len(values) == len(list(pair.parameters()))
