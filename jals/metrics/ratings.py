"""Accuracy of predicted values: RMSE, MAE, the held-out error of an objective."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..forks import check_jax
from ..model.factors import CHUNK, Factors, remainder, score_terms
from ..model.objectives import Objective
from ..reals import as_floats, reals


def rmse(predicted: Any, actual: Any, weight: Any = None) -> jax.Array:
    """Root mean squared error sqrt(sum w (predicted - actual)^2 / sum w), `()`, on the scale of the values.

    Args: real numbers of any dtype, whole ones too, arrays or lists of one shape; `weight` >= 0, None for all 1.

    What holds no jax array is computed on the host in float64; else in float32, or in float64 where x64 is on and one
    of them is float64 or of whole numbers: jittable and differentiable. Squares do not overflow or vanish.

    Raises:
        ArgumentError: where shapes differ, there are no entries, or something holds no real numbers.
    """
    return _mean("square", predicted, actual, weight)


def mae(predicted: Any, actual: Any, weight: Any = None) -> jax.Array:
    """Mean absolute error sum w |predicted - actual| / sum w, `()`, on the scale of the values. As `rmse`."""
    return _mean("absolute", predicted, actual, weight)


def _mean(of: str, predicted: Any, actual: Any, weight: Any) -> jax.Array:
    check_jax()
    given = {"predicted": predicted, "actual": actual} | ({} if weight is None else {"weight": weight})
    arrays = {name: reals(name, numbers) for name, numbers in given.items()}
    if len({array.shape for array in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ArgumentError(f"the shapes differ: {shapes}.")
    if 0 in arrays["predicted"].shape:
        raise ArgumentError("there are no entries to compare.")
    if not any(isinstance(array, jax.Array) for array in arrays.values()):
        held = [np.asarray(array, np.float64).ravel() for array in arrays.values()]
        with np.errstate(all="ignore"):
            return jnp.asarray(_scaled_mean(np, of, *held))
    exact = any(array.dtype == np.float64 or not jnp.issubdtype(array.dtype, np.floating) for array in arrays.values())
    dtype = np.float64 if exact and jax.config.read("jax_enable_x64") else np.float32
    return _on_device(of, *(as_floats(name, array, dtype) for name, array in arrays.items()))


@functools.partial(jax.jit, static_argnames=("of",))
def _on_device(of: str, predicted: jax.Array, actual: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    held = (None if each is None else each.ravel() for each in (predicted, actual, weight))
    return _scaled_mean(jnp, of, *held)


def _scaled_mean(numpy: Any, of: str, predicted: Any, actual: Any, weight: Any = None) -> Any:
    """The mean, root of the mean square with "square", by NumPy or jax.numpy."""
    half = predicted / 2 - actual / 2  # which cannot overflow
    scale = _power_of_two(numpy, half)
    share = half / scale
    share = share * share if of == "square" else abs(share)
    if weight is None:
        mean = share.sum() / len(share)
    else:
        weight = weight / _power_of_two(numpy, weight)
        mean = (weight * share).sum() / weight.sum()
    return 2 * (scale * (numpy.sqrt(mean) if of == "square" else mean))


def _power_of_two(numpy: Any, numbers: Any) -> Any:
    """The largest power of two that is no more than the largest number: to divide by it loses no digit."""
    largest = abs(numbers).max()
    largest = largest if numpy is np else jax.lax.stop_gradient(largest)
    exponent = numpy.maximum(numpy.frexp(largest)[1] - 1, numpy.finfo(numbers.dtype).minexp)
    return numpy.where(largest > 0, numpy.ldexp(numpy.ones((), numbers.dtype), exponent), numpy.ones((), numbers.dtype))


class HeldOut(NamedTuple):
    """Validation entries in chunks `(chunks, entries a chunk)`, the last filled up with entries of weight 0."""

    user: Any
    item: Any
    value: Any
    weight: Any

    @classmethod
    def of(cls, ratings: Ratings, dtype: Any) -> "HeldOut":
        weight = np.ones(len(ratings)) if ratings.weight is None else ratings.weight
        chunks = -(-len(ratings) // CHUNK)
        size = -(-len(ratings) // chunks)

        def cut(column: np.ndarray) -> np.ndarray:
            return np.pad(column, (0, chunks * size - len(column))).reshape(chunks, size)

        return cls(cut(ratings.user), cut(ratings.item), cut(ratings.value.astype(dtype)), cut(weight.astype(dtype)))


@jax.jit
def held_out_error(factors: Factors, held_out: HeldOut, objective: Objective) -> jax.Array:
    """sum v (s - t)^2 / sum v, `()`, of the predictions s against the objective's target t (the value; 1 with implicit
    feedback) and weights v, chunk by chunk. Differentiable in factors, values and weights."""

    @jax.checkpoint  # a backward pass gathers again instead of keeping every entry's factors
    def chunk(part: HeldOut):
        target = objective.entry(part.value, part.weight).t
        return jnp.sum(part.weight * remainder(target, score_terms(factors, part.user, part.item)) ** 2)

    return jax.lax.map(chunk, held_out).sum() / held_out.weight.sum()
