"""The CUDA kernel, unchanged, on an emulator of the GPU (emulator/), held to what the CPU's is; lowered for CUDA
without a GPU; and compiled, where there is nvcc. (Random cases: test_native_fuzz.py.)"""

import ctypes
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sysconfig
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import native, normal, rowsolve
from jals.model import layouts
from tests.support import ROOT, tables
from tests.support.compiler import build

pytestmark = pytest.mark.newest

SOURCES = ROOT / "jals/rows/native"
H100, SMALL = 227 << 10, 12 << 10  # bytes that a block may share; the second is less than any GPU has
FLOATS = (np.float32, np.float64)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("emulator") / "emulator.so"
    flags = ["-O1", "-U_FORTIFY_SOURCE", "-shared", "-fPIC", f"-I{SOURCES}", f"-I{ROOT / 'tests/rows/emulator'}"]
    built = build(ROOT / "tests/rows/emulator/ffi.cpp", path, *flags, "-isystem", jax.ffi.include_dir())
    assert built.returncode == 0, built.stderr
    jax.local_devices(backend="cpu")
    found = ctypes.CDLL(str(path))
    found.jals_machine.argtypes, found.jals_memory.argtypes = [ctypes.c_bool, ctypes.c_int64], [ctypes.c_int64]
    for target in native.TARGETS.values():
        jax.ffi.register_ffi_target(f"emulator_{target}", jax.ffi.pycapsule(getattr(found, target)), platform="cpu")
    return found


@pytest.fixture
def emulator(library, monkeypatch):
    """backend="native" is the CUDA kernel; called as emulator(turned, shared), it is another machine."""
    targets = {dtype: f"emulator_{target}" for dtype, target in native.TARGETS.items()}
    monkeypatch.setattr(native, "TARGETS", targets)
    monkeypatch.setattr(native, "missing", lambda: {"cpu": "", "cuda": ""})
    jax.clear_caches()  # programs that call the CPU's
    library.jals_machine(False, H100)
    library.jals_memory(2**62)
    yield library.jals_machine
    jax.clear_caches()


# ---- by NumPy ----


def systems(view, user, item, value, weight):
    """(A, b, the loss as a function of x) of every row, in float64."""
    wide = lambda array: np.asarray(array, float)  # noqa: E731
    z, entry = wide(view.others.z), view.objective.entry(value, weight)
    w, t, q = map(wide, (entry.w, entry.t, entry.q))
    held = 0.0 if view.mean is None else wide(view.mean)
    held = held + (0.0 if view.others.bias is None else wide(view.others.bias)[item])
    prior, reg, rows = wide(view.prior), wide(view.reg), len(view.reg)
    pairs = np.zeros(rows) if view.gram is None else np.ones(rows) if view.pairs is None else wide(view.pairs)
    gram = 0.0 if view.gram is None else wide(view.gram)
    for row in range(rows):
        mine = user == row
        Z, m, gap = z[item[mine]], prior[row], (t - held)[mine]
        own = 0 if view.precision is None else wide(view.precision if view.precision.ndim == 2 else view.precision[row])
        P, G = np.diag(reg[row]) + own, pairs[row] * gram
        if view.blank[row]:
            yield np.eye(len(m)), m, lambda x, m=m: np.sum((x - m) ** 2)
            continue

        def loss(x, Z=Z, gap=gap, m=m, P=P, G=G, w=w[mine], t=t[mine], q=q[mine]):
            left = gap - Z @ x
            entries = w * left**2 + q * (1 - 2 * (t - left))
            return entries.sum() + (x - m) @ P @ (x - m) + np.sum(x @ (G * np.ones_like(P)) * x)

        yield (Z.T * w[mine]) @ Z + P + G, Z.T @ (w[mine] * gap + q[mine]) + P @ m, loss


def check(view, problem, found, want, rhs=None):
    """Each row to a small multiple of its own rounding."""
    small = 1e-6 if view.reg.dtype == np.float32 else 1e-14
    columns = (np.asarray(each) for each in (problem.user, problem.item, problem.value, problem.weight))
    x, named = np.asarray(found[0], float), dict(zip(native.RETURNS, found[1:], strict=True))
    wanted = {name: np.asarray(named[name], float) for name in want}
    for row, (A, b, loss) in enumerate(systems(view, *columns)):
        b = b if rhs is None else np.asarray(rhs[row], float)
        size = np.linalg.norm(A)
        assert np.linalg.norm(A @ x[row] - b) <= small * (size * np.linalg.norm(x[row]) + np.linalg.norm(b)), row
        if "cholesky" in wanted:
            L = wanted["cholesky"][row]
            assert (np.triu(L, 1) == 0).all() and np.linalg.norm(L @ L.T - A) <= small * size, row
        if "inverse" in wanted:
            inverse = wanted["inverse"][row]
            assert np.linalg.norm(inverse @ A - np.eye(len(A))) <= small * size * np.linalg.norm(inverse), row
        if "norms" in wanted:
            np.testing.assert_allclose(wanted["norms"][row], [size, np.linalg.norm(b)], rtol=10 * small)
        if "value" in wanted:
            rounding = loss(np.zeros_like(b)) + size * np.sum(x[row] ** 2)
            assert abs(wanted["value"][row] - loss(x[row])) <= 10 * small * rounding, row


def equations(dtype, rank, objective, table, layout="bucketed, cut small", matrix=False, stored=None):
    """(problem, view) of the users, with prior means, and where asked with a matrix precision a row, and against items
    that are `stored` in another dtype."""
    rng = np.random.default_rng(1)
    problem = tables.problem(table, layout, dtype).arrange()
    users, items = table.num_users, table.num_items
    factors = jals.Factors(*(jnp.asarray(rng.normal(size=(n, rank)) / rank**0.5, dtype) for n in (users, items)))
    if objective.bias:
        biases = [jnp.asarray(rng.normal(size=n), dtype) for n in (users, items)]
        factors = dataclasses.replace(factors, user_bias=biases[0], item_bias=biases[1], mean=jnp.asarray(3.0, dtype))
    factors = jax.tree.map(lambda leaf: leaf.astype(stored or dtype) if leaf.ndim else leaf, factors)
    root = rng.normal(size=(users, rank, rank)) / rank**0.5
    precision = jnp.asarray(root @ np.swapaxes(root, 1, 2) + 0.1 * np.eye(rank), dtype) if matrix else None
    prior = jnp.asarray(rng.normal(size=(users, rank)), dtype)
    return problem, normal.view(factors, problem, objective.cast(dtype), "user", precision, prior)


def pairs_of(table):
    unobserved = np.random.default_rng(2).uniform(0.2, 1.0, table.num_users)
    return jals.wals(0.3, 0.2, reg_power=0.5, unobserved_user=unobserved)


# ---- rows ----


RANKS = (1, 17, 64, 128, 256, 300)
SOON = {(rank, np.float32) for rank in RANKS if rank != 256} | {(17, np.float64), (300, np.float64)}


@pytest.mark.parametrize(
    "rank, dtype",
    [
        pytest.param(rank, dtype, marks=() if (rank, dtype) in SOON else pytest.mark.slow)
        for rank in RANKS
        for dtype in FLOATS
    ],
)
def test_rows_of_any_rank_on_the_emulator(emulator, rank, dtype):
    """With all that can be wanted; and the same to the bit whichever thread comes first."""
    table = tables.table("skewed", weighted=True)
    objective = jals.explicit(0.3, bias=True, center=True, reg_bias=0.7)
    problem, view = equations(dtype, rank, objective, table, matrix=True)
    found = native.solve_rows(view, None, None, native.RETURNS)
    check(view, problem, found, native.RETURNS)
    emulator(True, H100)
    for one, other in zip(found, native.solve_rows(view, None, None, native.RETURNS), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shared", [H100, SMALL])
@pytest.mark.parametrize("rank", [1, 17, 18, 64])
def test_rows_against_a_table_in_bfloat16_on_the_emulator(emulator, rank, shared):
    """Its numbers are gathered in pieces of 2, 4 and 16 bytes, and widened in shared memory."""
    table = tables.table("skewed", weighted=True)
    objective = jals.explicit(0.3, bias=True, center=True, reg_bias=0.7)
    problem, view = equations(np.float32, rank, objective, table, stored=jnp.bfloat16)
    start = jnp.asarray(np.random.default_rng(3).normal(size=view.reg.shape), np.float32)
    found = []
    for turned in (False, True):
        emulator(turned, shared)
        found.append(native.solve_rows(view, None, start, native.RETURNS))
    check(view, problem, found[0], native.RETURNS)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shared", [H100, SMALL])
def test_pairs_a_start_and_other_right_hand_sides_on_the_emulator(emulator, shared, dtype):
    """On a GPU with less shared memory the matrices lie outside of it."""
    emulator(False, shared)
    table = tables.table("empty_rows", weighted=True)
    problem, view = equations(dtype, 64, pairs_of(table), table, "segmented")
    start, rhs = (jnp.asarray(each, dtype) for each in np.random.default_rng(3).normal(size=(2, *view.reg.shape)))
    check(view, problem, native.solve_rows(view, None, start, ("value",)), ("value",))
    check(view, problem, native.solve_rows(view, rhs, None, ()), (), rhs)


def test_too_little_memory_for_a_call_is_told_on_the_emulator(emulator, library):
    """As XLA tells of its own: with what was needed."""
    user, item = np.divmod(np.arange(5000), 5000)
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, np.ones(5000, np.float32)))
    library.jals_memory(1000)
    with pytest.raises(jals.OutOfMemory, match=r"it needs .* more on cpu:0") as caught:
        jals.fit(jals.ALS(3, backend="native"), problem, jals.explicit(0.3), loss_every=0)
    assert caught.value.needed > 1000 and "jals kernel" in str(caught.value.__cause__)


def long_table():
    """Two rows of many parts, and short ones. Entries come more than once, so that there need not be as many items."""
    rng = np.random.default_rng(0)
    lengths = [5000, 3, 0, 4097, 40]
    user = np.repeat(np.arange(len(lengths)), lengths)
    item = np.concatenate([rng.permutation(5000)[:length] for length in lengths])
    value, weight = rng.integers(1, 6, len(user)).astype(float), rng.uniform(0.1, 2.0, len(user))
    return tables.Table(user, item, value, weight, len(lengths), 5000)


@pytest.mark.parametrize("layout", ["bucketed", "padded"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_cut_into_parts_on_the_emulator(emulator, layout, dtype):
    """Between pieces, and within one that is as wide as the row: added up in a fixed order."""
    want = ("value", "cholesky", "norms")
    problem, view = equations(dtype, 20, jals.als_wr(0.3, bias=True, center=True), long_table(), layout)
    found = native.solve_rows(view, None, None, want)
    check(view, problem, found, want)
    emulator(True, H100)
    np.testing.assert_array_equal(found[0], native.solve_rows(view, None, None, want)[0])


def test_more_buckets_than_a_launch_takes_on_the_emulator(emulator):
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(40), np.arange(40))
    item = np.concatenate([rng.permutation(50)[:length] for length in range(40)])
    table = tables.Table(user, item, rng.normal(size=len(user)), np.ones(len(user)), 40, 50)
    many = layouts.SIZES | {"cpu": layouts.SIZES["cpu"]._replace(widths=40)}
    with mock.patch.multiple("jals.model.layouts", SIZES=many, _WIDTH_SLOTS=0):
        problem, view = equations(np.float64, 5, jals.explicit(0.3), table, "bucketed")
    assert len(view.layout.buckets) > 32
    check(view, problem, native.solve_rows(view, None, None, ()), ())


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_row_that_cannot_be_solved_is_alone_in_it_on_the_emulator(emulator, dtype):
    """Parallel items without a lambda; an entry whose item is not there."""
    user, item = np.array([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3)]).T
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, np.ones(6, dtype), 4, 4)).arrange()
    factors = jals.Factors(jnp.zeros((4, 2), dtype), jnp.array([[1, 0], [0, 1], [1, 3], [2, 6]], dtype))
    view = normal.view(factors, problem, jals.explicit(0.0).cast(dtype), "user")
    solved = rowsolve.solve(view, backend="native")
    np.testing.assert_array_equal(solved.good, [True, True, False, True])
    assert np.isnan(solved.rows[2]).all() and np.isfinite(solved.rows[:2]).all()

    view = normal.view(factors, problem, jals.explicit(0.1).cast(dtype), "user")
    whole = native.solve_rows(view, None, None, ())[0]
    wrong = lambda bucket: dataclasses.replace(bucket, other=jnp.where(bucket.entry == 3, 9, bucket.other))  # noqa: E731
    layout = dataclasses.replace(view.layout, buckets=tuple(map(wrong, view.layout.buckets)))
    x = native.solve_rows(view._replace(layout=layout), None, None, ())[0]
    assert np.isnan(x[1]).all()
    np.testing.assert_array_equal(np.delete(x, 1, axis=0), np.delete(whole, 1, axis=0))


# ---- whole fits ----

FEW = {(np.float32, "als_wr+all"), (np.float64, "hu_koren+all")}


@pytest.mark.parametrize(
    "dtype, preset",
    [
        pytest.param(dtype, preset, marks=() if (dtype, preset) in FEW else pytest.mark.slow)
        for dtype in FLOATS
        for preset in tables.PRESETS
    ],
)
def test_the_emulator_is_certified(emulator, dtype, preset):
    """As every solver is in test_contract.py, on the table of every kind of data."""
    layouts = ("bucketed, cut small",) if (dtype, preset) in FEW else tables.LAYOUTS
    solver, table = jals.ALS(tables.RANK, backend="native", init_scale=1.0), tables.table("together", weighted=True)
    objective = tables.objective(tables.setting(preset, table)).cast(dtype)

    @jax.jit
    def certified(problem):
        state = solver.init(jax.random.key(0), problem, objective)
        state, infos = jals.run(solver, state, problem, objective, sweeps=2, loss=True)
        return state.factors, infos, jals.certify(state.factors, problem, objective, solver)

    for layout in layouts:
        problem = tables.problem(table, layout, dtype)
        factors, infos, certificate = certified(problem)
        assert certificate.holds() and certificate.bound == (1e-5 if dtype == np.float32 else 1e-13)
        loss = jals.loss(factors, problem, objective)
        np.testing.assert_allclose(infos.loss[-1], loss, rtol=2e-5 if dtype == np.float32 else 1e-10)


def test_derivatives_and_vmap_on_the_emulator(emulator):
    table = tables.table("random", weighted=True)
    problem = tables.problem(table, "segmented").arrange()

    def scored(backend):
        solver = jals.ALS(tables.RANK, backend=backend)
        start = solver.init(jax.random.key(0), problem, jals.explicit(1.0))

        def score(reg):
            state, _ = jals.run(solver, start, problem, jals.explicit(reg).cast(float), sweeps=2)
            return jnp.sum(jals.predict(state.factors, table.user, table.item) ** 2)

        return jax.jit(jax.vmap(jax.value_and_grad(score)))(jnp.array([0.1, 1.0]))

    for ours, theirs in zip(scored("native"), scored("xla"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


# ---- without the emulator ----


@pytest.mark.parametrize("why", ["", "no GPU can be had."])
def test_a_sweep_lowered_for_cuda_calls_the_kernel_where_it_is_built(monkeypatch, why):
    monkeypatch.setattr(native, "missing", lambda: {"cpu": "", "cuda": why})
    table = tables.table("random", weighted=True)
    problem = tables.problem(table, "segmented", np.float32).arrange()
    objective = jals.explicit(0.3).cast(np.float32)

    def calls(backend):
        solver = jals.ALS(tables.RANK, backend=backend)
        state = solver.init(jax.random.key(0), problem, objective)
        sweep = jax.jit(lambda state: solver.sweep(state, problem, objective)).trace(state)
        return sweep.lower(lowering_platforms=("cuda",)).as_text().count("jals_solve_rows_f32")

    assert calls("auto") == (0 if why else 2)
    if not why:
        assert calls("native") == 2
    else:
        with pytest.raises(jals.ArgumentError, match=f"in a program for cuda, but {why}"):
            calls("native")


def nvcc_here():
    wheels = pathlib.Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin")
    places = [os.environ.get("NVCC"), shutil.which("nvcc"), *(shutil.which("nvcc", path=str(path)) for path in wheels)]
    found = next(filter(None, places), None)
    return found or pytest.skip("needs nvcc: on the path, by NVCC, or from wheels (make nvcc)")


# Blocks of 256 and 512 threads whose tiles fill what registers they have: a few bytes of those are spilled.
FULL = {"rows<InRegisters<8,7>>": 8, "rows<InRegisters<16,10>>": 64}
REGISTERS = 65536  # of a processor, handed out to a warp in eights a thread


def spelt(mangled):
    """A kernel's name as it is written: rows<InMemory<double,false>>."""
    kernel, parameters = re.search(r"\d+(plan|rows|finish)_kernelI(.*?)EEv", mangled).groups()
    numbers = {"f": "float", "d": "double"}
    if parameters in numbers:
        return f"{kernel}<{numbers[parameters]}>"
    name, arguments = re.search(r"\d([A-Z][A-Za-z]+)I(.*)", parameters).groups()
    parts = re.findall(r"^[fd]|L[ib](\d+)E", arguments)
    values = [numbers[arguments[0]], ("false", "true")[int(parts[1])]] if arguments[0] in numbers else parts
    return f"{kernel}<{name}<{','.join(values)}>>"


@pytest.mark.parametrize("architecture", [90, *(pytest.param(each, marks=pytest.mark.slow) for each in (80, 100))])
def test_what_nvcc_makes_of_it_keeps_its_numbers_in_registers(tmp_path, record_property, architecture):
    """As few as a launch counts on, for as many blocks on a processor as are asked for, and all numbers in them."""
    listed = re.search(r"set\(CUDA_ARCHITECTURES (.*)\)", (SOURCES / "CMakeLists.txt").read_text())
    assert str(architecture) in listed[1].split()
    command = [nvcc_here(), "-std=c++17", "-O3", f"-arch=sm_{architecture}", "-Xptxas", "-v", "-isystem"]
    command += [jax.ffi.include_dir(), "-cubin", "--keep", f"--keep-dir={tmp_path}", str(SOURCES / "cuda/ffi.cu")]
    done = subprocess.run([*command, "-o", str(tmp_path / "it")], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    kernel = r"entry function '(\w+)' for 'sm_\d+'[\s\S]*?(\d+) bytes spill stores[\s\S]*?Used (\d+) registers"
    bound = r"\.entry (\w+)\([^{]*?\.maxntid (\d+)[^{]*?\.minnctapersm (\d+)"
    bounds = {name: list(map(int, two)) for name, *two in re.findall(bound, (tmp_path / "ffi.ptx").read_text())}
    found = {spelt(name): (name, *map(int, two)) for name, *two in re.findall(kernel, done.stdout + done.stderr)}
    assert len(found) == 15 and FULL.keys() <= found.keys()
    for name, (_, spilled, registers) in found.items():
        said = f"{registers} registers, {spilled} bytes spilled"
        record_property(f"sm_{architecture} {name}", said)
        print(f"sm_{architecture} {name:<30} {said}")
    for name, (mangled, spilled, registers) in found.items():
        assert spilled <= FULL.get(name, 0), name
        threads, blocks = (256, 1) if name.startswith("plan") else bounds[mangled]
        assert -(-registers // 8) * 8 * threads * blocks <= REGISTERS, name
