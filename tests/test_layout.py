"""Imports point one way, and importing the package has no side effects."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml
from configs import SHORTEST

import ppl_vae

ROOT = Path(ppl_vae.__file__).parent
GROUND_FLOOR = (
    "ascii buffers constructor deprecation equality errors event_shapes files labels module_modes "
    "pixels process_state protocols random_state registration resident_constants spec tensors "
    "uniform_draws version"
)
# What each package may import, besides itself and the ground floor: nothing that stands below it.
PACKAGES = {
    "conditional": "",
    "distributions": "",
    "nets": "conditional",
    "columns": "conditional distributions",
    "priors": "conditional distributions",
    "posteriors": "conditional distributions",
    "likelihoods": "columns conditional distributions",
    "estimators": "",
    "models": "conditional estimators posteriors",
    "data": "",
    "testing": "",
    "compilation": "distributions",
    "io": "columns conditional likelihoods models nets posteriors priors",
    "plots": "",
    "evaluation": "compilation conditional data distributions estimators models",
    "training": "compilation conditional data estimators evaluation io models",
    "tables": "columns data estimators evaluation io likelihoods models nets posteriors priors "
    "training",
    "export": "distributions io models tables",
    "zoo": "data evaluation io models",
    "report": "columns data distributions estimators evaluation io models plots tables",
    "reproduction": "data estimators evaluation io likelihoods models nets plots posteriors priors "
    "training",
    "explorer": "data estimators evaluation io models plots report tables",
    "cli": "data estimators evaluation explorer export io models plots report reproduction tables "
    "training",
    "__main__": "cli",
}


def modules():
    """Return the package's files by module name."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


MODULES = modules()


def imports(module):
    """Return the modules that one imports: at the top, in functions and for type checks alike."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & set(MODULES)


def package_of(module):
    return module.split(".")[1]


def test_every_package_is_listed():
    here = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert here - {"__init__"} == {*GROUND_FLOOR.split(), *PACKAGES}


def test_no_import_is_part_of_a_circle():
    # The root only forwards names, on first use.
    graph = {module: imports(module) for module in MODULES if module != "ppl_vae"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_packages_are_listed_from_the_ground_up():
    seen = set(GROUND_FLOOR.split())
    for package, imported in PACKAGES.items():
        assert set(imported.split()) <= seen, package
        seen.add(package)


def reachable(arrows, package):
    """Return the packages that one can reach by one arrow or several."""
    direct = {to for start, to in arrows if start == package}
    return direct.union(*(reachable(arrows, to) for to in direct))


def test_the_map_in_contributing_is_that_of_the_imports():
    text = (ROOT.parent / "CONTRIBUTING.md").read_text()
    picture = set(re.findall(r"(\w+) --> (\w+)", text))
    table = {(p, to) for p, imported in PACKAGES.items() for to in imported.split()}
    needed = {
        (start, to)
        for start, to in table
        if not any(to in reachable(table, other) for begin, other in table if begin == start)
    }
    assert picture == needed  # what several arrows say is left out


@pytest.mark.parametrize("package", [*GROUND_FLOOR.split(), *PACKAGES])
def test_imports_point_one_way(package):
    allowed = {package, *GROUND_FLOOR.split(), *PACKAGES.get(package, "").split()}
    for module in MODULES:
        if module != "ppl_vae" and package_of(module) == package:
            others = {package_of(name) for name in imports(module)}
            assert others <= allowed, module


def test_only_programs_sample():
    sampling = {
        package_of(module)
        for module, file in MODULES.items()
        if {"pyro.sample(", "pyro.plate("} & set(file.read_text().replace("(", "(\n").split())
    }
    assert sampling <= {"models", "testing", "estimators"}


def test_importing_the_package_alone_loads_nothing_heavy():
    code = "import sys, ppl_vae; sys.exit(not sys.modules.keys().isdisjoint(%r))"
    heavy = ["numpy", "pyro", "torch", "yaml"]
    subprocess.run([sys.executable, "-c", code % heavy], check=True)


@pytest.mark.parametrize(
    ("former", "place"), [("config", "io"), ("oracles", "testing"), ("storage", "io")]
)
def test_former_names_of_packages_warn_and_name_the_new_place(former, place):
    with pytest.warns(DeprecationWarning, match=rf"{former} is deprecated; use ppl_vae\.{place}$"):
        package = getattr(ppl_vae, former)
    assert package is getattr(ppl_vae, place)
    assert former not in ppl_vae.__all__
    assert former not in dir(ppl_vae)


def test_importing_the_package_changes_nothing(tmp_path):
    large = {**SHORTEST, "prior": "FullRankNormal", "event_shape": [784]}
    (tmp_path / "large.yaml").write_text(yaml.safe_dump(large))
    code = """
import sys
import numpy, pyro, pyro.infer, torch
before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
def loaded():
    return {name.partition(".")[0] for name in sys.modules}
already = loaded()
import ppl_vae.estimators
assert loaded() - already == {"ppl_vae"}, loaded() - already  # estimators need nothing else
import ppl_vae
from ppl_vae import VAE, data, estimators, evaluation, io, likelihoods, models, nets
from ppl_vae import posteriors, priors, report, testing
import ppl_vae.cli.report
assert torch.equal(before[0], torch.get_rng_state())
assert before[1:] == (torch.get_default_dtype(), torch.get_num_threads())
assert not list(pyro.get_param_store().keys())
late = {"torchvision", "matplotlib", "sklearn", "lightning_fabric", "triton", "narwhals", "pandas"}
assert not late & set(sys.modules), late & set(sys.modules)
assert "jaxtyping" in sys.modules and "beartype" not in sys.modules
# zuko turns off the validation of all distributions when it is imported.
import ppl_vae.distributions.flow
assert "zuko" in sys.modules and torch.distributions.Distribution._validate_args
# To see how large a pair is does not take torch's compiler, whose import takes seconds.
assert "torch._dynamo" not in sys.modules
assert type(ppl_vae.from_config(sys.argv[1])) is VAE
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "large.yaml"], check=True)


def test_public_objects_have_docstrings_with_what_is_public():
    for name in ppl_vae.__all__:
        assert getattr(ppl_vae, name).__doc__, name
