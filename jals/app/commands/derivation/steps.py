"""The derivation of the ALS update in numbers, on one row of a table: the steps of `jals derive`.

    L(X, Y) = sum over entries of w (r - x_u . y_i)^2 + lambda (sum_u |x_u|^2 + sum_i |y_i|^2)             (1)
    x_u = (sum over the row's entries of w y_i y_i' + lambda I)^-1 (sum over the row's entries of w r y_i)  (2)

Each step is a pure function of a `Setting`. Its arithmetic is the formula on show, in NumPy; beside it stands what the
library and autodiff say (`jals.ALS`, `jax.grad` of `jals.loss`, `jals.certify`), so that a reader sees the two agree.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jals

from ....data.ratings import Ratings
from ....data.vocabulary import Vocabulary
from ....errors import ArgumentError, DataError
from ....rows import normal

STEP = 0.5  # of the finite differences: L is a parabola in each coordinate, so a long step costs no accuracy
SHOWN = 3  # coordinates of a vector that are differenced and shown
SWEEPS = (0, 1, 2, 3, 5, 10, 20)


class Setting(NamedTuple):
    """Where the walk starts.

    Attributes:
        ratings, problem, objective: the table without entries of weight 0, in float64 where x64 is on, and the loss
            (1), `explicit(reg)`.
        start: random factors of standard deviation 1 / sqrt(rank), so that scores are of readable size.
        row: the user's row.
        reg: lambda > 0.
        item, value, weight: `(n,)`, the row's entries.
    """

    ratings: Ratings
    problem: jals.Problem
    objective: jals.Objective
    start: jals.Factors
    row: int
    reg: float
    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray

    @property
    def x(self) -> np.ndarray:
        """x_u at the start, `(rank,)`."""
        return np.asarray(self.start.user[self.row])

    @property
    def y(self) -> np.ndarray:
        """y_i of the row's entries, `(n, rank)`."""
        return np.asarray(self.start.item)[self.item]

    @property
    def others(self) -> np.ndarray:
        """bool `(num_items,)`: items without an entry in the row."""
        return ~np.isin(np.arange(self.ratings.num_items), self.item)

    def moved(self, x: Any) -> jals.Factors:
        """The start with another x_u."""
        return dataclasses.replace(self.start, user=self.start.user.at[self.row].set(x))

    def gradient(self, x: Any) -> jals.Factors:
        """The gradient of L by autodiff, in every row of both sides, with x as x_u."""
        return jax.grad(jals.loss)(self.moved(x), self.problem, self.objective)

    def solved(self, objective: jals.Objective) -> np.ndarray:
        """x_u after half a sweep of jals.ALS."""
        solver = jals.ALS(self.start.rank)
        updated = _half_sweep(solver, self.start, self.problem, objective.cast(self.start.dtype))
        return np.asarray(updated.user[self.row])


def setting(ratings: Ratings, row: int, reg: float = 0.1, rank: int = 2, seed: int = 0) -> Setting:
    """The start of the walk for one user row.

    Raises:
        ArgumentError: for reg <= 0, or a rank that is no whole number >= 1.
        DataError: where the row has no entries.
    """
    if not (np.isfinite(reg) and reg > 0):
        raise ArgumentError(
            f"reg is {reg!r}, but must be a number > 0 here: without lambda a row has one solution only if its items "
            "span the whole rank, and an empty row has none."
        )
    real = jnp.result_type(float)
    weight = np.ones(len(ratings), real) if ratings.weight is None else ratings.weight.astype(real)
    ratings = dataclasses.replace(ratings, value=ratings.value.astype(real), weight=weight).select(weight > 0)
    mine = np.flatnonzero(ratings.user == row)
    if not len(mine):
        raise DataError(
            f"this user (row {row}) has no entries: x_u stands in lambda |x_u|^2 alone, the solution is 0, and there "
            "is nothing to derive. Choose a user with entries."
        )
    problem, objective = jals.Problem.build(ratings), jals.explicit(float(reg))
    start = jals.ALS(rank, init_scale=1.0).init(jax.random.key(seed), problem, objective).factors
    mine = ratings.select(mine)
    assert mine.weight is not None
    return Setting(ratings, problem, objective, start, int(row), float(reg), mine.item, mine.value, mine.weight)


class Loss(NamedTuple):
    """L at the start in its parts, and as `jals.loss` sees it."""

    squared: float
    users: float
    items: float
    by_library: float

    @property
    def total(self) -> float:
        return self.squared + self.users + self.items


def loss(at: Setting) -> Loss:
    table, X, Y = at.ratings, np.asarray(at.start.user), np.asarray(at.start.item)
    assert table.weight is not None  # `setting` fills it
    residual = table.value - np.sum(X[table.user] * Y[table.item], axis=1)
    squared = float(np.sum(table.weight * residual**2))
    by_library = float(jals.loss(at.start, at.problem, at.objective))
    return Loss(squared, at.reg * float(np.sum(X**2)), at.reg * float(np.sum(Y**2)), by_library)


class Slope(NamedTuple):
    """dL/dx_u at the start.

    Attributes:
        score, residual: `(n,)`, x_u . y_i and r - x_u . y_i.
        terms: `(n, rank)`, -2 w residual y_i.
        pull: `(rank,)`, 2 lambda x_u.
        by_autodiff: `(rank,)`, `jax.grad` of `jals.loss`.
        by_differences: its first `SHOWN` coordinates by central differences of `jals.loss`.
        slip: `(rank,)`, what comes of writing x_u for y_i at the end of each term.
    """

    score: np.ndarray
    residual: np.ndarray
    terms: np.ndarray
    pull: np.ndarray
    by_autodiff: np.ndarray
    by_differences: np.ndarray
    slip: np.ndarray

    @property
    def gradient(self) -> np.ndarray:
        return self.terms.sum(axis=0) + self.pull


def slope(at: Setting) -> Slope:
    score = at.y @ at.x
    residual = at.value - score
    terms = (-2 * at.weight * residual)[:, None] * at.y
    pull = 2 * at.reg * at.x
    slip = -2 * np.sum(at.weight * residual) * at.x + pull
    differences = []
    for step in STEP * np.eye(len(at.x), dtype=at.x.dtype)[:SHOWN]:
        ahead, behind = (jals.loss(at.moved(at.x + each), at.problem, at.objective) for each in (step, -step))
        differences.append(float(ahead - behind) / (2 * STEP))
    by_autodiff = np.asarray(at.gradient(at.x).user[at.row])
    return Slope(score, residual, terms, pull, by_autodiff, np.array(differences), slip)


class Reach(NamedTuple):
    """Every row's gradient before and after x_u moves from the start to its solution, by autodiff: norms and the norm
    of the change, `(num_users, 3)` and `(num_items, 3)`."""

    user: np.ndarray
    item: np.ndarray


def reach(at: Setting, x: np.ndarray) -> Reach:
    before, after = at.gradient(at.x), at.gradient(x)

    def norms(side: str) -> np.ndarray:
        old, new = (np.asarray(getattr(gradient, side)) for gradient in (before, after))
        return np.stack([np.linalg.norm(each, axis=1) for each in (old, new, new - old)], axis=1)

    return Reach(norms("user"), norms("item"))


class System(NamedTuple):
    """The row's normal equations: `gram` `(rank, rank)`, `rhs` `(rank,)`, and matrix and right-hand side as the
    library forms them."""

    gram: np.ndarray
    rhs: np.ndarray
    library_matrix: np.ndarray
    library_rhs: np.ndarray

    def agrees(self, reg: float) -> bool:
        """Whether the library forms the same matrix, gram + reg I, and right-hand side, up to rounding."""
        matrix = self.gram + reg * np.eye(len(self.rhs))
        pairs = ((matrix, self.library_matrix), (self.rhs, self.library_rhs))
        near = 1e3 * np.finfo(self.gram.dtype).eps
        return all(np.abs(one - other).max() <= near * np.abs(one).max() for one, other in pairs)


def system(at: Setting) -> System:
    gram = np.einsum("n,nk,nl->kl", at.weight, at.y, at.y)
    rhs = (at.weight * at.value) @ at.y
    matrix, library_rhs = _systems(*_alone(at), at.objective.cast(at.start.dtype))
    return System(gram, rhs, np.asarray(matrix[0]), np.asarray(library_rhs[0]))


@jax.jit
def _systems(factors: jals.Factors, problem: jals.Problem, objective: jals.Objective) -> tuple[jax.Array, jax.Array]:
    """The library's normal equations of every user's row, one that has entries."""
    return normal.systems(normal.view(factors, problem, objective, "user"))


@jax.jit
def _half_sweep(solver: jals.ALS, factors: jals.Factors, problem: jals.Problem, objective: Any) -> jals.Factors:
    return solver.update(factors, problem, objective, "user")[0]


class Solution(NamedTuple):
    """A value of x_u with its gradient by autodiff, its backward error and its loss."""

    x: np.ndarray
    gradient: np.ndarray
    error: float
    loss: float


class Solutions(NamedTuple):
    """Solution (2), the one that comes of adding lambda to every element of the Gram, the row that jals.ALS makes,
    and the worst backward error of all users' fresh rows with the bound that an exact solver keeps."""

    right: Solution
    every_element: Solution
    by_als: np.ndarray
    worst_error: float
    bound: float


def solutions(at: Setting, equations: System) -> Solutions:
    def judged(matrix: np.ndarray) -> Solution:
        x = np.linalg.lstsq(matrix, equations.rhs)[0]  # the wrong matrix may be singular, the right one never is
        gradient = np.asarray(at.gradient(x).user[at.row])
        value = float(jals.loss(at.moved(x), at.problem, at.objective))
        return Solution(x, gradient, backward_error(at, x, at.objective), value)

    certificate = jals.certify(at.start, at.problem, at.objective)
    right = judged(equations.gram + at.reg * np.eye(len(equations.rhs), dtype=equations.gram.dtype))
    every_element = judged(equations.gram + at.reg)
    worst, bound = float(np.max(certificate.user)), certificate.bound
    return Solutions(right, every_element, at.solved(at.objective), worst, bound)


def backward_error(at: Setting, x: np.ndarray, objective: jals.Objective) -> float:
    """The backward error of x as x_u under an objective: that of `Certificate.last_updated`, which is of item rows as
    given, on the row's entries turned round so that the user stands where an item would."""
    turned = Ratings.from_arrays(at.item, np.zeros_like(at.item), at.value, at.ratings.num_items, 1, weight=at.weight)
    factors = jals.Factors(at.start.item, jnp.asarray(x)[None])
    return float(jals.certify(factors, jals.Problem.build(turned), objective).last_updated[0])


class Inside(NamedTuple):
    """Lambda outside the sum over entries (`explicit`) and inside (`als_wr`): both solutions, `(2, rank)`, and the
    backward error of each (rows) under each objective (columns), `(2, 2)`."""

    x: np.ndarray
    error: np.ndarray


def inside(at: Setting) -> Inside:
    both = (at.objective, jals.als_wr(at.reg))
    x = np.stack([at.solved(objective) for objective in both])
    return Inside(x, np.array([[backward_error(at, each, objective) for objective in both] for each in x]))


class Convergence(NamedTuple):
    """Sweeps from the start: which (those of `SWEEPS`), the loss and the stationarity after each, `tol_sweep` (after
    how many `tol=1e-3` would have stopped, None for later), and the last factors."""

    sweep: list[int]
    loss: np.ndarray
    stationarity: np.ndarray
    tol_sweep: int | None
    factors: jals.Factors


def convergence(at: Setting) -> Convergence:
    stationarity = {}

    def look(progress: jals.Progress) -> None:
        if progress.sweep in SWEEPS:
            certificate = jals.certify(progress.state.factors, at.problem, at.objective)
            stationarity[progress.sweep] = float(certificate.stationarity)

    solver = jals.ALS(at.start.rank)
    result = jals.fit(solver, at.problem, at.objective, sweeps=SWEEPS[-1], init=at.start, callbacks=[look])
    losses = np.array(result.history.loss)
    settled = np.flatnonzero(losses[:-1] - losses[1:] <= 1e-3 * losses[:-1])
    tol_sweep = int(settled[0]) + 1 if len(settled) else None
    seen = list(stationarity)
    return Convergence(seen, losses[seen], np.array([*stationarity.values()]), tol_sweep, result.factors)


class Shape(NamedTuple):
    """Convex in x_u, not as a whole.

    Attributes:
        hessian: `(rank, rank)`, of L in x_u by autodiff, and its smallest eigenvalue `smallest`.
        ends: L at the fitted (X, Y) and at (-X, -Y).
        middle: L halfway between them, at 0.
    """

    hessian: np.ndarray
    smallest: float
    ends: tuple[float, float]
    middle: float


def shape(at: Setting, fitted: jals.Factors) -> Shape:
    factors, alone = _alone(at)
    of_row = lambda x: jals.loss(dataclasses.replace(factors, user=x[None]), alone, at.objective)  # noqa: E731
    hessian = np.asarray(jax.hessian(of_row)(factors.user[0]))
    one, other, zero = (
        float(jals.loss(jax.tree.map(lambda rows, sign=sign: sign * rows, fitted), at.problem, at.objective))
        for sign in (1, -1, 0)
    )
    return Shape(hessian, float(np.linalg.eigvalsh(hessian)[0]), (one, other), zero)


def _alone(at: Setting) -> tuple[jals.Factors, jals.Problem]:
    """The row as a table of its own, and the start for it: no other entry has a part in its equations."""
    user, items = np.zeros_like(at.item), at.ratings.num_items
    problem = jals.Problem.build(Ratings.from_arrays(user, at.item, at.value, 1, items, weight=at.weight))
    return dataclasses.replace(at.start, user=at.start.user[at.row][None]), problem


def user_name(vocab: Vocabulary, row: int) -> str:
    """What a user is called: the id, with "user" before a number."""
    return f"user {vocab.user[row]}" if vocab.user.dtype.kind in "iu" else str(vocab.user[row])


def item_name(vocab: Vocabulary, titles: Any, item: int) -> str:
    """An item's title, or its id where there is none."""
    return ("" if titles is None else str(titles[item])) or str(vocab.item[item])
