"""MkDocs: a page for each notebook, as it was executed and stored. The notebook itself is copied too, for download."""

import html
import json
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for file in [each for each in files if each.src_uri.endswith(".ipynb")]:
        text = page(json.loads(file.content_string), file.src_uri.rpartition("/")[2])
        files.append(File.generated(config, f"{file.src_uri.removesuffix('.ipynb')}.md", content=text))
    return files


def page(notebook: dict[str, Any], name: str) -> str:
    """Markdown. Its first cell is the title and what the notebook is about."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))  # one notebook refers to another
            if len(parts) == 1:
                parts.append(f"[This page as a notebook]({name})")
        else:
            parts.append(f"```python\n{source}\n```")
            parts += [_output(output, cell["metadata"].get("alt", "")) for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any], alt: str) -> str:
    if output["output_type"] == "stream":
        return f"```text\n{''.join(output['text'])}```"
    data = output["data"]
    if "image/png" in data:
        width = output["metadata"]["image/png"]["width"]
        source = f"data:image/png;base64,{data['image/png']}"
        return f'<p><img src="{source}" width="{width}" alt="{html.escape(alt)}"></p>'
    if "text/html" in data:
        return f'<div class="notebook-table">{"".join(data["text/html"])}</div>'
    return f"```text\n{''.join(data['text/plain'])}\n```"
