"""On two devices: one problem, and numbers that differ by device under a caller's own `jax.shard_map`."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, PartitionSpec

import jals
from tests.support import tables


def test_numbers_by_device():

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
        through = jax.grad(lambda reg: jals.run(als, *given(als, reg), 2)[0].factors.user[0, 0])
        return swept, through(reg), converged(reg)

    @jax.grad
    def converged(reg):
        return jals.predict(jals.adjoint.stationary_factors(factors, problem, objective(reg)), 0, 0)

    regs, by_device = jnp.array([0.1, 2.0]), PartitionSpec("device")
    mesh = jax.make_mesh((2,), ("device",), axis_types=(AxisType.Auto,))

    def on_both(work):
        def here(reg):
            return jax.tree.map(lambda leaf: leaf[None], work(reg[0]))

        return jax.jit(jax.shard_map(here, mesh=mesh, in_specs=by_device, out_specs=by_device))

    def close(ours, theirs):
        jax.tree.map(lambda mine, other: np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-8), ours, theirs)

    on_both(written).lower(regs)  # types that do not fit are found here
    both, alone = on_both(computed), jax.jit(stepped)
    results = jax.device_get(both(regs))
    for at, reg in enumerate(regs):
        trees = results, both(jnp.stack([reg, reg]))
        mine, same_on_both = (jax.tree.map(lambda leaf, at=at: leaf[at], tree) for tree in trees)
        close(mine, same_on_both)  # whatever the other device works with
        close(mine[-1], alone(reg))
