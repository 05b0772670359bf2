"""The documentation as a site: it builds without a warning, every link leads somewhere, nothing is loaded from a
network, and its two references are complete. (That its code runs is `test_docs_code.py`.)"""

import html
import json
import os
import re
import subprocess
import sys
import tomllib
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any, get_args
from urllib.parse import unquote, urlsplit

import pytest

import jals
from tests.support import ROOT, script

DOCS = ROOT / "docs"


class Page(HTMLParser):
    """What a built page links to, loads, and can be linked at."""

    # What a browser fetches by itself; any other href is for a reader to click.
    LOADED_RELATIONS = ("stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "manifest")

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        at = {name: value or "" for name, value in attrs}
        self.anchors |= {at[name] for name in ("id", "name") if name in at}
        relations = at.get("rel", "").split()
        if tag == "a" and "href" in at:
            self.links.append(at["href"])
        elif tag == "link" and any(relation in self.LOADED_RELATIONS for relation in relations):
            self.loads.append(at["href"])
        self.loads += [at[name] for name in ("src", "poster", "data") if at.get(name)]
        self.loads += [source.split()[0] for source in at.get("srcset", "").split(",") if source.strip()]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason='the site needs the extra "docs"')
    pytest.importorskip("mkdocstrings", reason='the site needs the extra "docs"')
    pytest.importorskip("latex2mathml", reason='the site needs the extra "docs"')
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "error", "-W", "default::DeprecationWarning", "-m", "mkdocs", "build", "--strict"]
    # Material for MkDocs advertises its successor in the terminal, which is no warning of ours.
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run([*command, "--site-dir", str(place)], cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return place


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def _local(page: Path, address: str) -> tuple[Path, str] | None:
    """(the file, the anchor) that an address on a page leads to, or None where that is another site."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    return (page.parent / unquote(parts.path)).resolve() if parts.path else page, unquote(parts.fragment)


def test_every_page_is_built(pages):
    assert {page.stem for page in DOCS.glob("*.md")} <= {path.stem for path in pages}


def test_every_link_and_anchor_is_there(pages):
    missing = []
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses are absolute: it is shown at any place
            continue
        for address in page.links:
            if (target := _local(path, address)) is None:
                continue
            file, anchor = target
            if not file.is_file() or (anchor and anchor not in pages[file].anchors):
                missing.append(f"{path.name}: {address}")
    assert not missing


def test_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        for address in page.loads:
            if address.startswith("data:"):
                continue
            target = _local(path, address)
            assert target is not None, f"{path.name} loads {address}"
            assert path.name == "404.html" or target[0].is_file(), f"{path.name} loads {address}, which is not there"
    for sheet in site.rglob("*.css"):
        fetched = re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*;", sheet.read_text("utf-8"))
        assert not fetched, f"{sheet.name} loads {fetched}"


def _formulas(text: str) -> list[tuple[str, bool]]:
    """The formulas of a page's Markdown, in order, and whether each stands by itself: in a fence of "math", not $…$."""
    prose = re.sub(r"^( *)```(?!math)\w.*?^\1```$|`[^`\n]+`", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"```math\n(.*?)```|\$(\S(?:[^$]*\S)?)\$", prose, re.DOTALL)
    return [(fenced.strip() or inline, bool(fenced)) for fenced, inline in found]


def test_every_formula_is_drawn_by_the_browser_itself(site):
    """As MathML, without a script; as many as the pages have, and nothing of LaTeX is left over."""
    mathml, drawn = script("docs", "mathml.py").mathml, 0
    for page in DOCS.glob("*.md"):
        built = (site / page.with_suffix(".html").name).read_text(encoding="utf-8")
        formulas = _formulas(page.read_text(encoding="utf-8"))
        found = re.findall(r"<math .*?</math>", built, re.DOTALL)
        assert found == [mathml(*each) for each in formulas], page.name
        assert "arithmatex" not in built, page.name
        for part in found:
            assert not re.search(r"\\|<mi>&|[\^$]", part), f"{page.name}: {part}"
        drawn += len(formulas)
    assert drawn > 40


def test_no_mark_begins_a_line_after_a_formula(site):
    built = (site / "derivation.html").read_text(encoding="utf-8")
    assert '</math>;</span>' in built and not re.search(r"</math>[.,;:?!)]+(?!</span>)", built)


def test_the_font_of_formulas_has_all_their_letters():
    """A lone letter is drawn in italics, which are letters of their own."""
    fonts = pytest.importorskip("fontTools.ttLib", reason='the font is read by fonttools, of the extra "cli"')
    pytest.importorskip("latex2mathml", reason='formulas need the extra "docs"')
    mathml = script("docs", "mathml.py").mathml
    font = fonts.TTFont(DOCS / "fonts" / "math.woff")
    wanted: set[str] = set()
    for formula in (each for page in DOCS.glob("*.md") for each in _formulas(page.read_text(encoding="utf-8"))):
        for kind, words in re.findall(r"<(mi|mo|mn|mtext)\b[^>]*>([^<]*)<", mathml(*formula)):
            words = html.unescape(words)
            wanted |= set(_italic(words) if kind == "mi" and len(words) == 1 else words)
    assert wanted >= set("∑−(1") | {_italic("x"), _italic("λ")}
    assert {ord(each) for each in wanted} <= set(font.getBestCmap())
    assert font["MATH"].table.MathConstants.SubscriptShiftDown.Value > 0


def _italic(letter: str) -> str:
    if not letter.isalpha() or letter == "h":
        return letter.replace("h", "\N{PLANCK CONSTANT}")
    named = unicodedata.name(letter).partition(" ")[2].replace("LETTER ", "")  # SMALL LAMDA
    return unicodedata.lookup(f"MATHEMATICAL ITALIC {named}")


def _public_names() -> list[str]:
    """Every name that `jals/__init__.py` makes, but modules that are there because others import them."""
    source = (ROOT / "jals" / "__init__.py").read_text(encoding="utf-8")
    imported = re.findall(r"^    from \.\S* import (\([^)]*\)|.*)$", source, re.MULTILINE)
    names = re.findall(r"\w+", " ".join(imported))
    assert set(names) >= {"fit", "ALS", "Ratings", "split"}
    return names


def test_every_public_name_is_in_the_reference(pages):
    anchors = next(page.anchors for path, page in pages.items() if path.stem == "api")
    homes = {name: getattr(getattr(jals, name), "__module__", "") for name in _public_names()}
    assert not [n for n, home in homes.items() if not {f"jals.{n}", f"{home}.{n}"} & anchors]


def test_names_that_a_docstring_groups_stay_together(site):
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert "user,\N{NO-BREAK SPACE}item" in reference
    assert not re.findall(r"<b>[^<]*,</b>|<code>\w+,</code>", reference)


def test_every_function_of_a_public_module_is_in_the_reference(pages):
    anchors = next(page.anchors for path, page in pages.items() if path.stem == "api")
    for module in (jals.split, jals.datasets, jals.metrics):
        assert isinstance(module, ModuleType)
        public = f"jals.{module.__name__.rpartition('.')[2]}"
        for name, value in vars(module).items():
            if getattr(value, "__module__", None) == module.__name__ and not name.startswith("_"):
                assert f"{public}.{name}" in anchors


def _models(annotation: Any) -> list[Any]:
    """The tables that a key of the file may hold; none where it holds a value."""
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _schema() -> dict[str, list[Any]]:
    """The default of every "table.key" in each model that has it; () where it must be given."""
    pytest.importorskip("pydantic", reason='configs need the extra "cli"')
    from jals.app.config import schema

    keys: dict[str, list[Any]] = {}
    for table, field in schema.Config.model_fields.items():
        models = _models(field.annotation)
        fields = [(f"{table}.{key}", each) for model in models for key, each in model.model_fields.items()]
        for key, described in fields or [(table, field)]:
            keys.setdefault(key, []).append(() if described.is_required() else described.default)
    assert set(keys) >= {"question", "data.path", "objective.alpha", "solver.batch_size", "grid", "tune.range"}
    return keys


def _config_rows() -> dict[str, str]:
    """The last cell of the row of every key on the page of the command line."""
    rows, key = {}, r"`[a-z]+(?:\.[a-z_]+)?`"
    for line in (DOCS / "cli.md").read_text(encoding="utf-8").splitlines():
        if match := re.fullmatch(rf"\| ({key}(?:, {key})*) \|.*\|([^|]*)\|", line):
            rows |= dict.fromkeys(re.findall(r"`([^`]+)`", match[1]), match[2].strip())
    return rows


def test_every_config_key_is_described_with_its_default():
    described, schema = _config_rows(), _schema()
    assert set(described) == set(schema)
    for key, defaults in schema.items():
        written = re.findall(r"`([^`]+)`", described[key]) or [described[key]]  # several, where tables differ
        found = {each if each in ("none", "") else json.dumps(tomllib.loads(f"v = {each}")["v"]) for each in written}
        names = {None: "none", (): ""}
        known = {names[each] if each in (None, ()) else json.dumps(each) for each in defaults}  # 1 is not 1.0
        assert found == known, key


def test_every_config_on_a_page_is_one(tmp_path):
    pytest.importorskip("pydantic", reason='configs need the extra "cli"')
    from jals.app import config

    found = 0
    own = re.search(r"```python\n(.*?)```", (DOCS / "own-solver.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "my_solvers.py").write_text(own[1], encoding="utf-8")
    for page in sorted(DOCS.glob("*.md")):
        for text in re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            (tmp_path / "config.toml").write_text(text, encoding="utf-8")
            config.load(tmp_path / "config.toml")
            found += 1
    assert found


def test_every_command_is_on_its_page():
    pytest.importorskip("typer", reason='the command line needs the extra "cli"')
    from jals.app import cli

    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    app = cli.build()
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"\n## jals {command.callback.__name__}\n" in text
    for group in app.registered_groups:
        assert f"\n## jals {group.name}\n" in text
        assert group.typer_instance is not None
        for command in group.typer_instance.registered_commands:
            assert command.callback is not None
            assert f"\njals {group.name} {command.callback.__name__} " in text
