"""Two host devices, in a process of its own: how many there are is settled when jax starts. A problem on both, and
numbers that differ by device."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.newest

PROBLEM_ON_BOTH = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jals
from tests.support import tables

assert jax.device_count() == 2
table = tables.table("together", weighted=True)
for preset, layout in zip(tables.BROAD, ("bucketed, cut small", "bucketed")):
    objective = tables.objective(tables.setting(preset, table))
    one = tables.problem(table, layout)
    two = one.shard()
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(two)} == {2}
    solver = jals.ALS(tables.RANK, init_scale=1.0)
    start = solver.init(jax.random.key(0), one, objective)
    results = [jals.run(solver, start, problem, objective, 2, loss=True) for problem in (one, two)]
    ours, theirs = ((state.factors, infos.loss) for state, infos in map(jax.device_get, results))
    assert tables.largest_difference(ours, theirs) < 1e-10, (preset, layout)
    assert jals.certify(results[1][0].factors, two, objective).holds()
narrow, single = jals.ALS(tables.RANK, init_scale=1.0, storage="bfloat16"), one.astype(np.float32)
begun = narrow.init(jax.random.key(0), single, objective)
held = [jals.run(narrow, begun, problem, objective, 2)[0].factors for problem in (single, single.shard())]
jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, held))
assert held[1].dtype == "bfloat16"
try:
    jax.grad(lambda reg: jals.run(solver, start, two, jals.explicit(reg), 1, loss=True)[1].loss[0])(0.1)
except jals.ArgumentError as error:
    assert "take them on one" in str(error)
    print("all fine")
"""


NUMBERS_BY_DEVICE = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, PartitionSpec
jax.config.update("jax_enable_x64", True)
import jals
from tests.support import tables

table, key = tables.table("random", weighted=True), jax.random.key(0)
problem, pieces = (tables.problem(table, layout) for layout in ("padded", "bucketed, cut small"))
assert any(bucket.piece_row is not None for bucket in pieces.user_side.buckets)
als, als_by_xla = jals.ALS(2), jals.ALS(2, backend="xla")
gradient, minibatch = jals.Gradient(2, optax.sgd, {"learning_rate": 1e-3}), jals.Gradient(2, batch_size=16)
stepping = jals.ALS(2, linsolve="cg"), jals.ALS(2, linsolve="subspace", block=1)
others = *stepping, jals.AndersonALS(2, memory=2), jals.NewtonCG(2)

def objective(reg):
    return jals.als_wr(reg, bias=True, center=True)

solvers = (als, gradient, minibatch, *others)
states = {id(solver): solver.init(key, problem, objective(0.1)) for solver in solvers}
factors = states[id(als)].factors

def given(solver, reg, problem=problem):
    return states[id(solver)], problem, objective(reg)

def computed(reg):
    state, infos = jals.run(als_by_xla, *given(als, reg), 2, loss=True)
    certificate = jals.certify(factors, problem, objective(reg), als_by_xla)
    return state.factors, infos.loss, certificate, stepped(reg)

def stepped(reg):
    return gradient.sweep(*given(gradient, reg))[0].factors

def written(reg):
    swept = [solver.sweep(*given(solver, reg, pieces), loss=True) for solver in (als, others[0])]
    swept += [solver.sweep(*given(solver, reg)) for solver in (minibatch, *others[1:])]
    return swept, jax.grad(lambda reg: jals.run(als, *given(als, reg), 2)[0].factors.user[0, 0])(reg), converged(reg)

@jax.grad
def converged(reg):
    return jals.predict(jals.adjoint.stationary_factors(factors, problem, objective(reg)), 0, 0)

regs, by_device = jnp.array([0.1, 2.0]), PartitionSpec("device")
mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))

def on_both(work):
    here = lambda reg: jax.tree.map(lambda leaf: leaf[None], work(reg[0]))
    return jax.jit(jax.shard_map(here, mesh=mesh, in_specs=by_device, out_specs=by_device))

def close(ours, theirs):
    jax.tree.map(lambda mine, other: np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-8), ours, theirs)

on_both(written).lower(regs)  # types that do not fit are found here
both, alone = on_both(computed), jax.jit(stepped)
results = jax.device_get(both(regs))
for at, reg in enumerate(regs):
    mine, same_on_both = (jax.tree.map(lambda leaf: leaf[at], tree) for tree in (results, both(jnp.stack([reg, reg]))))
    close(mine, same_on_both)  # whatever the other device works with
    close(mine[-1], alone(reg))
print("all fine")
"""


@pytest.mark.parametrize("program", [PROBLEM_ON_BOTH, NUMBERS_BY_DEVICE], ids=["problem on both", "numbers by device"])
def test_two_devices_agree_with_one(program):
    environment = dict(os.environ, NPROC="4")
    environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=400)
    assert done.stdout.endswith("all fine\n"), done.stderr[-3000:]
