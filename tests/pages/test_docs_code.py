"""Every page of the documentation runs as it is printed: its Python blocks in order, in one namespace. What a block
prints is compared with the `text` block right after it, where there is one.

A block fenced as ```` ```python {.no-run} ```` is left out: for code of other libraries only.
"""

import contextlib
import io
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import ROOT

pytestmark = pytest.mark.newest

PAGES = sorted((ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"^```python(?P<options>[^\n]*)\n(?P<code>.*?)^```$(?:\n+```text\n(?P<output>.*?)^```$)?", re.M | re.S
)


class Block(NamedTuple):
    line: int
    code: str
    output: str | None


def blocks(text: str) -> list[Block]:
    """The Python blocks of a page that run, each with the number of its first line."""
    found = [match for match in BLOCK.finditer(text) if "no-run" not in match["options"]]
    return [Block(text.count("\n", 0, match.start("code")), match["code"], match["output"]) for match in found]


def extras() -> set[str]:
    """The packages that an installation may lack."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [line for group in project["optional-dependencies"].values() for line in group]
    return {re.split(r"[^\w-]", line)[0] for line in listed} - {"jals", "jax"}


def run(page: Path, text: str) -> None:
    """Runs a page; fails at the first block that prints something else than the page says."""
    names: dict = {"__name__": "__main__"}
    for block in blocks(text):
        printed = io.StringIO()
        code = compile("\n" * block.line + block.code, str(page), "exec")  # a traceback names the page's own line
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if block.output is not None:
            assert printed.getvalue() == block.output, f"{page.name}, the block at line {block.line + 1}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.usefixtures("as_a_reader", "own_cache", "fresh_caches")
def test_page(page):
    try:
        run(page, page.read_text(encoding="utf-8"))
    except ImportError as missing:
        absent = getattr(missing.__cause__ or missing, "name", None)  # jals names the extra, from the bare error
        if absent is None or absent.partition(".")[0] not in extras():
            raise
        pytest.skip(f"{page.name} needs an extra: {missing}")


def test_pictures_of_the_pages_are_there():
    for page in PAGES:
        for picture in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / picture).is_file(), f"{page.name} shows {picture}"


PAGE = """\
```python
x = 1
print(x)
```

```text
1
```

```python {.no-run}
import another_library
```

```python
print(x + 1)
```

Words.

```text
not what the block above printed
```
"""


def test_blocks_share_names_and_their_output_is_compared(tmp_path):
    assert [block.output for block in blocks(PAGE)] == ["1\n", None]
    run(tmp_path / "page.md", PAGE)
    with pytest.raises(AssertionError, match=r"page\.md, the block at line 2"):
        run(tmp_path / "page.md", PAGE.replace("```text\n1", "```text\n2"))
    with pytest.raises(NameError):
        run(tmp_path / "page.md", PAGE.replace("x = 1\nprint(x)", "print(1)"))
