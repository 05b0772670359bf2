"""The pictures of derivation.md. `python docs/figures/draw.py` draws them again, beside this file."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jals
from jals.app.commands import derivation
from jals.app.commands.derivation import picture, steps

INK, LINE, ACCENT = picture.INK, "#3b6ea8", "#d1495b"


def figures() -> dict[str, Figure]:
    """Every picture by its file's name. Needs x64, as the page does: random numbers differ by dtype."""
    table = derivation.built_in()
    at = steps.setting(table.ratings, row=0)
    return {
        "table.svg": picture.table(at, table.vocab, table.titles),
        "bowl.svg": bowl(at),
        "valleys.svg": valleys(),
    }


def bowl(at: steps.Setting) -> Figure:
    """L along the first coordinate of x_u, the other at the solution."""
    solution = at.solved(at.objective)
    first = np.linspace(solution[0] - 2.5, solution[0] + 2.5, 101)
    points = np.tile(solution, (len(first), 1))
    points[:, 0] = first
    height = np.asarray(jax.vmap(lambda x: jals.loss(at.moved(x), at.problem, at.objective))(points))
    figure, axes = _axes("x₁ of Ann   (x₂ and all else held)", "L")
    axes.plot(first, height, color=LINE, linewidth=2)
    axes.plot(solution[0], height.min(), "o", color=ACCENT, markersize=8)
    note = f"solution (2): x₁ = {solution[0]:.3f}\nslope 0, L = {height.min():.1f}"
    axes.annotate(note, (solution[0], height.min()), (0, 40), textcoords="offset points", ha="center", color=ACCENT)
    return figure


def valleys(rating: float = 2.0, reg: float = 0.2) -> Figure:
    """L of one rating at rank 1 over (x, y), with the half-sweeps of ALS from one start."""
    problem = jals.Problem.build(jals.Ratings.from_arrays([0], [0], np.array([rating])))
    objective = jals.explicit(reg)
    update = jax.jit(jals.ALS(1).update, static_argnames="side")
    factors = jals.Factors(jnp.array([[-0.4]]), jnp.array([[0.35]]))
    path = [(factors.user[0, 0], factors.item[0, 0])]
    for side in ("user", "item") * 6:
        factors, _ = update(factors, problem, objective, side=side)
        path.append((factors.user[0, 0], factors.item[0, 0]))

    @jax.vmap
    @jax.vmap
    def height(x, y):
        return jals.loss(jals.Factors(x[None, None], y[None, None]), problem, objective)

    grid = np.linspace(-2.4, 2.4, 97)
    levels = np.array([0.76, 0.9, 1.2, 1.8, 2.7, 4.0, 6, 9, 14, 22, 35, 60])
    figure, axes = _axes("x", "y")
    heights = height(*np.meshgrid(grid, grid))
    filled = axes.contourf(grid, grid, heights, levels, cmap="Blues_r", extend="max", norm="log")
    bar = figure.colorbar(filled, ax=axes, ticks=levels[::2], format="%g")
    bar.set_label("L", rotation=0)
    axes.plot(*np.array(path).T, color=ACCENT, linewidth=2, marker="o", markersize=4)
    axes.annotate("start", path[0], (-6, -14), textcoords="offset points", ha="right", color="white")
    low = float(np.sqrt(rating - reg))  # where both derivatives are 0: x = y and x² = r − λ
    for sign, name in ((1, "(x, y)"), (-1, "(−x, −y)")):
        place, value = (sign * low, sign * low), height(*np.full((2, 1, 1), sign * low))[0, 0]
        axes.plot(*place, "o", color="white", markersize=7, markeredgecolor=INK)
        note = f"{name}\nL = {value:.2f}"
        axes.annotate(note, place, (0, 9), textcoords="offset points", ha="center", color="white", size=9)
    axes.plot(0, 0, "x", color="white", markersize=8, markeredgewidth=2)
    note = f"halfway\nL = {height(*np.zeros((2, 1, 1)))[0, 0]:.2f}"
    axes.annotate(note, (0, 0), (9, -24), textcoords="offset points", color="white", size=9)
    axes.set_aspect("equal")
    return figure


def _axes(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.8, 3.4), layout="constrained")  # words can be read on a phone
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up, rotation=0, labelpad=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for name, figure in figures().items():
        picture.save(Path(__file__).parent / name, figure)
