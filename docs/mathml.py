"""For mkdocs.yml: formulas are written in LaTeX, as code hosts show them, and become MathML when the site is built.
Browsers draw that by themselves, without a script, in the font of fonts/."""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# What pymdownx.arithmatex leaves for a script, \(in a line\) or \[by itself\], and what may not begin the next line.
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>([.,;:?!)]*)', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    return FORMULA.sub(_drawn, content)


def _drawn(found: re.Match[str]) -> str:
    kind, latex, mark = found.groups()
    drawn = mathml(html.unescape(latex), by_itself=kind == "div") + mark
    return f'<span class="together">{drawn}</span>' if mark else drawn


def mathml(latex: str, by_itself: bool = False) -> str:
    return convert(latex.strip(), display="block" if by_itself else "inline")
