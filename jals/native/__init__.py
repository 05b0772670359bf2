"""The row solve in C++ for CPUs: Gram, factorization and solution of each row in registers and cache.

XLA calls it as a custom call inside any jitted program, on its own threads (`jals/native/ffi.cpp`). `rowsolve` decides
when, and owns the derivative: nothing here is differentiable. The library is built when jals is installed where a C++
compiler is at hand; `status` says whether it is here, and why not.
"""

import ctypes
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..devices import alike
from ..errors import ArgumentError
from ..feedback import coefficients, feature
from ..normal import View

TARGETS = {"float32": "jals_solve_rows_f32", "float64": "jals_solve_rows_f64"}


class Status(NamedTuple):
    """Whether the kernel can be used.

    Attributes:
        available: whether it is loaded and XLA knows it.
        reason: why not, and what to do; "" where it is available.
        isa: the instruction set it runs with: "avx512", "avx2" or "baseline" (SSE2, NEON); None where not available.
        path: the library's file, or None.
    """

    available: bool
    reason: str
    isa: str | None
    path: pathlib.Path | None


def status() -> Status:
    """Whether the kernel is here; it is loaded at the first call."""
    library, path, reason = _load()
    return Status(library is not None, reason, library and library.jals_isa().decode(), path)


def require() -> None:
    """Raises ArgumentError unless the kernel is here."""
    found = status()
    if not found.available:
        raise ArgumentError(f'backend is "native", but {found.reason} backend="auto" works without it.')


@functools.cache
def _load() -> tuple[Any, pathlib.Path | None, str]:
    """(the library or None, its path, why not)"""
    # A tree that several versions of jax share has a library for each interface (setup.py): the newest that loads.
    paths = sorted(pathlib.Path(__file__).parent.glob("_kernel*.so"), key=_interface, reverse=True)
    why = (
        "the CPU kernel is not built, most likely because no C++ compiler was found when jals was installed. "
        "Install g++ 12 or a recent clang, and jals again (pip install -v says what is missing)."
    )  # fmt: skip
    for path in paths:
        try:
            # Before its CPU backend has started, XLA takes any library, and then does not start with a wrong one.
            jax.local_devices(backend="cpu")
            library = ctypes.CDLL(str(path))
            library.jals_isa.restype = ctypes.c_char_p
            library.jals_use_isa.argtypes, library.jals_use_isa.restype = [ctypes.c_char_p], ctypes.c_bool
            for target in TARGETS.values():
                jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
        except Exception as error:  # damaged, or for another machine or a newer jax: XLA solves instead
            why = (
                f"the CPU kernel {path.name} does not load: {error}. Install jals again, with the jax it will run with "
                "(pip install --no-build-isolation)."
            )  # fmt: skip
        else:
            return library, path, ""
    return None, paths[-1] if paths else None, why


def _interface(path: pathlib.Path) -> list[int]:
    """The version of XLA's interface in a library's name: [0, 3] of _kernel_0_3.so."""
    return [int(number) for number in path.stem.split("_")[2:]]


class Outcome(NamedTuple):
    """What the kernel returns.

    Attributes:
        x: `(rows, k)`, NaN where not good.
        good: bool `(rows,)`, every pivot is positive, and more than k eps (the largest diagonal element) in strict
            rows.
        value: `(rows,)`, each row's part of the loss at x (see `rowsolve.Solved`), or None.
        cholesky: `(rows, k, k)`, the lower factors, or None.
    """

    x: jax.Array
    good: jax.Array
    value: jax.Array | None
    cholesky: jax.Array | None


def solve_rows(view: View, rhs: jax.Array | None = None, value: bool = False, cholesky: bool = False) -> Outcome:
    """Solves the normal equations of all rows of a side, or the same matrices with another right-hand side
    `(rows, k)`. Under `vmap` it is called once for each."""
    rows, k = view.reg.shape
    dtype = view.reg.dtype
    operands, attributes = _operands(view, rhs)
    results = [jax.ShapeDtypeStruct((rows, k), dtype), jax.ShapeDtypeStruct((rows,), bool)]
    if value:
        results.append(jax.ShapeDtypeStruct((rows,), dtype))
    if cholesky:
        results.append(jax.ShapeDtypeStruct((rows, k, k), dtype))
    call = jax.ffi.ffi_call(TARGETS[dtype.name], results, vmap_method="sequential")
    found, _ = alike(call(*operands, value=value, cholesky=cholesky, **attributes), view)  # as what XLA solves is
    x, good, *rest = found
    return Outcome(x, good, rest.pop(0) if value else None, rest.pop(0) if cholesky else None)


def _operands(view: View, rhs: jax.Array | None) -> tuple[list[jax.Array], dict[str, Any]]:
    """The arguments in the order in which `ffi.cpp` reads them."""
    dtype, rank = view.reg.dtype, view.reg.shape[1] - view.has_bias
    mean = jnp.zeros((), dtype) if view.mean is None else view.mean
    entry = coefficients(view.objective, dtype)
    operands = [view.table[:, :rank], mean, entry, view.reg[:, 0], view.blank, view.strict]
    if view.held_bias is not None:
        operands += [view.held_bias, view.reg[:, -1]]
    if rhs is not None:
        operands.append(rhs)
    if view.prior_mean is not None:
        operands.append(jnp.atleast_2d(view.prior_mean))
    if view.precision is not None:
        operands.append(view.precision if view.precision.ndim == 3 else view.precision[None])
    if view.gram is not None:
        operands.append(view.gram)
    cut = 0
    for place, (bucket, value, weight) in enumerate(
        zip(view.layout.buckets, view.slots.value, view.slots.weight, strict=True)
    ):
        f = feature(view.objective, value, weight)
        operands += [bucket.row, bucket.other, bucket.entry, f, weight]
        if bucket.piece_row is not None:
            operands.append(bucket.piece_row)
            cut |= 1 << place
    attributes = {
        "num_entries": np.int64(view.layout.num_entries),
        "cut_buckets": np.int64(cut),  # a bit for each bucket that has piece_row
        "bias": view.has_bias,
        "own_rhs": rhs is None,
        "with_prior": view.prior_mean is not None,
        "with_precision": view.precision is not None,
        "with_gram": view.gram is not None,
    }
    return operands, attributes
