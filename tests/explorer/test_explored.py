"""What a page asks about a pair, beside the pair's own methods and closed forms."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import kl_divergence

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    data,
    explorer,
    likelihoods,
    nets,
    posteriors,
    priors,
    tables,
    testing,
)
from ppl_vae.explorer.colours import ABSENT, Colouring, of_codes
from ppl_vae.explorer.display import Cells, Images, in_digits
from ppl_vae.explorer.inputs import explored
from ppl_vae.explorer.plane import Plane

Z, D, C = 4, 64, 10
OPTIONS = {"columns": None, "image_shape": None, "site": None, "num_data": None, "seed": 0}


def net(width_in, width_out):
    return nets.MLP(width_in, width_out, hidden=(8,))


def vae(prior=None, likelihood=likelihoods.Bernoulli, latent=Z, width=D):
    return VAE(
        prior=prior or priors.StandardNormal(latent),
        posterior=posteriors.DiagonalNormal(net(width, 2 * latent)),
        likelihood=likelihood(net(latent, width)),
    )


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", split="test").subset(range(30))


@pytest.fixture(scope="module")
def people():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": generator.integers(18, 80, 40),
            "town": generator.choice(["Bern", "Graz", "<Linz>"], 40),
            "height": generator.normal(170, 9, 40),
        }
    )
    frame.loc[::7, "height"] = np.nan
    return tables.fit(frame, latent_dim=2, hidden=(8,), steps=5), frame


def one(pair, source, **changes):
    (found,) = explored("explore", pair, source, **{**OPTIONS, **changes})
    return found


# The plane of the map


def test_lifting_undoes_the_projection_and_keeps_what_is_off_the_plane():
    torch.manual_seed(0)
    means = torch.randn(50, 5, dtype=torch.float64) * torch.tensor([3.0, 1.0, 2.0, 0.1, 0.5])
    kl = torch.tensor([0.1, 3.0, 0.2, 2.0, 1.0])
    base, points = means[7], torch.randn(6, 2, dtype=torch.float64)
    for how in ("pca", "kl"):
        plane = Plane.of(how, means, kl, kl.argsort(descending=True))
        torch.testing.assert_close(plane.axes @ plane.axes.T, torch.eye(2, dtype=torch.float64))
        lifted = plane.lift(points, base)
        torch.testing.assert_close(plane.project(lifted), points)
        off = lifted - base
        torch.testing.assert_close(off, off @ plane.axes.T @ plane.axes)
    assert plane.names == ("z2", "z4")
    assert "z2 and z4" in plane.words
    assert "3 and 2 of 6.3 nats" in plane.words


def test_principal_components_hold_the_variance_that_is_said():
    torch.manual_seed(0)
    means = torch.randn(200, 3, dtype=torch.float64) @ torch.diag(
        torch.tensor([2.0, 1.0, 1.0]).double()
    )
    plane = Plane.of("pca", means, torch.zeros(3), torch.arange(3))
    shares = np.sort(np.linalg.eigvalsh(np.cov(means.T.numpy())))[::-1]
    held = plane.project(means).var(0)
    np.testing.assert_allclose(held.numpy(), shares[:2], rtol=1e-10)
    assert f"{100 * shares[:2].sum() / shares.sum():.0f} %" in plane.words


@pytest.mark.parametrize("dims", [1, 2])
def test_one_or_two_dimensions_are_the_plane(dims):
    means = torch.randn(9, dims)
    plane = Plane.of("pca", means, torch.ones(dims), torch.arange(dims))
    points = plane.project(means)
    torch.testing.assert_close(points[:, :dims], means)
    torch.testing.assert_close(plane.lift(points, means[0]), means)


# What is asked of a pair


def test_answers_are_those_of_the_pair(digits):
    pair = vae()
    found = one(pair, digits)
    x = found.data(range(30)).reshape(30, D)
    torch.testing.assert_close(found.means, pair.encode(x))
    z = torch.randn(5, Z)
    torch.testing.assert_close(found.decode(z, [0]), pair.decode(z))
    torch.testing.assert_close(found.reconstruct([3, 4]), pair.decode(pair.encode(x[3:5])))
    ends = found.interpolate(3, 8, 5)
    torch.testing.assert_close(ends[[0, -1]], found.reconstruct([3, 8]))
    middle = (found.means[[3]] + found.means[[8]]) / 2
    torch.testing.assert_close(ends[[2]], pair.decode(middle))
    p = pair.decode(z)
    torch.testing.assert_close(found.spread(z, [0]), (p * (1 - p)).sqrt())
    with torch.no_grad():
        q = torch.distributions.Normal(
            pair.posterior(x).base_dist.loc, pair.posterior(x).base_dist.scale
        )
        prior = torch.distributions.Normal(torch.zeros(Z), torch.ones(Z))
        torch.testing.assert_close(found.kl, kl_divergence(q, prior).mean(0).double())


def test_draws_of_a_posterior_have_its_mean_and_scale(digits):
    pair = vae()
    found = one(pair, digits)
    decoded, z = found.posterior(4, 3, 4000)
    assert decoded.shape == (3, D)
    torch.testing.assert_close(decoded, pair.decode(z[:3]))
    with torch.no_grad():
        q = pair.posterior(found.data([4]).reshape(1, D)).base_dist
    error = q.scale[0] / 4000**0.5
    assert ((z.mean(0) - q.loc[0]).abs() < 4 * error).all()
    assert ((z.std(0) - q.scale[0]).abs() < 4 * error / 2**0.5).all()


def test_log_px_is_estimated_in_parts():
    oracle = testing.LinearGaussian(5, 2, full_rank=True)
    oracle.set_exact_guide()  # the weights do not vary
    x = torch.randn(12, 5, dtype=torch.float64)
    found = one(oracle, x)
    assert found.log_px.isnan().all()
    found.estimate([1, 4], 30)
    exact = oracle.log_px(x)
    torch.testing.assert_close(found.log_px[[1, 4]], exact[[1, 4]].detach())
    assert found.log_px.isnan().sum() == 10
    assert "2 of 12 data so far" in found.log_px_colouring().legend()
    found.estimate([0, 2, 3, *range(5, 12)], 30)
    assert "so far" not in found.log_px_colouring().legend()
    assert f"log p(x) {exact[1]:.1f}" in found.caption(1)


def test_what_is_hidden_is_imputed_and_the_rest_is_kept(digits):
    found = one(vae(), digits)
    x = found.data([2]).reshape(1, D)
    hidden = torch.arange(D) < 32
    filled = found.impute(2, hidden, draws=3, particles=50)
    assert filled.guess.shape == (1, D)
    assert filled.draws.shape == (3, D)
    for values in (filled.guess, filled.draws):
        assert (values[:, ~hidden] == x[:, ~hidden]).all()
        assert ((values[:, hidden] > 0) & (values[:, hidden] < 1)).all()  # E[x | z], not x
    again = found.impute(2, hidden, draws=3, particles=50)
    assert torch.equal(again.draws, filled.draws)


def test_what_imputation_warns_of_is_kept_for_the_page(digits):
    posterior = posteriors.VectorQuantised(net(D, 2 * 3), 2, codes=5, code_dim=3)
    codes = priors.Codebook(posterior)
    likelihood = likelihoods.Bernoulli(net(2 * 3, D))
    quantised = VAE(prior=codes, posterior=posterior, likelihood=likelihood)
    hidden = torch.arange(D) < 32
    (caveat,) = one(quantised, digits).impute(2, hidden, draws=3, particles=50).caveats
    assert "from a single point" in caveat
    assert one(vae(), digits).impute(2, hidden, draws=3, particles=50).caveats == ()


def test_a_pair_of_other_programs_does_not_impute():
    found = one(testing.LinearGaussian(5, 2), torch.randn(6, 5, dtype=torch.float64))
    with pytest.raises(NotImplementedError, match="does not impute"):
        found.impute(0, torch.tensor([True] * 5), 2, 10)


def test_missing_values_stay_missing_in_the_data(digits):
    x = digits.tensor(binarise="threshold").reshape(-1, D)
    mask = torch.rand(x.shape) < 0.7
    found = one(vae(), data.Dataset(x, mask=mask), image_shape=(8, 8))
    assert torch.equal(found.data(range(30)).isnan(), ~mask)
    tiles = found.display.tiles(found.data([0]))
    assert tiles.shape == (1, 8, 8, 3)
    shown = tiles[0].reshape(D, 3)
    assert (shown[~mask[0].numpy()] == [0xC9, 0xD7, 0xEE]).all()
    kept = found.impute(0, torch.zeros(D, dtype=torch.bool), 1, 10).guess
    assert torch.equal(kept[0][mask[0]], x[0][mask[0]])


def test_a_conditional_pair_decodes_with_the_label_of_the_datum(digits):
    pair = ConditionalVAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )
    found = one(pair, digits)
    z = torch.randn(3, Z)
    expected = pair.decode(z, digits.labels[7].expand(3))
    torch.testing.assert_close(found.decode(z, [7]), expected)


def test_a_semisupervised_pair_colours_by_the_inferred_label(digits):
    pair = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(D, C),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )
    found = one(pair, digits)
    inferred = found.colourings()["most probable y"].values
    x = found.data(range(30)).reshape(30, D)
    assert inferred.tolist() == pair.classify(x).argmax(1).tolist()


def test_of_several_latents_one_is_on_the_map(digits):
    pair = HierarchicalVAE(
        prior=priors.StandardNormal(2),
        conditionals=[priors.ConditionalNormal(net(2, 2 * Z))],
        posteriors=[
            posteriors.DiagonalNormal(net(D, 2 * Z)),
            posteriors.DiagonalNormal(net(Z, 2 * 2)),
        ],
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )
    assert one(pair, digits).means.shape == (30, Z)
    top = one(pair, digits, site="z2")
    assert top.means.shape == (30, 2)
    z = torch.randn(3, 2)
    with torch.no_grad():
        expected = pair.likelihood(pair.conditionals[0](z).mean).mean
    torch.testing.assert_close(top.decode(z, [0]), expected)
    with pytest.raises(ValueError, match=r"site must be one of .*'z1'.*'z2'.* got 'z3'"):
        one(pair, digits, site="z3")


def test_rows_of_a_table_are_decoded_to_their_best_guess(people):
    table, frame = people
    found = one(table, frame)
    z = torch.randn(4, 2)
    x, spread = found.decode(z, [0]), found.spread(z, [0])
    with torch.no_grad():
        p = table.pair_.likelihood(z)
        torch.testing.assert_close(
            x, table.pair_.likelihood.estimate(table.pair_.likelihood.statistics(p))
        )
        town = x.clone().round()
        probability = p.base_dist.log_prob(town)[:, 1].exp()
    torch.testing.assert_close(spread[:, 1], probability)
    torch.testing.assert_close(spread[:, 2], p.variance.sqrt()[:, 2])
    names = table.schema_["town"].categories
    texts = found.display.texts(x)
    assert [row[1] for row in texts] == [names[int(k)] for k in x[:, 1]]
    assert found.display.texts(found.data([0]))[0][2] == ""
    assert found.display.spreads(spread)[0][1].endswith(" %")
    kinds = found.colourings()
    assert kinds["column town"].categories == tuple(names)
    assert np.isnan(kinds["column height"].values).sum() == 6


def test_rows_of_two_tables_must_have_the_same_columns(people):
    table, frame = people
    other = tables.fit(frame[["age", "town"]], latent_dim=2, hidden=(8,), steps=2)
    with pytest.raises(ValueError, match="'b' is of a table with other columns"):
        explored("explore", {"a": table, "b": other}, frame, **OPTIONS)


def test_pairs_side_by_side_have_the_same_data(digits):
    first, second = explored(
        "explore", {"a": vae(), "b": vae(latent=2)}, digits, **{**OPTIONS, "num_data": 12}
    )
    assert (first.name, second.name) == ("a", "b")
    assert torch.equal(first.data(range(12)), second.data(range(12)))
    assert len(first) == 12


# How data look


def test_tiles_are_grey_levels():
    x = torch.tensor([[0.0, 0.5, 1.0, 7.0, -1.0, 0.2]])
    tiles = Images((2, 3)).tiles(x)
    assert tiles.shape == (1, 2, 3, 1)
    assert tiles.reshape(-1).tolist() == [0, 128, 255, 255, 0, 51]
    colours = Images((3, 1, 2)).tiles(x.clamp(0, 1))
    assert colours.shape == (1, 1, 2, 3)
    assert colours[0, 0, 0].tolist() == [0, 255, 0]  # of three channels one after the other
    x[0, 0] = torch.nan
    missing = [201, 215, 238]  # pale blue, of all channels if one is missing
    assert Images((2, 3), missing=True).tiles(x)[0, 0].tolist() == [missing, [128] * 3, [255] * 3]
    assert Images((3, 1, 2)).tiles(x)[0, 0].tolist() == [missing, [128, 255, 51]]
    counts = torch.tensor([[0.0, 10.0, 20.0, 30.0, 35.0, 5.0]])
    assert Images((2, 3), False, (0.0, 30.0)).tiles(counts).reshape(-1).tolist() == [
        *(0, 85, 170, 255, 255, 42)
    ]
    assert Images((3, 1, 2)).elements().reshape(2, 3).tolist() == [[0, 2, 4], [1, 3, 5]]


def test_of_many_elements_those_that_vary_most_are_shown():
    torch.manual_seed(0)
    x = torch.randn(50, 100) * torch.where(torch.arange(100) % 5 == 0, 5.0, 0.1)
    cells = Cells.of(x)
    assert len(cells.names) == 24
    assert set(range(0, 100, 5)) <= set(cells.index.tolist())
    assert cells.names[0] == f"x{cells.index[0] + 1}"
    assert (np.diff(cells.index) > 0).all()


def test_numbers_have_three_digits():
    values = (999.4, 999.7, 1234.5, 0.01234, -999.9)
    assert list(map(in_digits, values)) == ["999", "1,000", "1,234", "0.0123", "-1,000"]


def test_cells_are_shaded_by_their_values():
    x = torch.linspace(0, 100, 101)[:, None].repeat(1, 2)
    cells = Cells.of(x)
    shades = cells.tiles(torch.tensor([[0.0, 100.0], [50.0, torch.nan]]))
    assert shades.tolist() == [[0, 255], [128, 0]]
    assert cells.texts(torch.tensor([[0.5, torch.nan]])) == [["0.5", ""]]
    assert [in_digits(v) for v in (0.0, 12345.6, -1.234)] == ["0", "12,346", "-1.23"]


def test_colours_follow_values():
    numbers = Colouring("a", np.array([0.0, 0.5, 1.0, np.nan]))
    first, middle, last, absent = numbers.colours()
    assert absent == ABSENT
    assert (first, last) == ("#440154", "#fde725")  # the ends of viridis
    assert middle not in (first, last)
    classes = of_codes("b", [0, 1, 1, -1], ["<no>", "yes"])
    zero, one_, other, none = classes.colours()
    assert one_ == other != zero
    assert none == ABSENT
    assert "&lt;no&gt;" in classes.legend()
    assert "<no>" not in classes.legend()


def test_the_most_frequent_of_many_categories_have_colours_of_their_own():
    codes = [40] * 9 + [3] * 8 + list(range(50))
    many = of_codes("k", codes, range(50))
    palette = many.palette
    assert palette[40] != palette[3]
    assert sum(c == palette[40] for c in palette[:50]) <= 6
    legend = many.legend()
    assert "and 38 more" in legend


def test_mixtures_are_coloured_by_responsibilities(digits):
    found = one(vae(priors.GaussianMixture(2, 3), latent=2), digits)
    component = found.colourings()["component"]
    with torch.no_grad():
        prior = found.inputs.pair.prior()
        log_p = prior.component_distribution.log_prob(found.means[:, None])
        nearest = (prior.mixture_distribution.logits + log_p).argmax(1)
    # Those of the mean, mostly: the colours average over draws.
    assert (torch.tensor(component.values).long() == nearest).double().mean() > 0.5
    assert component.categories == ("k = 0", "k = 1", "k = 2")


def test_any_column_can_be_given(digits):
    columns = {"ink": digits.tensor().flatten(1).sum(1).numpy(), "hand": ["left", "right"] * 15}
    found = one(vae(), digits, columns=columns).colourings()
    np.testing.assert_allclose(found["ink"].values, columns["ink"])
    assert found["hand"].categories == ("left", "right")
    assert found["label"].values.tolist() == digits.labels.tolist()


@pytest.mark.parametrize("name", ["z1", "label", "log p(x)"])
def test_columns_have_names_that_are_not_taken(digits, name):
    with pytest.raises(ValueError, match=f"names that are not taken, got '{re.escape(name)}'"):
        explored("explore", vae(), digits, **{**OPTIONS, "columns": {name: range(30)}})


def test_values_of_columns_may_be_missing(digits):
    columns = {"n": [None, 2.0, *range(28)], "kind": ["a", None, *"ab" * 14]}
    (found,) = explored("explore", vae(), digits, **{**OPTIONS, "columns": columns})
    coloured = found.colourings()
    assert coloured["n"].categories is None
    assert np.isnan(coloured["n"].values[0])
    assert coloured["n"].values[1:3].tolist() == [2, 0]
    assert coloured["kind"].categories == ("a", "b")
    assert coloured["kind"].colours()[1] == ABSENT


def test_a_context_of_the_data_is_taken(tmp_path):
    torch.manual_seed(0)
    pair = ConditionalVAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(net(5 + 2, 4)),
        likelihood=likelihoods.Normal(net(2 + 2, 5)),
        context_features=2,
    )
    source = data.Dataset(torch.randn(30, 5), context=torch.randn(30, 2))
    (found,) = explored("explore", pair, source, **OPTIONS)
    at = found.inputs.data.index[3]
    assert torch.equal(found.inputs.context[0][3], source.context[at])
    assert f"datum {at}" in found.caption(3)
    assert "decoded with the context of datum" in found.condition(0)
    with pytest.raises(ValueError, match=r"explore: pair 'ConditionalVAE' needs .*context=c"):
        explored("explore", pair, source.values, **OPTIONS)


def test_without_the_extra_the_error_names_it(digits, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "bokeh", None)
    for call in (
        lambda: explorer.explore(vae(), digits),
        lambda: explorer.export(vae(), digits, tmp_path / "page.html"),
    ):
        with pytest.raises(ImportError, match=r"pip install 'ppl-vae\[explore\]'"):
            call()
    assert not list(tmp_path.iterdir())
