"""Files of factors: back to the bit, whole or not at all, and every wrong file told apart."""

import contextlib
import errno
import gc
import json
import pathlib
import pickle
import re
import warnings
import zipfile
from typing import Any

import jax
import numpy as np
import pytest

import jals
from jals.vocabulary import Vocabulary


def some_factors(dtype: Any = np.float32, bias=True, mean=True):
    rng = np.random.default_rng(0)
    columns: Any = (rng.normal(size=size).astype(dtype) for size in ((5, 3), (4, 3), 5, 4))
    user, item, *biases = columns
    return jals.Factors(user, item, *(biases if bias else (None, None)), mean=dtype(3.5) if mean else None)


def assert_same_bits(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes())


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "factors.npz"
    jals.save(path, some_factors(), objective=jals.als_wr(0.05, bias=True, center=True), data_hash="abc")
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_factors_come_back_to_the_bit(tmp_path, dtype, bias, mean):
    factors = some_factors(dtype, bias, mean)
    jals.save(tmp_path / "factors.npz", jax.tree.map(jax.numpy.asarray, factors))
    loaded = jals.load(tmp_path / "factors.npz")
    assert_same_bits(loaded.factors, factors)
    assert (loaded.vocab, loaded.objective, loaded.data_hash) == (None, None, None)
    np.testing.assert_array_equal(jals.predict(loaded.factors, 1, 2), jals.predict(factors, 1, 2))


@pytest.mark.parametrize(
    "objective",
    [
        jals.explicit(0.1),
        jals.als_wr(reg_user=np.linspace(0, 1, 5), reg_item=np.float32(0.3), reg_bias=2, bias=True, center=True),
        jals.als_wr(0.1, prior_user=np.ones(3), prior_item=np.ones((4, 3)), reg_power=0.5),
        jals.hu_koren(0.1, 40.0),
        jals.ials(0.1, unobserved_weight=0.2),
    ],
    ids=["explicit", "by row", "prior", "hu_koren", "ials"],
)
def test_objective_comes_back(tmp_path, objective):
    jals.save(tmp_path / "factors.npz", some_factors(), objective=objective)
    loaded = jals.load(tmp_path / "factors.npz").objective
    assert_same_bits(loaded, objective)
    for name in ("feedback", "bias", "center"):
        assert getattr(loaded, name) == getattr(objective, name)


@pytest.mark.parametrize("ids", [(["ann", "bob ü"], ["x", "y"]), ([7, 9], [2**40, 3])], ids=["strings", "integers"])
def test_vocabulary_and_hash_come_back(tmp_path, ids):
    vocab, *_ = Vocabulary.from_ids(*ids)
    jals.save(str(tmp_path / "factors.npz"), some_factors(), vocab=vocab, data_hash="0123")
    loaded = jals.load(str(tmp_path / "factors.npz"))
    assert loaded.vocab is not None
    assert_same_bits([loaded.vocab.user, loaded.vocab.item], [vocab.user, vocab.item])
    assert loaded.data_hash == "0123"


def test_saving_again_replaces_the_file(saved):
    jals.save(saved, some_factors(np.float64))
    assert jals.load(saved).factors.user.dtype == np.float64
    assert list(saved.parent.iterdir()) == [saved]


def refuse(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")


def test_unwritable_places_are_named(tmp_path, monkeypatch):
    with pytest.raises(jals.StorageError, match=r"no/f\.npz cannot be written: No such file or directory"):
        jals.save(tmp_path / "no" / "f.npz", some_factors())
    with pytest.raises(jals.StorageError, match="cannot be written: Is a directory"):
        jals.save(tmp_path, some_factors())
    (tmp_path / "file").touch()
    with pytest.raises(jals.StorageError, match="cannot be written: Not a directory"):
        jals.save(tmp_path / "file" / "f.npz", some_factors())
    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    with pytest.raises(jals.StorageError, match=r"f\.npz cannot be written: Read-only file system"):
        jals.save(tmp_path / "f.npz", some_factors())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("array"),
        KeyboardInterrupt(),
    ],
    ids=["disk full", "other error", "interrupt"],
)
def test_a_write_that_fails_midway_leaves_the_old_file(saved, monkeypatch, fault):
    before = saved.read_bytes()

    def fail_midway(file, **arrays):
        file.write(b"half")
        raise fault

    monkeypatch.setattr(np, "savez", fail_midway)
    with pytest.raises((jals.StorageError, ValueError, KeyboardInterrupt)) as error:
        jals.save(saved, some_factors())
    if isinstance(fault, OSError):
        assert isinstance(error.value, jals.StorageError)
        assert "factors.npz cannot be written: No space left on device" in str(error.value)
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == before


def test_missing_file(tmp_path):
    with pytest.raises(jals.StorageError, match=r"none\.npz does not exist"):
        jals.load(tmp_path / "none.npz")


class Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


def write_npy(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


HEADER = {"format": "jals factors", "version": 1, "data_hash": None}


def writer(header, **arrays):
    """Writes an npz file with this header, and rows unless other arrays are given."""
    rows = {"factors__user": np.ones((2, 1)), "factors__item": np.ones((3, 1))} | arrays
    named: dict[str, Any] = {name.replace("__", "/"): array for name, array in rows.items() if array is not None}
    text = header if isinstance(header, str) else json.dumps(header)
    return lambda path: np.savez(path, header=np.array(text), **named)


REFUSED = r"is damaged, or no file of jals"
WRONG_FILES = {
    "empty": (lambda path: path.touch(), REFUSED),
    "text": (lambda path: path.write_text("user,item,rating\n"), REFUSED),
    "folder": (lambda path: path.mkdir(), REFUSED),
    "npy": (write_npy, REFUSED),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Trap(path.parent / "mark"))), REFUSED),
    "other npz": (lambda path: np.savez(path, a=1), REFUSED),
    "zip": (lambda path: zipfile.ZipFile(path, "w").close(), REFUSED),
    "header is no json": (writer("{"), REFUSED),
    "header is a list": (writer([1]), "holds no jals factors"),
    "other format": (writer(HEADER | {"format": "jals run"}), "holds no jals factors"),
    "older version": (
        writer(HEADER | {"version": 0}),
        r"has format version 0; this jals reads 1\. Save it again with the version of jals that reads it",
    ),
    "newer version": (writer(HEADER | {"version": 2}), "has format version 2"),
    "no item rows": (writer(HEADER, factors__item=None), "damaged"),
    "pickled objects": (
        lambda path: writer(HEADER, factors__user=np.array([Trap(path.parent / "mark")]))(path),
        REFUSED,
    ),
    "no version": (writer({"format": "jals factors"}), "damaged"),
    "no hash": (writer({"format": "jals factors", "version": 1}), "damaged"),
    "unknown objective": (writer(HEADER | {"objective": {"kind": 1}}), "damaged"),
    "half a vocabulary": (writer(HEADER, vocabulary__user=np.arange(2)), "damaged"),
}


@pytest.mark.parametrize("kind", WRONG_FILES)
def test_wrong_files_are_refused(tmp_path, kind):
    write, message = WRONG_FILES[kind]
    path = tmp_path / "factors.npz"
    write(path)
    with pytest.raises(jals.StorageError, match=re.escape(str(path)) + ".*" + message):
        jals.load(path)
    assert not (tmp_path / "mark").exists(), "loading ran code"


@pytest.mark.filterwarnings("ignore")
def test_truncated_files_are_refused(saved):
    whole = saved.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        saved.write_bytes(whole[:length])
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


@pytest.mark.filterwarnings("ignore")
def test_a_changed_byte_is_noticed_or_harmless(saved):
    whole, before = saved.read_bytes(), jals.load(saved)
    for at in range(0, len(whole), 7):
        for change in (1, 255):
            saved.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
            try:
                after = jals.load(saved)
            except jals.StorageError:
                continue
            assert_same_bits((after.factors, after.objective), (before.factors, before.objective))
