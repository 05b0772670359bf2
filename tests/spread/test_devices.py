"""Runs what needs several devices, each file in a process of its own: how many there are is settled when jax starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("on_*.py"))
COUNTS = {"on_two_": 2, "on_eight_": 8, "on_sixty_four_": 64}
QUICK = "on_eight_uses"  # on the floor too


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem == QUICK else [pytest.mark.newest], id=path.stem) for path in FILES],
)
def test_on_several_devices(path):
    (devices,) = (count for name, count in COUNTS.items() if path.stem.startswith(name))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment["NPROC"] = str(4 * devices)  # the pool is to be larger than the devices: see docs/scaling.md
    # Hypothesis, of no use here, is imported by its plugin once all tests are done, and Python 3.11 can fail to parse
    # that large module where a collection of garbage falls into it (its issue 106905).
    without = ["cacheprovider", "xdist", "hypothesispytest"]
    if path.stem.endswith("checkpoints"):  # orbax leaves coroutines behind where it was made to fail
        without.append("unraisableexception")
    command = [sys.executable, "-m", "pytest", "-x", *(f"-pno:{name}" for name in without), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
