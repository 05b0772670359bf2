"""Files of ratings: what is found in them, what is refused and with which words, and that nothing else ever happens.

npz, which needs no extra, is tested with the data sets."""

import bz2
import decimal
import gzip
import io
import lzma
import os
import pickle
import re
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jals
from jals.data.readers import read_ratings

pl = pytest.importorskip("polars", reason='reading files needs the extra "tables"')

HEADER = "userId,movieId,rating,timestamp\n"
ROWS = [(7, 30, 3.5, 100), (5, 20, 4.0, 300), (7, 20, 1.0, 200)]


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def outside(ratings, vocab):
    """The table by outside ids, as lists, in the order of its entries."""
    time = ratings.time if ratings.time is None else ratings.time.tolist()
    return vocab.user[ratings.user].tolist(), vocab.item[ratings.item].tolist(), ratings.value.tolist(), time


def text(rows=ROWS, delimiter=",", header=HEADER):
    return header + "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


EXPECTED = tuple(map(list, zip(*ROWS, strict=True)))

GOOD = {
    "ratings.csv": (text(), {}),
    "windows.csv": (text().replace("\n", "\r\n"), {}),
    "bom.csv": ("\ufeff" + text(), {}),
    "no last line end.csv": (text().rstrip("\n"), {}),
    "blank lines.csv": ("\n" + text().replace("\n", "\n\n") + "\r\n\n", {}),
    "quoted.csv": (text().replace("userId", '"userId"').replace("7,", '"7",'), {}),
    "quoted line break.csv": (text(header='userId,movieId,rating,"time\nstamp"\n'), {"time": 3}),
    "u.data": (text(delimiter="\t", header=""), {}),
    "ratings.dat": (text(delimiter="::", header=""), {}),
    "blank line.dat": (text(delimiter="::", header="") + "\n", {}),
    "header.dat": (text(delimiter="::", header=HEADER.replace(",", "::")), {}),
    "semicolons.txt": (text(delimiter=";", header="Rating;USER_ID;Item Id;Date\n"), {"user": 0, "item": 1, "value": 2}),
    "bars": (text(delimiter="|", header=""), {}),
    "blanks.txt": (text(delimiter=" ", header=""), {}),
    "hashes.txt": (text(delimiter="#", header=""), {"delimiter": "#"}),
    "gzipped.csv.gz": (gzip.compress(text().encode()), {}),
    "gzipped": (gzip.compress(text(delimiter="::", header="").encode()), {}),
    "odd names.csv": (text(header="a,b,c,d\n"), {"user": "a", "item": "b", "value": "c", "time": "d"}),
    "odd names by place.csv": (text(header="a,b,c,d\n"), {"user": 0, "item": 1, "value": 2, "time": "d"}),
    "told header.csv": (text(header="1,2,3,4\n"), {"header": True, "user": 0, "item": 1, "value": 2, "time": 3}),
    "rating[1]*?.csv": (text(), {}),
}


@pytest.mark.parametrize("name", GOOD)
def test_formats_delimiters_and_headers(tmp_path, name):
    content, options = GOOD[name]
    ratings, vocab = read_ratings(written(tmp_path, name, content), **options)
    assert outside(ratings, vocab) == EXPECTED
    assert (ratings.value.dtype, vocab.user.dtype, ratings.time.dtype) == (np.float64, np.int64, np.int64)


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, each in files.items():
            archive.writestr(name, each)
    return content.getvalue()


def tarred(content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("t.csv")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def written_by(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


PLAIN = text().encode()
FRAME = pl.DataFrame({"user": [1, 2], "item": [3, 4], "rating": [5.0, 4.0]})


@pytest.mark.parametrize(
    "content",
    [
        zipped({"ml/": b"", "ml/ratings.csv": PLAIN, "__MACOSX/ml/._ratings.csv": b"?", ".DS_Store": b"?"}),
        zipped({"t.zip": zipped({"t.csv": PLAIN})}),
        zipped({"t.parquet": written_by(pl.read_csv(PLAIN).write_parquet)}),
        gzip.compress(gzip.compress(PLAIN)),
        gzip.compress(zipped({"t.csv": PLAIN})),
        lzma.compress(PLAIN),
        bz2.compress(PLAIN),
    ],
    ids=["zip", "zip in zip", "Parquet in zip", "gzip twice", "zip in gzip", "xz", "bzip2"],
)
def test_packed_files_are_unpacked(tmp_path, content):
    for name in ("t", "t.csv", "t.zip", "t.csv.gz"):  # the content decides
        assert outside(*read_ratings(written(tmp_path, name, content))) == EXPECTED


ENCRYPTED = bytearray(zipped({"t.csv": PLAIN}))
ENCRYPTED[6] |= 1
ENCRYPTED[ENCRYPTED.index(b"PK\1\2") + 8] |= 1
OTHERS = {
    "several": (zipped({"a.csv": PLAIN, "b.csv": PLAIN}), r"a zip archive of 2 files \(a\.csv, b\.csv\)\. Unpack it"),
    "nothing": (zipped({}), "a zip archive that is empty"),
    "encrypted": (bytes(ENCRYPTED), "an encrypted zip archive"),
    "xlsx": (zipped({"[Content_Types].xml": b"<a/>", "xl/workbook.xml": b"<a/>"}), "a spreadsheet"),
    "ods": (zipped({"mimetype": b"application/vnd", "content.xml": b"<a/>"}), "a spreadsheet"),
    "half a zip": (zipped({"a.csv": PLAIN})[:-30], "an npz or a zip archive, cut short or damaged: .* Fetch it again"),
    "half an xz": (lzma.compress(PLAIN)[:-9], "cut short or damaged: .* Fetch it again"),
    "half a bz2": (bz2.compress(PLAIN)[:-9], "cut short or damaged"),
    "matryoshka": (gzip.compress(gzip.compress(gzip.compress(gzip.compress(PLAIN)))), "packed more than 3 times over"),
    "tar": (tarred(PLAIN), "a tar archive. Unpack it"),
    "7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(30), "a 7z archive"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(30), "an HDF5 file"),
    "SQLite": (b"SQLite format 3\0" + bytes(99), r"an SQLite database.*from_dataframe"),
    "Feather": (written_by(FRAME.write_ipc), "an Arrow .Feather. file.*from_dataframe"),
    "Arrow": (written_by(FRAME.write_ipc_stream), "an Arrow .Feather. file"),
    "Avro": (written_by(FRAME.write_avro), "an Avro file"),
    "ORC": (b"ORC\n\x1d\n\x06\x12\x04\x08\x02P\0", "an ORC file"),
    "npy": (written_by(lambda file: np.save(file, np.eye(3))), "one array of NumPy"),
    "pickle": (pickle.dumps(ROWS), "a pickle"),
    "JSON": (b'\xef\xbb\xbf[\n {"user": 1, "item": 2}]', "JSON"),
    "JSON lines": (b'{"user": 1, "item": 2}\n{"user": 1, "item": 3}\n', "JSON"),
    "lists": (b"[[1, 2, 3],\n[2, 3, 4]]", "JSON"),
    "HTML": (b"\n<!DOCTYPE html>\n<html>", "a page of HTML"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_table_is_called_by_its_name(tmp_path, name):
    content, message = OTHERS[name]
    for suffix in ("", ".csv", ".zip", ".npz"):
        path = written(tmp_path, f"t{suffix}", content)
        with pytest.raises(jals.DataError, match=f"^{re.escape(str(path))} is {message}"):
            read_ratings(path)


def test_zstandard_is_read_or_named(tmp_path):
    content = bytes.fromhex("28b52ffd0458610000") + b"ann,Naima,5\n" + bytes(4)  # one raw block; its checksum is wrong
    with pytest.raises(jals.DataError, match=r"is compressed by Zstandard.* `unzstd`|is cut short or damaged"):
        read_ratings(written(tmp_path, "t.csv.zst", content))


@pytest.mark.parametrize("word", ["PAR1", "PARE", "ORCHID", "BZhang", "PK", "RDX3", "{3F2504E0}", "[a]", "Obj1", "{}"])
def test_ids_may_read_like_the_beginning_of_another_format(tmp_path, word):
    path = written(tmp_path, "t.csv", f"{word},b,3\nc,b,4\n")
    assert outside(*read_ratings(path))[0] == [word, "c"]


def test_a_pipe_is_read_once():
    many = text(header="") + "".join(f"{user},1,1,1\n" for user in range(100, 20_000))  # too many to wait in a pipe
    end, start = os.pipe()

    def fill():
        with os.fdopen(start, "w") as file:
            file.write(many)

    threading.Thread(target=fill, daemon=True).start()
    with os.fdopen(end):
        assert len(read_ratings(f"/dev/fd/{end}")[0]) == 19_903
    with pytest.raises(jals.DataError, match="/dev/zero is a device, not a file"):
        read_ratings("/dev/zero")


def test_columns_by_their_usual_names_in_any_order(tmp_path):
    path = written(tmp_path, "t.csv", "Date,extra,Rating,movie_id,User ID,weight\n9,x,2,30,7,.5\n8,,3,20,5,2\n")
    ratings, vocab = read_ratings(path)
    assert outside(ratings, vocab) == ([7, 5], [30, 20], [2, 3], [9, 8])
    assert ratings.weight.tolist() == [0.5, 2]
    ratings, vocab = read_ratings(path, value=False, time=False, weight=False)
    assert outside(ratings, vocab) == ([7, 5], [30, 20], [1, 1], None)
    assert ratings.weight is None
    ratings, _ = read_ratings(path, value="weight", time=2, weight=0)
    assert (ratings.value.tolist(), ratings.time.tolist(), ratings.weight.tolist()) == ([0.5, 2], [2, 3], [9, 8])


@pytest.mark.parametrize("header", ["", "user,item\n"])
def test_two_columns_are_pairs_of_value_1(tmp_path, header):
    ratings, vocab = read_ratings(written(tmp_path, "t.csv", header + "u2,i1\nu1,i1\n"))
    assert outside(ratings, vocab) == (["u2", "u1"], ["i1", "i1"], [1, 1], None)
    assert ratings.value.dtype == np.float32


def test_places_that_are_given_leave_the_time_out(tmp_path):
    path = written(tmp_path, "t.csv", "7,30,2,5\n")
    assert outside(*read_ratings(path, value=3)) == ([7], [30], [5], None)


@pytest.mark.parametrize(
    ("values", "dtype"), [("1 2 3", np.float32), ("1 2 3.0", np.float64), (".5 1e0 -2.", np.float64)]
)
def test_values_are_float32_where_all_are_integers(tmp_path, values, dtype):
    rows = "".join(f"{row},0,{value}\n" for row, value in enumerate(values.split()))
    ratings, _ = read_ratings(written(tmp_path, "t.csv", rows))
    assert ratings.value.dtype == dtype
    assert ratings.value.tolist() == [float(value) for value in values.split()]


# By the same clock: what is written, and the moment it means in UTC.
MOMENTS = {
    "2001-05-01": "2001-05-01",
    "2001-05-01 10:30:00": "2001-05-01T10:30",
    "2001-05-01T10:30:00.25": "2001-05-01T10:30:00.250",
    "2001-05-01T10:30:00Z": "2001-05-01T10:30",
    "2001-05-01 10:30:00+02:00": "2001-05-01T08:30",
    "2001-05-01T10:30": "2001-05-01T10:30",
}


@pytest.mark.parametrize("moment", [*MOMENTS, None])
def test_dates_become_microseconds_in_utc(tmp_path, moment):
    moments = list(MOMENTS) if moment is None else [moment, moment]  # None: one of each form
    rows = "".join(f"{row},0,1,{each}\n" for row, each in enumerate(moments))
    time = read_ratings(written(tmp_path, "t.csv", rows))[0].time
    assert time.dtype == "datetime64[us]"
    np.testing.assert_array_equal(time, np.array([MOMENTS[each] for each in moments], "datetime64[us]"))


def test_times_that_turn_real_late(tmp_path):
    time = read_ratings(written(tmp_path, "t.csv", "1,1,1,5\n\n2,1,1,6.5\n"))[0].time
    assert (time.tolist(), time.dtype) == ([5, 6.5], np.float64)


def test_kinds_of_ids(tmp_path):
    padded = written(tmp_path, "padded.csv", "1,0114508,5\n2,1114508,4\n")
    assert read_ratings(padded)[1].item.tolist() == ["0114508", "1114508"]
    assert read_ratings(padded, ids="int")[1].item.tolist() == [114508, 1114508]
    late = written(tmp_path, "late.csv", "1,1114508,5\n2,0114508,4\n")
    assert read_ratings(late)[1].item.tolist() == ["0114508", "1114508"]
    signed = written(tmp_path, "signed.csv", "-1,+5,5\n-2,6,4\n")
    assert [ids.tolist() for ids in (lambda v: (v.user, v.item))(read_ratings(signed)[1])] == [[-2, -1], ["+5", "6"]]
    books = written(tmp_path, "books.csv", "1,0439785960,5\n2,B000JQ0JNS,4\n")
    assert read_ratings(books)[1].item.tolist() == ["0439785960", "B000JQ0JNS"]
    twins = written(tmp_path, "twins.csv", "1,007,5\n2,7,4\n3,8,1\n")
    assert read_ratings(twins, ids=("auto", "int"))[1].item.tolist() == [7, 8]
    vocab = read_ratings(twins, ids=["auto", "str"])[1]
    assert (vocab.user.tolist(), vocab.item.tolist()) == ([1, 2, 3], ["007", "7", "8"])
    mixed = written(tmp_path, "mixed.csv", 'é::x,12,5\n"a,""b""",12a,4\n')
    vocab = read_ratings(mixed, ids=("auto", "str"))[1]
    assert (vocab.user.tolist(), vocab.item.tolist()) == (['a,"b"', "é::x"], ["12", "12a"])
    colons = written(tmp_path, "colons.dat", "a:b::7::1\n:c::8::2\n")
    assert read_ratings(colons)[1].user.tolist() == [":c", "a:b"]
    limits = written(tmp_path, "limits.csv", f"{2**63 - 1},{-(2**63)},1\n")
    vocab = read_ratings(limits)[1]
    assert (vocab.user.tolist(), vocab.item.tolist()) == ([2**63 - 1], [-(2**63)])


def test_duplicates_are_merged_by_rule(tmp_path):
    path = written(tmp_path, "t.csv", "1,1,2,5\n1,1,4,9\n2,1,1,1\n")
    assert outside(*read_ratings(path, duplicates="mean")) == ([1, 2], [1, 1], [3, 1], [9, 1])
    assert outside(*read_ratings(path, duplicates="last")) == ([1, 2], [1, 1], [4, 1], [9, 1])


GZ = gzip.compress(text().encode())
BAD = {
    # name: content, options, what the message says after the file's name
    "empty.csv": ("", {}, " is empty"),
    "blank.csv": (" \n\n", {}, " is empty"),
    "empty.csv.gz": (gzip.compress(b""), {}, " is empty"),
    "header only.csv": (HEADER, {}, " has a header, but no line below it"),
    "misnamed.csv": (text(), {"user": "userid"}, r" has no column 'userid'\. Did you mean \"userId\"\? .*'timestamp'"),
    "absent.csv": (text(), {"weight": "w"}, " has no column 'w'.* 'userId', 'movieId', 'rating', 'timestamp'"),
    "twice.csv": ("user,item,user\n1,2,3\n", {"user": "user"}, " has two columns 'user': give the position"),
    "beyond.csv": (text(), {"time": 4}, ": there is no column 4 for time; counted from 0, its columns are 'userId'"),
    "beyond.dat": ("1::2::3\n", {"time": 4}, ": there is no column 4 for time; .* it has 3 columns and no header"),
    "nameless.csv": ("1,2,3\n", {"header": False, "user": "u"}, " has no header: give the position of user"),
    "same.csv": (text(), {"item": "userId"}, ": user and item are both column 0"),
    "same value.csv": (text(), {"value": "movieId"}, ": item and value are both column 1"),
    "no user.csv": ("a,b,c\n1,2,3\n", {}, ": no column looks like user; its columns are 'a', 'b', 'c'. Pass user="),
    "no value.csv": ("user,item,x\n1,2,3\n", {}, r": no column looks like value; .*Pass value=.*value=False"),
    "short.csv": (HEADER + "1,2,3,4\n\n1,2\n", {}, ", line 4 has 2 fields, but the header has 4"),
    "short first.csv": (HEADER + "1,2,3\n", {}, ", line 2 has 3 fields, but the header has 4"),
    "short.dat": ("1::2::3\n2::3\n", {}, ", line 2 has 2 fields, but the first line has 3"),
    "long.csv": (HEADER + "1,2,3,4\n1,2,3,4,5\n", {}, ", line 3 has 5 fields, but the header has 4"),
    "long.dat": ("1::2::3\n1::2::3::4\n", {}, ", line 2 has 4 fields, but the first line has 3"),
    "single colons.dat": ("1::2::3\n4:5:6:7:8\n", {}, ", line 2 has 1 field, but the first line has 3"),
    "spaces.csv": ("1,2,3\n  \n1,3,3\n", {}, ", line 2 has 1 field, but the first line has 3"),
    "no item.csv": (HEADER + "1,,3,4\n", {}, ", line 2, column 'movieId' is empty"),
    "no value field.csv": ("1,2,3\n1,3,\n", {}, ", line 2, column 2 is empty"),
    "quoted nothing.csv": ('a,2,3\n"",3,1\n', {}, ", line 2, column 0 is empty"),
    "no time.csv": (HEADER + "1,2,3,\n", {}, ", line 2, column 'timestamp' is empty"),
    "word.csv": (HEADER + "1,2,3,4\n1,3,good,4\n", {}, ", line 3, column 'rating' is 'good', which is no number"),
    "comma.csv": ("1;2;3,5\n2;2;4,5\n", {}, r", line 1, column 2 is '3,5', which is no number \(decimals take a point"),
    "nan.csv": (HEADER + "1,2,3,4\n\n1,3,nan,4\n", {}, ", line 4, column 'rating' is nan"),
    "inf.csv": (HEADER + "1,2,-inf,4\n", {}, ", line 2, column 'rating' is -inf"),
    "huge.csv": (HEADER + "1,2,1e400,4\n", {}, ", line 2, column 'rating' is inf"),
    "mixed.csv": (
        HEADER + "1,2,3,4\n1,12a,3,4\n",
        {},
        r", line 3, column 'movieId' is '12a', no integer, unlike the first, '2'.*ids=\(\"auto\", \"str\"\)",
    ),
    "mixed later.csv": (
        "a,2,3\n5,2,3\n",
        {},
        r", line 2, column 0 is '5', an integer, unlike the first, 'a'.*ids=\(\"str\", \"auto\"\)",
    ),
    "no integers.csv": (
        "a,2,3\n",
        {"ids": "int"},
        r", line 1, column 0 is 'a', no integer\. Correct the line, or read",
    ),
    "real ids.csv": ("1,2,3\n1.5,2,3\n", {}, ", line 2, column 0 is '1.5', no integer"),
    "beyond int64.csv": (f"1,2,3\n{2**63},2,3\n", {}, f", line 2, column 0 is {2**63}, beyond int64. Read .* as text"),
    "twins.csv": ("1,007,3\n\n2,7,3\n", {}, r", column 1: '007' and '7' are the same integer.* ids=\"int\".*\"str\""),
    "one column.csv": (
        "1/2/3\n",
        {},
        r": the first line, '1/2/3', is one column\. Tried '\\t', ',', ';', '\|', '::', ' '",
    ),
    "bom only.csv": ("\ufeff\n\n", {}, ": the first line, '', is one column"),
    "not this.csv": (
        text(),
        {"delimiter": ";"},
        r": the first line, 'userId.*', is one column\. Tried ';': pass delimiter=",
    ),
    "cut.csv.gz": (GZ[:-9], {}, " is cut short or damaged: .* Fetch it again"),
    "damaged.csv.gz": (GZ[:20] + b"xxxx" + GZ[24:], {}, " is cut short or damaged"),
    "plain.csv.gz": (text(), {}, " is not gzipped: it begins with b'userId,m'"),
    "binary.csv": (bytes(range(256)), {}, " is no text .*NUL"),
    "late nul.csv": ("c,3,4\n" + "d,5,5\n" * 20_000 + "b\0,2,3\n", {}, ": the ids in column 0 end in NUL"),
    "utf-16.csv": (text().encode("utf-16"), {}, " is text in UTF-16: convert it .*`iconv -f utf-16 -t utf-8`"),
    "utf-16-le.csv": (text().encode("utf-16-le"), {}, " is text in UTF-16LE: .*-f utf-16le"),
    "utf-16-be.csv": (("é,日,3\n" * 9999).encode("utf-16-be"), {}, " is text in UTF-16BE: .*-f utf-16be"),
    "utf-32.csv": (text().encode("utf-32"), {}, " is text in UTF-32: .*-f utf-32 "),
    "utf-32-be.csv": (text().encode("utf-32-be"), {}, " is text in UTF-32BE: .*-f utf-32be"),
    "latin.csv": (
        "user,item,rating\n1,a,3\n1,é,3\n".encode("latin1"),
        {},
        ", line 3 is not UTF-8 text.*iconv -f latin1",
    ),
    "latin header.csv": ("user,item,rating,é\n1,2,3,4\n".encode("latin1"), {}, ", line 1 is not UTF-8 text"),
    "one line.csv": ("1,2,3," * 20_000, {}, " is no table: its first line does not end"),
    "old mac.csv": ("1,2,3\r4,5,6\r", {}, ", line 1 has carriage returns inside: convert"),
    "open quote.csv": ('1,2,3\n1,"3,3\n2,2,2\n', {}, ", line 2: a quote is opened and never closed"),
    "text after quote.csv": ('1,2,3\n1,"3"x,3\n', {}, ", line 2: .* expected after"),
    "negative.csv": (
        "user,item,rating,weight\n1,2,3,1\n\n1,3,3,-2\n",
        {},
        ", line 4, column 'weight' is -2.0, but weights",
    ),
    "duplicate.csv": (
        "7,30,1\n\n7,31,1\n7,30,2\n",
        {},
        r": 1 duplicate entries; the first: user 7, item 30 in line 1 and line 4\. Merge",
    ),
    "time.csv": ("1,2,3,2001-05-01\n1,3,3,May\n", {}, ", line 2, column 3 is 'May', but must be a date .*ISO"),
    "time word.csv": ("1,2,3,5\n1,3,3,soon\n", {}, ", line 2, column 3 is 'soon', which is no number"),
    "time nan.csv": ("1,2,3,5.5\n1,3,3,nan\n", {}, ", line 2, column 3 is nan. Every entry needs one"),
    "text.parquet": (text(), {}, " is not a Parquet file: it begins with b'userId,m'"),
    "text.npz": (text(), {}, " is not an npz file: it begins with b'userId,m'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_refused_by_line_and_column(tmp_path, name):
    content, options, message = BAD[name]
    path = written(tmp_path, name, content)
    with pytest.raises(jals.DataError, match=re.escape(str(path)) + message):
        read_ratings(path, **options)


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    with pytest.raises(jals.DataError, match=r"no file .*absent\.csv"):
        read_ratings(tmp_path / "absent.csv")
    with pytest.raises(jals.DataError, match="is a folder"):
        read_ratings(str(tmp_path))
    with pytest.raises(jals.DataError, match="embedded null"):
        read_ratings("a\0b")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # the tests may run as root, whom no file refuses
    with pytest.raises(jals.DataError, match=r"t\.csv cannot be read: Permission denied"):
        read_ratings(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": ",,"}, r"delimiter is ',,', but must be \"::\" or one ASCII character"),
        ({"delimiter": "é"}, "delimiter is 'é'"),
        ({"delimiter": ""}, "delimiter is ''"),
        ({"header": "yes"}, "header is 'yes', but must be True, False or None"),
        ({"ids": "text"}, r"ids is 'text', but must be \"auto\", \"int\" or \"str\""),
        ({"ids": ("int",)}, "or a pair of these"),
        ({"ids": 3}, "or a pair of these"),
        ({"duplicates": "lst"}, 'Did you mean "last"'),
        ({"user": -1}, "user is -1, but must be a column's name or its position"),
        ({"item": False}, "item is False"),
        ({"value": True}, "value is True"),
        ({"time": 1.5}, "time is 1.5"),
        ({"path": None}, "expected the path of a file, got NoneType"),
    ],
)
def test_arguments_that_fit_no_file(tmp_path, options, message):
    with pytest.raises(jals.ArgumentError, match=message):
        read_ratings(**{"path": written(tmp_path, "t.csv", text())} | options)


def parquet(**columns):
    file = io.BytesIO()
    pl.DataFrame(dict(zip(("user", "item", "rating", "timestamp"), EXPECTED, strict=True)) | columns).write_parquet(
        file
    )
    return file.getvalue()


def test_parquet(tmp_path):
    path = written(tmp_path, "t.parquet", parquet(extra=[None, "x", "y"]))
    assert outside(*read_ratings(path)) == EXPECTED
    assert outside(*read_ratings(path, user=0, item="item", value=2, time=False)) == (*EXPECTED[:3], None)
    assert outside(*read_ratings(written(tmp_path, "t", gzip.compress(parquet())))) == EXPECTED
    assert read_ratings(path, ids=("str", "auto"))[1].user.tolist() == ["5", "7"]
    texts = written(tmp_path, "texts.parquet", parquet(user=["é", "b", "é"]))
    assert outside(*read_ratings(texts)) == (["é", "b", "é"], *EXPECTED[1:])


WHOLE = parquet()


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (parquet(rating=[1.0, None, 2.0]), {}, ", row 1, column 'rating' is empty"),
        (parquet(user=[1, 2, None]), {}, ", row 2, column 'user' is empty"),
        (parquet(rating=[1.0, 2.0, np.nan]), {}, ", row 2, column 'rating' is nan"),
        (parquet(rating=["1", "2", "3"]), {}, ": column 'rating' holds String, such as '1', but must hold numbers"),
        (
            parquet(user=[1.0, 2.0, 3.0]),
            {},
            ": column 'user' holds Float64, such as 1.0, but must hold integers or text",
        ),
        (parquet(user=["a", "b", "c"]), {"ids": "int"}, ": column 'user' holds no integers"),
        (parquet(user=[5, 5, 5], item=[1, 2, 1]), {}, ": 1 duplicate .* user 5, item 1 in row 0 and row 2"),
        (parquet(), {"user": "uzer"}, r" has no column 'uzer'\. Did you mean \"user\""),
        (parquet(), {"user": 7}, ": there is no column 7 for user"),
        (WHOLE[:-20], {}, " is damaged, or not a Parquet file: .* Fetch it again"),
        (WHOLE[:40] + WHOLE[60:], {}, ": column 'user', of type Int64, is damaged: .* Fetch the file again"),
        (WHOLE[:60] + WHOLE[40:], {}, ": column 'user', of type Int64, is damaged: .* Fetch the file again"),
        (WHOLE[:-4] + b"PARE", {}, " is an encrypted Parquet file"),
        (parquet(rating=["1", "2", "3"], user=["", "a", "b"]), {"value": False}, ", row 0, column 'user' is empty"),
        (b"PAR1" + bytes(40) + b"PAR1", {}, " is damaged, or not a Parquet file"),
        (parquet()[:4], {}, " is damaged, or not a Parquet file"),
    ],
)
def test_bad_parquet_is_refused_by_row_and_column(tmp_path, content, options, message):
    path = written(tmp_path, "t.parquet", content)
    with pytest.raises(jals.DataError, match=re.escape(str(path)) + message):
        read_ratings(path, **options)


@pytest.mark.parametrize("zone", ["+07:30", "-03", "Mars/Olympus", "+02:00", "Asia/Kolkata"])
def test_parquet_with_any_time_zone(tmp_path, zone, capfd):
    """polars knows only those with a name, and panics at others; Parquet keeps moments in UTC."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    seen = pa.array([5, 6, 7], pa.timestamp("us", tz=zone))
    given = dict(zip(("user", "item", "rating"), EXPECTED, strict=False))
    whole = written_by(lambda file: pq.write_table(pa.table(given | {"seen": seen}), file))
    for content in (whole, gzip.compress(whole)):
        path = written(tmp_path, "t", content)
        assert read_ratings(path)[0].time is None
        np.testing.assert_array_equal(read_ratings(path, time="seen")[0].time, np.array([5, 6, 7], "M8[us]"))
    assert zone == "Mars/Olympus" or not capfd.readouterr().err  # a panic is printed


def test_good_parquet_is_not_called_damaged(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    given = dict(zip(("user", "item", "^.*$"), EXPECTED, strict=False))
    wide = pa.array([decimal.Decimal("1.5")] * 3, pa.decimal256(70, 2))
    table = pa.table(given | {"wide": wide, "deep": [{"a": [1]}] * 3, "*": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t")
    assert outside(*read_ratings(tmp_path / "t", value="^.*$", time="*")) == (*EXPECTED[:3], [1, 2, 3])
    for name, message in (("wide", r"of type Decimal\(.* is of no type that polars reads"), ("deep", "holds Struct")):
        with pytest.raises(jals.DataError, match=f"column '{name}'.*{message}") as caught:
            read_ratings(tmp_path / "t", value=name)
        assert "amaged" not in str(caught.value) and "etch" not in str(caught.value)
    pq.write_table(pa.Table.from_arrays([pa.array([1, 2])] * 4, names=["user", "item", "x", "x"]), tmp_path / "t")
    with pytest.raises(jals.DataError, match=r"t has two columns of one name: .*x.*Rename one\.$"):
        read_ratings(tmp_path / "t", value=False)


@pytest.mark.parametrize(
    "raised", [pl.exceptions.PanicException, pl.exceptions.ComputeError], ids=lambda each: each.__name__
)
def test_what_polars_breaks_down_at_is_read_by_hand_or_refused(tmp_path, monkeypatch, raised):
    """A panic of polars is not even an Exception."""

    def broken(*_, **__):
        raise raised("out of luck.\nand much more")

    monkeypatch.setattr(pl, "scan_csv", broken)
    monkeypatch.setattr(pl, "scan_parquet", broken)
    assert outside(*read_ratings(written(tmp_path, "t.csv", text()))) == EXPECTED
    with pytest.raises(jals.DataError, match=r"t\.parquet is damaged, or not a Parquet file: out of luck\. Fetch"):
        read_ratings(written(tmp_path, "t.parquet", WHOLE))


def test_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match=r'pip install "jals\[tables\]"'):
        read_ratings(written(tmp_path, "t.csv", text()))


WORDS = '1 2 -3 4.5 007 nan inf 1e400 x é " "q," "" user itemId rating time 2001-05-01 :: : 99999999999999999999 1_0 ٣'
FIELDS = st.sampled_from([*WORDS.split(), "", " ", "\0", "\r", "\ufeff", "a\0"])
LINES = st.lists(st.lists(FIELDS, min_size=1, max_size=5), max_size=6)
SQUARE = st.lists(st.tuples(*[st.sampled_from(["1", "2", "3", "007", "a", "4.5"])] * 4), min_size=1, max_size=8)
DELIMITED = st.builds(
    lambda lines, delimiter, end: end.join(delimiter.join(line) for line in lines).encode(),
    LINES | SQUARE,
    st.sampled_from([",", "\t", ";", "::", "|", " "]),
    st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n"]),
)
SEEDS = [text().encode(), text(delimiter="::", header="").encode(), parquet(), parquet(user=["a", "b", "c"])]


@st.composite
def damaged(draw):
    """A good file with a few bytes changed, dropped or put in."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 3))):
        at, size = draw(st.integers(0, len(content) - 1)), draw(st.integers(0, 3))
        content[at : at + size] = draw(st.binary(max_size=3))
    return bytes(content)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60) | DELIMITED | damaged(),
    st.sampled_from(["t.csv", "t.csv", "t.gz", "t.parquet"]),
    st.booleans(),
    st.fixed_dictionaries(
        {},
        optional={
            "header": st.sampled_from([None, True, False]),
            "delimiter": st.sampled_from([None, ",", "::", ";", "\t", "x"]),
            "ids": st.sampled_from(["auto", "int", "str"]),
            "duplicates": st.sampled_from(["error", "last", "mean", "sum"]),
            "user": st.sampled_from([None, 0, 3, "user"]),
            "value": st.sampled_from([None, False, 2]),
            "time": st.sampled_from([None, False, 3]),
            "weight": st.sampled_from([None, False, 2, 3]),
        },
    ),
)
def test_any_bytes_give_a_table_or_an_error_of_ours(tmp_path, content, name, zipped, options):
    path = written(tmp_path, name, gzip.compress(content) if zipped else content)
    try:
        ratings, vocab = read_ratings(path, **options)
    except jals.JalsError:
        return
    assert (ratings.num_users, ratings.num_items) == (len(vocab.user), len(vocab.item))
    assert len(ratings) > 0
    assert np.isfinite(ratings.value).all()
    assert set(ratings.user.tolist()) == set(range(ratings.num_users))


@pytest.mark.parametrize("stated, held", [(4, 3), (2, 3)])
def test_an_array_of_an_npz_that_is_not_as_long_as_it_says_is_refused(tmp_path, stated, held):
    """It is read to where jax can take it over, and what the file does not fill would be any numbers."""
    path = tmp_path / "ratings.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, dtype, count in (("user", "<i4", 3), ("item", "<i4", 3), ("value", "<f4", stated)):
            member = io.BytesIO()
            header = {"descr": dtype, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(member, header)
            archive.writestr(f"{name}.npy", member.getvalue() + np.arange(held, dtype=dtype).tobytes())
    with pytest.raises(jals.DataError, match=r"cannot be read as npz: .*'value'.* another number of bytes"):
        jals.read_ratings(path)
