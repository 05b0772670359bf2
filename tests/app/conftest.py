"""A browser, where one is installed."""

import os
import shutil

import pytest


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are opened by playwright")
    names = (os.environ.get("JALS_CHROMIUM") or "", "chromium", "chromium-browser", "google-chrome")
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    if found is None:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH, and JALS_CHROMIUM names none")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()
