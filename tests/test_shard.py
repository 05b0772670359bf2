"""A problem on two host devices, in a process of its own: how many there are is settled when jax starts."""

import os
import subprocess
import sys

PROGRAM = """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jals
from tests import tables

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
try:
    jax.grad(lambda reg: jals.run(solver, start, two, jals.explicit(reg), 1, loss=True)[1].loss[0])(0.1)
except jals.ArgumentError as error:
    assert "take them on one" in str(error)
    print("all fine")
"""


def test_two_devices_agree_with_one():
    environment = dict(os.environ, NPROC="4")
    environment["XLA_FLAGS"] = environment.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=400)
    assert done.stdout.endswith("all fine\n"), done.stderr[-3000:]
