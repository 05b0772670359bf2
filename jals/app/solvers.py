"""The tables of a config that name a solver: ALS, plain or accelerated, Newton's method, or any optimizer and schedule
of optax with its arguments."""

import inspect
import math
from typing import Annotated, Any, Literal

import optax
from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

import jals

from ..anderson import AndersonALS
from ..errors import did_you_mean
from ..newton import NewtonCG
from .strict import Number, Table

OPTIMIZERS = {  # {name: {argument: default}}, by signature: what optax gains tomorrow is known without a change here
    name: {key: each.default for key, each in inspect.signature(function).parameters.items()}
    for name, function in vars(optax).items()
    if inspect.isfunction(function) and "learning_rate" in inspect.signature(function).parameters
    if not name.startswith(("scale_by", "_"))
}
SCHEDULES = {  # {name: {argument: whether it has to be given}}
    name: {key: each.default is each.empty for key, each in inspect.signature(getattr(optax, name)).parameters.items()}
    for name in (
        *("constant_schedule", "cosine_decay_schedule", "exponential_decay", "linear_schedule"),
        *("polynomial_schedule", "warmup_constant_schedule"),
        *("warmup_cosine_decay_schedule", "warmup_exponential_decay_schedule"),
        *("cosine_onecycle_schedule", "linear_onecycle_schedule"),
    )
}


class Solver(Table):
    """What every solver takes. The name labels its row in the table and its factors file."""

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    rank: Annotated[int, Field(ge=1)]

    @property
    def label(self) -> str:
        return self.name or self.kind

    @property
    def own_minimiser(self) -> bool:
        """Whether it heads for another minimum than the loss's."""
        return False


class AlsSolver(Solver):
    kind: Literal["als"]
    linsolve: Literal["cholesky", "lu", "cg"] = "cholesky"
    cg_steps: Annotated[int, Field(ge=1)] | None = None
    rounding: Literal["bfloat16", "float16"] | None = None
    backend: Literal["auto", "xla", "native"] = "auto"
    init_scale: Number | None = None

    def conflicts(self):
        unused = self.cg_steps is not None and self.linsolve != "cg"
        found = [("cg_steps", 'needs linsolve = "cg".')] if unused else []
        if self.backend == "native" and self.linsolve != "cholesky":
            found.append(("backend", '"native" needs linsolve = "cholesky".'))
        return found

    def build(self) -> jals.ALS:
        return jals.ALS(**self.model_dump(exclude={"kind", "name"}, exclude_none=True))


class AndersonSolver(Solver):
    kind: Literal["anderson"]
    memory: Annotated[int, Field(ge=1)] | None = None
    linsolve: Literal["cholesky", "lu"] = "cholesky"
    init_scale: Number | None = None

    def build(self) -> AndersonALS:
        return AndersonALS(**self.model_dump(exclude={"kind", "name"}, exclude_none=True))


class NewtonSolver(Solver):
    kind: Literal["newton"]
    cg_steps: Annotated[int, Field(ge=1)] | None = None
    cg_tol: Annotated[float, Field(gt=0, lt=1)] | None = None
    init_scale: Number | None = None

    def build(self) -> NewtonCG:
        return NewtonCG(**self.model_dump(exclude={"kind", "name"}, exclude_none=True))


def _number(value):
    """A number, whole or not, or a switch: optimizers take all three. A table is a schedule."""
    if isinstance(value, dict):
        return {key: _number(each) if key != "schedule" else each for key, each in value.items()}
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise PydanticCustomError("float_type", "must be a finite number")
    return value


class GradientSolver(Solver):
    kind: Literal["gradient"]
    optimizer: str = "adam"
    # learning_rate may be a table: { schedule = "cosine_decay_schedule", init_value = 0.1, decay_steps = 100 }
    hyper: dict[str, Annotated[Any, PlainValidator(_number)]] = Field(default={"learning_rate": 1e-2})
    batch_size: Annotated[int, Field(ge=1)] | None = None
    init_scale: Number | None = None

    @property
    def schedule(self) -> dict[str, Any] | None:
        """The table of the learning rate's schedule, where it has one."""
        rate = self.hyper.get("learning_rate")
        return rate if isinstance(rate, dict) else None

    def conflicts(self):
        if self.optimizer not in OPTIMIZERS:
            near = did_you_mean(self.optimizer, OPTIMIZERS)
            return [("optimizer", f'is "{self.optimizer}", unknown to optax.{near} Known: {", ".join(OPTIMIZERS)}.')]
        known = OPTIMIZERS[self.optimizer]
        found = [
            (f"hyper.{key}", f"is not an argument of optax.{self.optimizer}.{did_you_mean(key, known)}")
            for key in self.hyper
            if key not in known
        ]
        found += [
            (f"hyper.{key}", "must be a number: only learning_rate can be a schedule.")
            for key, value in self.hyper.items()
            if isinstance(value, dict) and key != "learning_rate"
        ]
        found += [
            (f"hyper.{key}", f"is missing: optax.{self.optimizer} needs it.")
            for key, default in known.items()
            if default is inspect.Parameter.empty and key not in self.hyper
        ]
        return found + self._wrong_in_schedule() or self._refused()

    def _refused(self) -> list[tuple[str, str]]:
        """What optax itself says of numbers that fit one by one."""
        made = self.build()
        try:
            made.optimizer(**made.hyper)
        except (ValueError, TypeError) as error:
            return [("hyper", f"is refused by optax.{self.optimizer}: {str(error).rstrip('.')}.")]
        return []

    def _wrong_in_schedule(self) -> list[tuple[str, str]]:
        table = self.schedule
        if table is None:
            return []
        name = table.get("schedule")
        if not isinstance(name, str) or name not in SCHEDULES:
            near = did_you_mean(name, SCHEDULES)
            what = "is missing" if name is None else f'is "{name}", unknown to optax'
            return [("hyper.learning_rate.schedule", f"{what}.{near} Known: {', '.join(SCHEDULES)}.")]
        known = SCHEDULES[name]
        given = [key for key in table if key != "schedule"]
        wrong = [
            (f"hyper.learning_rate.{key}", f"is not an argument of optax.{name}.{did_you_mean(key, known)}")
            for key in given
            if key not in known
        ]
        needed = [key for key, needs in known.items() if needs and key not in given]
        return wrong + [(f"hyper.learning_rate.{key}", f"is missing: optax.{name} needs it.") for key in needed]

    @property
    def own_minimiser(self) -> bool:
        """As the optimizer does that adds a decay of the weights of its own."""
        decay = self.hyper.get("weight_decay", OPTIMIZERS[self.optimizer].get("weight_decay"))
        return isinstance(decay, int | float) and decay != 0

    def build(self) -> jals.Gradient:
        optimizer, hyper = getattr(optax, self.optimizer), dict(self.hyper)
        if self.schedule is not None:
            table = dict(hyper.pop("learning_rate"))
            optimizer = jals.scheduled(optimizer, getattr(optax, table.pop("schedule")))
            hyper |= {f"schedule_{key}": value for key, value in table.items()}
        given = self.model_dump(include={"rank", "batch_size", "init_scale"}, exclude_none=True)
        return jals.Gradient(optimizer=optimizer, hyper=hyper, **given)


AnySolver = AlsSolver | AndersonSolver | NewtonSolver | GradientSolver
