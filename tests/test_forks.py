"""Forked processes: what would wait for ever for threads that stayed in the parent is refused; the rest works. In a
process of its own, as what came before the fork is the question."""

import os
import subprocess
import sys

import pytest

import jals
from jals import forks

PROGRAM = """
import os, signal, sys
import jax, numpy as np
import polars as pl

def child(work):
    "In a forked child, whose exit status says how it went; one that waits for ever is ended by its alarm."
    pid = os.fork()
    if pid == 0:
        signal.alarm(100)
        try:
            work()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, work

def refused(library, work):
    import jals
    print("next:", work.__code__.co_firstlineno, file=sys.stderr, flush=True)  # the line, should it hang
    try:
        work()
    except jals.ForkError as error:
        assert library in str(error) and '"spawn" or "forkserver"' in str(error), error
    else:
        raise AssertionError(f"{work} is not refused")

def frame(columns):
    return jals.Ratings.from_dataframe(columns, user="user", item="item", value="rating")

def use_both():
    pl.Series(["b", "a"]).unique().sort()
    (jax.numpy.ones(3) + 1).block_until_ready()

def late():
    "jals comes in only after the fork."
    import jals
    refused("polars", lambda: jals.read_ratings("t.csv"))
    refused("jax", lambda: jals.Problem.build(jals.Ratings.from_arrays([0, 1], [0, 1], [1.0, 2.0])))

def before_jals():
    use_both()
    child(late)

COLUMNS = {"user": ["a", "b", "a"], "item": [1, 2, 2], "rating": [1.0, 2.0, 3.0]}
with open("t.csv", "w") as file:
    file.write("user,item,rating\\n1,2,3\\n2,2,4\\n")
child(before_jals)

import jals

TABLE = jals.Ratings.from_arrays([0, 0, 1], [0, 1, 1], [1.0, 2.0, 3.0])

def fresh():
    "Nothing has started in the parent: all goes."
    assert len(jals.read_ratings("t.csv")[0]) == 2
    assert len(frame(pl.DataFrame(COLUMNS))[0]) == 3
    assert jals.fit(jals.ALS(1), jals.Problem.build(TABLE), jals.explicit(0.1), sweeps=1).done == 1
    child(nothing_starts)

def nothing_starts():
    refused("polars", lambda: jals.read_ratings("t.csv"))
    refused("jax", lambda: jals.Problem.build(TABLE))

def after_polars():
    refused("polars", lambda: jals.read_ratings("t.csv"))
    refused("polars", lambda: frame(pl.DataFrame(COLUMNS)))
    refused("polars", lambda: jals.save("f.parquet", FACTORS))
    assert len(jals.read_ratings("t.npz")[0]) == 3
    assert len(jals.split.random(TABLE, test_fraction=0.4, seed=0)[0]) == 2
    jals.Problem.build(TABLE).arrange()  # jax starts here

def after_jax():
    refused("polars", lambda: jals.load("f.parquet"))
    for work in (
        lambda: jals.Problem.build(TABLE),
        lambda: jals.fit(SOLVER, PROBLEM, OBJECTIVE),
        lambda: jals.fit_many(SOLVER, PROBLEM, [OBJECTIVE] * 2),
        lambda: jals.run(SOLVER, STATE, PROBLEM, OBJECTIVE),
        lambda: SOLVER.init(KEY, PROBLEM, OBJECTIVE),
        lambda: SOLVER.sweep(STATE, PROBLEM, OBJECTIVE),
        lambda: jals.loss(FACTORS, PROBLEM, OBJECTIVE),
        lambda: jals.certify(FACTORS, PROBLEM, OBJECTIVE),
        lambda: jals.predict(FACTORS, [0], [0]),
        lambda: jals.metrics.rmse(TABLE.value, TABLE.value),
        lambda: jals.metrics.ranking(FACTORS, TABLE),
        lambda: jals.leave_one_out(FACTORS, PROBLEM, OBJECTIVE),
        lambda: jals.regularisation_path(SOLVER, PROBLEM, [OBJECTIVE] * 2),
        lambda: jals.fit_grid(SOLVER, PROBLEM, [OBJECTIVE] * 2, KEY),
        lambda: jals.tune(SOLVER, PROBLEM, OBJECTIVE, TABLE),
        lambda: jals.adjoint.hypergradient(TABLE, FACTORS, PROBLEM, OBJECTIVE),
    ):
        refused("jax", work)
    jals.save("f.npz", FACTORS)
    assert np.array_equal(jals.load("f.npz").factors.user, FACTORS.user)
    assert len(jals.read_ratings("t.npz")[0]) == 3

np.savez("t.npz", user=TABLE.user, item=TABLE.item, rating=TABLE.value)
FACTORS = jals.Factors(np.ones((2, 1), np.float32), np.ones((2, 1), np.float32))
child(fresh)
jals.read_ratings("t.csv")
child(after_polars)
jals.save("f.parquet", FACTORS)
SOLVER, PROBLEM, OBJECTIVE, KEY = jals.ALS(1), jals.Problem.build(TABLE), jals.explicit(0.1), jax.random.key(0)
STATE = SOLVER.init(KEY, PROBLEM, OBJECTIVE)
child(after_jax)
print("all fine")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs the list of a process's threads")
def test_a_forked_process_works_or_is_refused_at_once(tmp_path):
    pytest.importorskip("polars")
    pytest.importorskip("narwhals")
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    environment = dict(os.environ, PYTHONPATH=path, JAX_PLATFORMS="cpu")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.stdout.endswith("all fine\n"), done.stderr[-3000:]


@pytest.mark.parametrize(
    "before, after, forked, alive_in, works",
    [
        (["python"], ["python"], True, {}, False),
        (["python"], ["python", "python"], True, {}, True),  # started just now, and not yet named
        (["python", "polars-0"], ["python", "polars-0"], True, {}, True),
        (["python"], ["python"], False, {}, True),  # of other names than today's
        ([], [], True, {}, True),  # a system that does not list threads
        ([], [], True, {"polars": os.getpid() + 1}, False),
        (["python"], ["python"], True, {"polars": os.getpid()}, True),
    ],
)
def test_signs_of_threads(monkeypatch, before, after, forked, alive_in, works):
    listed = iter([before, after])
    monkeypatch.setattr(forks, "_threads", lambda: next(listed))
    monkeypatch.setattr(forks, "_forked", lambda: forked)
    monkeypatch.setattr(forks, "_alive_in", alive_in)
    if works:
        forks.check_polars(lambda: None)
        assert forks._alive_in == {"polars": os.getpid()}
    else:
        with pytest.raises(jals.ForkError, match="after polars had started"):
            forks.check_polars(lambda: None)
