"""A sweep lowers for accelerators on a machine without one."""

import re

import jax
import numpy as np
import pytest

import jals
from tests.support import tables

SOLVES = ("cholesky", "lu", "cg", "subspace", "auto")


@pytest.fixture(scope="module")
def exported():
    table = tables.table("skewed", weighted=True)
    problem = tables.problem(table, "bucketed, cut small", np.float32)
    objective = tables.objective(tables.setting("als_wr+all", table)).cast(np.float32)

    def export(solve, *platforms):
        solver = jals.ALS(tables.RANK) if solve == "auto" else tables.als(solve)
        state = solver.init(jax.random.key(0), problem, objective)
        leaves, tree = jax.tree.flatten((state, problem, objective))

        def sweep(*leaves):
            return jax.tree.leaves(solver.sweep(*jax.tree.unflatten(tree, leaves))[0])

        return jax.export.export(jax.jit(sweep), platforms=platforms)(*leaves), leaves

    return export


@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_no_cpu_call(exported, monkeypatch, platform, solve):
    """Without the CUDA kernel, which is not for other processes."""
    monkeypatch.setattr(jals.native, "missing", lambda: {"cpu": jals.native.status().reason, "cuda": "not built."})
    calls = set(re.findall(r"custom_call @([\w.]+)", exported(solve, platform)[0].mlir_module()))
    known = {"cuda": r"cusolver_\w+|cu_\w+", "tpu": r"LuDecomposition|Cholesky"}[platform]
    assert all(re.fullmatch(known, call) for call in calls), calls
    if platform == "cuda" and solve == "lu":  # Cholesky is an operation of HLO's own in older jax
        assert calls, "the factorization should be cuSOLVER's"


def test_the_same_check_sees_lapack_on_a_cpu(exported):
    assert "lapack_spotrf_ffi" in exported("cholesky", "cpu")[0].mlir_module()


def test_a_kernel_asked_for_where_it_is_not_is_refused(exported):
    tables.als("native")
    with pytest.raises(jals.ArgumentError, match="program for tpu, but that is for cpu and cuda only"):
        exported("native", "tpu")


def test_a_program_with_the_kernel_is_not_for_other_processes(exported):
    """A process without jals could not run it: jax refuses, and the message names the call."""
    tables.als("native")
    with pytest.raises(ValueError, match="jals_solve_rows_f32"):
        exported("auto", "cpu")


def test_one_artifact_for_all_platforms_runs_here(exported):
    artifact, leaves = exported("cholesky", "cpu", "cuda", "tpu")
    assert artifact.platforms == ("cpu", "cuda", "tpu")
    for ours, theirs in zip(artifact.call(*leaves), exported("cholesky", "cpu")[0].call(*leaves), strict=True):
        np.testing.assert_array_equal(ours, theirs)
