"""Random text files against Python's csv module: the same table record by record, or a refusal that names the right
line. Never another table, never another library's exception, never a refusal of a file that docs/data.md says is read.

JALS_FUZZ says how many files (500 unless given): `make fuzz` takes many."""

import collections
import csv
import dataclasses
import gzip
import io
import os
import re
from typing import Any

import numpy as np
import pytest

import jals

pytest.importorskip("polars", reason='reading files needs the extra "tables"')

FILES = int(os.environ.get("JALS_FUZZ", "500"))
DELIMITERS = (",", "\t", ";", "|", " ", "::", "#")
NAMES = {"user": ["userId", "user_id", "User"], "item": ["movieId", "ASIN", "item id"], "value": ["rating", "plays"]}
# Of a text that is no id: it stands in columns that nobody reads.
PIECES = ["Heat", '"q"', '7"', "a;b;c", "x|y", "1,5", "Star Wars: IV", "::", "é", "☃", "-", "0", "12", "007", "don't"]
PIECES += ['\\"', "\t", "#", "", " ", "line\nbreak", "para\n\ngraph", 'quote "in" it', ";;;;", "1;2;3;4", "a\r\nb"]


@dataclasses.dataclass
class File:
    """A file, how to read it, and what reading it has to give."""

    content: bytes
    options: dict[str, Any]
    delimiter: str
    quoted: bool
    header: bool
    place: dict[str, int]  # of each role
    kinds: dict[str, str]  # of user and item
    told: bool  # whether the options leave nothing to find out


def field(text, delimiter, style, rng):
    """A field as written. Where quotes are there, whatever needs them gets them."""
    if style == "never":
        return text
    needs = delimiter in text or "\n" in text or "\r" in text or text.startswith('"')
    if needs or style == "always" or (style == "some" and rng.random() < 0.3) or (style == "safe" and '"' in text):
        return '"' + text.replace('"', '""') + '"'
    return text


def made(rng) -> File:
    pick = lambda options: options[rng.integers(len(options))]  # noqa: E731
    delimiter = pick(DELIMITERS)
    style = "never" if delimiter == "::" else pick(["never", "minimal", "safe", "some", "always"])
    width = int(rng.integers(2, 7))
    places = rng.permutation(width)
    place = {"user": int(places[0]), "item": int(places[1])}
    if width > 2:
        place["value"] = int(places[2])
    header, told = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    named = header and rng.random() < 0.7
    kinds = {side: pick(["integers", "padded", "text"]) for side in ("user", "item")}
    count = int(rng.integers(1 if told else 2, 12))
    pairs = rng.choice(400, count, replace=False)

    def plain(text):
        """The text, without what this file cannot hold."""
        if style != "never":
            return text
        text = re.sub(r"[\r\n]", "_", text).replace(delimiter, "_")
        text = text.lstrip('"') if delimiter != "::" else text
        return text.strip(":") if delimiter == "::" else text

    def id(side, number):
        if kinds[side] == "integers":
            return str(number * 7 - 30)
        if kinds[side] == "padded":
            return f"{number * 3:05d}"
        odd = pick(["", "", " x", ",", ";y", "é", '"', "::"]) if rng.random() < 0.3 else ""
        return plain(f"{'ui'[side == 'item']}{number}{odd}")

    ids = {side: [id(side, number) for number in range(20)] for side in ("user", "item")}
    records = []
    for pair in pairs:
        record = [plain(pick(PIECES)) for _ in range(width)]
        record[place["user"]], record[place["item"]] = ids["user"][pair // 20], ids["item"][pair % 20]
        if "value" in place:
            record[place["value"]] = pick([str(rng.integers(-3, 9)), f"{rng.normal():.3f}", "1e3", ".5", "+2", "1e-9"])
        records.append(record)
    names = [f"col {n}" for n in range(width)]
    for role, at in place.items():
        names[at] = pick(NAMES[role]) if named else names[at]
    names = [plain(name) for name in names]
    damage = pick(["none"] * 6 + ["wide", "narrow", "no number", "no id", "quote", "late quote", "header"])
    if damage == "no number" and "value" in place:
        pick(records)[place["value"]] = pick(["", "five", "1,5", "1_0", "0x1", " 3"]) if style != "never" else "five"
    if damage == "no id":
        pick(records)[place["item"]] = ""
    rows = [[field(text, delimiter, style, rng) for text in record] for record in records]
    if damage == "wide":
        pick(rows).append("x")
    if damage == "narrow":
        pick(rows).pop()
    if damage == "quote":
        row = pick(rows)
        row[rng.integers(len(row))] = pick(['"open', 'in"side', '"a" b', '"a\\"b"', '""', '"'])
    if damage == "late quote":
        rows[-1][-1] += '"'
    end = pick(["\n", "\n", "\r\n"])
    rows = [[field(name, delimiter, style, rng) for name in names], *rows] if header else rows
    lines = [delimiter.join(row) for row in rows]
    if rng.random() < 0.3:
        lines = [line for each in lines for line in ([each, ""] if rng.random() < 0.3 else [each])]
    text = end.join(lines) + pick([end, end, "", end * 3])
    content = (b"\xef\xbb\xbf" if rng.random() < 0.1 else b"") + text.encode()
    options: dict[str, Any] = {"time": False, "weight": False}
    if named and rng.random() < 0.5:
        options |= {role: names[at] for role, at in place.items()}
    elif not named or rng.random() < 0.5:
        options |= place
    if "value" not in place:
        options["value"] = False
    if told or delimiter == "#":
        options |= {"delimiter": delimiter, "header": header}
    if style == "never" and rng.random() < 0.5:
        options["quoted"] = False
    if rng.random() < 0.2:
        content = gzip.compress(content)
    quoted = delimiter != "::" and options.get("quoted") is not False
    return File(content, options, delimiter, quoted, header, place, kinds, "header" in options)


def expected(file: File):
    """((line, fields) of the records below the header, fields None where the line breaks the rule; the widths that the
    table may have), by Python's csv module alone."""
    content = gzip.decompress(file.content) if file.content[:2] == b"\x1f\x8b" else file.content
    lines = [line.decode() for line in io.BytesIO(content.removeprefix(b"\xef\xbb\xbf"))]
    records, last = [], 0
    if file.delimiter == "::":
        split = ((n, line.rstrip("\r\n").split("::")) for n, line in enumerate(lines, 1) if line.rstrip("\r\n"))
        records = list(split)
    else:
        quoting = csv.QUOTE_MINIMAL if file.quoted else csv.QUOTE_NONE
        reader = csv.reader(lines, delimiter=file.delimiter, strict=True, quoting=quoting)
        try:
            for fields in reader:
                if fields:
                    records.append((last + 1, fields))
                last = reader.line_num
        except csv.Error:
            records.append((last + 1, None))
    body = records[int(file.header) :]
    if file.header:
        return body, [len(records[0][1] or ())]
    return body, sorted({len(fields or ()) for _, fields in body})


def wrong_lines(file: File, body, width) -> list[int]:
    """The lines of records that cannot be entries, if every record is to have this width."""
    wrong = []
    for line, fields in body:
        if fields is None or len(fields) != width or width <= max(file.place.values()):
            wrong.append(line)
            continue
        value = fields[file.place["value"]] if "value" in file.place else "1"
        try:
            good = value == value.strip() and "_" not in value and np.isfinite(float(value))
        except ValueError:
            good = False
        ids = [fields[file.place[side]] for side in ("user", "item")]
        if not (good and all(ids)):
            wrong.append(line)
    return wrong


def verdict(file: File, folder) -> str:
    """What came of it: "read", "refused", or what is wrong with that."""
    path = folder / "t.csv"
    path.write_bytes(file.content)
    body, candidates = expected(file)
    try:
        ratings, vocab = jals.read_ratings(path, **file.options)
    except jals.DataError as error:
        said = str(error)
        wrong = [line for each in candidates for line in wrong_lines(file, body, each)[:1]]
        if not body or len(wrong) == len(candidates):
            absent = "there is no column" in said and max(file.place.values()) >= min(candidates)
            absent |= "is one column" in said and min(candidates) == 1
            if not body or absent or any(f"line {line}" in said for line in wrong):
                return "refused"
            if not file.told and ("pass delimiter=" in said or "pass header=" in said):
                return "undecided"
            return f"names another line than {wrong}: {said}"
        if "the same integer" in said or "an integer" in said or "no integer" in said:
            mixed = any(_kind_of(file, body, side) == "mixed" for side in ("user", "item"))
            return "refused" if mixed else f"valid, and yet: {said}"
        if not file.told and ("pass delimiter=" in said or "pass header=" in said):
            return "undecided"
        return f"valid, and yet: {said}"
    columns = vocab.user[ratings.user], vocab.item[ratings.item], ratings.value
    got = list(zip(*(column.tolist() for column in columns), strict=True))
    for each in candidates:
        if not wrong_lines(file, body, each) and got == table(file, body):
            return "read"
    return f"read as {got}"


def _kind_of(file: File, body, side) -> str:
    fields = [record[file.place[side]] for _, record in body]
    canonical = [bool(re.fullmatch(r"-?[1-9]\d*|0", each)) for each in fields]
    digits = [bool(re.fullmatch(r"[+-]?\d+", each)) for each in fields]
    if all(canonical):
        return "integers"
    if all(digits):
        plain = [int(each) for each in fields]
        return "text" if len(set(plain)) == len(set(fields)) else "mixed"
    return "mixed" if any(canonical) else "text"


def table(file: File, body):
    columns = []
    for side in ("user", "item"):
        fields = [record[file.place[side]] for _, record in body]
        columns.append([int(each) for each in fields] if _kind_of(file, body, side) == "integers" else fields)
    values = [float(record[file.place["value"]]) if "value" in file.place else 1.0 for _, record in body]
    return list(zip(*columns, values, strict=True))


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("chunk", [5, 1 << 18])  # files this small would fit into one
def test_random_files_are_read_as_the_csv_module_reads_them_or_refused(tmp_path, monkeypatch, chunk, part):
    monkeypatch.setattr("jals.data.delimiters._CHUNK", chunk)
    seen = collections.Counter()
    for seed in range(part + 4 * (chunk == 5), FILES, 8):
        file = made(np.random.default_rng(seed))
        what = verdict(file, tmp_path)
        assert what in ("read", "refused", "undecided"), f"seed {seed}: {what}\n{file}"
        seen[what] += 1
    assert min(seen["read"], seen["refused"]) > seen.total() / 5 and seen["undecided"] < seen.total() / 10, seen
