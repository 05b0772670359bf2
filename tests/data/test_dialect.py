"""How text tables are written is found out right, or not at all: what is read is what was there."""

import pytest

import jals

pytest.importorskip("polars", reason='reading files needs the extra "tables"')

HEAD = "user,item,rating,title\n"
PLACES = {"user": 0, "item": 1, "value": 2, "time": False}


def read(folder, content, options):
    path = folder / "t.csv"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    ratings, vocab = jals.read_ratings(path, **options)
    columns = vocab.user[ratings.user], vocab.item[ratings.item], ratings.value
    return list(zip(*(column.tolist() for column in columns), strict=True))


def rows(*titles):
    """A table with these titles, in a column that nobody reads."""
    return HEAD + "".join(f"{n},{10 + n},{n % 5},{title}\n" for n, title in enumerate(titles))


TWO = [(1, 2, 4.5), (2, 2, 3.5)]
READ = {
    # what is wanted of the file: (content, options, entries)
    "inches": (rows("plain", '7" vinyl', "plain", '7" disc'), {}, [(n, 10 + n, n) for n in range(4)]),
    "inches beside quotes": (rows('"a, b"', '7" vinyl', '"x ""y"" z"'), {}, [(n, 10 + n, n) for n in range(3)]),
    "inches at line ends": (rows('"q"', '7"', '12"'), {}, [(n, 10 + n, n) for n in range(3)]),
    "quotes that are none": (rows('"Heroes" live', "x"), {"quoted": False}, [(0, 10, 0), (1, 11, 1)]),
    "paragraphs": (rows('"Good.\n\nVery."', "fine") + "\n", {}, [(0, 10, 0), (1, 11, 1)]),
    "a header of two lines": ('"note\n(any)",user,item,rating\nx,1,2,3\n', {}, [(1, 2, 3)]),
    "lists in the last field": ("1,2,4.5,1;2;3;4;5\n2,2,3.5,6;7;8;9;1\n", PLACES, TWO),
    "lists that blanks come before": ("1 2 4.5 1;2;3\n2 2 3.5 6;7;8\n", PLACES, TWO),
    "lists in quotes": (
        'ann,"rock;pop;jazz",4\nbob,"x;y;z",3\n',
        {},
        [("ann", "rock;pop;jazz", 4), ("bob", "x;y;z", 3)],
    ),
    "genres": ("1::2::4.5::Comedy|Drama\n2::2::3.5::Crime|War\n", PLACES, TWO),
    "names with commas": ("Doe, J\tX, Y\t5\nRoe, R\tX, Z\t4\n", {}, [("Doe, J", "X, Y", 5), ("Roe, R", "X, Z", 4)]),
    "single colons": ("1::Heat::5\n1::Star Wars: IV::3\n", {}, [(1, "Heat", 5), (1, "Star Wars: IV", 3)]),
    "single colons in the last field": ("1::Heat::5::a:b\n1::x::3::c\n", PLACES, [(1, "Heat", 5), (1, "x", 3)]),
    "a mark of ours in a :: file": ("1::2::4.5::a\x1fb\n2::2::3.5::c\x1e\n", PLACES, TWO),
    "an item called Time": ("12,Time,4\n13,Naima,3\n", PLACES, [(12, "Time", 4), (13, "Naima", 3)]),
    "names of columns that are not usual": ("who,what,how\nann,7,5\n", PLACES, [("ann", 7, 5)]),
    "pairs whose first user comes again": ("ann,x\nann,y\n", {}, [("ann", "x", 1), ("ann", "y", 1)]),
    "Latin-1 where nobody reads": (rows("\udce9"), {}, [(0, 10, 0)]),
}
REFUSED = {
    # content, options, what is said
    "text after a quote": (rows('"the 7\\" disc"', "x", '"the 7\\" disc"'), {}, r"line 2: .*quoted=False"),
    "a name in quotes": (rows("x", '"Heroes" live'), {}, r"line 3: .*quoted=False"),
    "an open quote": (rows("x", '"7 inches', "x"), {}, r"line 3: a quote is opened and never closed.*quoted=False"),
    "a comma in a title": (rows("Heat", "Se7en, 2"), {}, r"line 3 has 5 fields, but the header has 4.*\"in quotes\""),
    "a title too few": (HEAD + "1,2,3,x\n1,3,3\n", {}, "line 3 has 3 fields, but the header has 4"),
    "colons in a title": (
        "1::2::Heat::5\n1::3::Se7en::2::5\n2::2::x::5\n",
        {**PLACES, "value": 3},
        "line 2 has 5 fields",
    ),
    "the first line is the odd one": ("1,2,3,4\n1,3,3\n2,2,3\n", PLACES, "line 1 has 4 fields, but the others have 3"),
    "a first entry without its value": ("ann,Naima,\nbob,Naima,3\n", PLACES, "line 1, column 2 is empty"),
    "entries without ids": (HEAD + '1,2,3,"a\n\n\nb"\n,,,late\n', {}, "line 6, column 'user' is empty"),
    "names or an entry": ("ann,x\nbob,y\n", {}, "line 1, 'ann,x', may name the columns .*header=True or header=False"),
    "two delimiters": ("a;b,c\nd;e,f\n", {"header": False}, "',' and ';' split its lines alike.*pass delimiter="),
    "one line": ("27 13 4 1;2;3\n", PLACES, "split its lines alike"),
    "blanks at line ends": ("1 10 4 \n2 11 3.5 \n", {}, "line 1, column 3 is empty.*time=False"),
    "several blanks": ("1  10 4\n2 11 3\n3 12 3\n", {}, "line 1 has 4 fields, but the others have 3. Each blank ends"),
    "a lone carriage return": (rows("x", "a\rb"), {}, "line 3: a carriage return stands inside"),
    "a blank before a number": (
        "1, 2, 3\n",
        {"ids": "str"},
        r"column 2 is ' 3', which is no number \(blanks around it\)",
    ),
    "fine times": ("1,2,3,2001-05-01 10:00:00.0000001\n", {}, "line 1, column 3 is .*below a microsecond"),
    "Latin-1 in an id": ("1,\udce9,3\n", {}, "line 1 is not UTF-8 text"),
}


@pytest.mark.parametrize("count", range(5, 13))
def test_a_record_that_goes_on_and_on_is_refused(tmp_path, monkeypatch, count):
    monkeypatch.setattr("jals.data.delimiters._CHUNK", 4)
    with pytest.raises(jals.DataError, match=f"line 2 has {count} fields, but the first line has 4"):
        read(tmp_path, f"1,2,3,x\n{','.join('1' * count)}\n2,2,3,x\n", PLACES)


@pytest.mark.parametrize("name", READ)
def test_what_is_read_is_what_was_there(tmp_path, name):
    content, options, entries = READ[name]
    assert read(tmp_path, content, options) == entries


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused_by_its_line(tmp_path, name):
    content, options, said = REFUSED[name]
    with pytest.raises(jals.DataError, match=said):
        read(tmp_path, content, options)
