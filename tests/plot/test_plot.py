"""`jals.plot`: what each figure shows of what it was given, in figures of its own and in axes of the caller's."""

import dataclasses
import io
import sys
from typing import Any

import numpy as np
import pytest

import jals
from jals.plot import summaries
from tests.support import needs, shown

needs("plot")

import matplotlib  # noqa: E402 - of the extra
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import imread  # noqa: E402

TITLES = [f"The film with the number {i}" for i in range(40)]


@pytest.fixture(scope="module")
def made():
    """(train, test, objective, results by name, certificate)"""
    data, factors = jals.datasets.synthetic(60, 40, 3, 0.4, noise=0.3, seed=1, bias=True, skew=0.7)
    train, test = jals.split.random(data.ratings, test_fraction=0.25, seed=0)
    results = {f"seed {n}": shown.result(factors, 4, every=n, seed=n) for n in (1, 2)}
    return train, test, jals.als_wr(0.1, bias=True, center=True), results, shown.certificate(factors)


def call(made, name: str, **at: Any) -> Any:
    train, test, objective, results, proof = made
    one = results["seed 1"]
    return {
        "loss": lambda: jals.plot.loss(results, **at),
        "validation": lambda: jals.plot.validation(results, "passes", **at),
        "history": lambda: one.plot(**at),
        "certificate": lambda: proof.plot(**at),
        "spectrum": lambda: jals.plot.spectrum(results, **at),
        "residuals": lambda: jals.plot.residuals(one, {"train": train, "test": test}, objective, **at),
        "error_by_degree": lambda: jals.plot.error_by_degree(results, train, test, objective, "item", **at),
        "item_map": lambda: jals.plot.item_map(one, TITLES, train, **at),
    }[name]()


PANELS = {"loss": 1, "validation": 1, "history": 2, "certificate": 3} | {"spectrum": 1, "residuals": 1}
PANELS |= {"error_by_degree": 2, "item_map": 1}


def words(panels: list) -> list[str]:
    """What is written in the panels, in any order."""
    legends = {id(each): each for panel in panels for each in (panel.get_legend(), *panel.figure.legends) if each}
    written = [text for legend in legends.values() for text in legend.get_texts()]
    written += [text for panel in panels for text in (*panel.texts, panel.xaxis.label, panel.yaxis.label)]
    titles = [panel.get_title() + panel.get_title(loc="left") for panel in panels]
    return sorted([*titles, *(text.get_text() for text in written)])


def numbers(panels: list) -> list[np.ndarray]:
    """The points of every line and dot, and the heights of every bar."""
    lines = [np.array(line.get_data(), float) for panel in panels for line in panel.lines]
    dots = [np.ma.filled(each.get_offsets(), np.nan) for panel in panels for each in panel.collections]
    return [*lines, *dots, *(np.array([bar.get_height() for bar in panel.patches]) for panel in panels)]


@pytest.mark.parametrize("name", PANELS)
def test_given_axes_show_what_a_figure_of_its_own_shows(made, name):
    own = call(made, name)
    theirs = Figure()
    axes = theirs.subplots(PANELS[name])
    assert call(made, name, ax=axes) is axes
    given, panels = list(np.ravel(axes)), own.axes[: PANELS[name]]
    assert words(panels) == words(given)
    assert all(panel.get_ylabel() for panel in given) and given[-1].get_xlabel()
    for one, other in zip(numbers(panels), numbers(given), strict=True):
        np.testing.assert_array_equal(one, other)
    for panel, other in zip(panels, given, strict=True):
        assert (panel.get_xscale(), panel.get_yscale()) == (other.get_xscale(), other.get_yscale())
    pixels, size = own._repr_png_()
    assert size["width"] == 451 and imread(io.BytesIO(pixels))[..., :3].std() > 0.01  # what a notebook shows


def test_lines_are_the_records(made):
    *_, results, proof = made
    (axes,) = jals.plot.loss(results, "passes").axes
    for line, result in zip(axes.lines, results.values(), strict=True):
        assert line.get_data()[0].tolist() == result.history.passes
        assert line.get_data()[1].tolist() == result.history.loss
    upper, lower = results["seed 1"].plot().axes
    assert upper.lines[0].get_ydata().tolist() == results["seed 1"].history.loss
    assert lower.lines[0].get_ydata().tolist() == results["seed 1"].history.validation
    assert "RMSE" in lower.get_ylabel()
    stack = Figure().subplots(3)
    proof.plot(ax=stack)
    assert all(next(iter(axes.get_xticklabels())).get_text() == "0" for axes in stack)
    for axes, error in zip(proof.plot().axes, proof.errors().values(), strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == len(error)


def test_a_spectrum_is_that_of_the_whole_matrix(made):
    factors = made[3]["seed 1"].factors
    (axes,) = jals.plot.spectrum(factors).axes
    whole = np.linalg.svd(np.asarray(factors.user, float) @ np.asarray(factors.item, float).T, compute_uv=False)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), whole[:3], rtol=1e-6)


def test_names_on_the_map_are_of_the_busiest_and_cover_no_other(made):
    train, *_, results, _ = made
    figure = jals.plot.item_map(results["seed 1"], TITLES, train)
    FigureCanvasAgg(figure).draw()
    named = figure.axes[0].texts
    boxes = [text.get_window_extent() for text in named]
    assert len(named) > 3 and not any(one.overlaps(two) for at, one in enumerate(boxes) for two in boxes[:at])
    degree = summaries.degrees(train, "item")
    dots = figure.axes[0].collections[0]
    assert np.asarray(dots.get_array()).tolist() == np.sort(degree).tolist()  # the busiest lie on top
    assert "1st direction" in figure.axes[0].get_xlabel()
    whole = jals.plot.item_map(results["seed 1"])
    assert len(whole.axes) == 1 and not whole.axes[0].texts  # nothing to colour by, no names


def lightness(colour: Any) -> float:
    return float(np.mean(matplotlib.colors.to_rgb(colour)))


def test_a_figure_has_our_style_and_given_axes_have_theirs(made):
    before = dict(matplotlib.rcParams)
    plain = call(made, "residuals")._repr_png_()
    with matplotlib.rc_context({"axes.facecolor": "#000000", "text.color": "#ffff00", "font.size": 20}):
        assert call(made, "residuals")._repr_png_() == plain
        axes = Figure().subplots()
        call(made, "residuals", ax=axes)
        assert axes.lines[-1].get_color() == "#ffff00"  # the line at zero, which black would hide on black
        upper, lower = Figure().subplots(2)
        call(made, "error_by_degree", ax=(upper, lower))
        bars, words = lower.patches[0].get_facecolor(), lower.texts[0].get_color()
        assert lightness(words) > 3 * lightness(bars)  # they stand on the bars
        assert upper.get_xlim() == lower.get_xlim() and list(upper.get_xticks()) == list(lower.get_xticks())
        dots = call(made, "item_map", ax=Figure().subplots()).collections[0]
        few, many = (lightness(dots.cmap(share)) for share in (0.0, 1.0))
        assert many > 2 * few
    assert dict(matplotlib.rcParams) == before


def test_what_cannot_be_drawn_is_refused(made):
    train, test, objective, results, proof = made
    one = results["seed 1"]
    bare = dataclasses.replace(one, history=jals.History([1], [np.nan], [0.1], [2], [np.nan]))
    refused = {
        "no loss was recorded: fit with loss_every=1": lambda: jals.plot.loss(bare),
        "neither loss nor validation": lambda: bare.plot(),
        "results is of type Factors": lambda: jals.plot.loss(one.factors),
        "the dict is empty": lambda: jals.plot.loss({}),
        "across is": lambda: one.plot("hours"),
        "proof is of type Result": lambda: jals.plot.certificate(one),
        "factors is of type History": lambda: jals.plot.spectrum(one.history),
        "ratings is of type Factors": lambda: jals.plot.residuals(one, one.factors, objective),
        "titles is of 3 items": lambda: jals.plot.item_map(one, ["a", "b", "c"]),
        "side is": lambda: jals.plot.error_by_degree(one, train, test, objective, "users"),
        "must be 3 of matplotlib's axes": lambda: proof.plot(ax=Figure().subplots(2)),
        "must be one of matplotlib's axes": lambda: jals.plot.loss(one, ax=Figure()),
    }
    for message, attempt in refused.items():
        with pytest.raises(jals.ArgumentError, match=message):
            attempt()


def test_without_matplotlib_the_extra_is_named(made, monkeypatch):
    for name in ("matplotlib", "jals.plot.style", "jals.plot.drawing"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("style", "drawing"):
        monkeypatch.delattr(jals.plot, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "jals\[plot\]"'):
        made[3]["seed 1"].plot()
