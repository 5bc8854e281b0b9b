"""The Python of README and of the pages runs as it stands, and their commands exist."""

import doctest
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

import ppl_vae

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import anatomy  # noqa: E402
import fit  # noqa: E402
import growth  # noqa: E402
import steps  # noqa: E402
import time_to_bound  # noqa: E402

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


IN_ORDER = ("your_own_table",)
"""The pages whose snippets follow from one another: they run as one."""


EXTRAS = {"onnxruntime": "export", "optuna": "search"}
"""Packages that a snippet may import, and the extra of each, which the tests do not need."""


def needed(name):
    return pytest.mark.skipif(
        importlib.util.find_spec(name) is None,
        reason=f"{name} is missing: pip install 'ppl-vae[{EXTRAS[name]}]'",
    )


def blocks(language):
    for page in PAGES:
        found = re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)
        found = ["\n".join(found)] if page.stem in IN_ORDER else found
        # After a few steps importance sampling is poor, and says so.
        poor = pytest.mark.filterwarnings("ignore:.*(Pareto|effective sample size):UserWarning")
        for i, code in enumerate(found):
            marks = [poor] if page.stem in IN_ORDER else []
            marks += [needed(name) for name in EXTRAS if f"import {name}" in code]
            if "explorer" in code:
                without = find_spec("bokeh") is None
                marks.append(pytest.mark.skipif(without, reason="the extra explore is missing"))
            yield pytest.param(code, id=f"{page.stem}-{i}", marks=marks)


SMALLER = {
    "range(15):  # epochs": "range(1):  # epochs",
    "num_samples=1000)": "num_samples=100)",
    "num_temperatures=100)": "num_temperatures=10)",
    "num_particles=(1, 20, 1000)": "num_particles=(1, 20, 100)",
    "calls=150": "calls=20",
    "for _ in range(200)": "for _ in range(20)",
    "torch.randn(500, 3": "torch.randn(50, 3",
    "steps=1000)": "steps=10)",
    "steps=200)": "steps=5)",
    "steps=100)": "steps=5)",
    "steps=20, ": "steps=5, ",
    "positions=5)": "positions=3)",
    "draws=20)  # 20": "draws=5)  # 5",
    "sample(1000)": "sample(100)",
    '{"latent_dim": [1, 3]}': '{"latent_dim": [3]}',
    "LocalOptimisation(steps=5)": "LocalOptimisation(steps=2)",
    "calibration(vae, num_simulations=200)": "calibration(vae, num_simulations=100)",
    "steps=200, ": "steps=5, ",
    "steps=100, ": "steps=5, ",
    "log_prob(test)": "log_prob(test, num_samples=100)",
    'test, "report.html")': 'test, "report.html", draws=39, num_samples=100, num_particles=100)',
    'given=["age", "town"])': 'given=["age", "town"], num_samples=100)',
    "cv=2).fit(people)": "cv=2).fit(people[:40])",
    "rng.integers(18, 80, 200), rng.random(200)": "rng.integers(18, 80, 90), rng.random(90)",
    "rng.standard_normal(200)": "rng.standard_normal(90)",
    '"Lyon"], 200)': '"Lyon"], 90)',
    "people[:150], people[150:]": "people[:60], people[60:]",
}
"""What takes snippets of the pages seconds, and how it reads in the default run."""


LIKE_OTHERS = {
    *("representations-0", "deployment-0", "estimators-2", "training-4", "variants-0"),
    *("can_i_trust_q-2", "can_i_trust_q-3", "evaluation-0", "explorer-0", "estimators-5"),
}
"""Snippets that take long, of functions that other snippets and tests call as they do."""


def in_default_run(snippets):
    for snippet in snippets:
        marks = [pytest.mark.slow] if snippet.id in LIKE_OTHERS else []
        yield pytest.param(*snippet.values, id=snippet.id, marks=[*snippet.marks, *marks])


def run_snippet(code, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("code", list(in_default_run(blocks("python"))))
@pytest.mark.usefixtures("as_users_see_it", "little_tuning", "unrendered")
def test_python_snippets_run(code, tmp_path, monkeypatch):
    for whole, part in SMALLER.items():
        code = code.replace(whole, part)
    run_snippet(code, tmp_path, monkeypatch)


LARGE = [snippet for snippet in blocks("python") if any(w in snippet.values[0] for w in SMALLER)]


@pytest.mark.slow
@pytest.mark.parametrize("code", LARGE)
@pytest.mark.usefixtures("as_users_see_it")
def test_python_snippets_run_as_they_stand(code, tmp_path, monkeypatch):
    run_snippet(code, tmp_path, monkeypatch)


def test_what_is_made_smaller_is_on_the_pages():
    assert {snippet.id for snippet in blocks("python")} >= LIKE_OTHERS
    pages = "".join(page.read_text() for page in PAGES)
    assert [text for text in SMALLER if text not in pages] == []


STRICT = """
[mypy]
strict = true
cache_dir = {cache}
# Pyro's functions are largely without annotations.
untyped_calls_exclude = pyro
[mypy-ppl_vae.*]
# As of an installed package: its annotations count, its own errors are not reported.
follow_imports = silent
[mypy-pyro.optim.*]
follow_imports = skip
ignore_missing_imports = true
[mypy-pandas.*,sklearn.*,scipy.*,onnxruntime.*]
ignore_missing_imports = true
[mypy-arviz_stats.*]
implicit_reexport = true
# A data set brings c, which the annotations of encode cannot say.
[mypy-docs.page_scvi_tools_0,docs.page_likelihoods_1]
disable_error_code = call-arg
[mypy-docs.*]
# Pages leave out the annotations of functions of their own.
disallow_untyped_defs = false
disallow_untyped_calls = false
"""


@pytest.mark.slow  # a quarter of a minute where mypy has no cache yet
def test_python_snippets_pass_strict_mypy(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "__init__.py").touch()
    for snippet in blocks("python"):
        folder = "." if snippet.id.startswith("README") else "docs"
        path = tmp_path / folder / f"page_{snippet.id.replace('-', '_')}.py"
        path.write_text(snippet.values[0])
    (tmp_path / "mypy.ini").write_text(STRICT.format(cache=ROOT / ".mypy_cache" / "snippets"))
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "."],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("commands", list(blocks("bash")))
def test_commands_name_what_exists(commands):
    makefile = (ROOT / "Makefile").read_text()
    for line in commands.splitlines():
        for target in re.findall(r"^make ([\w-]+)", line):
            assert re.search(rf"^{target}:", makefile, re.M), line
        for script in re.findall(r"examples/\w+\.py", line):
            assert (ROOT / script).exists(), line


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == ppl_vae.__version__


def test_every_relative_link_leads_somewhere():
    for page in PAGES:
        text = re.sub(r"\$\$.*?\$\$|\$[^$\n]*\$", "", page.read_text(), flags=re.S)
        for link in re.findall(r"\]\((?!http)([^)#]+)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_the_gallery_has_every_example():
    gallery = (ROOT / "docs" / "gallery.md").read_text()
    for path in sorted((ROOT / "examples").glob("*.py")):
        if path.stem != "common":
            assert f"literalinclude}} ../examples/{path.name}" in gallery
            assert (ROOT / "docs" / "figures" / "gallery" / f"{path.stem}.png").exists()


MODULES = [
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    for path in sorted(Path(ppl_vae.__file__).parent.rglob("*.py"))
    if ">>>" in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("little_tuning")
def test_examples_in_docstrings_run(name):
    module = __import__(name, fromlist=["_"])
    namespace = {"torch": __import__("torch"), **vars(module)}
    result = doctest.testmod(module, extraglobs=namespace)
    assert result.failed == 0


def test_the_speed_table_is_the_benchmark_s():
    results = json.loads((ROOT / "benchmarks" / "results" / "steps.json").read_text())
    assert steps.short(results) in (ROOT / "docs" / "results.md").read_text()
    speed = (ROOT / "docs" / "speed.md").read_text()
    before = json.loads((ROOT / "benchmarks" / "results" / "steps-before.json").read_text())
    for found in (results, before):
        assert steps.markdown(found).split("\n\n", 2)[2].strip() in speed
    ratios = {"ours": (0.7, 1.4), "ours-compiled": (0.4, 0.9)}  # as docs/results.md has them
    for row in results["rows"].values():
        for column, (low, high) in ratios.items():
            assert low < row["columns"][column]["ratio"] < high


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("anatomy", lambda found: anatomy.markdown(found["parts"])),
        ("growth", lambda found: growth.report(found["axes"]).strip()),
        ("fit", lambda found: fit.markdown(found["rows"])),
    ],
)
def test_tables_of_speed_are_those_of_their_benchmarks(name, written):
    found = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    sections = (ROOT / "docs" / "speed.md").read_text().split("\n## ")
    (section,) = (section for section in sections if f"`benchmarks/{name}.py`" in section)
    assert written(found) in section
    machine = found["machine"]
    assert machine["processor"] in section
    assert f"torch {machine['packages']['torch']}" in section


def test_the_times_to_a_bound_are_the_benchmark_s():
    page = (ROOT / "docs" / "speed.md").read_text()
    assert [page.count(mark) for mark in time_to_bound.MARKS] == [1, 1]
    file = ROOT / "benchmarks" / "results" / "time_to_bound.json"
    expected = time_to_bound.for_page(json.loads(file.read_text())) if file.exists() else ""
    assert time_to_bound.between_marks(page) == expected
