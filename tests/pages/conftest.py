"""What tests of pages share."""

import jax
import pytest


@pytest.fixture
def as_a_reader(monkeypatch, tmp_path):
    """A fresh process in an empty folder, as near as may be: without the x64 of the tests."""
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", True)
