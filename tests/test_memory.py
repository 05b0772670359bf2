"""Memory that runs out is told: what was needed, what there is, what to do; and what there was by then is kept."""

import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

import jals
from jals import devices
from jals.fitting import many, single
from tests.support import tables

SAID = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1.50GiB."


def setting(layout="bucketed", dtype=np.float32, data="random", **solver):
    """(solver, problem, objective)"""
    problem = tables.problem(tables.table(data, weighted=False), layout, dtype)
    return jals.ALS(3, **solver), problem, jals.explicit(0.3)


def failing(function, after, said=SAID):
    """The same, but from so many calls on XLA fails."""
    left = [after]

    def call(*given):
        left[0] -= 1
        if left[0] < 0:
            raise jax.errors.JaxRuntimeError(said)
        return function(*given)

    return call


@pytest.mark.parametrize(
    "said, needed",
    [
        ("Out of memory allocating 8589934592 bytes.", 2**33),
        ("Out of memory while trying to allocate 8589934592 bytes.", 2**33),
        ("Out of memory while trying to allocate 1.50GiB.", 3 * 2**29),
        ("Error allocating device buffer: Attempting to allocate 512.00M. That was not possible.", 2**29),
        ("Ran out of memory in memory space hbm.", None),
    ],
)
def test_what_was_needed_is_read_from_xlas_words(said, needed):
    with pytest.raises(jals.OutOfMemory) as caught, devices.told_exhausted("it", ["do this", "that"]):
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")
    assert caught.value.needed == needed and caught.value.limit == devices.device_bytes(jax.devices()[0])
    more = "more" if needed is None else f"{devices.in_units(needed)} more"
    assert f"it ran out of memory: it needs {more} on cpu:0" in str(caught.value)
    assert "Do this, that; or free what else lies there." in str(caught.value) and said in str(caught.value.__cause__)


def test_a_device_with_little_left_says_how_much():
    """The one with the most in use, of those that the arrays lie on."""
    stats = [{"bytes_limit": 80 * 2**30, "bytes_in_use": used * 2**30} for used in (20, 75)]
    cards = [
        mock.Mock(platform="gpu", id=at, process_index=0, **{"memory_stats.return_value": each})
        for at, each in enumerate(stats)
    ]
    array = mock.Mock(**{"devices.return_value": set(cards)})
    with pytest.raises(jals.OutOfMemory) as caught, devices.told_exhausted("it", ["wait"], [array]):
        raise jax.errors.JaxRuntimeError(SAID)
    assert "1.5 GiB more on gpu:1, which has 80.0 GiB, 75.0 GiB of it in use." in str(caught.value)
    assert caught.value.limit == 80 * 2**30


def test_other_errors_of_xla_pass():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), devices.told_exhausted("it", ["wait"]):
        raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")


def test_a_fit_keeps_what_it_had_and_goes_on_from_there(monkeypatch):
    whole = jals.fit(*setting(), sweeps=5)
    monkeypatch.setattr(single, "advance", failing(single.advance, 3))  # one only compiles
    with pytest.raises(jals.OutOfMemory, match="the fit ran out") as caught:
        jals.fit(*setting(), sweeps=5)
    monkeypatch.undo()
    left = caught.value.result
    assert (left.done, left.reason, left.history.loss) == (2, "failed", whole.history.loss[:3])
    again = jals.fit(*setting(), sweeps=5, init=left)
    jax.tree.map(np.testing.assert_array_equal, again.factors, whole.factors)


def test_of_many_fits_each_is_kept(monkeypatch):
    solver, problem, objective = setting()
    monkeypatch.setattr(many, "_advance_many", failing(many._advance_many, 3))
    with pytest.raises(jals.OutOfMemory, match="Give fewer fits at once") as caught:
        jals.fit_many(solver, problem, [objective, jals.explicit(0.5)], sweeps=5)
    assert [(each.done, each.reason) for each in caught.value.result] == [(1, "failed")] * 2


def test_where_nothing_has_begun_nothing_is_kept(monkeypatch):
    monkeypatch.setattr(single, "initial_state", failing(single.initial_state, 0))
    with pytest.raises(jals.OutOfMemory) as caught:
        jals.fit(*setting())
    assert caught.value.result is None


def test_a_certificate_and_a_build_say_so_too(monkeypatch):
    solver, problem, objective = setting()
    factors = jals.fit(solver, problem, objective, sweeps=1).factors
    monkeypatch.setattr("jals.diagnostics.certificate._certify", failing(None, 0))
    with pytest.raises(jals.OutOfMemory, match="certify ran out of memory"):
        jals.certify(factors, problem, objective)
    monkeypatch.setattr("jals.model.problem.build_side", failing(None, 0))
    with pytest.raises(jals.OutOfMemory, match=r"build ran out of memory.* Take layout=\"bucketed\", give fewer"):
        jals.Problem.build(jals.Ratings.from_arrays([0, 1], [1, 0], [1.0, 2.0]), layout="padded")


@pytest.mark.parametrize(
    "given, said",
    [
        ({}, r"Lower the rank \(3\); or"),
        ({"devices": 2}, r"spread the rows over the devices \(Problem.build"),
        ({"dtype": np.float64}, r"take float32 \(problem.astype\)"),
        ({"backend": "xla"}, 'take backend="auto"'),
        ({"layout": "padded", "data": "skewed"}, 'build the problem with layout="bucketed"'),
    ],
)
def test_what_can_be_lowered_depends_on_what_was_asked_for(monkeypatch, given, said):
    monkeypatch.setattr(single, "advance", failing(single.advance, 1))
    count, given = given.get("devices", 1), {name: what for name, what in given.items() if name != "devices"}
    monkeypatch.setattr(jax, "device_count", lambda: count)
    with pytest.raises(jals.OutOfMemory, match=said):
        jals.fit(*setting(**given))


REAL = """
import resource, sys
import jax, numpy as np, jals

def limit(now):  # to what there is, and half of what factors take
    if now.sweep != 1:
        return
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))

ratings = jals.Ratings.from_arrays(np.arange(50), np.arange(50) % 7, np.ones(50, np.float32), 1_000_000, 7)
try:
    jals.fit(jals.ALS(16), jals.Problem.build(ratings), jals.explicit(0.1), sweeps=3, callbacks=[limit])
except jals.OutOfMemory as error:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    print(error, error.result.done, error.result.reason, np.isfinite(error.result.history.loss).all())
"""


@pytest.mark.newest
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit on memory is Linux's")
def test_xla_itself_runs_out(tmp_path):
    """In a process that may take no more than it has."""
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, timeout=200)
    assert "the fit ran out of memory: it needs " in done.stdout, done.stdout + done.stderr
    assert done.stdout.split()[-3:] == ["1", "failed", "True"]
