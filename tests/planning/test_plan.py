"""`jals.plan`: what a fit needs of devices that are not there."""

import importlib.util
import os

import numpy as np
import pytest

import jals
from jals import errors
from jals.partitioned.manifest import SideManifest
from jals.planning import chips, compiling
from jals.planning.compiling import Compiled, Job
from jals.planning.programs import PROGRAMS
from jals.planning.work import Work
from tests.planning import standin

TABLE, RANK = (500, 300, 8_000), 8
BATCHES = {devices: -(-TABLE[2] // (devices * standin.PIECES * standin.WIDTH)) for devices in (2, 4)}
SENT = standin.PIECES * standin.WIDTH * RANK * 4  # bytes of a batch's rows, of which each device gets its part


@pytest.fixture(scope="module")
def on_two():
    return jals.plan(TABLE, RANK, "cpu:2", program=standin.sweep_program)


def test_a_plan_tells_bytes_by_array(on_two):
    assert on_two.fits and on_two.limit == chips.topology("cpu:2").memory
    assert sum(on_two.arrays.values()) == on_two.memory["arguments"]
    assert on_two.arrays["item"] == TABLE[1] / 2 * RANK * 4
    assert on_two.needed == sum(on_two.memory.values())


def test_a_plan_tells_what_is_sent(on_two):
    rounds = 2 * BATCHES[2]
    assert on_two.work.sent == {"all-to-all": pytest.approx(rounds * SENT / 2)}
    assert on_two.work.collectives == {"all-to-all": rounds}
    text = str(on_two)
    assert f"all-to-all, {rounds} times" in text and "without an estimate: lapack_spotrf_ffi" in text
    assert "no floors" in text and on_two.binds is None


def test_another_collective_is_another_number(on_two):
    other = jals.plan(TABLE, RANK, "gpu:h100x2", program=standin.gathering_program, search=False)
    assert other.work.sent == {"all-gather": pytest.approx(2 * BATCHES[2] * SENT)}  # the rows of all to all
    assert other.sent["all-gather"] == pytest.approx(2 * BATCHES[2] * SENT / 450e9)
    assert f"all-gather, {2 * BATCHES[2]} times" in str(other) and "stand in for GPUs" in str(other)
    assert np.isnan(other.floors["memory"]) and other.binds in ("interconnect", "matrix products")


def test_the_sweep_of_als_is_planned():
    made = jals.plan(TABLE, RANK, "cpu:1")
    assert made.arrays["factors.user"] == TABLE[0] * RANK * 4 and not made.work.sent
    slots = made.arrays["problem.user_side.buckets.other"]
    assert slots == made.arrays["problem.user_slots.value"] >= TABLE[2] * 4
    weighted = compiling.by_array(PROGRAMS["als"], Job(*TABLE, RANK, weighted=True), 1)
    assert weighted["problem.user_slots.weight"] == slots


def test_a_tpu_is_planned_for():
    if not os.environ.get("TPU_LIBRARY_PATH") and importlib.util.find_spec("libtpu") is None:
        pytest.skip('needs libtpu, of the extra "plan"')
    made = jals.plan(TABLE, RANK, "v5e:2x2", program=standin.sweep_program, search=False)
    assert made.arrays["item"] > TABLE[1] / 4 * RANK * 4  # a tile has places for more
    assert sum(made.arrays.values()) == pytest.approx(made.memory["arguments"], rel=0.01)
    (sent,) = made.work.sent.values()
    assert 1 <= sent / (2 * BATCHES[4] * SENT * 3 / 4) <= 128 / RANK  # a row of 8 numbers may take a tile's 128
    assert made.work.unestimated["Cholesky"] == 2 * BATCHES[4]
    assert made.binds in made.floors and made.floor == made.floors[made.binds] > 0
    assert "unvalidated" in str(made)


def test_a_tpu_without_its_compiler(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "jals\[plan\]"'):
        jals.plan(TABLE, RANK, "v5e:2x2")


# ---- verdicts, without compiling ----


@pytest.fixture
def compiles_to(monkeypatch):
    """Says what the compiler needs: so many times a job's arrays. Returns the topologies that are compiled for."""
    asked = []

    def pretend(factor):
        def compiled(program, job, topology):
            asked.append(str(topology))
            arrays = compiling.by_array(program, job, topology.devices)
            needed = round(factor(topology) * sum(arrays.values()))
            work = Work({"all-to-all": 1e9}, {"all-to-all": 7}, 1e9, {"bf16": 1e12}, {}, [])
            return Compiled(arrays, {"arguments": needed}, work if needed <= topology.memory else None, needed, 0.0)

        monkeypatch.setattr(compiling, "compiled", compiled)
        return asked

    return pretend


LARGE = (20_000_000, 5_000_000, 5_000_000_000)


def planned(topology, **options):
    return jals.plan(LARGE, 64, topology, program=standin.sweep_program, **options)


def test_the_smallest_slice_is_compiled_for(compiles_to):
    """By its arrays 4x4 would do; compiled for it, it needs more."""
    asked = compiles_to(lambda topology: 1.1 if topology.devices != 16 else 2.5)
    made = planned("v5e:8x8")
    assert made.fits and made.slices["v5e:4x4"] <= made.limit < made.slices["v5e:2x4"]
    assert asked == ["v5e:8x8", "v5e:4x4", "v5e:4x8"] and made.smallest == "v5e:4x8"
    assert "so it does on v5e:4x8" in str(made)
    assert planned("v5e:8x8", search=False).smallest is None and len(asked) == 4


def test_floors(compiles_to):
    compiles_to(lambda topology: 1)
    made = planned("v5e:16x16", search=False)
    expected = {"matrix products": 1e12 / 197e12, "memory": 1e9 / 819e9, "interconnect": 1e9 * 8 / 200e9}
    assert made.floors == pytest.approx(expected) and made.binds == "interconnect"
    assert made.floor == made.floors["interconnect"]


def test_what_does_not_fit_says_what_to_change(compiles_to):
    compiles_to(lambda topology: 1.2)
    made = planned("v5e:2x4")
    assert not made.fits and "does not fit" in str(made)
    assert made.cures[0] == f"more devices: {made.smallest} is the smallest slice that holds it"
    assert chips.topology(made.smallest).devices > 8


def test_lower_ranks_and_narrower_numbers_are_told(compiles_to):
    compiles_to(lambda topology: 1.2)
    table, topology = (200_000_000, 300_000_000, 10_000_000), "v5e:2x2"
    made = jals.plan(table, 64, topology, program=standin.sweep_program)
    *_, narrower, lower = made.cures
    assert narrower == 'precision "bfloat16"'
    rank = int(lower.split()[3])
    assert jals.plan(table, rank, topology, program=standin.sweep_program).fits
    assert not jals.plan(table, rank + 1, topology, program=standin.sweep_program).fits
    assert jals.plan(table, 64, topology, "bfloat16", program=standin.sweep_program).fits


def test_a_chip_of_which_no_slice_is_enough(compiles_to):
    compiles_to(lambda topology: 1)
    made = jals.plan((2_000_000_000, 2_000_000_000, 10**11), 512, "v5e:16x16", program=standin.sweep_program)
    assert made.smallest is None and made.cures[0].startswith("another chip: a device of the largest slice, v5e:16x16")


# ---- input ----


def test_a_partitioned_table_says_its_sizes(tmp_path, compiles_to):
    compiles_to(lambda topology: 1)
    sides = {"user": SideManifest(500, 250), "item": SideManifest(300, 150)}
    manifest = jals.Manifest(tmp_path, 2, 8_000, "float32", True, False, **sides)
    manifest.write()
    for table in (manifest, tmp_path, str(tmp_path)):
        job = jals.plan(table, RANK, "cpu:2", program=standin.sweep_program).job
        assert job == Job(500, 300, 8_000, RANK, weighted=True, shards=2)


@pytest.mark.parametrize(
    "arguments, why",
    [
        (((500, 300), RANK, "cpu:2"), "a plan needs"),
        (((500, 300, 0), RANK, "cpu:2"), "1 or more"),
        (((500, 300, 8e3), RANK, "cpu:2"), "whole numbers"),
        ((TABLE, 0, "cpu:2"), "the rank 0"),
        (((10, 10, 101), RANK, "cpu:2"), "more than 10 users and 10 items have pairs"),
        ((TABLE, RANK, "cpu:2", "float16"), "precision is 'float16'"),
        ((TABLE, RANK, "v5e:3x3"), "no slice of v5e"),
        (((10**8, 10**8, 2**33), RANK, "cpu:2"), "Plan for 5 devices or more"),
    ],
)
def test_what_cannot_be_planned_is_told(arguments, why):
    with pytest.raises(errors.ArgumentError, match=why):
        jals.plan(*arguments)


def test_a_program_that_is_not_known_is_told():
    with pytest.raises(errors.ArgumentError, match="program is 'sgd'"):
        jals.plan(TABLE, RANK, "cpu:2", program="sgd")


def test_a_sweep_that_does_not_compile_is_told():
    with pytest.raises(errors.ArgumentError, match="cannot be compiled for cpu:1: NotImplementedError: no such sweep"):
        compiling.compiled(standin.failing_program, Job(*TABLE, RANK), chips.topology("cpu:1"))
