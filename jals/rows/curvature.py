"""Second derivatives of the loss in both sides' unknowns, without forming a matrix of them.

Half the Hessian of L at given factors, in the unknowns of users and items (biases included, the mean held), is

    H = [ D_U  C  ]      D: one k x k block a row, the matrix of its normal equations
        [ C'  D_I ]      C: a block for each entry (and, with a0, for each pair)

The users are eliminated: v_U = D_U^-1 (r_U - C v_I) leaves the items' Schur complement S = D_I - C' D_U^-1 C, which
conjugate gradients solve in half the iterations that the joint system would take (Reid, 1972), at two passes over the
entries each. S is also the Hessian, halved, of the loss as a function of the items alone, with the users always at
their best. A rotation of both factors changes no prediction and, unless there are prior means, no loss: these are
r (r - 1) / 2 directions without curvature at a stationary point, and with next to none beside one. They are projected
out of every direction and residual (`Rotations`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import match_varying
from ..model.factors import Factors
from ..model.objectives import Objective, squared_sum
from ..model.problem import Problem
from . import backward_error, normal, rowsolve
from .norms import norm

_HIGHEST = jax.lax.Precision.HIGHEST


class Joint(NamedTuple):
    """A vector of the joint system: `(num_users, k)` and `(num_items, k)`, the bias last."""

    user: jax.Array
    item: jax.Array

    def norm(self) -> jax.Array:
        return jnp.sqrt(jnp.sum(self.user**2) + jnp.sum(self.item**2))


class Rotations(NamedTuple):
    """The directions Z A, A antisymmetric, in which rows Z turn.

    Attributes:
        rows: `(rows, r)`, Z.
        basis: `(r, r)`, the eigenvectors of Z'Z as columns.
        inverse: `(r, r)`, 1 / (g_i + g_j) of its eigenvalues, 0 where both are.
    """

    rows: jax.Array
    basis: jax.Array
    inverse: jax.Array

    @classmethod
    def of(cls, rows: jax.Array) -> "Rotations":
        values, basis = _eigh(squared_sum(rows))
        sums = values[:, None] + values
        # Factors that have shrunk to rounding errors do not turn: beside rows of ones, these count as zeros.
        least = len(values) * jnp.finfo(rows.dtype).eps * jnp.maximum(jnp.max(sums), len(rows))
        some = sums > least
        return cls(rows, basis, jnp.where(some, 1 / jnp.where(some, sums, 1.0), 0.0))

    def removed(self, v: jax.Array) -> jax.Array:
        """v `(rows, k)` without its part in these directions: V - Z A in the first r columns, where A is the least
        squares solution, Z'Z A + A Z'Z = Z'V - V'Z."""
        rank = self.rows.shape[1]
        turn = jnp.einsum("ri,rj->ij", self.rows, v[:, :rank], precision=_HIGHEST)
        turned = self.basis.T @ (turn - turn.T) @ self.basis
        turn = self.basis @ (turned * self.inverse) @ self.basis.T
        return v.at[:, :rank].add(-jnp.einsum("ri,ij->rj", self.rows, turn, precision=_HIGHEST))


# One call of LAPACK, also under the caller's vmap: see `rowsolve._each_row`.
_eigh = jax.custom_batching.sequential_vmap(lambda matrix: tuple(jnp.linalg.eigh(matrix)))


class Point(NamedTuple):
    """Where the second derivatives are taken, and the inverses of the rows' matrices there.

    Attributes:
        user_inverse, item_inverse: `(rows, k, k)`, of D_U and D_I. Memory: (users + items) k^2 numbers.
        rotations: of the items; None where prior means hold the factors in place.
        good: whether every row's matrix has an inverse.
    """

    factors: Factors
    problem: Problem
    objective: Objective
    user_inverse: jax.Array
    item_inverse: jax.Array
    rotations: Rotations | None
    good: jax.Array


class SchurSolution(NamedTuple):
    """What conjugate gradients found for S x = rhs.

    Attributes:
        x: `(num_items, k)`.
        iterations: int32, how many.
        residual: |rhs - S x|.
        curvature: the least p'Sp / p'D_I p of all directions p, at most 1; negative: the point is no minimum.
        size: |x| in the norm of D_I.
        gain: x'rhs - x'Sx / 2, half of what a quadratic loss would fall.
        edge: whether it stopped at the radius, or at a curvature that is not positive.
    """

    x: jax.Array
    iterations: jax.Array
    residual: jax.Array
    curvature: jax.Array
    size: jax.Array
    gain: jax.Array
    edge: jax.Array


class JointSolution(NamedTuple):
    """A solution of the joint system: v, whether it meets the tolerance, its relative residual, and the iterations and
    least curvature of the items' (see `SchurSolution`)."""

    v: Joint
    converged: jax.Array
    residual: jax.Array
    iterations: jax.Array
    curvature: jax.Array


def neg_half_gradient(factors: Factors, problem: Problem, objective: Objective, side: str) -> jax.Array:
    """Minus half the gradient of L in one side's unknowns, `(rows, k)`; prior mean minus row where nothing but the
    prior knows a row. One pass."""
    return normal.residuals(normal.view(factors, problem, objective, side), factors.joint(side))


def neg_half_gradients(factors: Factors, problem: Problem, objective: Objective) -> Joint:
    """`neg_half_gradient` of both sides; two passes."""
    return Joint(*(neg_half_gradient(factors, problem, objective, side) for side in ("user", "item")))


def stationarity(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    """How far from a stationary point: `Certificate.stationarity` through the layouts. Two passes that form the rows'
    matrices, and four that do not."""
    errors = []
    for side, gradient in neg_half_gradients(factors, problem, objective)._asdict().items():
        sizes = backward_error.sizes(factors, problem, objective, side)
        errors.append(backward_error.error(norm(gradient, axis=-1), factors.joint(side), sizes))
    return backward_error.Error.together(errors).ratio()


def point(factors: Factors, problem: Problem, objective: Objective) -> Point:
    """The second derivatives at these factors. Two passes that form the rows' matrices."""
    problem = problem.arrange()
    views = (normal.view(factors, problem, objective, side) for side in ("user", "item"))
    users, items = (rowsolve.solve(each, want=("inverse",)) for each in views)
    turns, good = rotations(objective, factors.item), users.good.all() & items.good.all()
    return Point(factors, problem, objective, users.inverse, items.inverse, turns, good)


def rotations(objective: Objective, rows: jax.Array) -> Rotations | None:
    """Those of some rows, where they change no loss."""
    return Rotations.of(rows) if objective.prior_user is None and objective.prior_item is None else None


def removed(turns: Rotations | None, v: jax.Array) -> jax.Array:
    return v if turns is None else turns.removed(v)


def product(factors: Factors, problem: Problem, objective: Objective, v: Joint) -> Joint:
    """H v. Two passes, each with two gathers an entry (the rows, and their directions)."""

    def moved(user, item):
        at = factors.with_joint("user", user).with_joint("item", item)
        return neg_half_gradients(at, problem, objective)

    at = factors.joint("user"), factors.joint("item")
    return jax.tree.map(jnp.negative, jax.jvp(moved, at, (v.user, v.item))[1])


def coupling(at: Point, side: str, v: jax.Array) -> jax.Array:
    """C v for the users (`side` "user", v of the items), C'v for the items. One pass."""
    other = "item" if side == "user" else "user"

    def moved(joint):
        return neg_half_gradient(at.factors.with_joint(other, joint), at.problem, at.objective, side)

    return -jax.jvp(moved, (at.factors.joint(other),), (v,))[1]


def schur_product(at: Point, v: jax.Array) -> jax.Array:
    """S v, `(num_items, k)`. Two passes."""
    users = -by_rows(at.user_inverse, coupling(at, "user", v))

    def moved(user, item):
        factors = at.factors.with_joint("user", user).with_joint("item", item)
        return neg_half_gradient(factors, at.problem, at.objective, "item")

    return -jax.jvp(moved, (at.factors.joint("user"), at.factors.joint("item")), (users, v))[1]


def by_rows(matrices: jax.Array, v: jax.Array) -> jax.Array:
    """Each row's matrix `(rows, k, k)` times its vector `(rows, k)`."""
    return jnp.einsum("rkl,rl->rk", matrices, v, precision=_HIGHEST)


def conjugate_gradients(at: Point, rhs: jax.Array, target: Any, limit: Any, radius: Any = jnp.inf) -> SchurSolution:
    """Solves S x = rhs from zero, rotations projected out, preconditioned by D_I^-1, until the residual's norm is at
    most `target`, or after `limit` iterations. At negative curvature, or where |x| would exceed `radius`, it stops at
    that radius (before the step where the radius is infinite, or the curvature only rounding); norms of x are those of
    D_I. Two passes an iteration for S. Without a derivative: that of the linear system is taken instead.

    Source: Hestenes and Stiefel (1952); Steihaug (1983) for the radius.
    """
    flat = jnp.sqrt(jnp.finfo(rhs.dtype).eps)  # curvatures within it of 0 are rounding's

    def precondition(residual):
        return removed(at.rotations, by_rows(at.item_inverse, residual))

    def going(carry):
        now = carry[0]
        return ~now.edge & (now.iterations < limit) & (now.residual > target)

    def step(carry):
        now, residual, direction, size, along, own = carry  # size r'D^-1 r, along x'Dp, own p'Dp
        moved = removed(at.rotations, schur_product(at, direction))
        bend = jnp.vdot(direction, moved)
        curvature = bend / own
        curved = curvature > flat
        free = size / jnp.where(curved, bend, 1.0)
        edge = ~curved | (now.size**2 + free * (2 * along + free * own) > radius**2)
        reach = (jnp.sqrt(along**2 + own * (radius**2 - now.size**2)) - along) / own
        leaves = jnp.isfinite(reach) & (jnp.abs(curvature) > flat)
        length = jnp.where(edge, jnp.where(leaves, reach, 0.0), free)
        residual = residual - length * moved
        preconditioned = precondition(residual)
        new_size = jnp.vdot(residual, preconditioned)
        onward = new_size / size
        now = SchurSolution(
            now.x + length * direction,
            now.iterations + 1,
            jnp.sqrt(jnp.sum(residual**2)),
            jnp.minimum(now.curvature, curvature),
            jnp.sqrt(now.size**2 + length * (2 * along + length * own)),
            now.gain + length * size - length**2 * bend / 2,
            edge,
        )
        along, own = onward * (along + length * own), new_size + onward**2 * own
        return now, residual, preconditioned + onward * direction, new_size, along, own

    rhs = removed(at.rotations, rhs)
    direction = precondition(rhs)
    size = jnp.vdot(rhs, direction)
    zero, count = jnp.zeros((), rhs.dtype), jnp.zeros((), jnp.int32)
    start = SchurSolution(jnp.zeros_like(rhs), count, jnp.sqrt(jnp.sum(rhs**2)), zero + 1, zero, zero, jnp.array(False))
    carry, _ = match_varying((start, rhs, direction, size, zero, size), (at, target, limit, radius))
    return jax.lax.while_loop(going, step, carry)[0]


def solve(at: Point, rhs: Joint, tol: Any, limit: Any) -> JointSolution:
    """v of H v = rhs with |H v - rhs| <= tol |rhs|, rotations projected out: rhs must have no part along them, as the
    gradient of a function of predictions has none. 2 passes an iteration and 4 more, two of them for a fresh residual.
    """
    # Squares of the smallest numbers would be 0, and their quotients NaN: far down a scale has to be taken out.
    largest = jnp.maximum(jnp.max(jnp.abs(rhs.user)), jnp.max(jnp.abs(rhs.item)))
    largest = jnp.where(largest > 0, largest, 1.0)
    rhs = jax.tree.map(lambda leaf: leaf / largest, rhs)
    items = rhs.item - coupling(at, "item", by_rows(at.user_inverse, rhs.user))
    scale = rhs.norm()
    found = conjugate_gradients(at, items, tol * scale, limit)
    users = by_rows(at.user_inverse, rhs.user - coupling(at, "user", found.x))
    v = Joint(users, found.x)
    left = jax.tree.map(jnp.subtract, rhs, product(at.factors, at.problem, at.objective, v))
    left = Joint(left.user, removed(at.rotations, left.item)).norm()
    residual = jnp.where(scale > 0, left / jnp.where(scale > 0, scale, 1.0), left)
    # What was lost to rounding on the way shows in the fresh residual only.
    converged = at.good & ~found.edge & (residual <= 2 * jnp.asarray(tol, residual.dtype))
    return JointSolution(
        jax.tree.map(lambda leaf: leaf * largest, v), converged, residual, found.iterations, found.curvature
    )
