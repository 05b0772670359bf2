"""Gradient methods on the loss that ALS minimises: any optax optimizer, full batch or minibatch."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import ArgumentError
from ..model.factors import Factors, remainder, score_terms
from ..model.objectives import Objective, by_rows, loss, penalty, row_sizes
from ..model.problem import Problem
from ..rows import normal
from . import costs
from .hyper import check_hyper, is_traced_argument, plain
from .protocol import Info, State, check_memory, check_rank, check_whole, entering, start_from, sweep_info

_SORTED = 4096  # entries: so few are quickly sorted
_ROUNDS = 8  # of a shuffle: four are as good as random to a few queries, more for all places at once


class GradientMemory(NamedTuple):
    """What `Gradient` carries beside the factors: the optimizer's state, and the key of the next epoch's shuffle."""

    optimizer: Any
    key: jax.Array


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Gradient:
    """A gradient method on `jals.loss`: same objective, same initial factors for a key as ALS; `mean` stays as set.

    A sweep is one step of the optimizer with the gradient of the whole loss, or, with `batch_size`, one epoch:

    - full batch: the gradient goes through the layouts, row by row on each side, without a scatter: two passes over
      the entries, the loss included. Each evaluation of a line search costs two more and is counted.
    - minibatch: the entries are shuffled and cut into K = ceil(entries / batch_size) batches, the last one short. A
      step uses K * (gradient of the batch's entries) + (gradient of all of the rest: regularisation and the sum over
      all pairs). The mean of these over an epoch's batches is exactly the gradient of the loss, so each is unbiased
      for a batch drawn at random. An epoch makes two passes, forward and backward.

    Attributes:
        rank: columns of X and Y; static.
        optimizer: a function that makes an optax optimizer, such as `optax.adam`; static, compared by identity, so
            pass the same function each time (a fresh lambda compiles again).
        hyper: its arguments. Real numbers are traced: new ones compile nothing. Whole numbers (unless the argument is
            real by its default or annotation, or the learning rate; keys and seeds are whole), booleans, functions and
            None are static. The learning rate may be a schedule, whose own numbers are then static;
            `jals.scheduled` traces them.
        batch_size: entries a step, or None for all; static.
        init_scale: the initial factors are normal with standard deviation init_scale / sqrt(rank). A gradient method
            walks back from a start that is too large step by step: keep it small.

    Line searches (`optax.lbfgs`) get value and gradient as they need; they cannot be differentiated in reverse mode,
    since their number of steps is not fixed. Everything else differentiates forward and reverse. Through Adam give
    `eps_root` > 0, as optax says: the root of a second moment that is 0, an empty row's, has no finite derivative.
    """

    rank: int
    optimizer: Callable[..., Any] = optax.adam
    hyper: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"learning_rate": 1e-2})
    batch_size: int | None = None
    init_scale: Any = 0.1

    def __post_init__(self):
        check_rank(self.rank)
        if not callable(self.optimizer):
            raise ArgumentError(
                f"optimizer is {type(self.optimizer).__name__}, but must be a function that makes one: pass "
                'optimizer=optax.adam, hyper={"learning_rate": 1e-2} rather than optax.adam(1e-2).'
            )
        if not isinstance(self.hyper, Mapping):
            raise ArgumentError(f'hyper is {self.hyper!r}, but must be a dict such as {{"learning_rate": 1e-2}}.')
        if self.batch_size is not None:
            check_whole("batch_size", self.batch_size, 1)
        # One known whole number is Python's own, so that it can be static.
        object.__setattr__(self, "hyper", {name: plain(value) for name, value in self.hyper.items()})

    exact = False  # a sweep does not end at a minimum of one side
    monotone = False

    @property
    def differentiable(self) -> bool:
        """Whether a sweep has derivatives, which a line search has not."""
        return self.passes_per_sweep is not None

    @property
    def passes_per_sweep(self) -> int | None:
        """As `ALS.passes_per_sweep`: 2, but for a line search."""
        memory = jax.eval_shape(lambda: self.optimizer(**self.hyper).init(jnp.zeros(2)))
        return 2 if optax.tree.get(memory, "num_linesearch_steps") is None else None

    def operations(self, objective: Objective, size: costs.Size, sweeps: Any, passes: Any) -> Any:
        """As `ALS.operations`: the passes, and 12 for each number of the factors in a step of the optimizer."""
        of = costs.terms(self.rank, objective, size)
        steps = 1 if self.batch_size is None else -(-size.entries // self.batch_size)
        return passes * (of.one_pass + of.all_pairs / 2) + sweeps * 12 * of.unknowns * size.rows * steps

    def numbers(self, size: costs.Size) -> int:
        """As `ALS.numbers`: the gradient, two memories and an update."""
        return 8 * size.rows * (self.rank + 1)

    def init(self, key: jax.Array, problem: Problem, objective: Objective, factors: Factors | None = None) -> State:
        """The state before the first sweep, in the problem's dtype: from given factors, or from `initial_factors`. Pure
        and jittable.

        Raises:
            ArgumentError: where `hyper` does not fit the optimizer; else as `ALS.init`.
        """
        check_hyper(self.optimizer, self.hyper)
        factors, _, _ = start_from(factors, key, self, problem, objective)
        # optax starts some numbers as Python's own, which would make the state after a step of another type, and the
        # second step another program.
        started = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), self.transformation().init(_learnt(factors)))
        return State(factors, GradientMemory(started, jax.random.fold_in(key, 1)))

    def sweep(self, state: State, problem: Problem, objective: Objective, loss: bool = False) -> tuple[State, Info]:
        """One step (full batch) or one epoch (minibatch). Pure and jittable; `info.passes` counts its passes. States,
        dtypes and errors as for `ALS.sweep`."""
        return _sweep(*entering(self, state, problem, objective), loss)

    def transformation(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer itself, as optax applies it: what `optimizer` makes of `hyper`."""
        return optax.with_extra_args_support(self.optimizer(**self.hyper))

    def tree_flatten_with_keys(self):
        numbers = {name: value for name, value in self.hyper.items() if is_traced_argument(self.optimizer, name, value)}
        fixed = tuple(sorted((name, value) for name, value in self.hyper.items() if name not in numbers))
        key = jax.tree_util.GetAttrKey
        children = ((key("hyper"), numbers), (key("init_scale"), self.init_scale))
        return children, (self.rank, self.optimizer, fixed, self.batch_size)

    @classmethod
    def tree_unflatten(cls, static, children):
        rank, optimizer, fixed, batch_size = static
        numbers, init_scale = children
        solver = object.__new__(cls)  # without the checks: jax rebuilds pytrees with placeholders in them
        solver.__dict__.update(
            rank=rank, optimizer=optimizer, hyper=numbers | dict(fixed), batch_size=batch_size, init_scale=init_scale
        )
        return solver


def layout_loss(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    """`jals.loss`, evaluated through the layouts with a gradient that needs no scatter. (That one is written entry by
    entry, to be read and checked against; this one is for speed, and a test ties the two.)"""
    problem = problem.arrange()
    return _entry_loss(factors, problem, objective) + _penalty(factors, problem, objective)


def loss_and_neg_half_gradient(
    factors: Factors, problem: Problem, objective: Objective, side: str
) -> tuple[jax.Array, jax.Array]:
    """(`layout_loss`, minus half its gradient in one side's unknowns `(rows, k)`), in one pass."""
    problem = problem.arrange()
    here, x = normal.view(factors, problem, objective, side), factors.joint(side)
    losses, entries = normal.entry_loss_and_residuals(here, x)
    value = losses.sum() + _penalty(factors, problem, objective)
    return value, normal.with_prior_pull(here, x, entries)


@jax.custom_jvp
def _entry_loss(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    return _one_side(factors, problem, objective, "user")[0]


@functools.partial(_entry_loss.defjvp, symbolic_zeros=True)
def _entry_loss_jvp(primals, tangents):
    factors, problem, objective = primals
    factors_dot, problem_dot, objective_dot = tangents
    value, *users = _one_side(factors, problem, objective, "user")
    _, *items = _one_side(factors, problem, objective, "item")
    along = (factors_dot.user, factors_dot.user_bias, factors_dot.item, factors_dot.item_bias)
    value_dot = jnp.zeros_like(value)
    for residual, dot in zip((*users, *items), along, strict=True):
        if residual is not None and not _is_zero(dot):
            value_dot -= 2 * jnp.vdot(residual, dot)
    # What is not a factor is rarely differentiated (never by an optimizer), and then by plain autodiff of one side.
    numbers = (factors.mean, problem, objective)
    numbers_dot = (factors_dot.mean, problem_dot, objective_dot)
    if not all(map(_is_zero, jax.tree.leaves(numbers_dot))):

        def entries(mean, problem, objective):
            return _one_side(dataclasses.replace(factors, mean=mean), problem, objective, "user")[0]

        value_dot += jax.jvp(entries, numbers, jax.tree.map(_instantiate, numbers, numbers_dot))[1]
    return value, value_dot


def _one_side(factors: Factors, problem: Problem, objective: Objective, side: str):
    """(the entries' loss, minus half its gradient in the side's rows, and in its biases or None), in one pass."""
    here = normal.view(factors, problem, objective, side)
    losses, residual = normal.entry_loss_and_residuals(here, factors.joint(side))
    return losses.sum(), residual[:, : factors.rank], residual[:, -1] if objective.bias else None


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _instantiate(primal: jax.Array, tangent: Any) -> Any:
    if not _is_zero(tangent):
        return tangent
    real = jnp.issubdtype(primal.dtype, jnp.inexact)
    return jnp.zeros_like(primal) if real else np.zeros(primal.shape, jax.dtypes.float0)


@functools.partial(jax.jit, static_argnames=("with_loss",))
def _sweep(
    solver: Gradient, state: State, problem: Problem, objective: Objective, with_loss: bool
) -> tuple[State, Info]:
    check_memory(solver, state, problem, objective)
    problem = problem.arrange()
    step: Callable[..., Any] = _full_batch if solver.batch_size is None else _epoch
    learnt, memory, passes = step(solver, state, problem, objective)
    factors = dataclasses.replace(learnt, mean=state.factors.mean)
    after = loss(factors, problem, objective) if with_loss else None
    return State(factors, memory), sweep_info(factors, jnp.ones(1, bool), jnp.ones(1, bool), passes, after)


def _full_batch(solver: Gradient, state: State, problem: Problem, objective: Objective):
    optimizer, memory = solver.transformation(), state.memory

    def value_of(learnt: Any) -> jax.Array:
        return layout_loss(dataclasses.replace(learnt, mean=state.factors.mean), problem, objective)

    learnt = _learnt(state.factors)
    # A line search has evaluated where it stopped, and says how often it looked.
    known = optax.tree.get(memory.optimizer, "value"), optax.tree.get(memory.optimizer, "grad")
    if any(part is None for part in known):
        value, grad = jax.value_and_grad(value_of)(learnt)
        evaluations = 1
    else:
        value, grad = optax.value_and_grad_from_state(value_of)(learnt, state=memory.optimizer)
        evaluations = jnp.where(jnp.isfinite(known[0]), 0, 1)
    updates, optimizer_state = optimizer.update(
        grad, memory.optimizer, learnt, value=value, grad=grad, value_fn=value_of
    )
    looks = optax.tree.get(optimizer_state, "num_linesearch_steps")
    evaluations += 0 if looks is None else looks
    return optax.apply_updates(learnt, updates), memory._replace(optimizer=optimizer_state), 2 * evaluations


def _epoch(solver: Gradient, state: State, problem: Problem, objective: Objective):
    optimizer, memory = solver.transformation(), state.memory
    key, shuffle = jax.random.split(memory.key)
    assert solver.batch_size is not None
    batches = epoch_batches(shuffle, problem.num_entries, solver.batch_size)

    def step(carry, batch):
        learnt, optimizer_state = carry

        def value_of(learnt: Any) -> jax.Array:
            factors = dataclasses.replace(learnt, mean=state.factors.mean)
            return batch_loss(factors, problem, objective, batch, len(batches))

        value, grad = jax.value_and_grad(value_of)(learnt)
        updates, optimizer_state = optimizer.update(
            grad, optimizer_state, learnt, value=value, grad=grad, value_fn=value_of
        )
        return (optax.apply_updates(learnt, updates), optimizer_state), None

    (learnt, optimizer_state), _ = jax.lax.scan(step, (_learnt(state.factors), memory.optimizer), batches)
    return learnt, GradientMemory(optimizer_state, key), 2


def epoch_batches(key: jax.Array, num_entries: int, batch_size: int) -> jax.Array:
    """The entries of an epoch's batches, shuffled: int32 `(batches, batch_size)`; `num_entries` fills the last up."""
    batches = -(-num_entries // batch_size)
    order = shuffled(key, num_entries)
    filled = jnp.pad(order, (0, batches * batch_size - num_entries), constant_values=num_entries)
    return filled.reshape(batches, batch_size)


def shuffled(key: jax.Array, count: int) -> jax.Array:
    """A random order of 0 .. count - 1: int32 `(count,)`.

    `jax.random.permutation` sorts twice, and on a CPU that took 16 times the gradients of an epoch (a million entries).
    A large count goes through a Feistel network instead, whose every round adds to one coordinate of a grid of places a
    random function of the other: a permutation at each round, of random functions (Luby and Rackoff, 1988). The grid
    has at most sqrt(count) places too many; who lands on one goes on until it does not (Black and Rogaway, 2002).
    """
    if count <= _SORTED:
        return jax.random.permutation(key, jnp.arange(count, dtype=jnp.int32))
    wide = math.isqrt(count - 1) + 1
    high = -(-count // wide)
    keys = jax.random.split(key)
    down = jax.random.randint(keys[0], (_ROUNDS, wide), 0, high, jnp.int32)
    across = jax.random.randint(keys[1], (_ROUNDS, high), 0, wide, jnp.int32)

    def one_round(place, moves):
        row, column = place
        row = _wrapped(row + moves[0][column], high)
        return (row, _wrapped(column + moves[1][row], wide)), None

    def permuted(places):
        (row, column), _ = jax.lax.scan(one_round, (places // wide, places % wide), (down, across))
        return row * wide + column

    first = permuted(jnp.arange(count, dtype=jnp.int32))
    return jax.lax.while_loop(
        lambda places: (places >= count).any(),
        lambda places: jnp.where(places >= count, permuted(places), places),
        first,
    )


def _wrapped(sums: jax.Array, length: int) -> jax.Array:
    """Modulo `length` of sums below twice that."""
    return jnp.where(sums >= length, sums - length, sums)


def batch_loss(factors: Factors, problem: Problem, objective: Objective, batch: jax.Array, batches: int) -> jax.Array:
    """`batches` times the loss of a batch's entries, plus all of the loss that is no sum over entries: its mean over
    an epoch's batches is the loss."""

    def column(numbers):
        return numbers.at[batch].get(mode="fill", fill_value=0)

    value, weight, user, item = map(column, (problem.value, problem.weight, problem.user, problem.item))
    entry = objective.entry(value, by_rows(problem, objective).weighed(weight, user, item))
    losses = entry.loss(remainder(entry.t, score_terms(factors, user, item)))
    return batches * losses.sum() + _penalty(factors, problem, objective)


def _penalty(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    return penalty(factors, row_sizes(problem, objective), by_rows(problem, objective))


def _learnt(factors: Factors) -> Any:
    """What an optimizer sees: all but the mean."""
    return dataclasses.replace(factors, mean=None)
