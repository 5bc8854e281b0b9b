"""The page in a browser, by the mouse: what is shown is what the pair says."""

import asyncio
import importlib
import shutil
import threading
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from pages import BROWSERS

from ppl_vae import VAE, data, explorer, likelihoods, nets, posteriors, priors, tables
from ppl_vae.explorer.inputs import explored

pytest.importorskip("bokeh", reason="the extra explore is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
live_page = importlib.import_module("ppl_vae.explorer.live")
page_of = importlib.import_module("ppl_vae.explorer.page")
serving = importlib.import_module("ppl_vae.explorer.server")
STEPS = importlib.import_module("ppl_vae.explorer.view").STEPS

Z, D, GRID = 3, 64, 9
OPTIONS = {"columns": None, "image_shape": None, "site": None, "num_data": None, "seed": 0}
MODEL = "Bokeh.documents[0].get_model_by_name"


def vae(latent=Z):
    def net(width_in, width_out):
        return nets.MLP(width_in, width_out, hidden=(16,))

    torch.manual_seed(latent)
    pair = VAE(
        prior=priors.GaussianMixture(latent, 3),
        posterior=posteriors.DiagonalNormal(net(D, 2 * latent)),
        likelihood=likelihoods.Bernoulli(net(latent, D)),
    )
    with torch.no_grad():  # far from constant, though untrained
        for parameter in (*pair.posterior.parameters(), *pair.likelihood.parameters()):
            parameter.mul_(4)
    return pair


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", split="test").subset(range(40))


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with playwright.sync_playwright() as running:
        made = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield made
        made.close()


class Screen:
    """A page in a browser, with a mouse on what it shows; nothing may go wrong on it."""

    def __init__(self, browser, address):
        self.errors = []
        self.tab = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.tab.on("console", self.noted)
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", self.asked)
        self.address = address
        self.tab.goto(address)
        self.tab.wait_for_function("window.Bokeh && Bokeh.documents.length > 0")
        self.tab.wait_for_function(f"{MODEL}('map 0') && {self.view('map 0')}?.frame?.bbox.width")
        self.tab.wait_for_function("Bokeh.documents[0].is_idle")
        self.tab.wait_for_timeout(300)

    def noted(self, message):
        if message.type == "error":
            self.errors.append(message.text)

    def asked(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.errors.append(f"asked for {request.url}")

    def view(self, name):
        return f"Bokeh.index.find_one({MODEL}('{name}'))"

    def get(self, name, what):
        return self.tab.evaluate(f"(() => {{ const m = {MODEL}('{name}'); return {what}; }})()")

    def on(self, name, x, y):
        """Return where a place on a figure is on the screen."""
        return self.tab.evaluate(
            f"""([x, y]) => {{
            const view = {self.view(name)};
            const at = view.el.getBoundingClientRect();
            const {{x_scale, y_scale}} = view.frame;
            return [at.x + x_scale.compute(x), at.y + y_scale.compute(y)];
        }}""",
            [x, y],
        )

    def point(self, name, x, y):
        self.tab.mouse.move(*self.on(name, x, y))

    def click(self, name, x, y):
        self.tab.mouse.click(*self.on(name, x, y))

    def drag(self, name, start, end, rest=0):
        self.point(name, *start)
        self.tab.mouse.down()
        self.tab.wait_for_timeout(rest)
        for t in np.linspace(0, 1, 8)[1:]:
            self.point(name, *((1 - t) * np.array(start) + t * np.array(end)))
        self.tab.mouse.up()

    def wait(self, name, condition):
        self.tab.wait_for_function(
            f"(() => {{ const m = {MODEL}('{name}'); return {condition}; }})()"
        )

    def picture(self, name, place):
        """Return a tile of a sheet as grey levels."""
        pixels = self.get(name, "[Array.from(m.data.image[0]), m.data.image[0].shape]")
        sheet = np.array(pixels[0], np.uint32).reshape(pixels[1])
        return sheet[:, place * 9 : place * 9 + 8] & 0xFF

    def data_point(self, i, number=0):
        return self.get(f"points {number}", f"[m.data.x[{i}], m.data.y[{i}]]")


@contextmanager
def shown(browser, address):
    screen = Screen(browser, address)
    yield screen
    screen.tab.close()
    assert screen.errors == []


@contextmanager
def served(pairs):
    """Serve pairs from another thread."""
    started, port = threading.Event(), serving.free_port("test", None)
    running = {}

    def fill(document):
        page = page_of.Page(pairs, "pca", alone=False)
        live_page.Live(page, document)
        page.add_to(document)

    def run():
        asyncio.set_event_loop(asyncio.new_event_loop())
        running["server"] = serving.server(port, fill)
        running["server"].start()
        started.set()
        running["server"].io_loop.start()
        running["server"].stop()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(30)
    try:
        yield f"http://localhost:{port}/"
    finally:
        loop = running["server"].io_loop
        loop.add_callback(loop.stop)
        thread.join(30)


def levels(x):
    return np.rint(np.clip(x.reshape(8, 8).numpy(), 0, 1) * 255)


def close(picture, x):
    """Assert that a picture is x: its levels, or their neighbours, as z went through JSON."""
    assert np.abs(picture.astype(int) - levels(x)).max() <= 1


def apart(pair):
    """Return three data that the mouse can tell from all others on the map."""
    points = pair.plane("pca").project(pair.means)
    distances = torch.cdist(points, points).fill_diagonal_(torch.inf)
    return distances.min(1).values.argsort(descending=True)[:3].tolist()


@pytest.fixture(scope="module")
def pair(digits):
    (found,) = explored("explore", vae(), digits, **OPTIONS)
    return found


@pytest.fixture(scope="module")
def live(pair):
    with served([pair]) as address:
        yield address


@pytest.mark.slow
def test_the_mouse_points_chooses_drags_and_paints(browser, live, pair):
    plane, (i, a, b) = pair.plane("pca"), apart(pair)
    with shown(browser, live) as screen:
        # Point at a place.
        screen.point("map 0", 0.5, -0.5)
        screen.wait("question 0", "m.data.x[0] !== null")
        screen.tab.wait_for_timeout(500)
        at = torch.tensor([screen.get("question 0", f"m.data.{c}[0]") for c in "xy"])
        np.testing.assert_allclose(at, [0.5, -0.5], atol=0.02)
        close(screen.picture("place 0", 0), pair.decode(plane.lift(at, pair.means[0])[None], [0]))
        # Choose a datum.
        x, y = screen.data_point(i)
        screen.click("map 0", x, y)
        screen.wait("chosen", f"m.data.index[0] == {i}")
        screen.wait("ring 0", f"Math.abs(m.data.x[0] - {x}) < 1e-6")
        close(screen.picture("datum 0", 0), pair.data([i]))
        close(screen.picture("datum 0", 1), pair.reconstruct([i]))
        # Drag from one datum to another.
        before = screen.picture("path 0", STEPS)
        screen.drag("map 0", screen.data_point(a), screen.data_point(b))
        screen.wait("path", f"m.data.a[0] == {a} && m.data.b[0] == {b}")
        screen.tab.wait_for_timeout(500)
        between = pair.interpolate(a, b, STEPS)
        for place in (0, 4, 8):
            close(screen.picture("path 0", place + 1), between[[place]])
        assert (screen.picture("path 0", STEPS) != before).any()
        # Drag the other way, after a moment's rest.
        screen.drag("map 0", screen.data_point(b), screen.data_point(a), rest=600)
        screen.wait("path", f"m.data.a[0] == {b} && m.data.b[0] == {a}")
        # Paint over a row of the datum.
        screen.tab.get_by_text("clear").click()
        screen.wait("mask", "!m.data.hidden[0].includes(1)")
        screen.drag("painter", (0.5, 2.5), (7.5, 2.5))
        screen.wait("mask", "m.data.hidden[0].includes(1)")
        screen.tab.wait_for_timeout(500)
        (hidden,) = screen.get("mask", "m.data.hidden")
        grid = np.array(hidden).reshape(8, 8)
        assert grid[2].all()
        assert grid.sum() == 8
        found = pair.impute(i, torch.tensor(grid.reshape(-1), dtype=torch.bool), 4, 300)
        close(screen.picture("imputed 0", 1), found.guess)
        close(screen.picture("imputed 0", 3), found.draws[[1]])


@pytest.mark.slow
def test_sliders_and_colours_follow_the_mouse(browser, live, pair):
    with shown(browser, live) as screen:
        slider = screen.tab.locator(".noUi-handle").first
        box = slider.bounding_box()
        screen.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        screen.tab.mouse.down()
        screen.tab.mouse.move(box["x"] + 40, box["y"] + 5, steps=5)
        screen.tab.mouse.up()
        screen.wait("question 0", "m.data.slide[0] !== null")
        screen.tab.wait_for_timeout(500)
        (values,) = screen.get("question 0", "m.data.slide")
        z = torch.empty(Z)
        z[pair.order[:Z]] = torch.tensor(values)
        close(screen.picture("place 0", 0), pair.decode(z[None], [0]))
        assert z[pair.order[0]] > pair.means[0, pair.order[0]]
        # Colour by log p(x), which is estimated meanwhile.
        screen.tab.get_by_label("coloured by").select_option("log p(x)")
        screen.wait("points 0", "new Set(m.data.colour).size > 15")
        assert not pair.log_px.isnan().all()


@pytest.mark.slow
def test_a_choice_on_one_map_is_seen_on_the_other(browser, digits):
    pairs = explored("explore", {"a": vae(), "b": vae(2)}, digits, **OPTIONS)
    with served(pairs) as address, shown(browser, address) as screen:
        i, *_ = apart(pairs[1])
        screen.click("map 1", *screen.data_point(i, 1))
        screen.wait("chosen", f"m.data.index[0] == {i}")
        screen.tab.wait_for_timeout(500)
        for number, one in enumerate(pairs):
            close(screen.picture(f"datum {number}", 1), one.reconstruct([i]))


@pytest.mark.slow
def test_a_row_of_a_table_has_its_cells_hidden_by_clicks(browser):
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"age": generator.integers(18, 80, 40), "town": generator.choice(["Bern", "<i>"], 40)}
    )
    table = tables.fit(frame, latent_dim=2, hidden=(8,), steps=5)
    pairs = explored("explore", table, frame, **OPTIONS)
    with served(pairs) as address, shown(browser, address) as screen:
        assert screen.get("mask", "m.data.hidden") == [[0, 1]]
        screen.click("painter", 0.5, 0.5)
        screen.wait("mask", "m.data.hidden[0][0] == 1")
        screen.wait("imputed 0", "m.text.includes('<td')")
        assert screen.get("mask", "m.data.hidden") == [[1, 1]]
        text = screen.get("imputed 0", "m.text")
        assert "<i>" not in text
        assert text.count("<tr>") == 3


@pytest.mark.slow
def test_the_exported_page_answers_by_itself(browser, pair, digits, tmp_path):
    page = explorer.export(pair.inputs.pair, digits, tmp_path / "page.html", grid=GRID)
    plane, (i, a, b) = pair.plane("pca"), apart(pair)
    with shown(browser, page.as_uri()) as screen:
        (x0, x1), (y0, y1) = (
            screen.get("map 0", f"[m.{c}_range.start, m.{c}_range.end]") for c in "xy"
        )
        column, row = 6, 2
        x, y = x0 + (x1 - x0) * column / (GRID - 1), y0 + (y1 - y0) * row / (GRID - 1)
        screen.point("map 0", x, y)
        screen.tab.wait_for_timeout(300)
        z = plane.lift(torch.tensor([x, y]).float(), pair.means.mean(0))
        close(screen.picture("place 0", 0), pair.decode(z[None], [0]))
        screen.click("map 0", *screen.data_point(i))
        screen.wait("chosen", f"m.data.index[0] == {i}")
        close(screen.picture("datum 0", 0), pair.data([i]))
        close(screen.picture("datum 0", 1), pair.reconstruct([i]))
        cloud = screen.get("ring 0", "m.data.x[0]")
        np.testing.assert_allclose(cloud, plane.project(pair.means[i])[0], atol=1e-5)
        screen.drag("map 0", screen.data_point(a), screen.data_point(b))
        screen.wait("path", f"m.data.a[0] == {a} && m.data.b[0] == {b}")
        close(screen.picture("path 0", 0), pair.data([a]))
        close(screen.picture("path 0", STEPS + 1), pair.data([b]))
        screen.tab.get_by_label("coloured by").select_option("component")
        colours = screen.get("points 0", "Array.from(m.data.colour)")
        assert colours == pair.colourings()["component"].colours()
