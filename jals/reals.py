"""Real numbers as callers write them: Python's, NumPy's and jax's, of any width, alone or in lists."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .errors import ArgumentError, DataError, EntryError, is_traced

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))  # what the library computes in
MOST = 2**31 - 1  # of every size: counts and numbers of rows, entries and sweeps are int32


def is_real(dtype: Any) -> bool:
    """Whether numbers of a dtype are real: floats of any width (bfloat16 too, which NumPy takes for none), whole
    numbers, or booleans for 0 and 1."""
    kinds = (np.floating, np.integer, np.bool_)
    return getattr(dtype, "kind", "") not in "mM" and any(jnp.issubdtype(dtype, kind) for kind in kinds)


def refuse_masked(name: str, column: Any) -> Any:
    """The column itself, once it is sure that nothing in it is masked: NumPy drops a mask without a word.

    Raises:
        EntryError: naming the first masked entry.
    """
    mask = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else np.zeros(0, bool)
    if mask.dtype == bool and mask.any():  # a record has a mask of its own kind, and is no column anyway
        at = int(np.argmax(mask.ravel()))
        raise EntryError(name, at, "is masked. Leave such entries out, of every column alike.")
    return column


def reals(name: str, value: Any) -> Any:
    """What was given as an array: jax's own as it is, traced or not, everything else NumPy's, in this machine's byte
    order and at most float64.

    Raises:
        ArgumentError: for what holds no real numbers.
        DataError: for a masked array with an entry that is masked.
    """
    if not isinstance(value, jax.Array):
        try:
            traced = isinstance(value, (list, tuple)) and any(map(is_traced, jax.tree.leaves(value)))
            value = jnp.asarray(value) if traced else np.asarray(refuse_masked(name, value))
        except DataError:
            raise
        except Exception as error:  # ragged, or what a class of someone else's says to being an array
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise ArgumentError(f"{name} holds no array of numbers: {why}") from None
    if not is_real(value.dtype):
        what = repr(value) if value.ndim == 0 and not is_traced(value) else f"of {value.dtype}"
        raise ArgumentError(f"{name} is {what}, but must be real: floats or whole numbers.")
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        wide = value.dtype.kind == "f" and value.dtype.itemsize > 8
        value = value.astype(np.float64 if wide else value.dtype.newbyteorder("="), copy=False)
    return value


def as_floats(name: str, value: Any, dtype: Any) -> jax.Array:
    """What was given as a jax array of a float dtype; raises as `reals`."""
    if isinstance(value, jax.Array) and value.dtype == dtype and not value.weak_type:  # that would go into the result's
        return value
    value = reals(name, value)
    if isinstance(value, np.ndarray):  # on the host: jax would compile a program for each dtype and shape
        with np.errstate(over="ignore", under="ignore"):  # where that matters, `check_fits_dtype` says so in words
            value = value.astype(dtype)
    return jnp.asarray(value, dtype)


def is_number(value: Any) -> bool:
    """Whether a value is one real number, in whatever spelling."""
    if isinstance(value, (bool, np.bool_, list, tuple)):
        return False
    try:
        return reals("it", value).ndim == 0
    except ArgumentError:
        return False


def one_real(name: str, value: Any, what: str = "a number") -> Any:
    """The value; raises ArgumentError unless it is one real number."""
    if not is_number(value):
        raise ArgumentError(f"{name} is {value!r}, but must be {what}.")
    return value


def float_dtype(array: Any) -> Any:
    """The dtype that jax reads an array in: float32 for float64 where x64 is off."""
    dtype = np.dtype(array.dtype) if isinstance(array, np.ndarray) else array.dtype
    return np.dtype(np.float32) if dtype == np.float64 and not jax.config.read("jax_enable_x64") else dtype


def check_fits_dtype(name: str, numbers: Any, dtype: Any, zero: bool = True) -> None:
    """Raises ArgumentError where a finite number is beyond a float dtype: infinite in it, or (with `zero`) less than
    its least normal number, which counts as 0. Numbers that are not known yet, or have the dtype, pass."""
    if is_traced(numbers) or numbers.dtype == dtype:
        return
    known, form = np.asarray(numbers, np.float64), jnp.finfo(dtype)
    lost = np.isfinite(known) & (np.abs(known) > float(form.max))
    if zero:
        lost |= (known != 0) & (np.abs(known) < float(form.tiny))
    if lost.any():
        row = f" in row {np.argwhere(lost)[0][0]}" if known.ndim else ""
        number = known[lost].flat[0]
        becomes = "inf" if abs(number) > 1 else "0"
        raise ArgumentError(
            f"{name} is {number}{row}, which {np.dtype(dtype).name} cannot hold (it becomes {becomes}): give a number "
            f"between {float(form.tiny):.2g} and {float(form.max):.2g}, or use float64."
        )
