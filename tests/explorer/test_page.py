"""The page as Bokeh has it, and its answers, without a browser."""

import importlib
import re

import numpy as np
import pairs as parts
import pandas as pd
import pytest
import torch

from ppl_vae import VAE, data, explorer, likelihoods, nets, posteriors, priors
from ppl_vae.cli import main
from ppl_vae.explorer.inputs import explored

pytest.importorskip("bokeh", reason="the extra explore is not installed")
models = importlib.import_module("bokeh.models")
documents = importlib.import_module("bokeh.document")
live_page = importlib.import_module("ppl_vae.explorer.live")
page_of = importlib.import_module("ppl_vae.explorer.page")
serving = importlib.import_module("ppl_vae.explorer.server")
STEPS = importlib.import_module("ppl_vae.explorer.view").STEPS

Z, D = 4, 64
OPTIONS = {"columns": None, "image_shape": None, "site": None, "num_data": None, "seed": 0}


def vae(latent=Z, width=D, likelihood=likelihoods.Bernoulli):
    def net(width_in, width_out):
        return nets.MLP(width_in, width_out, hidden=(8,))

    return VAE(
        prior=priors.GaussianMixture(latent, 3),
        posterior=posteriors.DiagonalNormal(net(width, 2 * latent)),
        likelihood=likelihood(net(latent, width)),
    )


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", split="test").subset(range(30))


@pytest.fixture(scope="module")
def counts():
    x = torch.distributions.Poisson(torch.rand(20, 6) * 9).sample()
    return data.Dataset(x, name="counts")


def opened(pairs, source, **changes):
    """Return a page, its document and its callbacks."""
    document = documents.Document()
    page = page_of.Page(
        explored("explore", pairs, source, **{**OPTIONS, **changes}), "pca", alone=False
    )
    live = live_page.Live(page, document)
    page.add_to(document)
    return page, document, live


def picture(sheet, place, shape):
    """Return a tile of a sheet as grey levels."""
    (image,) = sheet.source.data["image"]
    left = place * (shape[1] + 1)
    return np.asarray(image)[:, left : left + shape[1]] & 0xFF


def levels(x):
    return np.rint(np.clip(x.reshape(8, 8).numpy(), 0, 1) * 255)


def test_a_place_and_sliders_are_decoded(digits):
    pair = vae()
    page, _, _ = opened(pair, digits)
    (view,) = page.views
    means = view.explored.means
    view.question.data = {"x": [0.4], "y": [-0.3], "slide": [None]}
    z = view.plane.lift(torch.tensor([0.4, -0.3]), means[0])
    np.testing.assert_array_equal(picture(view.place, 0, (8, 8)), levels(pair.decode(z[None])))
    np.testing.assert_allclose(
        [view.cross.data["x"][0], view.cross.data["y"][0]], [0.4, -0.3], atol=1e-5
    )
    assert view.question.tags == [1]
    view.elsewhere.active = 1
    z = view.plane.lift(torch.tensor([0.4, -0.3]), means.mean(0))
    np.testing.assert_array_equal(picture(view.place, 0, (8, 8)), levels(pair.decode(z[None])))
    values = [0.1, -0.2, 0.3, 0.5]
    view.question.data = {"x": [None], "y": [None], "slide": [values]}
    z = torch.empty(Z)
    z[view.slid] = torch.tensor(values)
    np.testing.assert_array_equal(picture(view.place, 0, (8, 8)), levels(pair.decode(z[None])))


def test_a_choice_is_that_of_all_pairs(digits):
    pairs = {"a": vae(), "b": vae(latent=2)}
    page, _, _ = opened(pairs, digits)
    page.chosen.data = {"index": [5]}
    for view in page.views:
        x = view.explored.data([5])
        np.testing.assert_array_equal(picture(view.datum, 0, (8, 8)), levels(x))
        again = view.explored.reconstruct([5])
        np.testing.assert_array_equal(picture(view.datum, 1, (8, 8)), levels(again))
        at = view.plane.project(view.explored.means[5])
        np.testing.assert_allclose(view.ring.data["x"], at[0])
        assert "datum 5" in view.datum_title.text
        chosen = [slider.value for slider in view.sliders]
        expected = view.explored.means[5, view.slid]
        ends = torch.tensor([view.ends(d) for d in view.slid])
        clipped = expected.double().clamp(ends[:, 0].double(), ends[:, 1].double())
        np.testing.assert_allclose(chosen, clipped)
    assert page.chosen.tags == [1]


def test_the_way_between_two_data(digits):
    page, _, _ = opened(vae(), digits)
    (view,) = page.views
    page.path.data = {"a": [3], "b": [8]}
    between = view.explored.interpolate(3, 8, STEPS)
    for place, x in enumerate(between, start=1):
        np.testing.assert_array_equal(picture(view.path, place, (8, 8)), levels(x))
    assert "from datum 3" in view.path_title.text
    np.testing.assert_array_equal(
        picture(view.path, STEPS + 1, (8, 8)), levels(view.explored.data([8]))
    )


def test_what_is_painted_is_imputed(digits):
    page, _, _ = opened(vae(), digits)
    (view,) = page.views
    assert "50 % hidden" in view.imputed_title.text  # something to look at
    hidden = [1] * 24 + [0] * 40
    page.painter.mask.data = {"hidden": [hidden]}
    assert view.imputed.model.visible
    assert "38 % hidden" in view.imputed_title.text
    x = levels(view.explored.data([0]))
    guess = picture(view.imputed, 1, (8, 8))
    np.testing.assert_array_equal(guess[3:], x[3:])
    assert (guess[:3] != x[:3]).any()
    page.chosen.data = {"index": [9]}  # another datum, under the same mask
    np.testing.assert_array_equal(
        picture(view.imputed, 1, (8, 8))[3:], levels(view.explored.data([9]))[3:]
    )
    page.painter.mask.data = {"hidden": [[0] * 64]}
    assert not view.imputed.model.visible


def test_counts_are_cells_and_hidden_one_by_one(counts):
    page, _, _ = opened(vae(2, 6, likelihoods.Poisson), counts)
    (view,) = page.views
    page.painter.mask.data = {"hidden": [[0, 0, 1, 0, 0, 0]]}
    assert page.painter.hidden((6,)).tolist() == [False, False, True, False, False, False]
    html = view.imputed.model.text
    assert html.count("<tr>") == 7
    assert "x3" in html
    assert "17 % hidden" in view.imputed_title.text
    assert "±" in view.place.model.text


def test_colours_and_planes_are_chosen(digits, monkeypatch):
    page, document, _ = opened(vae(), digits)
    (view,) = page.views
    assert view.colour.options[0] == "label"
    view.colour.value = "component"
    assert list(view.points.data["colour"]) == view.coloured["component"].colours()
    jobs = []
    monkeypatch.setattr(document, "add_periodic_callback", lambda f, ms: jobs.append(f) or f)
    monkeypatch.setattr(document, "remove_periodic_callback", jobs.remove)
    view.colour.value = "log p(x)"
    assert "0 of 30 data so far" in view.legend.text
    while jobs:
        jobs[0]()
    assert not view.explored.log_px.isnan().any()
    assert "so far" not in view.legend.text
    x = list(view.points.data["x"])
    view.plane_choice.value = "kl"
    assert "two of 4 latent dimensions" in view.about_plane.text
    assert x != list(view.points.data["x"])
    a, b = page.path.data["a"][0], page.path.data["b"][0]
    np.testing.assert_allclose(view.line.data["x"], view.points.data["x"][[a, b]])
    first = view.slid[0]
    np.testing.assert_allclose(view.points.data["x"], view.explored.means[:, first].numpy())


def test_names_are_escaped(digits):
    _, document, _ = opened({"<b>a</b>": vae()}, digits)
    texts = [div.text for div in document.select({"type": models.Div})]
    assert any("&lt;b&gt;a&lt;/b&gt;" in text for text in texts)
    assert not any("<b>a</b>" in text for text in texts)


def test_an_exported_page_loads_nothing(digits, tmp_path):
    path = explorer.export({"a": vae(), "b": vae(2)}, digits, tmp_path / "page.html", grid=5)
    text = path.read_text(encoding="utf-8")
    tags = re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.S)  # without their contents
    assert tags.count("<script") > 1
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", tags)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "Bokeh" in text


def test_the_server_listens_here_alone_and_refuses_other_pages(digits):
    port = serving.free_port("explore", None)
    made = serving.server(port, lambda document: None)
    try:
        sockets = made._http._sockets.values()
        assert {s.getsockname() for s in sockets} == {("127.0.0.1", port)}
        (application,) = (made._tornado,)
        assert application.websocket_origins == {f"localhost:{port}", f"127.0.0.1:{port}"}
        with pytest.raises(OSError, match=f"port={port} cannot be used"):
            serving.free_port("explore", port)
    finally:
        made.stop()


def test_the_command_writes_a_page(tmp_path, monkeypatch, capsys, as_users_see_it):
    monkeypatch.chdir(tmp_path)
    narrow = ["--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"]
    assert main(["fit", "vae", "--data", "digits", "--steps", "1", "--quiet", *narrow]) == 0
    capsys.readouterr()
    words = ["explore", "runs/vae-digits", "--num-data", "12", "--export", "page.html"]
    assert main(words) == 0
    assert capsys.readouterr().out == "page: page.html\n"
    assert "datum 11" in (tmp_path / "page.html").read_text()
    for more, wrong in [
        (["--port", "5006"], "--port is for a server"),
        (["--no-browser"], "--no-browser is for a server"),
        (["--data", "x.csv"], "--data is for a run of a table"),
        (["--site", "y"], "--site must be one of ['z'], got 'y'"),
    ]:
        assert main([*words, *more]) == 2
        assert wrong in capsys.readouterr().err
    assert main([*words[:-1], "page.txt"]) == 2
    assert ".html" in capsys.readouterr().err


def of_parts():
    """Yield a name and a pair with data for each prior, posterior, likelihood and kind of code."""
    for name, prior in parts.PRIORS.items():
        posterior = parts.POSTERIORS["diagonal"]()
        likelihood = parts.LIKELIHOODS["bernoulli"]()
        yield name, VAE(prior=prior(posterior), posterior=posterior, likelihood=likelihood)
    for kind, made in (("posterior", parts.POSTERIORS), ("likelihood", parts.LIKELIHOODS)):
        usual = {"posterior": "diagonal", "likelihood": "bernoulli"}
        for name in made:
            chosen = {**usual, kind: name}
            posterior = parts.POSTERIORS[chosen["posterior"]]()
            prior = parts.PRIORS["standard"](posterior)
            likelihood = parts.LIKELIHOODS[chosen["likelihood"]]()
            yield name, VAE(prior=prior, posterior=posterior, likelihood=likelihood)
    for name in parts.CODE_POSTERIORS:
        yield name, parts.code_vae(posterior=name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(collapsed|inactive):UserWarning")
def test_the_page_of_every_part(as_users_see_it):
    for name, pair in of_parts():
        page, _, _ = opened(pair, pair.generate(8), num_data=8)
        (view,) = page.views
        view.question.data = {"x": [0.1], "y": [0.2], "slide": [None]}
        page.chosen.data = {"index": [3]}
        page.path.data = {"a": [1], "b": [2]}
        for colouring in view.coloured:
            view.colour.value = colouring
        assert view.imputed.model.visible, name
        view.explored.estimate([0, 1], 30)
        assert view.explored.log_px[:2].isfinite().all(), name


@pytest.mark.slow
def test_the_command_on_a_table(tmp_path, monkeypatch, capsys, as_users_see_it):
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"age": generator.integers(18, 80, 40), "town": ["Bern", "Graz"] * 20})
    frame.to_csv("people.csv", index=False)
    words = ["--steps", "5", "--latent-dim", "2", "--hidden", "[8]", "--quiet"]
    assert main(["fit", "table", "--data", "people.csv", "--out", "run", *words]) == 0
    assert main(["explore", "run", "--export", "page.html"]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "column town" in text
    (tmp_path / "people.csv").rename("moved.csv")
    capsys.readouterr()
    assert main(["explore", "run", "--export", "page.html"]) == 2
    assert "--data is missing" in capsys.readouterr().err
    words = ["explore", "run", "--data", "moved.csv", "--plane", "kl", "--export", "page.html"]
    assert main(words) == 0
