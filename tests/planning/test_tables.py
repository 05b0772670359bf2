"""Tables of which only the sizes are known: the model, and what a plan of a sweep over several devices makes of it."""

import jax
import numpy as np
import pytest

import jals
from jals.model.exchange import Needs
from jals.model.places import SIDES, Places
from jals.model.shards import Plan
from jals.model.sources import OfRatings
from jals.planning import tables
from jals.planning.compiling import Job
from jals.planning.tables import Table

JOB = Job(9_000, 6_000, 60_000, 8, shards=16)


def on(devices, job=JOB):
    return Table(job, jax.sharding.AbstractMesh((devices,), ("devices",)))


@pytest.fixture(scope="module")
def ratings():
    """A table as it is modelled, up to pairs that were drawn twice."""
    rng, rows = np.random.default_rng(0), {"user": JOB.users, "item": JOB.items}
    drawn = []
    for side in SIDES:
        share = np.arange(1.0, rows[side] + 1) ** -JOB.skew[0]
        drawn.append(rng.permutation(rows[side])[rng.choice(rows[side], JOB.entries, p=share / share.sum())])
    keys = np.unique(drawn[0] * JOB.items + drawn[1])
    return jals.Ratings.from_arrays(*np.divmod(keys, JOB.items), np.ones(len(keys)), JOB.users, JOB.items)


@pytest.mark.parametrize("rows, entries, skew, most", [(10**9, 10**11, 0.75, 10**9), (500, 40_000, 0.9, 100)])
def test_degrees_add_up(rows, entries, skew, most):
    found = tables.degrees(rows, entries, skew, most)
    assert found.count.sum() == rows and found.count @ found.entries == pytest.approx(entries)
    ranks = np.array([1.0, 7.0, rows / 2, rows])
    assert (found.of(ranks) <= most).all() and (np.diff(found.of(ranks)) <= 0).all()
    least = 0.9 * found.of(np.array([7.0]))[0]
    count = found.longer(least)
    assert found.of(np.array([count]))[0] >= least > found.of(np.array([count + 1.0]))[0]
    assert found.longer(most + 1) == 0


def test_the_skew_is_found_from_median_and_mean():
    found = tables.degrees(10**6, 5 * 10**7, 0.6, 10**9)
    median = found.of(np.array([10**6 / 2]))[0]
    assert tables.skew_of(median, 50) == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("devices, groups", [(4, 1), (4, 4), (16, 1)])
def test_needs_are_those_of_such_a_table(ratings, devices, groups):
    source, each = OfRatings(ratings, JOB.shards), JOB.shards // devices // groups
    for side in SIDES:
        parts = ([source.shard(side, at * each + more).other for more in range(each)] for at in range(devices * groups))
        places = source.places.count(SIDES[side == "user"])
        real = Needs.find(map(np.concatenate, parts), devices, groups, places).amounts
        expected = on(devices, JOB._replace(entries=len(ratings), exchanges=groups)).amounts(side, groups, giants=False)
        for way in ("routed", "ring"):
            assert expected.held_rows(way) == pytest.approx(real.held_rows(way), rel=0.1)
            assert expected.sent_rows(way) == pytest.approx(real.sent_rows(way), rel=0.1)


def test_layouts_are_those_of_such_a_table(ratings):
    places = Places.deal((np.bincount(ratings.user), np.bincount(ratings.item)), JOB.shards)
    for side in SIDES:
        degree = np.zeros((JOB.shards, places.side(side).size), int)
        np.add.at(degree.reshape(-1), places.side(side).at, np.bincount(getattr(ratings, side)))
        real, laid = Plan(degree, "cpu"), on(4, JOB._replace(entries=len(ratings))).laid(side)
        slots = [
            sum(width * room.slabs * (room.pieces or room.rows) for width, room in zip(widths, rooms, strict=True))
            for widths, rooms in ((real.widths, real.rooms), (laid.widths, laid.rooms))
        ]
        assert slots[1] == pytest.approx(slots[0], rel=0.15)


def test_a_planned_sweep_sends_what_its_table_needs():
    made = jals.plan(JOB[:3], 8, "cpu:4", exchange=("routed", 2), search=False)
    table = on(4, made.job)
    rows = sum(table.exchange(side)[2].sent_rows("routed") for side in SIDES)
    assert made.work.sent["all-to-all"] == pytest.approx(rows * 8 * 4)
    assert "users by routed in 2 exchanges, items by routed in 2 exchanges; 64 shards" in str(made)
    assert made.arrays["factors.user"] == table.count("user") / 4 * 8 * 4
    assert "problem.user_side.buckets.entry" in made.arrays


def test_giants_and_layouts_without_numbers():
    """Rows that a slab would not hold; a table larger than numbers of entries go."""
    job = Job(10**7, 10**7, 3 * 10**9, 8, platform="tpu", value="uint8", way="routed", exchanges=2)
    table = on(64, job)
    problem = table.problem()
    for side in SIDES:
        layout, slots = getattr(problem, f"{side}_side"), getattr(problem, f"{side}_slots")
        assert layout.giants.place.shape[1:] == (table.laid(side).giants,) and table.laid(side).giants > 0
        assert all(each.entry is None and each.length.shape == each.other.shape[:2] for each in layout.every_bucket)
        assert {each.dtype for each in slots.value} == {np.dtype("uint8")} and slots.scale.shape == (2,)
        assert layout.route.give.shape[1] == 2 and layout.giants.route.groups == 1
        held = sum(np.prod(each.other.shape, dtype=float) for each in layout.every_bucket)
        assert job.entries < held < 2 * job.entries
    problem.check_shapes()


def test_what_cannot_be_spread_is_told(tmp_path):
    with pytest.raises(jals.ArgumentError, match="3 devices do not divide 16 shards"):
        on(3)
    with pytest.raises(jals.ArgumentError, match="asks for 3 exchanges, but a device has 4 shards"):
        on(4, JOB._replace(way="ring", exchanges=3))
    with pytest.raises(jals.ArgumentError, match="value is 'int8'"):
        jals.plan(JOB[:3], 8, "cpu:1", value="int8")
    with pytest.raises(jals.ArgumentError, match="exchange is 'broadcast'"):
        jals.plan(JOB[:3], 8, "cpu:2", exchange="broadcast")


def test_places_of_which_only_sizes_are_known():
    some = Places.of_sizes(64, (10**9, 70))
    assert (some.count("user"), some.count("item")) == (10**9, 128) and some.user.at.strides == (0,)
    assert some == Places.of_sizes(64, (10**9, 70)) != Places.of_sizes(32, (10**9, 70))
