"""A C++ compiler, where there is one."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest


def build(source: Path, program: Path, *flags: str) -> subprocess.CompletedProcess:
    """Compiles a program, or with -shared a library; skips where there is no compiler."""
    given = os.environ.get("CXX")
    commands = [shlex.split(each) for each in ([given] if given else ["c++", "g++", "clang++"])]
    found = next((each for each in commands if shutil.which(each[0])), None)
    if found is None:
        pytest.skip("needs a C++ compiler")
    command = [*found, "-std=c++17", "-pthread", *flags, str(source), "-o", str(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500)
