"""What a compiled program does, counted: programs whose answer is known."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jals.planning.work import work

N, K, STEPS = 64, 16, 7
FLOAT = 4


def counted(function, *shapes, dtype=jnp.float32):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return work(jax.jit(function).trace(*arguments).lower().compile().as_text())


# ---- collectives ----

ON_FOUR = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P

N, K, STEPS = json.loads(sys.argv[1])
mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
halves = jax.make_mesh((2, 2), ("d", "e"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
lax = jax.lax
table = lambda gathered: gathered[:N]
collectives = {
    "all-gather": lambda x: table(lax.all_gather(x, "d", tiled=True)),
    "reduce-scatter": lambda x: jnp.tile(lax.psum_scatter(x, "d", tiled=True), (4, 1)),
    "all-reduce": lambda x: lax.psum(x, "d"),
    "all-to-all": lambda x: lax.all_to_all(x, "d", 0, 0, tiled=True),
    "collective-permute": lambda x: lax.ppermute(x, "d", [(0, 1), (1, 2), (2, 3), (3, 0)]),
}

def text(collective, mesh):
    def local(x):
        step = lambda carry, _: (collective(jnp.sin(carry)), None)
        return lax.scan(step, x, length=STEPS)[0]
    sharded = jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False)
    x = jax.ShapeDtypeStruct((mesh.shape["d"] * N, K), jnp.float32, sharding=NamedSharding(mesh, P("d")))
    return jax.jit(sharded).trace(x).lower().compile().as_text()

texts = {kind: text(collective, mesh) for kind, collective in collectives.items()}
print(json.dumps(texts | {"pairs": text(collectives["all-reduce"], halves)}))
"""


@pytest.fixture(scope="module")
def on_four():
    """Programs for four host devices, compiled in a process of their own: each a loop around one collective."""
    environment = dict(os.environ, NPROC="8")
    environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", ON_FOUR, json.dumps([N, K, STEPS])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: work(text) for name, text in json.loads(done.stdout).items()}


# A device sends its operand of N x K float32 to each of three others, or three quarters of it, ...
SENT = {"all-gather": 3, "reduce-scatter": 3 / 4, "all-reduce": 2 * 3 / 4, "all-to-all": 3 / 4, "collective-permute": 1}


@pytest.mark.parametrize("kind", SENT)
def test_a_collective_in_a_loop_counts_as_often_as_it_runs(on_four, kind):
    found = on_four[kind]
    assert found.sent == {kind: pytest.approx(STEPS * SENT[kind] * N * K * FLOAT)}
    assert found.collectives == {kind: STEPS}
    assert not found.loops


def test_a_collective_is_among_its_group(on_four):
    assert on_four["pairs"].sent == {"all-reduce": pytest.approx(STEPS * 2 * 1 / 2 * N * K * FLOAT)}


# ---- operations ----


def test_operations_of_a_product():
    found = counted(lambda a, b: a @ b, (N, K), (K, 3 * N))
    assert found.operations == {"f32": 2 * N * K * 3 * N}
    assert not found.sent


def test_operations_of_products_in_loops_in_loops():
    def grams(slabs):
        def add(total, rows):
            return total + jnp.einsum("pwk,pwl->pkl", rows, rows, precision="highest"), None

        def round(total, _):
            return jax.lax.scan(add, total, slabs)[0], None

        return jax.lax.scan(round, jnp.zeros((8, K, K), slabs.dtype), length=3)[0]

    found = counted(grams, (5, 8, N, K))
    assert found.operations == {"f32 highest": 3 * 5 * 2 * 8 * N * K * K}


def test_operations_by_precision():
    assert set(counted(lambda a: a @ a, (K, K), dtype=jnp.float64).operations) == {"f64"}


def test_of_branches_the_one_with_the_most():
    def either(flag, a):
        return jax.lax.cond(flag[0] > 0, lambda a: a @ a, lambda a: a @ a @ a @ a, a)

    assert counted(either, (1,), (K, K)).operations == {"f32": 3 * 2 * K**3}


def test_kernels_without_an_estimate_are_listed():
    found = counted(lambda a: jax.lax.map(jnp.linalg.cholesky, a), (STEPS, K, K))
    assert list(found.unestimated.values()) == [STEPS]


def test_a_loop_of_unknown_length_is_said():
    found = counted(lambda a: jax.lax.while_loop(lambda a: a.sum() < 9, lambda a: a @ a, a), (K, K))
    assert len(found.loops) == 1 and found.operations == {"f32": 2 * K**3}


# ---- memory ----


def test_a_gather_reads_the_rows_that_it_touches():
    def take(table, rows):
        return table.at[rows.astype(jnp.int32)].get(mode="promise_in_bounds")

    small, large = (counted(take, (rows, K), (10,)).memory for rows in (1_000, 100_000))
    assert small == large < 1_000 * K * FLOAT


def test_an_update_in_place_writes_the_update():
    def fill(table, rows):
        def step(at, table):
            return jax.lax.dynamic_update_slice(table, jnp.sin(rows), (at, 0))

        return jax.lax.fori_loop(0, STEPS, step, table)

    small, large = (counted(fill, (size, K), (2, K)).memory for size in (1_000, 100_000))
    copied = 2 * (100_000 - 1_000) * K * FLOAT  # the argument, which is not to be overwritten
    assert large - small == pytest.approx(copied, rel=0.01)


def test_what_goes_in_and_comes_out_counts():
    found = counted(lambda a, b: jnp.sin(a) + b, (N, K), (N, K))
    assert found.memory == 3 * N * K * FLOAT


# ---- what a TPU's compiler writes ----

TPU = """\
HloModule jit_f, is_scheduled=true, num_partitions=16

%start (a: f32[8,64]) -> f32[128,64] {
  %a = f32[8,64]{1,0:T(8,128)} parameter(0)
  ROOT %gathered = f32[128,64]{1,0:T(8,128)} all-gather(%a), channel_id=2, replica_groups={GROUP}, dimensions={0}
}

%end (b: f32[8,64]) -> f32[128,64] {
  %b = f32[8,64]{1,0:T(8,128)} parameter(0)
  ROOT %again = f32[128,64]{1,0:T(8,128)} all-gather(%b), channel_id=2, replica_groups={GROUP}, dimensions={0}
}

%all-reduce-scatter (c: f32[128,64]) -> f32[8,64] {
  %c = f32[128,64]{1,0:T(8,128)} parameter(0)
  %sum = f32[128,64]{1,0:T(8,128)} all-reduce(%c), channel_id=3, replica_groups=[1,16]<=[16], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[8,64]{1,0:T(8,128)S(1)} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={8,64}
}

%products (l: bf16[5,8,16], r: bf16[5,8,16]) -> f32[5,16,16] {
  %l = bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %r = bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %batch = f32[5,16,16]{2,1,0:T(8,128)S(1)} convolution(%l, %r), window={size=5 stride=4 lhs_dilate=5}, \
dim_labels=0fb_0io->0bf
}

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %x_y = f32[]{:T(128)} add(%x, %y)
}

%body (s: (s32[], f32[8,64], bf16[5,8,16])) -> (s32[], f32[8,64], bf16[5,8,16]) {
  %s = (s32[]{:T(128)}, f32[8,64]{1,0:T(8,128)}, /*index=2*/bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %at = s32[]{:T(128)S(6)} get-tuple-element(%s), index=0
  %rows = f32[8,64]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %z = bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%s), index=2
  %one = s32[]{:T(128)S(6)} constant(1)
  %next = s32[]{:T(128)S(6)} add(%at, %one)
  %begun = f32[128,64]{1,0:T(8,128)} fusion(%rows), kind=kCustom, calls=%start
  %done = f32[128,64]{1,0:T(8,128)} fusion(%rows), kind=kCustom, calls=%end
  %mine = f32[8,64]{1,0:T(8,128)S(1)} fusion(%done), kind=kCustom, calls=%all-reduce-scatter
  %grams = f32[5,16,16]{2,1,0:T(8,128)S(1)} fusion(%z, %z), kind=kOutput, calls=%products
  %roots = f32[5,16,16]{2,1,0:T(8,128)S(1)} custom-call(%grams), custom_call_target="Cholesky"
  ROOT %out = (s32[]{:T(128)}, f32[8,64]{1,0:T(8,128)}, bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)}) tuple(%next, %rows, %z)
}

%condition (s.1: (s32[], f32[8,64], bf16[5,8,16])) -> pred[] {
  %s.1 = (s32[]{:T(128)}, f32[8,64]{1,0:T(8,128)}, bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %at.1 = s32[]{:T(128)} get-tuple-element(%s.1), index=0
  %last = s32[]{:T(128)} constant(7)
  ROOT %on = pred[]{:T(512)} compare(%at.1, %last), direction=LT
}

ENTRY %main (p: f32[8,64], q: bf16[5,8,16]) -> f32[8,64] {
  %p = f32[8,64]{1,0:T(8,128)} parameter(0), metadata={op_name="a(b) -> c {"}
  %q = bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %from = s32[]{:T(128)} constant(2)
  %begin = s32[]{:T(128)S(6)} copy(%from)
  %given = (s32[]{:T(128)}, f32[8,64]{1,0:T(8,128)}, bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)}) tuple(%begin, %p, %q)
  %loop = (s32[]{:T(128)}, f32[8,64]{1,0:T(8,128)}, bf16[5,8,16]{2,1,0:T(8,128)(2,1)S(1)}) while(%given), \
condition=%condition, body=%body
  ROOT %result = f32[8,64]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
""".replace("GROUP", "{" + ",".join(map(str, range(16))) + "}")


def test_a_tpus_program():
    found = work(TPU)
    rows = 8 * 128 * FLOAT  # 64 numbers lie in a tile of 128
    assert found.collectives == {"all-gather": 5, "reduce-scatter": 5}  # from 2 to 7; begun and ended, sent once
    assert found.begun_early == {"all-gather": 5}
    assert found.sent == {"all-gather": 5 * 15 * rows, "reduce-scatter": 5 * 15 / 16 * 16 * rows}
    assert found.operations == {"bf16": 5 * 2 * 5 * 8 * 16 * 16}  # each of a batch meets its own partner alone
    assert found.unestimated == {"Cholesky": 5}
    # All-gather: its part, and all; reduce-scatter: all, and a part that stays within the chip. Scalars aside.
    assert found.memory == pytest.approx(5 * rows * (1 + 16 + 16), rel=0.02)


@pytest.mark.parametrize(
    "window, pairs",
    [
        ("size=3 pad=1_1", 3 * 10 - 2),
        ("size=3", 3 * 8),
        ("size=3 stride=2 pad=1_1", 14),
        ("size=3 rhs_dilate=2 pad=2_2", 3 * 10 - 4),
    ],
)
def test_operations_of_convolutions(window, pairs):
    options = dict(part.split("=") for part in window.split())
    padding = [tuple(map(int, options.get("pad", "0_0").split("_")))]
    stride, apart = (int(options.get(key, 1)) for key in ("stride", "rhs_dilate"))
    x, k = np.ones((1, 1, 10), np.float32), np.ones((1, 1, 3), np.float32)
    out = jax.lax.conv_general_dilated(x, k, (stride,), padding, rhs_dilation=(apart,))
    assert out.sum() == pairs  # ones: each pair that meets adds 1
    text = f"""\
HloModule jit_f

ENTRY %main (x: f32[2,3,10], k: f32[5,3,3]) -> f32[2,5,{out.shape[-1]}] {{
  %x = f32[2,3,10]{{2,1,0}} parameter(0)
  %k = f32[5,3,3]{{2,1,0}} parameter(1)
  ROOT %c = f32[2,5,{out.shape[-1]}]{{2,1,0}} convolution(%x, %k), window={{{window}}}, dim_labels=bf0_oi0->bf0
}}
"""
    assert work(text).operations == {"f32": 2 * pairs * 2 * 5 * 3}


GPU = """\
HloModule jit_f, is_scheduled=true, num_partitions=4

%sent (a: f32[8,64]) -> f32[8,64] {
  %a = f32[8,64]{1,0} parameter(0)
  ROOT %swapped = f32[8,64]{1,0} all-to-all(%a), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (p: f32[8,64]) -> f32[32,64] {
  %p = f32[8,64]{1,0} parameter(0)
  %begun = ((f32[8,64]{1,0}), f32[8,64]{1,0}) async-start(%p), calls=%sent
  %rows = f32[8,64]{1,0} async-done(%begun), calls=%sent
  %waited = f32[8,64]{1,0} all-to-all(%rows), channel_id=4, replica_groups={{0,1,2,3}}, dimensions={0}
  %start = (f32[8,64]{1,0}, f32[32,64]{1,0}) all-gather-start(%waited), channel_id=1, replica_groups={{0,1,2,3}}, \\
dimensions={0}
  ROOT %done = f32[32,64]{1,0} all-gather-done(%start)
}
"""


def test_what_is_begun_early_is_told_from_what_is_waited_for():
    found = work(GPU)
    assert found.collectives == {"all-gather": 1, "all-to-all": 2}
    assert found.begun_early == {"all-gather": 1, "all-to-all": 1}
