"""For mkdocs.yml: docstrings describe alike things together ("user, item: int32 ids"). Griffe takes what follows the
first blank of an attribute's name for its type; no-break blanks keep the names together."""

import re
from typing import Any

import griffe


class Grouped(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            names = re.compile(r"^    \w+(?:, \w+)+(?=:)", re.MULTILINE)
            obj.docstring.value = names.sub(
                lambda group: group[0].replace(", ", ",\N{NO-BREAK SPACE}"), obj.docstring.value
            )
