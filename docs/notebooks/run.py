"""Executes the notebooks of this folder, cell by cell, and keeps in them what they show.

    python docs/notebooks/run.py                    # all of them
    python docs/notebooks/run.py als_against_adam   # one

They are files of Jupyter's as any others. They are executed here without its kernel, which would bring 29 packages and
a process of its own for each: what a cell prints is kept, what its last expression is, as Jupyter would ask for it, and
open figures of pyplot. The test of them (tests/pages/test_notebooks.py) executes them likewise, and compares.
"""

import ast
import base64
import contextlib
import io
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import PIL.Image  # comes with it

from jals.plot.style import css_pixels, png

HERE = Path(__file__).parent
# What differs from machine to machine, where an object shows itself: numbers that are not whole, and seconds.
_NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?= ?s\b)|-?\d[\d,]*\.\d+(e[+-]?\d+)?|\d+e[+-]?\d+")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, notebook: dict[str, Any]) -> None:
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def executed(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """The notebook with the outputs of its cells, executed in order in one namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            found = _outputs("".join(cell["source"]), names, count, f"{name}, cell {count}")
            cell = cell | {"execution_count": count, "outputs": found}
        cells.append(cell)
    return notebook | {"cells": cells}


def told(notebook: dict[str, Any]) -> list[list[Any]]:
    """What the code cells show that does not depend on the machine: of what is printed all; of objects the text and the
    table without numbers that are not whole; of a picture that there is one. A cell with the tag "varies" says nothing:
    it prints seconds."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[] if "varies" in cell["metadata"].get("tags", ()) else list(map(_told, cell["outputs"])) for cell in cells]


def _told(output: dict[str, Any]) -> Any:
    if output["output_type"] == "stream":
        return "".join(output["text"])
    data = output["data"]
    return {kind: "a picture" if "image" in kind else _NUMBER.sub("#", "".join(data[kind])) for kind in sorted(data)}


def _outputs(code: str, names: dict[str, Any], count: int, where: str) -> list[dict[str, Any]]:
    tree, value = ast.parse(code, where), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, where, "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), where, "eval"), names)
    lines = printed.getvalue().splitlines(keepends=True)
    outputs: list[dict[str, Any]] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []
    if value is not None and not code.endswith(";"):
        data, metadata = _bundle(value)
        kept = {"data": data, "execution_count": count, "metadata": metadata, "output_type": "execute_result"}
        outputs.append(kept)
    for number in plt.get_fignums():
        figure = plt.figure(number)
        data, metadata = _picture(png(figure, 144), dict(zip(("width", "height"), css_pixels(figure), strict=True)))
        outputs.append({"data": data, "metadata": metadata, "output_type": "display_data"})
        plt.close(figure)
    return outputs


def _bundle(value: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Jupyter keeps of an object: by kind what it says of itself, and how large its picture is shown."""
    text: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    html = value._repr_html_() if hasattr(value, "_repr_html_") else None
    if html:
        text["text/html"] = html.splitlines(keepends=True)
    if not hasattr(value, "_repr_png_"):
        return text, {}
    data, metadata = _picture(*value._repr_png_())
    return text | data, metadata


def _picture(pixels: bytes, size: dict[str, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """In 64 colours, a fifth of the bytes."""
    smaller = io.BytesIO()
    PIL.Image.open(io.BytesIO(pixels)).convert("RGB").quantize(64).save(smaller, "png", optimize=True)
    return {"image/png": base64.b64encode(smaller.getvalue()).decode()}, {"image/png": size}


def main(wanted: list[str]) -> None:
    plt.switch_backend("agg")
    paths = [path for path in sorted(HERE.glob("*.ipynb")) if not wanted or path.stem in wanted]
    for path in paths:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            done = executed(read(path), path.name)
        write(path, done)
        print(f"{path.name}: {path.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
