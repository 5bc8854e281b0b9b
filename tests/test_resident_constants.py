"""Functions of torch are not slowed down by pages that are not mapped."""

import subprocess
import sys

import pytest

# log1p runs before, so that nothing but the special argument is new to the process.
FAULTS = """
import resource, torch
{imports}
ordinary, special = torch.full((64,), 0.5), torch.full((64,), -0.0)
for _ in range(3):
    ordinary.log1p()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
special.log1p()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize("package", ["estimators", "priors"])
def test_special_arguments_find_their_constants_mapped(package):
    code = FAULTS.format(imports=f"import ppl_vae.{package}")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) == 0
