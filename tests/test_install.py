"""The package as installed, whatever folder a program is started in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FIND = 'import importlib.util as util; found = util.find_spec("jals"); print(found and found.origin)'


def found_from(folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", FIND], cwd=folder, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


def test_a_folder_named_jals_does_not_hide_the_package(tmp_path):
    """A clone is such a folder to a script that lies beside it."""
    installed = found_from(tmp_path)
    if installed == "None":
        pytest.skip("jals is not installed")
    if any(name.startswith("__editable___jals") for name in sys.modules):
        pytest.skip("jals was installed before its installs went by path: install it again")
    (tmp_path / "jals").mkdir()
    assert found_from(tmp_path) == installed
