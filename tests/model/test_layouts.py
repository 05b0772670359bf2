"""Layouts: every entry in one slot of its own row, padding that reads nothing, and bounded waste."""

import jax
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import jals
from jals.model.layouts import LAYOUTS, build_side

RAGGED = st.lists(st.integers(0, 40) | st.sampled_from([0, 1, 255, 256, 300, 513, 700, 1500]), min_size=1, max_size=40)
SKEWED = [1] * 3000 + [600, 700, 40_000] + [0] * 50  # many slabs, cut rows, one giant


def entries_of(degrees, seed=0):
    """A shuffled (row, other) with so many entries in each row."""
    row = np.repeat(np.arange(len(degrees), dtype=np.int32), degrees)
    other = np.arange(len(row), dtype=np.int32)
    shuffle = np.random.default_rng(seed).permutation(len(row))
    return row[shuffle], other[shuffle]


def read_back(side):
    """What each slot claims, `(slots,)` each: bucket, slab, row, other, entry, place in its piece."""
    columns = []
    for number, bucket in enumerate(side.buckets):
        slabs, pieces, width = bucket.entry.shape
        beyond = np.full((slabs, 1), side.num_rows)
        place = np.broadcast_to(np.arange(pieces), (slabs, pieces)) if bucket.piece_row is None else bucket.piece_row
        row = np.take_along_axis(np.concatenate([bucket.row, beyond], axis=1), place, axis=1)
        slab = np.arange(slabs)[:, None, None]
        slots = (number, slab, row[..., None], bucket.other, bucket.entry, np.arange(width))
        columns.append([column.ravel() for column in np.broadcast_arrays(*slots)])
    return np.concatenate(columns, axis=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(deadline=None, max_examples=40)
@given(degrees=RAGGED.filter(any))
@example(degrees=[1])
@example(degrees=[0, 0, 1, 0])
@example(degrees=[100_000])
@example(degrees=[1, 0, 100_000, 2])
@example(degrees=list(range(600)))
@example(degrees=[33_000, 33_001, 1, 1])
def test_every_entry_stands_once_under_its_row(layout, degrees):
    row, other = entries_of(degrees)
    side = build_side(row, other, len(degrees), layout)
    bucket, slab, slot_row, slot_other, entry, place = read_back(side)
    used = entry < len(row)

    np.testing.assert_array_equal(np.sort(entry[used]), np.arange(len(row)))
    np.testing.assert_array_equal(slot_row[used], row[entry[used]])
    np.testing.assert_array_equal(slot_other[used], other[entry[used]])

    assert (entry[~used] == len(row)).all()
    assert (slot_other[~used] == 0).all()
    starts = place == 0
    assert (used[~starts] <= used[np.flatnonzero(~starts) - 1]).all(), "padding is at the end of a piece"
    assert used[starts & (slot_row < len(degrees))].all(), "a piece of a row holds an entry"

    home = np.unique(np.stack([slot_row, bucket, slab])[:, used], axis=1)
    np.testing.assert_array_equal(home[0], np.flatnonzero(degrees), "all pieces of a row in one slab")

    listed = [np.asarray(part.row).ravel() for part in side.buckets]
    rows = np.concatenate(listed)
    np.testing.assert_array_equal(np.sort(rows[rows < len(degrees)]), np.arange(len(degrees)))
    assert (rows <= len(degrees)).all()
    empty = [part[part < len(degrees)] for part, at in zip(listed, side.buckets, strict=True) if at.width == 0]
    np.testing.assert_array_equal(np.sort(np.concatenate([*empty, []])), np.flatnonzero(np.array(degrees) == 0))

    widths = [part.width for part in side.buckets if part.width]
    assert len(set(widths)) == len(widths) <= {"bucketed": 8, "padded": 1, "segmented": 1}[layout]
    assert max(widths) <= {"bucketed": 512, "padded": max(degrees), "segmented": 128}[layout]
    assert all(part.entry.shape[1] % part.step == 0 for part in side.buckets)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("degrees", [[1], [0, 3, 1, 0], SKEWED[-500:], SKEWED])
def test_describe_is_a_plain_recount(layout, degrees):
    row, other = entries_of(degrees)
    if layout == "padded":
        degrees = np.minimum(degrees, 600)
        row, other = entries_of(degrees)
    side = build_side(row, other, len(degrees), layout)
    wide = [bucket for bucket in side.buckets if bucket.width]
    slots = sum(bucket.other.size for bucket in wide)
    pieces = sum(-(-int(degrees[r]) // bucket.width) for bucket in wide for r in bucket.row.ravel() if r < len(degrees))
    arrays = [a for b in side.buckets for a in (b.row, b.other, b.entry, b.piece_row) if a is not None]
    assert side.describe() == {
        "widths": sorted(bucket.width for bucket in wide),
        "rows": np.count_nonzero(degrees),
        "entries": len(row),
        "slots": slots,
        "slots_per_entry": slots / len(row),
        "pieces_per_row": pieces / np.count_nonzero(degrees),
        "bytes": 4 * sum(array.size for array in arrays),
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_hold_int32_only_and_no_slab_is_large(layout):
    degrees = np.minimum(SKEWED, 600 if layout == "padded" else 40_000)
    side = build_side(*entries_of(degrees), len(degrees), layout)
    assert {leaf.dtype for leaf in jax.tree.leaves(side)} == {np.dtype(np.int32)}
    for bucket in side.buckets:
        assert bucket.step * bucket.width <= 2**15
        assert bucket.row.shape[1] <= 1024


def test_sorted_input_gives_the_same_layout():
    row, other = entries_of(SKEWED)
    order = np.lexsort((other, row))
    shuffled, ordered = (build_side(row[o], other[o], len(SKEWED), "bucketed") for o in (slice(None), order))
    for one, two in zip(shuffled.buckets, ordered.buckets, strict=True):
        np.testing.assert_array_equal(one.row, two.row)
        assert one.other.shape == two.other.shape


def test_problem_lays_out_both_sides():
    ratings = jals.Ratings.from_arrays([2, 0, 2], [1, 3, 0], [4.0, 1.0, 2.5], num_users=4, num_items=6)
    problem = jals.Problem.build(ratings)
    user, item = ratings.user, ratings.item
    for side, row, other in ((problem.user_side, user, item), (problem.item_side, item, user)):
        _, _, slot_row, slot_other, entry, _ = read_back(side)
        used = entry < 3
        np.testing.assert_array_equal(slot_row[used], row[entry[used]])
        np.testing.assert_array_equal(slot_other[used], other[entry[used]])
    assert (problem.user_side.num_rows, problem.item_side.num_rows) == (4, 6)
    assert problem.describe() == {"user": problem.user_side.describe(), "item": problem.item_side.describe()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_reads_zero_values_and_weights(layout):
    degrees = np.minimum(SKEWED, 600)
    user, item = entries_of(degrees)
    value = np.random.default_rng(0).normal(size=len(user)) + 9
    ratings = jals.Ratings.from_arrays(user, item, value, weight=np.where(item % 3, 2.0, 0.0))
    problem = jals.Problem.build(ratings, layout).arrange()
    slots, entry = problem.user_slots, read_back(problem.user_side)[4]
    for arranged, column in ((slots.value, ratings.value), (slots.weight, np.where(item % 3, 2.0, 0.0))):
        flat = np.concatenate([np.ravel(part) for part in arranged])
        np.testing.assert_array_equal(flat, np.append(column, 0)[entry])
    np.testing.assert_array_equal(slots.count, np.bincount(user[item % 3 > 0], minlength=ratings.num_users))


def test_padded_refuses_a_skewed_table():
    row, other = entries_of([1] * 20_000 + [14_000])
    message = r"would need 2\.1 GiB of indices: 20,001 rows as wide as the longest, 14,000 \(8,236 slots an entry\)"
    with pytest.raises(jals.DataError, match=message + r"\. Use layout=\"bucketed\""):
        build_side(row, other, 20_001, "padded")
    assert build_side(row, other, 20_001, "bucketed").describe()["slots_per_entry"] < 1.2


def test_unknown_layout_is_refused():
    ratings = jals.Ratings.from_arrays([0], [0], [1.0])
    with pytest.raises(jals.ArgumentError, match=r"layout is 'buketed', .* Did you mean \"bucketed\"\?"):
        jals.Problem.build(ratings, layout="buketed")
    with pytest.raises(jals.ArgumentError, match=r"expected Ratings, got ndarray"):
        jals.Problem.build(np.eye(3))  # pyright: ignore[reportArgumentType]


def movielens_degrees(share):
    """Degrees of one user and one item in `share` of a table shaped like MovieLens 20M: 138,493 x 26,744 with 21 M
    entries, users log-normal above 20, items Zipf-like; a user who draws an item again has still one entry for it."""
    users, items, draws, floor = 138_493, 26_744, 25_000_328, 20
    drawn = np.exp(np.random.default_rng(0).normal(0, 1.1, users))
    drawn = np.minimum(drawn / drawn.sum() * (draws - floor * users) + floor, 0.35 * items).astype(int)
    popularity = 1 / (np.arange(items) + 30.0) ** 1.1
    popularity /= popularity.sum()
    drawn, met = drawn[share // 2 :: share], popularity[share // 2 :: share]
    grid = np.geomspace(floor, drawn.max(), 50)
    user = np.interp(drawn, grid, [(1 - (1 - popularity) ** size).sum() for size in grid])
    sizes, count = np.unique(drawn, return_counts=True)
    item = np.array([share * count @ (1 - (1 - p) ** sizes) for p in met])
    return user.astype(int), item.astype(int)


def test_little_is_wasted_on_a_table_shaped_like_movielens():
    share = 20
    users, items = (build_side(*entries_of(d), len(d), "bucketed").describe() for d in movielens_degrees(share))
    assert users["entries"] * share == pytest.approx(21.3e6, rel=0.03)
    assert items["entries"] * share == pytest.approx(21.3e6, rel=0.03)
    assert users["slots"] + items["slots"] <= 1.15 * (users["entries"] + items["entries"])
    assert users["pieces_per_row"] <= 1.2
    assert items["pieces_per_row"] <= 2.5
    assert max(len(users["widths"]), len(items["widths"])) <= 8


def test_accelerators_get_fewer_programs_and_larger_slabs():
    """Their slabs hold the same entries: what is asked of a layout is asked of theirs above, cut small."""
    degrees = np.random.default_rng(0).geometric(0.01, 30_000)
    row, other = entries_of(degrees)
    here, there = (build_side(row, other, 30_000, "bucketed", platform) for platform in ("cpu", "gpu"))
    assert len(there.buckets) < len(here.buckets)
    assert max(bucket.row.shape[1] for bucket in here.buckets) <= 2**10 < max(b.row.shape[1] for b in there.buckets)
    assert sum(bucket.entry.size for bucket in there.buckets) < 2 * len(row)
    for side in (here, there):
        *_, entry, _ = read_back(side)
        np.testing.assert_array_equal(np.sort(entry[entry < len(row)]), np.arange(len(row)))
