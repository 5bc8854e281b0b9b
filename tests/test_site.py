"""The documentation site, as `make docs` built it: its links, and pages in a browser."""

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import BROWSERS

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "docs"
PAGES = (
    "index.html",
    "tutorials/01_what_a_vae_is.html",
    "your_own_table.html",
    "reference/api/ppl_vae.estimators.ImportanceWeightedELBO.html",
    "coming_from/pytorch.html",
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="no site: make docs"),
]


class Links(HTMLParser):
    """What a page refers to, and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[a] for a in ("id", "name") if given.get(a)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag != "a":
            self.loaded += [given[a] for a in ("src", "href") if given.get(a)]


@pytest.fixture(scope="module")
def read():
    return functools.cache(lambda path: Links(path.read_text(encoding="utf-8")))


def test_every_link_within_the_site_leads_somewhere(read):
    wrong = []
    for path in SITE.rglob("*.html"):
        page = read(path)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or "_modules" in path.parts:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                wrong.append((path.relative_to(SITE), link))
                continue
            anchors = read(target).anchors if target.suffix == ".html" else {""}
            if parts.fragment and unquote(parts.fragment) not in anchors:
                wrong.append((path.relative_to(SITE), link))
    assert wrong == []


def test_tutorials_show_their_figures(read):
    tutorials = sorted((SITE / "tutorials").glob("0*.html"))
    assert len(tutorials) == 9
    without = [p.stem for p in tutorials if not any("_images" in f for f in read(p).loaded)]
    assert without == ["07_your_own_table"]  # which has tables


def test_no_page_loads_anything_from_another_host(read):
    elsewhere = [
        (path.relative_to(SITE), resource)
        for path in SITE.rglob("*.html")
        for resource in read(path).loaded
        if urlsplit(resource).scheme in ("http", "https") or resource.startswith("//")
    ]
    assert elsewhere == []
    assert (SITE / "_static" / "tex-svg-full.js").stat().st_size > 2_000_000


def test_no_page_has_a_path_of_the_machine_that_built_it():
    for path in [*SITE.rglob("*.html"), SITE / "llms.txt"]:
        assert str(ROOT) not in path.read_text(encoding="utf-8"), path


def test_every_public_name_has_a_page():
    from ppl_vae import estimators, evaluation, priors

    for package in (priors, estimators, evaluation):
        for name in package.__all__:
            found = list((SITE / "reference/api").glob(f"{package.__name__}.{name}*.html"))
            assert found, f"{package.__name__}.{name}"


def test_llms_txt_lists_pages_that_exist():
    links = re.findall(r"\]\(([^)]+)\)", (SITE / "llms.txt").read_text())
    assert len(links) > 100
    assert [link for link in links if not (SITE / link).exists()] == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture(scope="module")
def address():
    """Serve the site on this machine: a browser's search reads pages, which files may not."""
    handler = functools.partial(_Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def seen(url, folder, *flags):
    """Open a page in a browser that knows no other host; return its DOM, without complaints."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    run = subprocess.run(
        [
            browser,
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--virtual-time-budget=60000", "--dump-dom"),
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            f"--user-data-dir={folder / 'profile'}",
            *flags,
            url,
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []
    return run.stdout


ASK = """<script>addEventListener("load", async () => {
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const contrast = (node) => {
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const article = document.querySelector("article");
  const found = {
    unset: [...document.querySelectorAll(".math")]
      .filter(n => !n.querySelector("mjx-container")).length,
    errors: document.querySelectorAll("mjx-merror, [data-mjx-error]").length,
    formulas: document.querySelectorAll("mjx-container").length,
    broken: [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src),
    wider: document.documentElement.scrollWidth - innerWidth,
    contrasts: {},
  };
  for (const theme of ["light", "dark"]) {
    document.body.dataset.theme = theme;
    await new Promise(done => setTimeout(done, 500));
    const texts = [...article.querySelectorAll("p, li, td, th, h1, h2, pre, mjx-container")]
      .filter(n => n.textContent.trim() || n.tagName == "MJX-CONTAINER");
    found.contrasts[theme] = Math.min(...texts.map(contrast));
  }
  document.title = JSON.stringify(found);
});</script></body>"""


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [500, 1400])
def test_pages_in_a_browser(name, width, address, tmp_path):
    page = SITE / name
    copy = page.with_name(f"asked-{width}-{page.name}")
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", ASK), encoding="utf-8")
    try:
        shown = seen(
            f"{address}/{Path(name).with_name(copy.name)}", tmp_path, f"--window-size={width},900"
        )
    finally:
        copy.unlink()
    found = json.loads(re.search(r"<title>(.*?)</title>", shown)[1])
    assert found["unset"] == found["errors"] == 0
    assert found["formulas"] > 20 or "tutorials" not in name
    assert found["broken"] == []
    assert found["wider"] <= 0
    assert min(found["contrasts"].values()) > 4.5, found["contrasts"]


def test_search_finds_pages(address, tmp_path):
    shown = seen(f"{address}/search.html?q=VampPrior", tmp_path)
    results = re.findall(r'<li class="[^"]*kind-\w+[^"]*">\s*<a href="([^"]+)"', shown)
    assert any("03_swapping_the_prior" in link for link in results), results
    assert any("ppl_vae.priors.VampPrior" in link for link in results), results
