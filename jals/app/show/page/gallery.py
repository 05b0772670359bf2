"""The figures of a run's page, each with its file name and the words that go with it."""

import base64
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

import jals

from ....files.runs.record import FitRecord
from ....metrics import RMSE
from ....plot import summaries
from . import plots


class DrawnFit(NamedTuple):
    """One fit that the page draws: of each solver the best, of several folds that of the first."""

    label: str
    factors: jals.Factors
    train: jals.Ratings
    validation: jals.Ratings | None
    test: jals.Ratings
    certificate: jals.Certificate
    last_updated_required: bool


class PageFigure(NamedTuple):
    """A figure of the page. `name` is that of its files; the other texts are for readers. `of` is the place among the
    drawn fits of the one that it shows; None where it shows more."""

    name: str
    alt: str
    caption: str
    picture: plots.Picture
    of: int | None = None

    @property
    def light(self) -> str:
        return _inline(self.picture.svg)

    @property
    def dark(self) -> str:
        return _inline(self.picture.dark_svg)


def curves(fits: list[FitRecord]) -> Iterator[PageFigure]:
    """Loss and validation metric, by sweeps and by seconds: what of them the histories hold."""
    metrics = {fit.metric for fit in fits}
    metric = metrics.pop() if len(metrics) == 1 else RMSE
    histories = [(fit.solver, fit.history.columns()) for fit in first_fits(fits)]
    for name in ("loss", "validation"):
        for across in ("sweep", "seconds"):
            shown = summaries.progress(histories, name, across, metric)
            if shown is not None:
                last = "; ".join(f"{line.label}: {line.y[0]:,.6g} to {line.y[-1]:,.6g}" for line in shown.lines)
                yield PageFigure(
                    f"{name}-by-{across}",
                    f"{shown.ylabel} against {shown.xlabel}, first to last: {last}.",
                    f"{_capital(shown.ylabel) if name == 'loss' else shown.ylabel} against {shown.xlabel}.",
                    plots.picture(plots.curves, *shown),
                )


def certificates(drawn: list[DrawnFit]) -> Iterator[PageFigure]:
    """One picture a fit, all on the same axis."""
    errors = [one.certificate.errors() for one in drawn]
    edges = {
        bound: summaries.error_edges([np.asarray(error) for sides in errors for error in sides.values()], bound)
        for bound in {one.certificate.bound for one in drawn}
    }
    for place, (one, sides) in enumerate(zip(drawn, errors, strict=True)):
        bound = one.certificate.bound
        histograms = [
            (f"{name} ({len(error):,})", summaries.backward_errors(np.asarray(error), edges[bound]))
            for name, error in sides.items()
        ]
        worst = "; ".join(f"{name} {_largest(error)}" for name, error in sides.items())
        yield PageFigure(
            f"certificate-{_file(one.label)}",
            f"Histograms of backward errors, {one.label}; the largest: {worst}; bound {_power(bound)}.",
            f"{one.label}, the largest: {worst}. Stationarity {_power(one.certificate.stationarity)}.",
            plots.picture(plots.certificate, histograms, bound, one.last_updated_required),
            place,
        )


def spectrum(drawn: list[DrawnFit]) -> Iterator[PageFigure]:
    if not drawn:
        return
    lines = [(one.label, summaries.spectrum(one.factors)) for one in drawn]
    said = []
    for label, values in lines:
        total = np.cumsum(values**2)
        enough = int(np.searchsorted(total, 0.9 * total[-1])) + 1
        ends = f"σ₁ = {values[0]:.3g}, σ{_subscript(len(values))} = {values[-1]:.3g}"
        said.append(f"{label}: {ends}; the first {enough} of {len(values)} make 90 % of Σσ².")
    caption = " ".join(said)
    alt = f"Singular values of X Yᵀ, largest first. {caption}"
    yield PageFigure("spectrum", alt, caption, plots.picture(plots.spectrum, lines))


def residuals(drawn: list[DrawnFit], scored: list[dict[str, summaries.Scored]]) -> Iterator[PageFigure]:
    for place, (one, parts) in enumerate(zip(drawn, scored, strict=True)):
        value = np.concatenate([part.value for part in parts.values()])
        edges = summaries.residual_edges(value)
        bands = [
            (name, summaries.residual_bands(part.value, part.residual, np.unique(value), edges))
            for name, part in parts.items()
        ]
        medians = "; ".join(
            f"{name} from {_signed(each.quantiles[0, 2])} to {_signed(each.quantiles[-1, 2])}" for name, each in bands
        )
        yield PageFigure(
            f"residuals-{_file(one.label)}",
            f"Boxes of residuals by value, {one.label}. Median at the lowest and the highest value: {medians}.",
            f"{one.label}. Median residual at the lowest and the highest value: {medians}.",
            plots.picture(plots.residuals, bands, summaries.value_label(edges)),
            place,
        )


def errors(drawn: list[DrawnFit], scored: list[dict[str, summaries.Scored]]) -> Iterator[PageFigure]:
    if not all("test" in parts for parts in scored) or not drawn:
        return
    for side in ("user", "item"):
        lines = [
            (one.label, summaries.error_by_degree(parts["test"], side, summaries.degrees(one.train, side)))
            for one, parts in zip(drawn, scored, strict=True)
        ]
        total = int(lines[0][1].counts.sum())
        yield PageFigure(
            f"error-by-{side}-degree",
            f"RMSE of {total:,} test entries by how many training entries the {side} has.",
            f"By {side}: {total:,} test entries.",
            plots.picture(plots.error_by_degree, lines, side, "test entries"),
        )


def data(ratings: jals.Ratings) -> Iterator[PageFigure]:
    sides = {side: summaries.degrees(ratings, side) for side in ("user", "item")}
    lines = [plots.Line(f"{side}s", *summaries.at_least(degree)) for side, degree in sides.items()]
    said = []
    for side, degree in sides.items():
        empty = int((degree == 0).sum())
        none = f" ({empty:,} have none)" if empty else ""
        said.append(f"{side}s have {degree.min():,} to {degree.max():,} entries, median {np.median(degree):,.4g}{none}")
    caption = "; ".join(said)
    alt = f"Share of rows with at least so many entries: {caption}."
    yield PageFigure("degrees", alt, f"{_capital(caption)}.", plots.picture(plots.degrees, lines))
    table = summaries.density(ratings)
    users, items = table.share.shape
    each = [f"{round(size, 1 if size < 100 else 0):,g}" for size in (table.num_users / users, table.num_items / items)]
    size = f"{users} blocks of users ({each[0]} each) by {items} of items ({each[1]} each)"
    yield PageFigure(
        "density",
        f"Heat map of the share of pairs observed, users and items sorted by entries: {size}.",
        f"{size}. Grey blocks hold no entry; the fullest holds {100 * table.share.max():.3g} % of its pairs.",
        plots.picture(plots.density, table),
    )


def first_fits(fits: list[FitRecord]) -> list[FitRecord]:
    """Each solver's first fit, in the order of the solvers."""
    return list({fit.solver: fit for fit in reversed(fits)}.values())[::-1]


def _inline(svg: bytes) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"


def _file(label: str) -> str:
    return re.sub(r"[^\w .=-]", "-", label)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def _power(number: Any) -> str:
    """3.0×10⁻⁷: unlike 3.0e-07 no line is broken inside."""
    mantissa, _, exponent = f"{float(number):.1e}".partition("e")
    if not exponent or not float(mantissa):
        return "0" if exponent else mantissa
    return f"{mantissa}×10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _largest(errors: Any) -> str:
    errors = np.asarray(errors)
    known = errors[~np.isnan(errors)]
    return _power(known.max()) if len(known) else "unjudged"


def _signed(number: float) -> str:
    return f"{number:+.2f}".replace("-", "−")
