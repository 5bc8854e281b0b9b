"""How long ``ppl-vae explore`` takes to its first view, and to answer each gesture of the mouse.

A headless Chromium moves the mouse; an answer's time is that from the browser's question to the
arrival of all that it changes, the median of several.

    .venv/bin/python benchmarks/explorer.py runs/gmvae --picture docs/figures/explorer.png

prints the table of docs/explorer.md, writes ``explorer.json`` and ``explorer.md`` under
``benchmarks/results``, and the picture.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure
from PIL import Image
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
RESULTS = Path(__file__).parent / "results"
SIZE = {"width": 1340, "height": 760}
MODEL = "Bokeh.documents[0].get_model_by_name"
CLOCK = """names => { window.times = {};
    for (const name of names) {
        const model = Bokeh.documents[0].get_model_by_name(name);
        let asked = 0;
        window.times[name] = [];
        model.properties.data.change.connect(() => { asked = performance.now(); });
        model.properties.tags.change.connect(() => {
            window.times[name].push(performance.now() - asked); });
    } }"""
QUESTIONS = {
    "question 0": "decode the place under the pointer",
    "chosen": "choose a datum: posterior, reconstruction, draws, imputation",
    "path": "interpolate between two data",
    "mask": "impute what is painted over",
}


class Mouse:
    """The mouse on figures of the page."""

    def __init__(self, tab):
        self.tab = tab

    def place(self, name, x, y):
        """Return where a share of a figure's width and height is on the screen."""
        at = self.tab.evaluate(
            f"""() => {{ const view = Bokeh.index.find_one({MODEL}('{name}'));
            const at = view.el.getBoundingClientRect(), inner = view.frame.bbox;
            return [at.x + inner.x, at.y + inner.y, inner.width, inner.height]; }}"""
        )
        left, top, width, height = at
        return left + x * width, top + y * height

    def drag(self, name, start, end):
        """Drag from one place to another."""
        self.tab.mouse.move(*self.place(name, *start))
        self.tab.mouse.down()
        self.tab.mouse.move(*self.place(name, *end), steps=20)
        self.tab.mouse.up()
        self.tab.wait_for_timeout(600)

    def point(self, name, x, y):
        """Move to a place."""
        self.tab.mouse.move(*self.place(name, x, y), steps=10)
        self.tab.wait_for_timeout(300)

    def click(self, name, x, y):
        """Click a place."""
        self.tab.mouse.click(*self.place(name, x, y))
        self.tab.wait_for_timeout(600)


def opened(browser, run):
    """Start the command and open its page; return its process, the page and the seconds."""
    words = [sys.executable, "-m", "ppl_vae", "explore", run, "--no-browser"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # one core
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    address = process.stdout.readline().split()[1].rstrip(",")
    tab = browser.new_page(viewport=SIZE)
    tab.goto(address)
    tab.wait_for_function("window.Bokeh && Bokeh.documents.length > 0")
    tab.wait_for_function(f"Bokeh.index.find_one({MODEL}('map 0'))?.frame?.bbox.width")
    return process, tab, time.perf_counter() - start


def played(tab):
    """Do all gestures some times; return the milliseconds of each question's answers."""
    tab.wait_for_timeout(1000)
    tab.evaluate(CLOCK, list(QUESTIONS))
    mouse = Mouse(tab)
    for x, y in ((0.3, 0.3), (0.6, 0.4), (0.4, 0.7), (0.55, 0.55)):
        mouse.point("map 0", x, y)
        mouse.drag("map 0", (x, y), (1 - x, 1 - y))
        mouse.drag("painter", (x, 0.2), (1 - x, 0.3))
        mouse.click("map 0", 1 - x, 1 - y)
    return tab.evaluate("window.times")


def arranged(tab):
    """Leave the page with a datum chosen, another at the end of a line, and a painted mask."""
    mouse = Mouse(tab)
    tab.get_by_text("clear").click()
    mouse.click("map 0", 0.2, 0.3)
    mouse.drag("map 0", (0.1, 0.5), (0.95, 0.4))
    mouse.drag("painter", (0.2, 0.6), (0.8, 0.6))
    mouse.drag("painter", (0.2, 0.7), (0.8, 0.7))
    mouse.point("map 0", 0.5, 0.85)


def markdown(results):
    """Return the table: medians, and the longest."""
    machine = results["machine"]
    lines = [
        f"{machine['processor']}, one thread; torch {machine['packages']['torch']}.",
        "",
        "| | median | longest | times |",
        "|---|---|---|---|",
        f"| first view after the command | {results['first view']:.1f} s | | 1 |",
    ]
    for name, words in QUESTIONS.items():
        of = results["milliseconds"][name]
        middle = statistics.median(of)
        lines.append(f"| {words} | {middle:.0f} ms | {max(of):.0f} ms | {len(of)} |")
    return "\n".join(lines) + "\n"


def main():
    """Print the table, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", help="a run of images")
    parser.add_argument("--picture", type=Path, help="where to write the picture")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the table")
    given = parser.parse_args()
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        process, tab, seconds = opened(browser, given.run)
        try:
            times = played(tab)
            if given.picture is not None:
                arranged(tab)
                picture = Image.open(io.BytesIO(tab.screenshot()))
                picture.convert("RGB").quantize(128).save(given.picture, optimize=True)
        finally:
            process.terminate()
            process.wait()
            browser.close()
    results = {
        "machine": measure.machine(threads=1),
        "first view": seconds,
        "milliseconds": {name: times[name] for name in QUESTIONS},
    }
    (given.out / "explorer.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "explorer.md").write_text(table := markdown(results))
    print(table, end="")


if __name__ == "__main__":
    main()
