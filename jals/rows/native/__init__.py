"""The row solve in C++ for CPUs, in CUDA for GPUs: Gram, factorization and solution of a row in registers and cache.

XLA calls it as a custom call inside any jitted program, on its own threads (`ffi.cpp`) or stream (`cuda/ffi.cu`), with
the same operands. `rowsolve` decides when, and owns the derivative: nothing here is differentiable. The libraries are
built when jals is installed where a C++ compiler is at hand, and nvcc; `status` and `cuda_status` say whether they are
here, and why not.
"""

import ctypes
import functools
import pathlib
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...devices import match_varying
from ...model.feedback import coefficients, feature, is_plain
from ..normal import with_held_loss
from ..view import View

TARGETS = {"float32": "jals_solve_rows_f32", "float64": "jals_solve_rows_f64"}
SELECTS = {"float32": "jals_select_f32", "float64": "jals_select_f64"}
CALLS = 6  # what a library is called with here: `jals_calls` in ffi.cpp, raised with every change to it
RETURNS = ("value", "cholesky", "inverse", "norms")
_PAD = 16  # columns, of what is stepped: kPad in rows.hpp


class Status(NamedTuple):
    """Whether a kernel can be used.

    Attributes:
        available: whether it is loaded, XLA knows it, and nothing here is too old for it.
        reason: why not, and what to do. Of a CUDA kernel that is available also why nothing can run it here, though
            programs can be lowered for another machine: there is no driver. Else "".
        isa: the instruction set it runs with: "avx512", "avx2" or "baseline" (SSE2, NEON); of the CUDA kernel
            those that it is compiled for, "sm_80, sm_90, ...". None where not available.
        path: the library's file, or None.
    """

    available: bool
    reason: str
    isa: str | None
    path: pathlib.Path | None


def status() -> Status:
    """Whether the CPU's kernel is here; it is loaded at the first call."""
    library, path, reason = _load()
    return Status(library is not None, reason, library and library.jals_isa().decode(), path)


def cuda_status() -> Status:
    """Whether the GPUs' kernel is here; it is loaded at the first call. That needs no GPU and no driver: programs can
    be lowered for another machine anywhere. A driver that is here, and all GPUs that jax uses, must be new enough."""
    library, path, reason = _load_cuda()
    if library is None:
        return Status(False, reason, None, path)
    isa, versions = library.jals_isa().decode(), [ctypes.c_int(), ctypes.c_int(), ctypes.c_int()]
    library.jals_driver(*versions)
    here, needed, for_ptx = (each.value for each in versions)
    if not here:
        return Status(True, f"there is no NVIDIA driver here. {_install_driver(needed)}", isa, path)
    gpus = [str(each.compute_capability) for each in _gpus()]
    reason = _driver_too_old(here, needed) or _gpu_too_old(gpus) or _gpu_too_new(gpus, isa, here, for_ptx)
    return Status(not reason, reason, isa, path)


def missing() -> dict[str, str]:
    """For each platform of jax that has a kernel, why that cannot be used, or ""."""
    found = {"cpu": status(), "cuda": cuda_status()}
    return {platform: "" if each.available else each.reason for platform, each in found.items()}


@functools.cache
def _load() -> tuple[Any, pathlib.Path | None, str]:
    """(the library or None, its path, why not)"""
    why = (
        "the CPU kernel is not built, most likely because no C++ compiler was found when jals was installed. "
        "Install g++ 12 or a recent clang, and jals again (pip install -v says what is missing)."
    )  # fmt: skip
    calls = {"jals_use_isa": ([ctypes.c_char_p], ctypes.c_bool)}
    return _open("CPU", "_kernel*.so", "cpu", [*TARGETS.values(), *SELECTS.values()], calls, why)


@functools.cache
def _load_cuda() -> tuple[Any, pathlib.Path | None, str]:
    """The same of the GPUs' kernel."""
    why = (
        "the CUDA kernel is not built, most likely because there was no nvcc, or no GPU, when jals was installed. "
        "Install the CUDA toolkit 12.8 or newer, and jals again, for another machine's GPU with JALS_CUDA=1 in the "
        "environment (pip install -v says what is missing)."
    )
    calls = {"jals_driver": ([ctypes.POINTER(ctypes.c_int)] * 3, None)}
    return _open("CUDA", "_cuda*.so", "CUDA", list(TARGETS.values()), calls, why)


def _open(
    name: str, pattern: str, platform: str, targets: list[str], calls: dict[str, tuple], why: str
) -> tuple[Any, pathlib.Path | None, str]:
    """`calls` has the types of the library's own functions: (arguments, result)."""
    # A tree that several versions of jax share has a library for each interface: the newest that loads.
    paths = sorted(pathlib.Path(__file__).parent.glob(pattern), key=_interface, reverse=True)
    for path in paths:
        try:
            # Before its CPU backend has started, XLA takes any library, and then does not start with a wrong one.
            jax.local_devices(backend="cpu")
            library = ctypes.CDLL(str(path))
            version = library.jals_calls() if hasattr(library, "jals_calls") else 1
            if version != CALLS:
                raise ImportError(f"it was built of other sources (its calls are version {version}, here {CALLS})")
            for call, types in (calls | {"jals_isa": ([], ctypes.c_char_p)}).items():
                function = getattr(library, call)
                function.argtypes, function.restype = types
            if library.jals_isa() is None:
                raise ImportError("it was built for another machine's instruction set alone (JALS_ISA=host)")
            for target in targets:
                jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform=platform)
        except Exception as error:  # damaged, older, for another machine or a newer jax: XLA solves instead
            why = (
                f"the {name} kernel {path.name} does not load: {error}. Install jals again, with the jax it will run "
                "with (pip install --no-build-isolation)."
            )
        else:
            return library, path, ""
    return None, paths[-1] if paths else None, why


def _gpus() -> list[Any]:
    try:
        return jax.local_devices(backend="cuda")
    except RuntimeError:  # there is none
        return []


def _driver_too_old(here: int, needed: int) -> str:
    """Why the kernel does not run with a driver for this version of CUDA, or "". Versions are 1000 major + 10 minor."""
    if here >= needed:
        return ""
    versions = f"for CUDA {_spelt(here)}, and the CUDA kernel needs one for {_spelt(needed)} or newer"
    return f"the NVIDIA driver here is {versions}. {_install_driver(needed)}"


def _gpu_too_old(capabilities: list[str]) -> str:
    """Why the kernel does not run on GPUs of these compute capabilities, or ""."""
    old = min(map(float, capabilities), default=8.0)
    if old >= 8:
        return ""
    return f"a GPU here has compute capability {old}, and the CUDA kernel needs 8.0 or more."


def _gpu_too_new(capabilities: list[str], isa: str, here: int, for_ptx: int) -> str:
    """The same of GPUs that are newer than what is compiled: the driver makes their code."""
    compiled = {int(each) // 10 for each in re.findall(r"sm_(\d+)", isa)}
    new = [each for each in capabilities if int(float(each)) not in compiled]
    if not new or here >= for_ptx:
        return ""
    return (
        f"a GPU here has compute capability {new[0]}, for which the driver makes the CUDA kernel's code; the driver "
        f"here is for CUDA {_spelt(here)}, and that needs one for {_spelt(for_ptx)} or newer. "
        f"{_install_driver(for_ptx)}"
    )


def _spelt(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _install_driver(version: int) -> str:
    return f"Install a driver for CUDA {_spelt(version)} or newer."


def _interface(path: pathlib.Path) -> list[int]:
    """The version of XLA's interface in a library's name: [0, 3] of _kernel_0_3.so."""
    return [int(number) for number in path.stem.split("_")[2:]]


def available() -> bool:
    """Whether `largest` can be called, on a CPU."""
    return _load()[0] is not None


def largest(
    query: jax.Array,
    table: jax.Array,
    k: int,
    offset: Any = None,
    mask: Any = None,
    start: Any = None,
    stop: Any = None,
    closed: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """The k largest of query . table[i] + offset[i] over the items i that are open, for each query; on XLA's threads.

    Args:
        query: `(queries, rank)`.
        table: `(items, rank)`, items >= k.
        k: how many are wanted.
        offset: `(items,)`; or None.
        mask: bool `(queries, items)`, True where closed; or None.
        start, stop, closed: int32 `(queries,)` twice, and `(pairs,)`: to each query `closed[start:stop]`, increasing,
            are closed; or None.

    Returns: (item int32 `(queries, k)`, score `(queries, k)`), the largest first, equal ones by item; -1 and -inf where
        none is left that is above -inf.
    """
    given = {"offset": offset, "mask": mask, "pairs": start}
    operands = [query, table, *(each for each in (offset, mask, start, stop, closed) if each is not None)]
    shape = len(query), k
    results = [jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, table.dtype)]
    call = jax.ffi.ffi_call(SELECTS[table.dtype.name], results, vmap_method="sequential")
    found = call(*operands, **{f"with_{name}": each is not None for name, each in given.items()})
    return match_varying(tuple(found), (query, table))[0]


def solve_rows(view: View, rhs: jax.Array | None, start: jax.Array | None, want: tuple[str, ...]) -> list[Any]:
    """Solves the normal equations of all rows of a side, or the same matrices with another right-hand side
    `(rows, k)`. Under `vmap` it is called once for each.

    Returns: [x `(rows, k)`, NaN where a pivot is not positive, or in a strict row not more than k eps (the largest
        diagonal element); then for each of `RETURNS` what it is, or None where it is not wanted.
        "value" is `(rows,)`, each row's part of the loss at x; "cholesky" and "inverse", `(rows, k, k)`, of its matrix;
        "norms" `(rows, 2)`. See `rowsolve.Solved`].
    """
    rows, k = view.reg.shape
    dtype = view.reg.dtype
    operands, attributes = _operands(view, rhs, start)
    shapes = {"value": (rows,), "cholesky": (rows, k, k), "inverse": (rows, k, k), "norms": (rows, 2)}
    results = [jax.ShapeDtypeStruct((rows, k), dtype), jax.ShapeDtypeStruct((rows,), bool)]
    results += [jax.ShapeDtypeStruct(shapes[name], dtype) for name in RETURNS if name in want]
    attributes |= {name: name in want for name in RETURNS}
    call = jax.ffi.ffi_call(TARGETS[dtype.name], results, vmap_method="sequential")
    (x, _, *rest), _ = match_varying(call(*operands, **attributes), view)  # as what XLA solves is
    found = {name: rest.pop(0) if name in want else None for name in RETURNS}
    if start is not None and found["value"] is not None:
        found["value"] = with_held_loss(view, start, found["value"])
    return [x, *found.values()]


def takes(view: View) -> bool:
    """Whether `solve_rows` can work on a view."""
    return view.layout.mesh is None and not view.layout.summed


def takes_steps(view: View) -> bool:
    """Whether `step_rows` can."""
    return takes(view) and view.precision is None


def step_rows(view: View, start: jax.Array, linsolve: str, size: int, want: tuple[str, ...]) -> list[Any]:
    """Steps from `start` `(rows, k)` towards the rows' solutions: `size` of conjugate gradients ("cg"), or one for each
    block of `size` columns ("subspace"). Under `vmap` it is called once for each.

    Returns: [x `(rows, k)`, NaN in rows that end at no finite numbers, or where a block's pivot is not positive;
        "value" `(rows,)` where wanted, each row's part of the loss at x].
    """
    rows, k = view.reg.shape
    dtype = view.reg.dtype
    operands, attributes = _operands(view, None, start, _PAD)
    width = -(-k // _PAD) * _PAD
    results = [jax.ShapeDtypeStruct((rows, width), dtype), jax.ShapeDtypeStruct((rows,), bool)]
    results += [jax.ShapeDtypeStruct((rows,), dtype)] * ("value" in want)
    attributes |= {name: name in want for name in RETURNS}
    steps = {"cg_steps": size if linsolve == "cg" else 0, "block": 0 if linsolve == "cg" else size}
    attributes |= {"columns": np.int64(k)} | {name: np.int64(number) for name, number in steps.items()}
    call = jax.ffi.ffi_call(TARGETS[dtype.name], results, vmap_method="sequential")
    (x, _, *rest), _ = match_varying(call(*operands, **attributes), view)
    x = x[:, :k]
    return [x, with_held_loss(view, x, rest[0])] if rest else [x]


def _operands(
    view: View, rhs: jax.Array | None, start: jax.Array | None, pad: int = 0
) -> tuple[list[jax.Array], dict[str, Any]]:
    """The arguments in the order in which `ffi.cpp` reads them; with `pad` columns up to a multiple of it, that of the
    bias among them."""
    dtype, rank = view.reg.dtype, view.reg.shape[1] - view.has_bias

    def padded(columns: jax.Array, axes: int = 1) -> jax.Array:
        more = -columns.shape[-1] % pad if pad else 0
        return jnp.pad(columns, [(0, 0)] * (columns.ndim - axes) + [(0, more)] * axes) if more else columns

    mean = jnp.zeros((), dtype) if view.mean is None else view.mean
    scale = view.slots.scale if is_plain(view.objective) else None
    coded, scale = scale is not None, jnp.array([0, 1], dtype) if scale is None else scale
    entry = jnp.concatenate([coefficients(view.objective, dtype), scale])
    table = view.others.z if view.others.stored is None else view.others.stored
    table = padded(table) if pad else table[:, :rank]
    operands = [table, mean, entry, view.reg[:, 0], view.blank, view.strict]
    if view.others.bias is not None:
        operands += [view.others.bias, view.reg[:, -1]]
    operands += [padded(each) for each in (rhs, start) if each is not None]
    if view.prior_mean is not None:
        operands.append(padded(jnp.atleast_2d(view.prior_mean)))
    if view.precision is not None:
        operands.append(view.precision if view.precision.ndim == 3 else view.precision[None])
    if view.gram is not None:
        operands.append(padded(view.gram, axes=2))
        operands += [] if view.pairs is None else [view.pairs]
    cut = 0
    for place, (bucket, value, weight) in enumerate(
        zip(view.layout.buckets, view.slots.value, view.slots.weights(), strict=True)
    ):
        f = value if coded else feature(view.objective, view.slots.numbers(value), weight)
        operands += [bucket.row, bucket.other, bucket.entry, f] + ([] if weight is None else [weight])
        if bucket.piece_row is not None:
            operands.append(bucket.piece_row)
            cut |= 1 << place
    attributes = {
        "num_entries": np.int64(view.layout.num_entries),
        "part": view.layout.part,
        "cut_buckets": np.int64(cut),  # a bit for each bucket that has piece_row
        "bias": view.has_bias,
        "with_weight": view.slots.weight is not None,
        "with_rhs": rhs is not None,
        "with_start": start is not None,
        "with_prior": view.prior_mean is not None,
        "with_precision": view.precision is not None,
        "with_gram": view.gram is not None,
        "with_pairs": view.gram is not None and view.pairs is not None,
        **dict.fromkeys(("columns", "cg_steps", "block"), np.int64(0)),
    }
    return operands, attributes
