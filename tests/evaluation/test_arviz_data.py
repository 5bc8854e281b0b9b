"""Draws in ArviZ's form, and what leave-one-out means."""

import math
import sys

import pytest
import torch
from evaluated import ORACLES, Programs, conditional, hierarchical, linear_vae
from pairs import C, D, binary, observations, ssvae, vae

from ppl_vae.evaluation import (
    HamiltonianMonteCarlo,
    arviz_data,
    leave_one_out,
    log_likelihood,
    posterior_draws,
    refined_draws,
    to_arviz,
    traced_batch,
)
from ppl_vae.testing import LinearGaussian

base = pytest.importorskip("arviz_base")
stats = pytest.importorskip("arviz_stats")

pytestmark = pytest.mark.filterwarnings("ignore:posterior_draws")
FEW = HamiltonianMonteCarlo(num_chains=3, warm_up=5, leapfrog_steps=2)


def tensor(array):
    return torch.as_tensor(array.values.copy())


@pytest.mark.parametrize("name", ORACLES)
def test_densities_are_those_of_the_draws(name, float64):
    oracle, x = ORACLES[name](), torch.randn(4, 3)
    draws = posterior_draws(oracle, x, num_samples=50)
    # x cannot be drawn without a label that only the model has.
    tree = to_arviz(oracle, draws, x, predictive=name != "y in the model")
    site = "z1" if "z1" in draws.draws else "z"
    assert tree.posterior[site].dims == ("chain", "draw", "data", f"{site}_dim_0")
    assert torch.equal(tensor(tree.posterior[site])[0], draws.draws[site])
    joint = oracle.log_joint(x, **draws.draws).detach()
    torch.testing.assert_close(tensor(tree.sample_stats["lp"])[0], joint)
    if name in ("linear", "mixture prior"):
        given_z = oracle.model.likelihood.log_density(x, draws.draws["z"]).detach()
        torch.testing.assert_close(tensor(tree.log_likelihood["x"])[0], given_z)
    assert torch.equal(tensor(tree.observed_data["x"]), x)
    assert torch.equal(tensor(tree.constant_data["ess"]), draws.ess)
    assert "r_hat" not in tree.constant_data


def test_replicated_data_are_drawn_at_the_draws(float64):
    pair, x = linear_vae(4, 0.01), torch.randn(3, 4)
    draws = posterior_draws(pair, x, num_samples=200)
    tree = to_arviz(pair, draws, x)
    residual = tensor(tree.posterior_predictive["x"])[0] - pair.likelihood(draws.draws["z"]).mean
    assert residual.std().item() == pytest.approx(0.01, rel=4 / math.sqrt(2 * 2400))
    again = to_arviz(pair, draws, x)
    assert tree.posterior_predictive["x"].equals(again.posterior_predictive["x"])
    other = to_arviz(pair, draws, x, seed=1)
    assert not tree.posterior_predictive["x"].equals(other.posterior_predictive["x"])
    assert "posterior_predictive" not in to_arviz(pair, draws, x, predictive=False).children


LABELS = torch.tensor([0, 2, 1])
PAIRS = {
    "y unobserved": (ssvae, ()),
    "y observed": (ssvae, (LABELS,)),
    "conditional": (conditional, (LABELS,)),
    "top-down": (lambda: hierarchical("top-down"), ()),
}


@pytest.mark.parametrize("refine", [None, FEW])
@pytest.mark.parametrize("name", PAIRS)
def test_every_pair(name, refine):
    make, context = PAIRS[name]
    pair, x = make(), binary(3)
    draws = posterior_draws(pair, x, *context, num_samples=12, refine=refine)
    if name == "y unobserved" and refine is not None:
        with pytest.raises(
            NotImplementedError, match="draws must have 'y' for x to be drawn, got z;"
        ):
            to_arviz(pair, draws, x)
        tree = to_arviz(pair, draws, x, predictive=False)
    else:
        tree = to_arviz(pair, draws, x, *context)
        assert tree.posterior_predictive["x"].shape[2:] == (3, D)
    assert tree.log_likelihood["x"].shape == ((1, 12, 3) if refine is None else (3, 4, 3))
    assert ("r_hat" in tree.constant_data) == (refine is not None)


@pytest.mark.parametrize("labels", [[0, 2, -1, -1], [-1, 1, 2, 0]])
def test_labels_that_only_some_batches_lack_are_among_the_draws(labels, monkeypatch):
    for module in (traced_batch, refined_draws, arviz_data):
        monkeypatch.setattr(module, "row_limit", lambda _: 6)  # two data at a time
    pair, x, y = ssvae(), binary(4), torch.tensor(labels)
    draws = posterior_draws(pair, x, y, num_samples=3)
    tree = to_arviz(pair, draws, x, y)
    assert torch.equal(tensor(tree.posterior["y"])[0], draws.draws["y"])
    assert tree.posterior_predictive["x"].shape == (1, 3, 4, D)
    one_hot = torch.eye(C)[draws.draws["y"]]
    p = pair.likelihood(draws.draws["z"], one_hot).log_prob(x).detach()
    torch.testing.assert_close(tensor(tree.log_likelihood["x"])[0], p)


def test_summaries_are_of_chains(float64):
    oracle, x = LinearGaussian(3, 2), torch.randn(2, 3)
    settings = HamiltonianMonteCarlo(num_chains=4, warm_up=40, leapfrog_steps=4)
    draws = posterior_draws(oracle, x, num_samples=80, refine=settings)
    summary = stats.summary(to_arviz(oracle, draws, x), var_names=["z"], round_to="none")
    mean = draws.draws["z"].mean(0).flatten()
    torch.testing.assert_close(torch.tensor(summary["mean"].to_numpy()), mean)
    assert (summary["r_hat"] < 1.5).all()


def test_missing_cells_are_nan_and_leave_the_density(float64):
    pair, x, mask = vae(likelihood="normal"), observations("normal", 3), torch.rand(3, D) < 0.5
    draws = posterior_draws(pair, x, mask=mask, num_samples=20)
    tree = to_arviz(pair, draws, x, mask=mask)
    assert torch.equal(~tensor(tree.observed_data["x"]).isnan(), mask)
    p = pair.likelihood(draws.draws["z"]).base_dist.log_prob(x)
    torch.testing.assert_close(tensor(tree.log_likelihood["x"])[0], (p * mask).sum(-1).detach())


def test_leave_one_out_is_the_evidence(float64):
    """And the harmonic mean that ArviZ takes of log p(x | z) is told to be unreliable."""
    oracle, x = LinearGaussian(3, 2, full_rank=True), 2 * torch.randn(20, 3)
    oracle.set_exact_guide()
    exact = oracle.log_px(x).detach()
    found = leave_one_out(oracle, x, num_samples=100)
    torch.testing.assert_close(tensor(found.elpd_i), exact)
    assert found.elpd == pytest.approx(exact.sum().item())
    assert found.se == pytest.approx((20 * exact.var(correction=0)).sqrt().item())
    assert not found.warning
    assert "elpd_loo" in str(found)
    tree = to_arviz(oracle, posterior_draws(oracle, x, num_samples=500), x, predictive=False)
    with pytest.warns(UserWarning, match="Estimated shape parameter of Pareto"):
        harmonic = stats.loo(tree, pointwise=True)
    assert harmonic.pareto_k.max() > 0.7
    assert (tensor(harmonic.elpd_i) - exact).abs().max() > 0.05


def test_diagnostics_are_those_of_log_likelihood(float64):
    pair, x = linear_vae(3, 0.5), torch.randn(6, 3)
    with pytest.warns(UserWarning, match="log_likelihood: Pareto"):
        mine = log_likelihood(pair, x, num_samples=300)
    with pytest.warns(UserWarning, match="log_likelihood: Pareto"):
        found = leave_one_out(pair, x, num_samples=300)
    assert torch.equal(tensor(found.elpd_i), mine.log_px.detach())
    assert torch.equal(tensor(found.pareto_k), mine.pareto_k)
    assert found.warning


# Of pandas, about what ArviZ calls.
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_pairs_are_compared_by_arviz(float64):
    oracles = [LinearGaussian(3, 2, full_rank=True, seed=seed) for seed in (0, 1)]
    for oracle in oracles:
        oracle.set_exact_guide()
    x = torch.randn(30, 3)
    table = stats.compare(
        {str(seed): leave_one_out(oracle, x, num_samples=30) for seed, oracle in enumerate(oracles)}
    )
    difference = (oracles[0].log_px(x) - oracles[1].log_px(x)).detach()
    assert table.index[0] == ("0" if difference.sum() > 0 else "1")
    last = table.iloc[1]
    assert last["elpd_diff"] == pytest.approx(difference.sum().abs().item())
    assert last["dse"] == pytest.approx(math.sqrt(30) * difference.std(correction=0).item())


def test_draws_of_other_data_are_refused(float64):
    pair, x = vae(), binary(3).double()
    draws = posterior_draws(pair, x, num_samples=5)
    with pytest.raises(ValueError, match="draws must be of the 2 data given, got those of 3"):
        to_arviz(pair, draws, x[:2])


@pytest.mark.parametrize("library", ["arviz_base", "arviz_stats"])
def test_a_missing_library_names_the_extra(library, monkeypatch):
    pair, x = vae(), binary(3)
    draws = posterior_draws(pair, x, num_samples=5)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"needs {library}.*ppl-vae\[diagnostics\]"):
        (to_arviz(pair, draws, x), leave_one_out(pair, x))


def test_a_site_of_another_name_has_no_replicates(float64):
    import pyro
    import pyro.distributions as dist

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("other", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0))

    pair, x = Programs(model, guide), torch.zeros(3)
    draws = posterior_draws(pair, x, num_samples=5)
    with pytest.raises(ValueError, match="must be named 'x'; or predictive=False"):
        to_arviz(pair, draws, x)
    assert to_arviz(pair, draws, x, predictive=False).log_likelihood["x"].shape == (1, 5, 3)


@pytest.mark.usefixtures("as_users_see_it")
def test_wrong_arguments_are_named():
    """Not among the wrong calls, where ArviZ may be missing."""
    pair, x = vae(), binary(3)
    with pytest.raises(TypeError, match=r"to_arviz: draws must be the result of .*got 'z'"):
        to_arviz(pair, "z", x)
    draws = posterior_draws(pair, x, num_samples=5)
    with pytest.raises(TypeError, match="to_arviz: predictive must be True or False, got 'no'"):
        to_arviz(pair, draws, x, predictive="no")
    with pytest.raises(ValueError, match="seed must be from 0"):
        to_arviz(pair, draws, x, seed=-1)
    with pytest.raises(ValueError, match="num_samples must be 1 or more, got 0"):
        leave_one_out(pair, x, num_samples=0)
