"""HTML pages: parsed, and opened in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The content of a page; raises an error if tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.values, self.texts, self.tags = [], [], [], [], set()
        self.resources = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        assert len(given) == len(attributes), attributes
        self.tags.add(tag)
        self.resources += [given[a] for a in ("src", "href", "srcset", "action") if a in given]
        if tag == "img":
            self.images.append(given)
        if tag == "data":
            self.values.append(float(given["value"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)

    @property
    def text(self):
        return " ".join(self.texts)


def browse(path, *flags):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    quiet = "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"
    profile = f"--user-data-dir={path.parent / 'profile'}"
    return subprocess.run(
        [browser, *quiet, *flags, profile, path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def shown_without_errors(page, tmp_path):
    """Open a page in a browser: every image is there, and it fits a telephone's screen."""
    shown = browse(page, "--dump-dom", "--window-size=400,800")
    assert "CONSOLE" not in shown.stderr, shown.stderr
    # The page has no script and forbids any: a copy without that asks what was loaded.
    text, policy = page.read_text(), r"<meta http-equiv=[^>]*>"
    assert len(re.findall(policy, text)) == 1
    script = """<script>console.error("oh");
        addEventListener("load", () => { document.title = JSON.stringify({
        widths: [...document.images].map(i => i.complete ? i.naturalWidth : 0),
        wider: document.documentElement.scrollWidth - innerWidth,
        mode: document.compatMode}); })</script></body>"""
    copy = tmp_path / "copy.html"
    copy.write_text(re.sub(policy, "", text).replace("</body>", script))
    shown = browse(copy, "--dump-dom", "--window-size=500,800")
    assert "CONSOLE" in shown.stderr  # where there is something to complain of, it is seen
    found = json.loads(re.search(r"<title>(.*?)</title>", shown.stdout)[1])
    assert len(found["widths"]) == len(Page(text).images)
    assert min(found["widths"]) > 100
    assert found["wider"] <= 0  # it fits a telephone's screen
    assert found["mode"] == "CSS1Compat"
