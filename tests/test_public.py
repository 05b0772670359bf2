"""What `jals` shows is what the reference documents, and both are one list."""

import pkgutil
import re
from pathlib import Path

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
