"""What a report says, apart from how it is set: numbers in words, tables of cells, sections of blocks."""

import math
import re
import statistics
from typing import Any, NamedTuple

from ..console import printable
from ..page.gallery import PageFigure

LONG = 40  # rows, from which a table is folded away
_SMALL = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Cell(NamedTuple):
    """A number or a word of a table; `small` stands behind it in fainter letters."""

    text: str
    small: str = ""
    bold: bool = False


class ReportTable(NamedTuple):
    """Columns whose name ends in no colon hold numbers, to the right; `name:` holds words, to the left."""

    columns: list[str]
    rows: list[list[Cell]]
    kind = "table"

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """(name, whether it holds numbers)"""
        return [(column.removesuffix(":"), not column.endswith(":")) for column in self.columns]


class Text(NamedTuple):
    """A paragraph; `level` 3 makes it a heading."""

    text: str
    level: int = 0
    kind = "text"


class Code(NamedTuple):
    text: str
    kind = "code"


class Pictures(NamedTuple):
    shown: list[PageFigure]
    kind = "pictures"


class Folded(NamedTuple):
    """Blocks behind a line to click on."""

    summary: str
    blocks: list[Any]
    kind = "folded"


class Section(NamedTuple):
    id: str
    title: str
    blocks: list[Any]


def make_table(columns: list[str], rows: list[list[Cell]], what: str) -> ReportTable | Folded:
    """A table, folded away where it is long. A column that is empty in every row is left out."""
    kept = [place for place in range(len(columns)) if any(row[place].text for row in rows)]
    made = ReportTable([columns[place] for place in kept], [[row[place] for place in kept] for row in rows])
    return made if len(rows) <= LONG else Folded(f"{what}: {len(rows):,} rows", [made])


def number(value: float | None, digits: int = 4) -> str:
    """So many digits that count: 0.8213, 12.50, 3,410,000, 2.12×10⁻⁷; – where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == round(value) and abs(value) < 1e7:
        return f"{round(value):,}".replace("-", "−")
    if not 1e-3 <= abs(value) < 1e7:
        mantissa, _, exponent = f"{value:.{min(digits, 3) - 1}e}".partition("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_SMALL)}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}".replace("-", "−")


def decimals(means: list[float], errors: list[float]) -> int | None:
    """After the point, for a column of means: two digits of the median error. None where numbers are too large or too
    small to be set so."""
    if not means or not 1e-6 < max(map(abs, means)) < 1e9:
        return None
    errors = [error for error in errors if error > 0]
    wanted = 1 - math.floor(math.log10(statistics.median(errors))) if errors else 5
    return min(6, max(0, wanted if errors else wanted - 1 - math.floor(math.log10(max(map(abs, means))))))


def with_error(mean: float, error: float, places: int | None, sign: str = "") -> tuple[str, str]:
    """A mean and its standard error; `sign="+"` writes that too."""
    if places is None:
        return number(mean), "" if math.isnan(error) else f"± {number(error, 2)}"
    text = f"{mean:{sign},.{places}f}".replace("-", "−")
    return text, "" if math.isnan(error) else f"± {error:,.{places}f}"


def brief(value: float) -> str:
    """0.02 and 10⁻⁵: a number that somebody chose, without zeros at its end."""
    text = number(value, 3)
    mantissa, times, power = text.partition("×")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return power if times and mantissa == "1" else mantissa + times + power


def counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def share(part: float) -> str:
    """1 %, which no line is broken in."""
    return f"{100 * part:.6g}\N{NO-BREAK SPACE}%"


def capital(text: str) -> str:
    """With a large first letter, the others as they are."""
    return text[:1].upper() + text[1:]


def joined(words: list[str]) -> str:
    """a, b and c"""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def escaped(text: Any) -> str:
    """A text in Markdown, whatever letters it has, on one line."""
    text = re.sub(" +", " ", printable(str(text).strip()))
    text = re.sub(r"([\\`*\[\]<>|#~])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
