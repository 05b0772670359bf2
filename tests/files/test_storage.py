"""Files of factors: back to the bit, whole or not at all, and every wrong file told apart."""

import base64
import contextlib
import dataclasses
import errno
import gc
import hashlib
import io
import json
import os
import pathlib
import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jals
from jals.data.vocabulary import Vocabulary
from jals.files.formats import FORMATS
from tests.support import ROOT

PACKAGES = {".npz": ("numpy", ""), ".safetensors": ("safetensors", "safetensors"), ".parquet": ("polars", "tables")}


@pytest.fixture(params=PACKAGES)
def suffix(request):
    package, extra = PACKAGES[request.param]
    pytest.importorskip(package, reason=f'{request.param} files need the extra "{extra}"')
    return request.param


def some_factors(dtype: Any = np.float32, bias=True, mean=True):
    rng = np.random.default_rng(0)
    columns: Any = (rng.normal(size=size).astype(dtype) for size in ((5, 3), (4, 3), 5, 4))
    user, item, *biases = columns
    return jals.Factors(user, item, *(biases if bias else (None, None)), mean=dtype(3.5) if mean else None)


VOCAB = Vocabulary(np.array(["", "ann", "bob ü", "日本", "🎬 x\x00y"]), np.array([-3, 7, 9, 2**40]))


def assert_same_bits(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


def assert_same(one: jals.Saved, two: jals.Saved):
    """The same to the bit, dtypes and absent parts included."""
    assert_same_bits((one.factors, one.objective), (two.factors, two.objective))
    assert one.data_hash == two.data_hash
    assert (one.vocab is None) == (two.vocab is None)
    if one.vocab is not None and two.vocab is not None:
        assert_same_bits([one.vocab.user, one.vocab.item], [two.vocab.user, two.vocab.item])


def there_and_back(path, *parts):
    jals.save(path, *parts)
    return jals.load(path)


@pytest.fixture
def saved(tmp_path, suffix):
    path = tmp_path / f"factors{suffix}"
    jals.save(path, some_factors(), VOCAB, jals.als_wr(0.05, bias=True, center=True), "abc")
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_factors_come_back_to_the_bit(tmp_path, suffix, dtype, bias, mean):
    factors = some_factors(dtype, bias, mean)
    loaded = there_and_back(tmp_path / f"factors{suffix}", jax.tree.map(jax.numpy.asarray, factors))
    assert_same(loaded, jals.Saved(factors, None, None, None))
    np.testing.assert_array_equal(jals.predict(loaded.factors, 1, 2), jals.predict(factors, 1, 2))
    assert all(leaf.flags.writeable for leaf in jax.tree.leaves(loaded))


@pytest.mark.parametrize(
    "objective",
    [
        jals.explicit(0.1),
        jals.als_wr(reg_user=np.linspace(0, 1, 5), reg_item=np.float32(0.3), reg_bias=2, bias=True, center=True),
        jals.als_wr(reg_user=np.arange(5) + 2**53, reg_item=np.linspace(0, 1, 4)),
        jals.als_wr(0.1, prior_user=np.ones(3), prior_item=np.ones((4, 3)), reg_power=0.5),
        jals.als_wr(0.1, prior_user=np.ones((5, 3), np.float32), prior_item=np.ones((4, 3))),
        jals.hu_koren(0.1, 40.0),
        jals.hu_koren(0.1, 40.0, epsilon=0.5),
        jals.ials(0.1, unobserved_weight=0.2),
        jals.wals(0.1, unobserved_user=np.linspace(0, 1, 5), unobserved_item=np.ones(4), count="weights"),
        jals.als_wr(0.1, reg_bias_user=np.linspace(0, 1, 5), reg_bias_item=0.5, bias=True),
        jals.ials(0.1, weight_user=np.linspace(0, 1, 5), weight_power_item=-0.3, unobserved_power_user=0.2),
    ],
    ids=[
        *("explicit", "by row", "integers by row", "prior", "prior by row", "hu_koren", "logarithm", "ials"),
        *("wals", "biases by row", "weights"),
    ],
)
def test_objective_comes_back(tmp_path, suffix, objective):
    loaded = there_and_back(tmp_path / f"factors{suffix}", some_factors(), None, objective)
    assert_same(loaded, jals.Saved(some_factors(), None, objective, None))
    for name in ("feedback", "bias", "center", "count"):
        assert getattr(loaded.objective, name) == getattr(objective, name)


IDS = {
    "strings": np.array(["a", "b", "", "bob ü", "日本"]),
    "wide strings": np.array(["a", "b", "", "c", "d"], "U40"),
    "integers": np.arange(5) + np.iinfo(np.int64).min,
    "int8": np.arange(5, dtype=np.int8),
    "unsigned": np.array([1, 2, 3, 4, 2**64 - 1], np.uint64),
}


@pytest.mark.parametrize("user", IDS)
@pytest.mark.parametrize("item", IDS)
def test_vocabulary_and_hash_come_back(tmp_path, suffix, user, item):
    vocab = Vocabulary(IDS[user], IDS[item][:4])
    loaded = there_and_back(str(tmp_path / f"factors{suffix}"), some_factors(), vocab, None, "0123")
    assert_same(loaded, jals.Saved(some_factors(), vocab, None, "0123"))


@pytest.mark.parametrize("weighted", [False, True])
def test_seen_entries_come_back(tmp_path, suffix, weighted):
    """Sorted, with users who have seen nothing at both ends; a file without them is one that older versions read."""
    user, item = np.array([3, 1, 3, 1]), np.array([3, 0, 1, 2])
    weight = np.array([1.0, 0.0, 2.0, 0.5]) if weighted else None
    seen = jals.Ratings.from_arrays(user, item, np.array([1.5, 2, 3, 4]), 5, 4, weight=weight)
    path = tmp_path / f"f{suffix}"
    jals.save(path, some_factors(), VOCAB, data_hash="abc", seen=seen)
    loaded = jals.load(path)
    assert_same(loaded, jals.Saved(some_factors(), VOCAB, None, "abc"))
    for name in ("user", "item", "value", "weight"):
        assert_same_bits(getattr(loaded.seen, name), getattr(seen.sorted(), name))
    assert loaded.seen.data_hash() == seen.data_hash()
    assert b"jals factors 3 sha256" in path.read_bytes()
    jals.save(path, some_factors(), VOCAB, data_hash="abc")
    assert b"jals factors 2 sha256" in path.read_bytes() and jals.load(path).seen is None
    jals.save(path, some_factors(), VOCAB, jals.ials(0.1, weight_power_item=0.0))  # which earlier versions would lose
    assert b"jals factors 4 sha256" in path.read_bytes()


@pytest.mark.parametrize("items", [np.arange(3), np.array(["ä", "b", "c"]), None], ids=["integers", "texts", "uneven"])
def test_uneven_texts_come_back_and_take_their_own_room(tmp_path, suffix, items):
    ids = sorted(["a", "é日🎬", "y" * 5000, *map(str, range(2000))])
    users = Vocabulary.from_ids(ids, ["a"])[0].user
    uneven = users if items is None else items
    factors = jals.Factors(np.ones((len(ids), 1), "f4"), np.ones((len(uneven), 1), "f4"))
    path = tmp_path / f"f{suffix}"
    tracemalloc.start()
    loaded = there_and_back(path, factors, Vocabulary(users, uneven))
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert (loaded.vocab.user.tolist(), loaded.vocab.item.tolist()) == (ids, uneven.tolist())
    assert (loaded.vocab.user.dtype, loaded.vocab.item.dtype) == (object, uneven.dtype)
    assert loaded.vocab.user_rows(["y" * 5000]) == ids.index("y" * 5000)
    assert path.stat().st_size < 100_000
    again = Vocabulary(np.array(ids[:5], object), np.array(ids[:4], np.dtypes.StringDType()))
    loaded = there_and_back(path, some_factors(), again)  # not uneven: as wide as the longest
    assert (loaded.vocab.user.dtype.kind, loaded.vocab.item.dtype.kind) == ("U", "U")
    assert (loaded.vocab.user.tolist(), loaded.vocab.item.tolist()) == (ids[:5], ids[:4])
    with pytest.raises(jals.ArgumentError, match="vocabulary/user holds object"):
        jals.save(path, some_factors(), Vocabulary(np.array([1, None, 2, 3, 4], object), np.arange(4)))


def test_whatever_fits_comes_back(tmp_path, suffix):
    """Any shapes, any bits (NaNs with a payload among them), any ids."""
    path = tmp_path / f"factors{suffix}"
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    integers = st.integers(-(2**63), 2**63 - 1)

    def some(shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        bits = st.binary(min_size=size, max_size=size)
        return bits.map(lambda bits: np.frombuffer(bits, dtype).reshape(shape))

    @st.composite
    def contents(draw):
        rows, rank, dtype = {}, draw(st.integers(1, 3)), draw(st.sampled_from([np.float32, np.float64]))
        for side in ("user", "item"):
            rows[side] = draw(st.integers(1, 4))
        bias, by_row = draw(st.booleans()), draw(st.booleans())
        factors = jals.Factors(*(draw(some((rows[side], rank), dtype)) for side in rows))
        if bias:
            biases = {f"{side}_bias": draw(some((rows[side],), dtype)) for side in rows}
            factors = dataclasses.replace(factors, **biases, mean=draw(some((), dtype)))
        vocab = None
        if draw(st.booleans()):
            kinds = [draw(st.sampled_from([text, integers])) for _ in rows]
            columns = [st.lists(kind, min_size=n, max_size=n) for kind, n in zip(kinds, rows.values(), strict=True)]
            vocab = Vocabulary(*(np.array(draw(column)) for column in columns))
        regs = {f"reg_{side}": draw(some((rows[side],) if by_row else (), dtype)) for side in rows}
        prior = draw(some((rows["item"], rank), dtype)) if by_row else None
        objective = jals.als_wr(**regs, prior_item=prior, bias=bias, center=bias)
        return jals.Saved(factors, vocab, draw(st.none() | st.just(objective)), draw(st.none() | text))

    @settings(max_examples=60, deadline=None)
    @given(contents())
    def check(content):
        assert_same(there_and_back(path, *content), content)

    check()


def test_other_memory_layouts_come_back_in_this_machines(tmp_path, suffix):
    plain = some_factors()
    strange = dataclasses.replace(plain, user=np.asfortranarray(plain.user).astype(">f4"), item=plain.item[::-1][::-1])
    loaded = there_and_back(tmp_path / f"factors{suffix}", strange)
    assert_same(loaded, jals.Saved(plain, None, None, None))


def test_the_same_makes_the_same_file(tmp_path, suffix, monkeypatch):
    """Whatever the day: archives are dated by default."""
    contents = []
    for year, name in ((2001, "one"), (2002, "two")):
        monkeypatch.setattr("time.localtime", lambda *_, year=year: (year, 1, 1, 0, 0, 0, 0, 1, 0))
        jals.save(tmp_path / f"{name}{suffix}", some_factors(), VOCAB, jals.explicit(0.1))
        contents.append((tmp_path / f"{name}{suffix}").read_bytes())
    assert contents[0] == contents[1]


def test_saving_again_replaces_the_file(saved):
    jals.save(saved, some_factors(np.float64))
    assert jals.load(saved).factors.user.dtype == np.float64
    assert list(saved.parent.iterdir()) == [saved]


def test_capital_suffixes_are_suffixes(tmp_path):
    assert there_and_back(tmp_path / "F.NPZ", some_factors()).factors.rank == 3


def test_the_parquet_file_is_a_table_for_others(tmp_path):
    """Read with pandas, by which this project does not write."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    pytest.importorskip("pyarrow", reason="pandas needs pyarrow to read Parquet")
    pytest.importorskip("polars", reason='.parquet files need the extra "tables"')
    factors = some_factors()
    jals.save(tmp_path / "f.parquet", factors, VOCAB, jals.als_wr(reg_user=np.arange(5.0), reg_item=0.5))
    table = pandas.read_parquet(tmp_path / "f.parquet")
    assert list(table.columns) == ["side", "row", "id", "bias", "factor", "reg"]
    assert table["side"].tolist() == ["user"] * 5 + ["item"] * 4
    assert table["row"].tolist() == [*range(5), *range(4)]
    assert table["id"].tolist() == [*VOCAB.user.tolist(), *map(str, VOCAB.item.tolist())]
    items = table[table["side"] == "item"]
    np.testing.assert_array_equal(np.stack(items["factor"].tolist()), factors.item)
    np.testing.assert_array_equal(items["bias"], factors.item_bias)
    assert items["reg"].isna().all()
    assert table["reg"].tolist()[:5] == [0, 1, 2, 3, 4]


def test_the_npz_and_safetensors_files_hold_plain_arrays(tmp_path):
    factors = some_factors()
    jals.save(tmp_path / "f.npz", factors)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["factors/item"], factors.item)
    numpy = pytest.importorskip("safetensors.numpy", reason='.safetensors files need the extra "safetensors"')
    jals.save(tmp_path / "f.safetensors", factors)
    np.testing.assert_array_equal(numpy.load_file(tmp_path / "f.safetensors")["factors/item"], factors.item)


def changed(**parts):
    return dataclasses.replace(some_factors(), **parts)


REFUSED_PARTS: dict[str, tuple[tuple, str]] = {
    "no factors": (({"user": 1},), "factors is of type dict"),
    "no vocabulary": ((some_factors(), ["a"]), "vocab is of type list"),
    "no objective": ((some_factors(), None, 0.1), "objective is of type float"),
    "no hash": ((some_factors(), None, None, 3), "data_hash is of type int"),
    "endless hash": ((some_factors(), None, None, "x" * 70_000), "data_hash has 70,000 characters"),
    "objects": ((changed(mean=object()),), "factors/mean holds object, but must hold float32 or float64"),
    "half precision": ((changed(user=np.ones((5, 3), np.float16)),), "factors/user holds float16"),
    "ragged": ((changed(user=[[1.0], [1.0, 2.0]]),), "factors/user is no array"),
    "flat factors": ((changed(user=np.ones(5)),), r"factors.user has shape \(5,\), but must have \(rows, rank\)"),
    "no columns": ((changed(user=np.ones((5, 0))),), r"factors.user has shape \(5, 0\)"),
    "ranks": ((changed(user=np.ones((5, 2))),), "factors.user has rank 2, factors.item 3"),
    "bias of one side": ((changed(user_bias=None),), "one of factors.user_bias and factors.item_bias"),
    "bias length": ((changed(item_bias=np.ones(5)),), r"factors.item_bias has shape \(5,\).* must have \(4,\)"),
    "mean by row": ((changed(mean=np.ones(5)),), r"factors.mean has shape \(5,\).* must have \(\)"),
    "users": ((some_factors(), Vocabulary(np.arange(6), np.arange(4))), "has 6 user ids, but the factors have 5 users"),
    "items": ((some_factors(), Vocabulary(np.arange(5), np.arange(3))), "has 3 item ids, but the factors have 4 items"),
    "float ids": ((some_factors(), Vocabulary(np.ones(5), np.arange(4))), "vocabulary/user holds float64"),
    "reg": ((some_factors(), None, jals.explicit(reg_user=np.ones(4), reg_item=1.0)), r"must have \(\) or \(5,\)"),
    "prior": ((some_factors(), None, jals.explicit(1.0, prior_item=np.ones(4))), r"must have \(3,\) or \(4, 3\)"),
    "seen": ((some_factors(), None, None, None, [0]), "seen is of type list"),
    "seen users": (
        (some_factors(), None, None, None, jals.Ratings.from_arrays([0], [0], [1.0], 6, 4)),
        "seen has 6 users, but factors.user has 5 rows",
    ),
    "text": ((some_factors(), None, jals.explicit("much")), "objective/reg_user holds <U4, but must hold numbers"),
}


@pytest.mark.parametrize("kind", REFUSED_PARTS)
def test_what_cannot_be_meant_is_not_saved(tmp_path, kind):
    parts, message = REFUSED_PARTS[kind]
    with pytest.raises(jals.ArgumentError, match=message):
        jals.save(tmp_path / "f.npz", *parts)
    assert not list(tmp_path.iterdir())


def test_saving_inside_jit_is_refused(tmp_path):
    with pytest.raises(jals.ArgumentError, match="traced: save outside of jit"):
        jax.jit(lambda factors: jals.save(tmp_path / "f.npz", factors))(some_factors())


def test_half_a_character_is_kept_or_refused(tmp_path, suffix):
    """A table in Parquet, where texts are UTF-8, cannot have it."""
    vocab = Vocabulary(np.array(["a", "b", "c", "d", "\ud800"]), np.arange(4))
    if suffix == ".parquet":
        with pytest.raises(jals.ArgumentError, match=r"an id is no Unicode text, which \.parquet needs"):
            jals.save(tmp_path / f"f{suffix}", some_factors(), vocab)
    else:
        loaded = there_and_back(tmp_path / f"f{suffix}", some_factors(), vocab)
        assert_same(loaded, jals.Saved(some_factors(), vocab, None, None))


def test_nothing_passes_for_the_seal(tmp_path, suffix):
    with pytest.raises(jals.ArgumentError, match="reads like the seal of a file of jals"):
        jals.save(tmp_path / f"f{suffix}", some_factors(), data_hash=f"jals factors 2 sha256 {'0' * 64}")


@pytest.mark.parametrize(
    "path, error, message",
    [
        ("f.npy", jals.StorageError, r"f\.npy ends in '\.npy', .* \.npz, \.safetensors, \.parquet\..*mean \"\.npz\""),
        ("f.pickle", jals.StorageError, r"must be one of \.npz, \.safetensors, \.parquet"),
        ("factors", jals.StorageError, "ends in 'no suffix'"),
        (3, jals.ArgumentError, "expected the path of a file, got int"),
    ],
)
def test_other_formats_are_refused(path, error, message):
    with pytest.raises(error, match=message):
        jals.save(path, some_factors())
    with pytest.raises(error, match=message):
        jals.load(path)


@pytest.mark.parametrize("package", ["safetensors", "polars"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, package):
    suffix, extra = {"safetensors": (".safetensors", "safetensors"), "polars": (".parquet", "tables")}[package]
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"f{suffix}"
    message = re.escape(f'{suffix} files need the extra "{extra}": pip install "jals[{extra}]"')
    with pytest.raises(ImportError, match=message):
        jals.save(path, some_factors())
    path.write_bytes(seal(f"jals factors 2 sha256 {'0' * 64}".encode()))
    with pytest.raises(ImportError, match=message):
        jals.load(path)


def refuse(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")


def test_unwritable_places_are_named(tmp_path, suffix, monkeypatch):
    name = f"f{suffix}"
    with pytest.raises(jals.StorageError, match=rf"no/{name} cannot be written: No such file or directory"):
        jals.save(tmp_path / "no" / name, some_factors())
    (tmp_path / "folder").with_suffix(suffix).mkdir()
    with pytest.raises(jals.StorageError, match="cannot be written: Is a directory"):
        jals.save((tmp_path / "folder").with_suffix(suffix), some_factors())
    (tmp_path / "file").touch()
    with pytest.raises(jals.StorageError, match="cannot be written: Not a directory"):
        jals.save(tmp_path / "file" / name, some_factors())
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(jals.StorageError, match=rf"{name} cannot be written: Read-only file system"):
        jals.save(tmp_path / name, some_factors())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", f"folder{suffix}"]


def test_the_umask_and_links_are_respected(tmp_path, suffix, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "real").mkdir()
    place, link = tmp_path / "real" / f"f{suffix}", tmp_path / f"latest{suffix}"
    link.symlink_to(place)
    for mask in (0o022, 0o077):  # the second time over a file that is there
        before = os.umask(mask)
        try:
            jals.save(f"~/latest{suffix}", some_factors())
        finally:
            os.umask(before)
        assert place.stat().st_mode & 0o777 == 0o666 & ~mask
    assert link.readlink() == place
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([place.name, link.name, "real"])
    assert_same(jals.load(f"~/latest{suffix}"), jals.Saved(some_factors(), None, None, None))


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_write_that_fails_midway_leaves_the_old_file(saved, monkeypatch, fault):
    before = saved.read_bytes()

    def fail(_):
        raise fault

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((jals.StorageError, KeyboardInterrupt)) as error:
        jals.save(saved, some_factors())
    if isinstance(fault, OSError):
        assert f"{saved.name} cannot be written: Input/output error" in str(error.value)
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == before


LIMITED = """
import resource, sys
import numpy as np
import jals
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
for path in sys.argv[1:]:
    jals.save(path, jals.Factors(np.ones((10, 3)), np.ones((10, 3))))
    try:
        numbers = np.random.default_rng(0).normal(size=(20_000, 3))
        jals.save(path, jals.Factors(numbers, numbers))
    except jals.StorageError as error:
        print(error)
    assert jals.load(path).factors.user.shape == (10, 3)
"""


def test_a_limit_on_the_size_of_files_is_an_error(tmp_path):
    names = [f"f{suffix}" for suffix, (package, _) in PACKAGES.items() if has(package)]
    command = [sys.executable, "-c", LIMITED, *names]
    root = str(ROOT)
    environment = os.environ | {"PYTHONPATH": root, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} cannot be written: File too large." for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def has(package):
    try:
        __import__(package)
    except ImportError:
        return False
    return True


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB. Only root may mount one, and not in every container."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("may not mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_and_a_read_only_disk_are_errors(small_disk, suffix):
    path = small_disk / f"f{suffix}"
    jals.save(path, some_factors())
    before = path.read_bytes()
    numbers = np.random.default_rng(0).normal(size=(20_000, 3))
    with pytest.raises(jals.StorageError, match="cannot be written: No space left on device"):
        jals.save(path, jals.Factors(numbers, numbers))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(jals.StorageError, match="cannot be written: Read-only file system"):
        jals.save(path, some_factors(np.float64))
    assert list(small_disk.iterdir()) == [path]
    assert path.read_bytes() == before


def test_missing_file(tmp_path):
    with pytest.raises(jals.StorageError, match=r"none\.npz does not exist"):
        jals.load(tmp_path / "none.npz")


def seal(content):
    """The digest written in place of its zeros, as the docstring of `storage` says."""
    content = bytes(content)
    digest = hashlib.sha256(re.sub(rb"(jals factors \d+ sha256 )[0-9a-f]{64}", rb"\g<1>" + b"0" * 64, content))
    return content.replace(b"0" * 64, digest.hexdigest().encode())


def header(version=2, **parts):
    return {"seal": f"jals factors {version} sha256 {'0' * 64}", "data_hash": None} | parts


def write(path, header, **arrays):
    """Writes a sealed file with this header, and rows unless other arrays are given."""
    rows = {"factors__user": np.ones((2, 1)), "factors__item": np.ones((3, 1))} | arrays
    named: dict[str, Any] = {name.replace("__", "/"): array for name, array in rows.items() if array is not None}
    path.write_bytes(seal(FORMATS[path.suffix].write(named, header)))


REFUSED = r"is damaged, or no file of jals"
WRONG_CONTENTS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "older": (header(1), {}, r"has format version 1; this jals reads 2 to 4\. Read it with the jals that wrote it"),
    "newer": (header(5), {}, r"has format version 5; this jals reads 2 to 4\. A newer jals reads it"),
    "no hash": ({"seal": header()["seal"]}, {}, REFUSED),
    "unknown objective": (header(objective={"kind": 1}), {}, REFUSED),
    "half a vocabulary": (header(), {"vocabulary__user": np.arange(2)}, "has 0 item ids, but the factors have 3 items"),
    "ids": (
        header(),
        {"vocabulary__user": np.arange(2), "vocabulary__item": np.arange(4)},
        REFUSED + ": the vocabulary has 4 item ids, but the factors have 3 items",
    ),
    "rank": (header(), {"factors__item": np.ones((3, 2))}, "factors.user has rank 1, factors.item 2"),
    "seen": (header(3), {"seen__until": np.array([2, 1])}, REFUSED),
    "seen users": (header(3), {"seen__until": np.array([1])}, r"seen.until has shape \(1,\)"),
    "seen items": (
        header(3),
        {"seen__until": np.array([0, 1]), "seen__item": np.array([3]), "seen__value": np.ones(1)},
        "item of entry 0 is 3, but num_items is 3",
    ),
    "seen values": (
        header(3),
        {"seen__until": np.array([0, 1]), "seen__item": np.array([2]), "seen__value": np.ones(2)},
        r"seen.value has shape \(2,\), but beside these factors it must have \(1,\)",
    ),
    "bias": (
        header(),
        {"factors__user_bias": np.ones(2), "factors__item_bias": np.ones((3, 1))},
        r"factors.item_bias has shape \(3, 1\), but beside these factors it must have \(3,\)",
    ),
}


@pytest.mark.parametrize("kind", WRONG_CONTENTS)
def test_sealed_files_that_do_not_fit_are_refused(tmp_path, suffix, kind):
    wrong, arrays, message = WRONG_CONTENTS[kind]
    if suffix == ".parquet" and kind in ("ids", "rank", "bias"):
        pytest.skip("a column cannot hold it")
    path = tmp_path / f"factors{suffix}"
    write(path, header())
    assert jals.load(path).factors.user.shape == (2, 1), "the file that the others vary is fine"
    write(path, wrong, **arrays)
    with pytest.raises(jals.StorageError, match=re.escape(str(path)) + ".*" + message):
        jals.load(path)


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


def archive(compression=zipfile.ZIP_STORED, **members):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        file.comment = json.dumps(header()).encode()
        for name, member in members.items():
            file.writestr(name.replace("__", "/") + ".npy", member)
    return content.getvalue()


def npy(array, **options):
    content = io.BytesIO()
    np.lib.format.write_array(content, array, **options)
    return content.getvalue()


def absurd_npy():
    """An array's header that promises 8 TB."""
    return npy(np.ones((2, 1))).replace(b"'shape': (2, 1), }        ", b"'shape': (1000000000000,)}")


def pickled(path):
    return npy(np.array([Trap(path.parent / "mark")], object), allow_pickle=True)


SEALED = f"jals factors 2 sha256 {'0' * 64}".encode()
WRONG_FILES = {
    "empty": lambda path: b"",
    "text": lambda path: b"user,item,rating\n",
    "npy": lambda path: npy(np.ones(3)),
    "pickle": lambda path: pickle.dumps(Trap(path.parent / "mark")),
    "sealed pickle": lambda path: pickle.dumps((Trap(path.parent / "mark"), SEALED)),
    "sealed nothing": lambda path: SEALED,
    "zip": lambda path: archive(),
    "pickled array": lambda path: archive(factors__user=pickled(path), factors__item=npy(np.ones((3, 1)))),
    "absurd header": lambda path: archive(factors__user=absurd_npy(), factors__item=npy(np.ones((3, 1)))),
    "bomb": lambda path: archive(
        zipfile.ZIP_DEFLATED, factors__user=npy(np.zeros((10**6, 1))), factors__item=npy(np.zeros((3, 1)))
    ),
    "no header": lambda path: archive(factors__user=npy(np.ones((2, 1)))).replace(b'{"seal"', b' "seal"'),
    "header is a list": lambda path: archive().replace(b'{"seal"', b'["seal"'),
    "safetensors header": lambda path: (2**60).to_bytes(8, "little") + b'{"__metadata__":{"jals":"' + SEALED + b'"}}',
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_wrong_files_are_refused(tmp_path, suffix, kind):
    path = tmp_path / f"factors{suffix}"
    path.write_bytes(seal(WRONG_FILES[kind](path)))
    with pytest.raises(jals.StorageError, match=re.escape(str(path)) + " " + REFUSED):
        jals.load(path)
    assert not (tmp_path / "mark").exists(), "loading ran code"


def test_the_traps_of_these_tests_go_off(tmp_path):
    """The files that must not run code would, read without care."""
    archived = archive(factors__user=pickled(tmp_path / "file"))
    with np.load(io.BytesIO(archived), allow_pickle=True) as file:
        file["factors/user"]
    assert (tmp_path / "mark").exists()
    with zipfile.ZipFile(io.BytesIO(WRONG_FILES["bomb"](tmp_path))) as file:
        assert file.infolist()[0].file_size > 100 * file.infolist()[0].compress_size
    assert b"1000000000000" in absurd_npy()


def test_a_folder_is_refused(tmp_path, suffix):
    (tmp_path / f"f{suffix}").mkdir()
    with pytest.raises(jals.StorageError, match="cannot be read: Is a directory"):
        jals.load(tmp_path / f"f{suffix}")


def test_a_file_of_another_format_is_refused(saved):
    for suffix in PACKAGES:
        other = saved.with_suffix(suffix)
        if other != saved and has(PACKAGES[suffix][0]):
            saved.rename(other)
            with pytest.raises(jals.StorageError, match=REFUSED):
                jals.load(other)
            other.rename(saved)


def test_truncated_files_are_refused(saved):
    whole = saved.read_bytes()
    for length in [*np.linspace(0, len(whole) - 1, 60).astype(int), len(whole) - 2]:
        saved.write_bytes(whole[:length])
        with pytest.raises(jals.StorageError, match=REFUSED):
            jals.load(saved)
    saved.write_bytes(whole + b"\0")
    with pytest.raises(jals.StorageError, match=REFUSED):
        jals.load(saved)


def test_a_refused_file_is_closed(saved):
    saved.write_bytes(saved.read_bytes()[:-100])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(jals.StorageError):
            jals.load(saved)
        gc.collect()
    assert not caught


def test_a_changed_byte_is_never_overlooked(saved):
    whole = saved.read_bytes()
    for at in range(0, len(whole), 3):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(jals.StorageError):
            jals.load(saved)


def test_a_table_in_parquet_that_was_changed_by_other_means_is_refused(tmp_path):
    polars = pytest.importorskip("polars", reason='.parquet files need the extra "tables"')
    path = tmp_path / "f.parquet"
    jals.save(path, some_factors())
    metadata = polars.read_parquet_metadata(path)
    polars.read_parquet(path).sort("row").write_parquet(path, metadata=metadata)
    with pytest.raises(jals.StorageError, match="its SHA-256 is not the one it was saved with"):
        jals.load(path)


def test_arrays_beside_the_columns_are_base64(tmp_path):
    """Among them those of a column that would have to mix whole numbers and reals."""
    polars = pytest.importorskip("polars", reason='.parquet files need the extra "tables"')
    objective = jals.explicit(reg_user=np.arange(5), reg_item=np.ones(4))
    jals.save(tmp_path / "f.parquet", some_factors(), None, objective)
    assert polars.read_parquet(tmp_path / "f.parquet").columns == ["side", "row", "bias", "factor"]
    mean = json.loads(polars.read_parquet_metadata(tmp_path / "f.parquet")["jals"])["arrays"]["factors/mean"]
    assert np.frombuffer(base64.b64decode(mean["base64"]), mean["dtype"]) == [3.5]
