"""Topologies by name, and the least time that bytes take between their devices."""

import math

import pytest

from jals import errors
from jals.planning.chips import CHIPS, topology


@pytest.mark.parametrize(
    "text, shape, name",
    [
        ("v5e:16x16", (16, 16), "v5e"),
        ("v5e:1x1", (1, 1), "v5e"),
        ("v5p:4x4x4", (4, 4, 4), "v5p"),
        ("v5p:4x4x12", (4, 4, 12), "v5p"),
        ("cpu:8", (8,), "cpu"),
        ("gpu:h100x8", (8,), "h100"),
    ],
)
def test_topologies(text, shape, name):
    found = topology(text)
    assert (found.shape, found.chip.name, found.devices) == (shape, name, math.prod(shape))
    assert str(found) == text and found.memory > 0


@pytest.mark.parametrize(
    "text, why",
    [
        ("v5e", 'Write "v5e:16x16"'),
        ("v5e:0x4", "no devices"),
        ("v5e:3x5", "no slice of v5e. These are: 1x1, 2x2, 2x4, 4x4"),
        ("v5e:4x4x4", "no slice of v5e"),
        ("v5p:4x4", "no slice of v5p.*multiples of 4"),
        ("v5ee:4x4", 'not known. Known are v5e.*Did you mean "v5e"'),
        ("h100:8", 'Write it as in "gpu:h100x8"'),
        ("gpu:h10x8", 'not known.*Did you mean "h100"'),
        ("gpu:v5ex8", 'Write it as in "v5e:16x16"'),
        ("cpu:-1", "does not name one"),
    ],
)
def test_what_names_none_is_told(text, why):
    with pytest.raises(errors.ArgumentError, match=why):
        topology(text)


def test_slices_grow():
    for name, chip in CHIPS.items():
        sizes = [math.prod(shape) for shape in chip.shapes]
        assert sizes == sorted(set(sizes)), name
        assert chip.sources


def seconds(text, kind, sent=1e9):
    return topology(text).interconnect_seconds({kind: sent})[kind]


def test_a_torus_has_twice_the_links_of_a_grid():
    assert seconds("v5e:16x16", "all-gather") == pytest.approx(1e9 / (4 * 50e9))
    assert seconds("v5e:8x8", "all-gather") == pytest.approx(1e9 / (2 * 50e9))
    assert seconds("v5p:4x4x4", "all-reduce") == pytest.approx(1e9 / (6 * 100e9))


def test_an_all_to_all_crosses_the_middle():
    """As Google states them: 51.2 TB/s for the all-reduces of a v5e pod, and 1.6 TB/s across its middle."""
    gathered, exchanged = seconds("v5e:16x16", "all-reduce"), seconds("v5e:16x16", "all-to-all")
    assert 256 * 1e9 / gathered == pytest.approx(51.2e12)
    assert 128 * 1e9 / 2 / exchanged == pytest.approx(1.6e12)


def test_gpus_of_one_machine_and_of_several():
    one, four = (seconds(f"gpu:a100x{count}", "all-to-all") for count in (8, 32))
    assert one == pytest.approx(1e9 / 300e9) and four == pytest.approx(1e9 * 24 / 31 / 25e9)
    assert one < seconds("gpu:a100x32", "all-gather") < four


def test_nothing_sent_takes_no_time():
    assert seconds("v5e:1x1", "all-reduce", 0) == seconds("cpu:2", "all-reduce", 0) == 0
    assert math.isnan(seconds("cpu:2", "all-reduce"))
