"""The arguments of optax optimizers: which are traced and which static, and whether they fit the optimizer."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..errors import ArgumentError, did_you_mean, is_traced
from ..reals import reals


def check_hyper(optimizer: Callable[..., Any], hyper: Mapping[str, Any]) -> None:
    """Raises ArgumentError unless an optimizer comes of these arguments."""
    name = getattr(optimizer, "__name__", repr(optimizer))
    try:
        parameters = inspect.signature(optimizer).parameters
    except (ValueError, TypeError):  # a function of C has none to look at
        parameters = {}
    known = [each.name for each in parameters.values() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    anything = not parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    for key, value in hyper.items():
        if not isinstance(key, str) or not (anything or key in known):
            takes = f"takes {', '.join(known)}" if known else "takes no arguments"
            meant = [each for each in known if "".join(word[0] for word in each.split("_")) == key]  # lr: learning_rate
            hint = f' Did you mean "{meant[0]}"?' if meant else did_you_mean(key, known)
            raise ArgumentError(f"hyper has {key!r}, but {name} {takes}.{hint}")
        several = isinstance(value, str | list | tuple | Mapping) or np.ndim(value) > 0
        if several and _is_real(parameters.get(key), key):
            given = f", not {value!r}" if isinstance(value, str) else ""
            raise ArgumentError(f"hyper[{key!r}] must be one number, or a schedule{given}.")
        if _is_real(parameters.get(key), key) and not (callable(value) or value is None):
            reals(f"hyper[{key!r}]", value)
    absent = [each for each in known if parameters[each].default is inspect.Parameter.empty and each not in hyper]
    if absent:
        raise ArgumentError(f"{name} needs {', '.join(absent)}: give hyper={{{absent[0]!r}: ...}}.")
    try:
        made = optimizer(**hyper)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} refuses hyper: {str(error).splitlines()[0]}") from error
    if not isinstance(made, optax.GradientTransformation):
        raise ArgumentError(
            f"optimizer {name} makes {type(made).__name__}, not an optax optimizer: pass a function such as optax.adam."
        )


def is_traced_argument(optimizer: Callable[..., Any], name: str, value: Any) -> bool:
    """Whether an optimizer's argument is traced rather than static."""
    if isinstance(value, (bool, np.bool_, str, type(None))) or (callable(value) and not isinstance(value, jax.Array)):
        return False
    if name in getattr(optimizer, "static", ()) and isinstance(value, (int, float, np.number)):
        return False
    if _is_whole(value):
        try:
            parameter = inspect.signature(optimizer).parameters.get(name)
        except (ValueError, TypeError):  # a function of C
            parameter = None
        return _is_real(parameter, name)
    return True


def _is_whole(value: Any) -> bool:
    """Whether an argument is one whole number, and known."""
    if isinstance(value, (jax.Array, np.ndarray)):
        return value.ndim == 0 and not is_traced(value) and jnp.issubdtype(value.dtype, np.integer)
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """One known whole number as Python's own; anything else as it is."""
    return int(value) if _is_whole(value) else value


_WHOLE = ("key", "seed")  # of a random generator, which optax annotates like any number


def _is_real(parameter: inspect.Parameter | None, name: str) -> bool:
    """Whether an argument is a real number, however it is given: its default or its annotation says so."""
    if name == "learning_rate" or parameter is None:
        return name == "learning_rate"
    kinds = (parameter.annotation, *get_args(parameter.annotation))
    if name in _WHOLE or (isinstance(parameter.default, int) and int in kinds):  # of more kinds than it is meant for
        return False
    return isinstance(parameter.default, float) or float in kinds or "float" in kinds
