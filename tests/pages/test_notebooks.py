"""The notebooks of the documentation run as they are stored, and show what they are stored with."""

import base64
import copy
import io
import re

import numpy as np
import pytest

from tests.support import ROOT, needs, script

needs("plot")

from matplotlib.image import imread  # noqa: E402 - of the extra

FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LONG = ("als_against_adam",)  # left to `make test-long`: hundreds of steps of Adam


@pytest.fixture(scope="module")
def runner():
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    return script("docs", "notebooks", "run.py")


@pytest.mark.newest
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LONG)) for path in NOTEBOOKS]
)
@pytest.mark.usefixtures("as_a_reader", "fresh_caches")
def test_a_notebook_shows_what_is_stored(path, runner):
    """All that does not depend on the machine: see `told`."""
    needs("data")
    needs("tables")
    stored = runner.read(path)
    found = runner.executed(stored, path.name)
    for number, (fresh, kept) in enumerate(zip(runner.told(found), runner.told(stored), strict=True), 1):
        assert fresh == kept, f"{path.name}, code cell {number}: python docs/notebooks/run.py {path.stem}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_pictures_are_small_and_described(path, runner):
    pictures = 0
    for cell in runner.read(path)["cells"]:
        for output in cell.get("outputs", ()):
            if (data := output.get("data", {})).get("image/png"):
                pixels = base64.b64decode(data["image/png"])
                assert len(pixels) < 60_000 and imread(io.BytesIO(pixels))[..., :3].std() > 0.01
                assert len(cell["metadata"]["alt"]) > 20
                pictures += 1
    assert pictures and path.stat().st_size < 200_000


def test_every_notebook_is_listed():
    page, nav = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/notebook.md", "mkdocs.yml"))
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        assert f"(notebooks/{path.stem}.md)" in page and f"notebooks/{path.stem}.md\n" in nav


SOURCE = """\
import jals
import numpy as np
print("printed", 1.5)
jals.Ratings.from_arrays(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 2.5], np.float32))
"""


def a_notebook(*sources: str) -> dict:
    cells = [{"cell_type": "code", "metadata": {}, "source": source.splitlines(keepends=True)} for source in sources]
    return {"cells": [{"cell_type": "markdown", "metadata": {}, "source": ["# Words"]}, *cells]}


def test_outputs_are_those_of_jupyter_and_differences_are_told(runner):
    figure = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    done = runner.executed(a_notebook(SOURCE, "name = 3", "name + 1", figure), "made up")
    printed, shown = done["cells"][1]["outputs"]
    assert printed["text"] == ["printed 1.5\n"] and set(shown["data"]) == {"text/plain", "text/html"}
    assert done["cells"][2]["outputs"] == []
    assert done["cells"][3]["outputs"][0]["data"] == {"text/plain": ["4"]}
    (drawn,) = done["cells"][4]["outputs"]
    assert drawn["output_type"] == "display_data" and drawn["data"]["image/png"]
    told = runner.told(done)

    def changed(what: str, into: str) -> bool:
        other = copy.deepcopy(done)
        for cell in other["cells"][1:]:
            for output in cell["outputs"]:
                parts = output if "text" in output else output["data"]
                for kind, text in parts.items():
                    if isinstance(text, list):
                        parts[kind] = [line.replace(what, into) for line in text]
        return runner.told(other) != told

    assert changed("printed 1.5", "printed 1.6")  # what is printed is compared to the letter
    assert changed("2 users", "3 users") and changed("<td", "<th")
    assert not changed("2.5, float32", "2.4, float32")  # a number of an object's own
    done["cells"][1]["metadata"]["tags"] = ["varies"]
    assert runner.told(done)[0] == []


def test_errors_name_the_cell(runner):
    with pytest.raises(ZeroDivisionError) as raised:
        runner.executed(a_notebook("x = 0", "1 / x"), "made up")
    assert raised.traceback[-1].path is not None and "made up, cell 2" in str(raised.traceback[-1])


def test_the_site_shows_code_outputs_and_links(runner):
    pytest.importorskip("mkdocs", reason='the site needs the extra "docs"')
    done = runner.executed(a_notebook(SOURCE), "made up")
    done["cells"].append({"cell_type": "markdown", "metadata": {}, "source": ["See [that](other.ipynb)."]})
    text = script("docs", "notebook_pages.py").page(done, "made.ipynb")
    assert text.startswith("# Words\n\n[This page as a notebook](made.ipynb)\n\n```python\nimport jals\n")
    assert "```text\nprinted 1.5\n```" in text and '<div class="notebook-table"><table>' in text
    assert "[that](other.md)" in text and not re.search(r"\n\n\n", text)
    assert np.count_nonzero([line == "```" for line in text.splitlines()]) == 2
