"""A sweep to plan, in a few lines: both tables of factors spread over the devices, each batch's rows of the other side
fetched by one all-to-all."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

WIDTH, PIECES = 16, 64


def sweep_program(job, mesh, gathered=False):
    axis, devices = mesh.axis_names[0], mesh.size
    spread = NamedSharding(mesh, PartitionSpec(axis))
    dtype = jnp.dtype(job.precision)

    def array(shape, dtype):
        return jax.ShapeDtypeStruct((devices, *shape), dtype, sharding=spread)

    batches = max(1, -(-job.entries // (devices * PIECES * WIDTH)))
    fetched = -(-PIECES * WIDTH // devices)
    side = {
        "send": array((batches, devices, fetched), jnp.int32),
        "other": array((batches, PIECES, WIDTH), jnp.int32),
        "value": array((batches, PIECES, WIDTH), jnp.float32),
        "row": array((batches, PIECES), jnp.int32),
    }

    def half(side, table, rows):
        def batch(each):
            sent = table.at[each["send"]].get(mode="promise_in_bounds")
            if gathered:
                received = jax.lax.all_gather(sent, axis)[:, jax.lax.axis_index(axis)].reshape(-1, job.rank)
            else:
                received = jax.lax.all_to_all(sent, axis, 0, 0, tiled=True).reshape(-1, job.rank)
            z = received.at[each["other"]].get(mode="promise_in_bounds").astype(jnp.float32)
            gram = jnp.einsum("pwk,pwl->pkl", z, z, precision="highest") + jnp.eye(job.rank)
            right = jnp.einsum("pw,pwk->pk", each["value"], z, precision="highest")
            return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(gram), True), right[..., None])[..., 0]

        solved = jax.lax.map(batch, side).reshape(-1, job.rank).astype(dtype)
        return jnp.zeros((rows, job.rank), dtype).at[side["row"].reshape(-1)].set(solved, mode="drop")

    def local(sides, item):
        users, items = (jax.tree.map(lambda each: each[0], sides[name]) for name in ("user", "item"))
        user = half(users, item[0], -(-job.users // devices))
        return user[None], half(items, user, item.shape[1])[None]

    def sweep(sides, item):
        over = PartitionSpec(axis)
        return jax.shard_map(local, mesh=mesh, in_specs=over, out_specs=over, check_vma=False)(sides, item)

    return sweep, {"sides": {"user": side, "item": side}, "item": array((-(-job.items // devices), job.rank), dtype)}


def gathering_program(job, mesh):
    """The same by one all-gather, of which each device takes its part."""
    return sweep_program(job, mesh, gathered=True)


def failing_program(job, mesh):
    raise NotImplementedError("no such sweep")
