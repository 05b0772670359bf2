"""The numbers behind the figures, by other means than theirs; and the figures as drawn."""

import io
import xml.etree.ElementTree
from typing import Any

import numpy as np
import pytest

import jals
from jals.app.show.page import plots, summaries


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def ratings(rng):
    """30 users, 20 items, the last of each without entries; every fifth entry of weight 0."""
    user, item = np.nonzero(rng.random((29, 19)) < np.linspace(0.05, 0.9, 19))
    weight = np.where(np.arange(len(user)) % 5 == 0, 0.0, rng.uniform(0.5, 2.0, len(user)))
    return jals.Ratings.from_arrays(user, item, rng.integers(1, 6, len(user)), 30, 20, weight=weight)


def random_factors(rng, users=30, items=20, rank=4):
    return jals.Factors(*(rng.normal(size=shape) for shape in ((users, rank), (items, rank), users, items, ())))


@pytest.mark.parametrize("shape", [(30, 20, 4), (3, 20, 5), (30, 2, 5)])
def test_spectrum_is_that_of_the_whole_matrix(rng, shape):
    factors = random_factors(rng, *shape)
    whole = np.linalg.svd(factors.user @ factors.item.T, compute_uv=False)
    found = summaries.spectrum(factors)
    assert len(found) == min(shape)
    np.testing.assert_allclose(found, whole[: len(found)], rtol=1e-9, atol=1e-12)


def test_every_row_is_in_the_histogram():
    bound = 1e-5
    errors = np.array([0.0, 0.0, np.nan, np.inf, 1e-9, 3e-8, bound, 1.0001 * bound, 0.3])
    edges = summaries.error_edges([errors, np.array([1e-12])], bound)
    found = summaries.backward_errors(errors, edges)
    assert (found.zeros, found.not_finite) == (2, 2)
    assert found.counts.sum() == 5
    at = int(np.flatnonzero(np.isclose(edges, np.log10(bound), atol=1e-9)).item())  # the bound is an edge
    assert found.counts[at - 1] == 1  # at the bound is within it
    assert found.counts[at:].sum() == 2
    assert edges[0] < -12 and edges[-1] > np.log10(0.3)


def test_histogram_of_nothing_but_zeros():
    zeros = np.zeros(7, np.float32)
    found = summaries.backward_errors(zeros, summaries.error_edges([zeros], 1e-13))
    assert (found.zeros, found.counts.sum()) == (7, 0)


def test_bound_is_drawn_at_the_bound_and_zeros_are_counted(rng):
    errors = np.r_[np.zeros(5), 10 ** rng.uniform(-8, -4, 40)]
    histogram = summaries.backward_errors(errors, summaries.error_edges([errors], 1e-5))
    figure: Any = plots.certificate([("users", histogram), ("items", histogram)], 1e-5, required=False)
    for axes in figure.axes:
        (line,) = [line for line in axes.lines if line.get_gid() == "bound"]
        assert line.get_xdata()[0] == pytest.approx(-5)
        heights = [bar.get_height() for bar in axes.patches]
        assert sum(heights) == len(errors)
        assert "5" in [text.get_text() for text in axes.texts]
    assert "bound 1e-05" in [text.get_text() for text in figure.axes[0].texts]
    passed = {bar.get_facecolor() for bar in figure.axes[0].patches if bar.get_x() < -5.01}
    failed = {bar.get_facecolor() for bar in figure.axes[0].patches if bar.get_x() > -5.01}
    assert not passed & failed
    assert {bar.get_facecolor() for bar in figure.axes[1].patches if bar.get_x() > -5.01} <= passed
    assert "not required" in figure.axes[1].get_title(loc="left") + figure.axes[1].get_title()


def test_degree_bins_hold_every_entry(rng, ratings):
    factors = random_factors(rng)
    entries = summaries.scored(factors, ratings, jals.explicit(0.1))
    assert entries.total == (ratings.weight > 0).sum()
    for side in ("user", "item"):
        degree = summaries.degrees(ratings, side)
        found = summaries.error_by_degree(entries, side, degree)
        assert found.counts.sum() == entries.total
        for place, (start, end) in enumerate(zip(found.edges[:-1], found.edges[1:], strict=True)):
            rows = np.flatnonzero((degree >= start) & (degree < end))
            its = np.isin(getattr(ratings, side), rows) & (ratings.weight > 0)
            assert found.counts[place] == its.sum()
            if its.any():
                score = np.asarray(jals.predict(factors, ratings.user, ratings.item))
                rmse = jals.metrics.rmse(score[its], ratings.value[its], ratings.weight[its])
                assert found.rmse[place] == pytest.approx(float(rmse))
        assert degree.max() < found.edges[-1]
        sure = found.counts >= summaries.FEW
        assert sure.any() and (~sure).any()
        assert (found.low[sure] < found.rmse[sure]).all() and (found.rmse[sure] < found.high[sure]).all()
        assert np.isnan(found.low[~sure]).all()
    score = np.asarray(jals.predict(factors, ratings.user, ratings.item))
    assert found.overall == pytest.approx(float(jals.metrics.rmse(score, ratings.value, ratings.weight)))


def test_interval_is_the_textbook_one(rng):
    square = rng.uniform(1, 4, 50)
    entries = summaries.Scored(np.zeros(50, int), np.zeros(50, int), square, np.ones(50), np.sqrt(square), 50)
    found = summaries.error_by_degree(entries, "user", np.array([3]))
    half = 1.96 * square.std() / np.sqrt(50)
    assert found.high[2] ** 2 - found.rmse[2] ** 2 == pytest.approx(half)
    assert found.rmse[2] ** 2 - found.low[2] ** 2 == pytest.approx(half)
    assert found.edges.tolist() == [0, 1, 2, 4]


def test_wide_ranges_of_degrees_have_wider_bins():
    entries = summaries.Scored(np.arange(3), np.arange(3), np.ones(3), np.ones(3), np.ones(3), 3)
    found = summaries.error_by_degree(entries, "user", np.array([0, 3, 5000]))
    assert found.edges.tolist() == [0, 1, 4, 16, 64, 256, 1024, 4096, 16384]
    assert found.counts.tolist() == [1, 1, 0, 0, 0, 0, 0, 1]


def test_residual_is_target_minus_score(rng, ratings):
    factors = jals.Factors(rng.normal(size=(30, 4)), rng.normal(size=(20, 4)))
    its = ratings.weight > 0
    score = (factors.user[ratings.user[its]] * factors.item[ratings.item[its]]).sum(axis=1)
    rated = summaries.scored(factors, ratings, jals.explicit(0.1))
    np.testing.assert_allclose(rated.residual, ratings.value[its] - score, atol=1e-6)
    implicit = summaries.scored(factors, ratings, jals.ials(0.1, 0.1))
    np.testing.assert_allclose(implicit.residual, 1 - score, atol=1e-6)


def test_large_parts_are_sampled(rng, ratings, monkeypatch):
    factors = random_factors(rng)
    whole = summaries.scored(factors, ratings, jals.explicit(0.1))
    monkeypatch.setattr(summaries, "SAMPLE", 25)
    some = summaries.scored(factors, ratings, jals.explicit(0.1))
    assert (len(some.user), some.total) == (25, whole.total)
    pairs = set(zip(whole.user.tolist(), whole.item.tolist(), strict=True))
    drawn = set(zip(some.user.tolist(), some.item.tolist(), strict=True))
    assert len(drawn) == 25 and drawn < pairs


def test_residual_bands_of_distinct_values_and_of_bins(rng):
    value, residual = rng.integers(1, 6, 400).astype(float), rng.normal(size=400)
    assert summaries.residual_edges(value) is None
    found = summaries.residual_bands(value, residual, np.arange(1.0, 7.0), None)
    assert found.counts.sum() == 400 and found.counts[-1] == 0
    for band in range(5):
        own = np.sort(residual[value == band + 1])
        assert found.quantiles[band, 2] == pytest.approx(np.median(own))
        assert own[0] < found.quantiles[band, 0] < found.quantiles[band, 4] < own[-1]
    assert np.isnan(found.quantiles[-1]).all()

    value = rng.normal(size=400)
    edges = summaries.residual_edges(value)
    found = summaries.residual_bands(value, residual, np.unique(value), edges)
    assert found.counts.tolist() == [40] * 10
    assert (edges[0], edges[-1]) == (value.min(), value.max())


def test_share_of_rows_with_at_least_so_many_entries():
    degree, share = summaries.at_least(np.array([1, 1, 2, 5, 0]))
    assert (degree.tolist(), share.tolist()) == ([1, 2, 5], [0.8, 0.4, 0.2])
    many = np.arange(5000)
    degree, share = summaries.at_least(many)
    assert len(degree) <= 300 and (degree[0], degree[-1]) == (1, 4999)
    np.testing.assert_allclose(share, [(many >= d).mean() for d in degree])


def test_density_counts_every_entry_once(ratings, monkeypatch):
    monkeypatch.setattr(summaries, "_BLOCKS", 7)
    found = summaries.density(ratings).share
    sizes = [np.bincount(np.arange(rows) * 7 // rows) for rows in (30, 20)]
    counts = found * np.outer(*sizes)
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    assert counts.sum() == pytest.approx((ratings.weight > 0).sum())
    users = np.sort(summaries.degrees(ratings, "user"))[::-1]
    np.testing.assert_allclose(counts.sum(axis=1), np.add.reduceat(users, np.r_[0, np.cumsum(sizes[0])[:-1]]))


def test_curves_have_a_line_a_solver_and_log_axes_where_they_help():
    sweeps = np.arange(4)
    near, far = np.array([4.0, 3.0, 2.5, 2.4]), np.array([400.0, 30.0, 2.5, 2.4])
    figure = plots.curves([plots.Line("als", sweeps, near)], "sweeps", "loss L")
    assert (figure.axes[0].get_yscale(), len(figure.legends)) == ("linear", 0)
    lines = [plots.Line("als", sweeps / 10, near), plots.Line("adam", sweeps / 1000, far)]
    figure = plots.curves(lines, "seconds", "loss L")
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["als", "adam"]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), far)
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2


def test_pictures_parse_repeat_and_leave_nothing_behind(rng, ratings):
    import matplotlib
    from matplotlib import image

    before = dict(matplotlib.rcParams)
    table = summaries.density(ratings)
    first, second = plots.picture(plots.density, table), plots.picture(plots.density, table)
    assert first == second
    assert dict(matplotlib.rcParams) == before
    assert first.png.startswith(b"\x89PNG\r\n\x1a\n") and first.png.endswith(b"IEND\xaeB`\x82")
    assert image.imread(io.BytesIO(first.png)).std() > 0.01
    for svg in (first.svg, first.dark_svg):
        assert xml.etree.ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert b"#ffffff" in first.svg and b"#ffffff" not in first.dark_svg
    assert b"<dc:date>" not in first.svg


def test_style_is_ours_whatever_the_reader_has_set():
    import matplotlib

    lines = [plots.Line("als", np.arange(3), np.array([3.0, 2.0, 1.5]))]
    plain = plots.picture(plots.curves, lines, "sweeps", "loss L")
    with matplotlib.rc_context({"axes.facecolor": "red", "axes.labelsize": 30}):
        assert plots.picture(plots.curves, lines, "sweeps", "loss L") == plain
