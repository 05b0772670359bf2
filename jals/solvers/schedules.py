"""Learning rate schedules whose numbers are traced, as an optimizer's own are."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from ..errors import ArgumentError

PREFIX = "schedule_"

# Made of lists, dicts or other schedules.
_NOT_OF_NUMBERS = (
    optax.piecewise_constant_schedule,
    optax.piecewise_interpolate_schedule,
    optax.sgdr_schedule,
    optax.join_schedules,
)
# Arguments that optax itself turns into whole numbers or dicts.
_STATIC = {
    optax.linear_onecycle_schedule: ("pct_start", "pct_final", "div_factor", "final_div_factor"),
    optax.cosine_onecycle_schedule: ("pct_start", "div_factor", "final_div_factor"),
}


def scheduled(optimizer: Callable[..., Any], schedule: Callable[..., Any]) -> Callable[..., Any]:
    """A function for `Gradient.optimizer`: an optimizer whose learning rate follows a schedule.

        adam = jals.scheduled(optax.adam, optax.cosine_decay_schedule)
        jals.Gradient(32, adam, {"schedule_init_value": 0.1, "schedule_decay_steps": 50, "b1": 0.8})

    Its keyword arguments are the optimizer's, without learning_rate, and the schedule's, with "schedule_" before each
    name. Real numbers are traced, so that new ones compile nothing; numbers of steps are whole, and static. A step is
    one of the optimizer: a sweep in full batch, a minibatch otherwise.

    Of optax: constant_schedule, linear_schedule, polynomial_schedule, cosine_decay_schedule, exponential_decay,
    warmup_constant_schedule, warmup_cosine_decay_schedule, warmup_exponential_decay_schedule, linear_onecycle_schedule
    and cosine_onecycle_schedule; of the last two only peak_value is traced, the numbers that give the cycle its shape
    are static. A function of one's own goes too, if it can be traced in its real arguments. A schedule made of lists or
    dicts is given whole instead, as hyper={"learning_rate": optax.piecewise_constant_schedule(...)}.

    Args:
        optimizer: such as `optax.adam`; one that takes a learning_rate.
        schedule: a function of numbers that returns a function of the step.

    Returns: the same object for the same two functions.

    Raises:
        ArgumentError: where these are no such functions. (`Gradient` checks their arguments.)
    """
    for name, function, such in (("optimizer", optimizer, "adam"), ("schedule", schedule, "cosine_decay_schedule")):
        if not callable(function):
            raise ArgumentError(f"{name} is {type(function).__name__}, but must be a function such as optax.{such}.")
    takes, numbers = _parameters(optimizer), _parameters(schedule)
    if not any(each.name == "learning_rate" or each.kind is each.VAR_KEYWORD for each in takes):
        raise ArgumentError(f"{_name(optimizer)} takes no learning_rate that a schedule could give.")
    if schedule in _NOT_OF_NUMBERS:
        raise ArgumentError(
            f"{_name(schedule)} is made of more than numbers: give the schedule itself, "
            f'hyper={{"learning_rate": optax.{_name(schedule)}(...)}} with {_name(optimizer)}.'
        )
    if [each.name for each in numbers] in (["count"], ["step"]):
        raise ArgumentError(
            "schedule is made already: give the function that makes it, such as optax.cosine_decay_schedule, and its "
            'arguments in hyper, such as "schedule_init_value".'
        )
    return _scheduled(optimizer, schedule)


@dataclasses.dataclass(frozen=True)
class _Scheduled:
    """What `scheduled` returns: called with keyword arguments, and with the name and signature of such a function."""

    optimizer: Callable[..., Any]
    schedule: Callable[..., Any]

    def __call__(self, **hyper: Any) -> Any:
        given = {}
        for parameter in _parameters(self.schedule):
            if (key := PREFIX + parameter.name) in hyper:
                given[parameter.name] = _checked(key, hyper.pop(key), parameter)
        rate = _TRACEABLE.get(self.schedule, self.schedule)(**given)
        if not callable(rate):
            raise ArgumentError(f"{_name(self.schedule)} makes {type(rate).__name__}, not a function of the step.")
        return self.optimizer(learning_rate=rate, **hyper)

    def __reduce__(self) -> tuple:
        return scheduled, (self.optimizer, self.schedule)  # the same object again, as a solver compares it

    @property
    def __name__(self) -> str:
        return f"{_name(self.optimizer)} with {_name(self.schedule)}"

    @property
    def __signature__(self) -> inspect.Signature:
        numbers = [each.replace(name=PREFIX + each.name) for each in _parameters(self.schedule)]
        own = [each for each in _parameters(self.optimizer) if each.name != "learning_rate"]
        named = [each.replace(kind=each.KEYWORD_ONLY) for each in (*numbers, *own) if each.kind is not each.VAR_KEYWORD]
        return inspect.Signature([*named, *(each for each in own if each.kind is each.VAR_KEYWORD)])

    @property
    def static(self) -> tuple[str, ...]:
        """The numbers that `Gradient` is not to trace."""
        return tuple(PREFIX + name for name in _STATIC.get(self.schedule, ()))


_scheduled = functools.cache(_Scheduled)


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", repr(function))


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments that can be given by name, and **hyper if there is one."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        raise ArgumentError(f"{_name(function)} does not say which arguments it takes.") from None
    return [each for each in parameters if each.kind not in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL)]


def _checked(key: str, value: Any, parameter: inspect.Parameter) -> Any:
    if isinstance(value, str | list | tuple | Mapping) or callable(value):
        raise ArgumentError(f"{key} must be one number.")
    if parameter.annotation is int and not isinstance(value, (int, np.integer)):
        raise ArgumentError(f"{key} must be a whole number.")
    return value


# ---- schedules of optax that look at a number in Python, with that number traced ----


def _exponential_decay(
    init_value, transition_steps, decay_rate, transition_begin=0, staircase=False, end_value=None
) -> Callable[[Any], Any]:
    if transition_steps <= 0:
        return optax.constant_schedule(init_value)

    def schedule(count):
        steps = jnp.maximum(count - max(transition_begin, 0), 0) / transition_steps
        value = init_value * jnp.power(decay_rate, jnp.floor(steps) if staircase else steps)
        if end_value is not None:
            value = jnp.where(decay_rate < 1, jnp.maximum(value, end_value), jnp.minimum(value, end_value))
        return jnp.where(decay_rate == 0, init_value, value)

    return schedule


def _warmup_exponential_decay(init_value, peak_value, warmup_steps, **decay) -> Callable[[Any], Any]:
    warmup = optax.warmup_constant_schedule(init_value, peak_value, warmup_steps)
    return optax.join_schedules([warmup, _exponential_decay(peak_value, **decay)], [warmup_steps])


def _warmup_cosine_decay(
    init_value, peak_value, warmup_steps, decay_steps, end_value=0.0, exponent=1.0
) -> Callable[[Any], Any]:
    warmup = optax.warmup_constant_schedule(init_value, peak_value, warmup_steps)
    zero = peak_value == 0
    alpha = jnp.where(zero, 0.0, end_value / jnp.where(zero, 1.0, peak_value))
    decay = optax.cosine_decay_schedule(peak_value, decay_steps - warmup_steps, alpha, exponent)
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _onecycle(schedule, transition_steps, peak_value, **shape) -> Callable[[Any], Any]:
    unit = schedule(transition_steps, 1.0, **shape)
    return lambda step: peak_value * unit(step)


_TRACEABLE = {
    optax.exponential_decay: _exponential_decay,
    optax.warmup_exponential_decay_schedule: _warmup_exponential_decay,
    optax.warmup_cosine_decay_schedule: _warmup_cosine_decay,
    optax.linear_onecycle_schedule: functools.partial(_onecycle, optax.linear_onecycle_schedule),
    optax.cosine_onecycle_schedule: functools.partial(_onecycle, optax.cosine_onecycle_schedule),
}
