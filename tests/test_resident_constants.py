"""Functions of torch are not slowed down by pages that are not mapped."""

import json
import subprocess
import sys

# log1p runs before, so that nothing but the special argument is new to the process.
FOUND = """
import importlib, json, resource, torch
from ppl_vae import resident_constants

calls, map_constants = [], resident_constants.map_constants
resident_constants.map_constants = lambda: (calls.append(1), map_constants())
ordinary, special = torch.full((64,), 0.5), torch.full((64,), -0.0)
found = {}
for package in ("priors", "estimators", "compilation"):
    before = len(calls)
    importlib.import_module("ppl_vae." + package)
    found[package] = len(calls) - before
    if "faults" in found:
        continue
    for _ in range(3):
        ordinary.log1p()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    special.log1p()
    found["faults"] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps(found))
"""


def test_special_arguments_find_their_constants_mapped_by_each_package():
    command = [sys.executable, "-c", FOUND]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found.pop("faults") == 0
    assert all(found.values()), found
