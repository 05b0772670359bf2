"""What `jals` shows is what the reference documents, and both are one list."""

import ast
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jals
from tests.support import ROOT

API = ROOT / "docs/api.md"


def documented():
    """Names of `jals` that the reference has a heading for."""
    return set(re.findall(r"^::: jals\.(\w+)$", API.read_text(encoding="utf-8"), re.M))


def test_all_is_what_the_reference_documents():
    errors = {name for name in jals.__all__ if isinstance(getattr(jals, name), type)} & set(vars(jals.errors))
    assert set(jals.__all__) - errors == documented()
    text = API.read_text(encoding="utf-8")
    assert not [name for name in errors if name not in text]


def test_dir_shows_what_is_public():
    assert sorted(dir(jals)) == sorted([*jals.__all__, "__version__"])
    assert len(set(jals.__all__)) == len(jals.__all__)
    assert not [name for name in jals.__all__ if not hasattr(jals, name)]


def test_no_module_has_the_name_of_a_public_call():
    calls = {name for name in jals.__all__ if callable(getattr(jals, name))}
    assert "fit" in calls and calls.isdisjoint(module.name for module in pkgutil.iter_modules(jals.__path__))


def test_types_are_told():
    assert (Path(jals.__file__).parent / "py.typed").is_file()


def test_type_checkers_and_readers_are_told_what_is_found():
    """The imports that type checkers read, and where `jals` looks, are one list."""
    tree = ast.parse(Path(jals.__file__).read_text("utf-8"))
    (told,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = set()
    for node in told.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            names.add(alias.name)
            home = ".".join(["jals", *([node.module] if node.module else [])])
            found = getattr(jals, alias.name)
            module = f"{home}.{alias.name}" if isinstance(found, type(ast)) else home
            assert sys.modules[module] is found or getattr(sys.modules[module], alias.name) is found
    assert names == set(jals.__all__)


ASK = """
import sys
import jals
assert "jax" not in sys.modules, "import jals imports jax"
jals.fit, jals.ALS, jals.Problem, jals.als_wr, jals.certify, jals.metrics, jals.split, jals.predict, jals.read_ratings
assert "jax" in sys.modules
print([name for name in ("optax", "jals.solvers.gradient", "jals.app", "polars", "matplotlib") if name in sys.modules])
"""


def test_importing_takes_no_longer_than_jax():
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=100)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_what_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'jals' has no attribute 'als'"):
        getattr(jals, "als")  # noqa: B009
