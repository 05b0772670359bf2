"""The tables of a config that name a solver: ALS, plain or accelerated, Newton's method, any optimizer and schedule of
optax with its arguments, or a class of the user's."""

import functools
import inspect
import math
import warnings
from typing import Annotated, Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import optax
from pydantic import ConfigDict, Discriminator, Field, PlainValidator, Tag
from pydantic_core import PydanticCustomError

import jals

from ...errors import ConfigError, did_you_mean
from ...solvers.anderson import MOST_MEMORY
from ...solvers.protocol import MOST_RANK
from . import toml, user_solvers
from .base import ConfigTable, Count, Number, types_of

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


# Conjugate gradients end after as many steps as there are unknowns, by rounding some times that.
Steps = Annotated[int, Field(ge=1, le=MOST_RANK)]


class Solver(ConfigTable):
    """What every solver takes. The name labels its row in the table and its factors file."""

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    rank: Annotated[int, Field(ge=1, le=MOST_RANK)]

    def whole(self, key: str) -> bool:
        """Whether a key of the table, such as "rank" or "hyper.memory_size", is one of integers."""
        field = type(self).model_fields.get(key)
        return field is not None and int in types_of(field.annotation)

    @property
    def label(self) -> str:
        return toml.table_name({"kind": self.kind} | ({"name": self.name} if self.name else {}))

    @property
    def method(self) -> tuple[str, str]:
        """(the key that says how its sweeps go, its value)."""
        return "kind", self.kind

    @property
    def batched(self) -> str:
        """What a measurement of loops holds for."""
        return self.kind

    @property
    def own_minimiser(self) -> bool:
        """Whether it heads for another minimum than the loss's."""
        return False

    @property
    def inner(self) -> dict[str, dict[str, Any]]:
        """The tables inside its own, with what holds where they are not given: a key set in one changes that alone."""
        return {}

    @property
    def module(self) -> dict[str, str]:
        """The module that it needs beside jals, with the SHA-256 of its file."""
        return {}

    def misfits(self) -> list[tuple[str, str]]:
        """(key, what is wrong) where code beside jals, which a config names, is missing or does not fit."""
        return []

    makes: ClassVar[Any] = None  # the class of jals that it stands for; its fields are the table's keys

    def build(self) -> Any:
        return self.makes(**self.model_dump(exclude={"kind", "name"}, exclude_none=True))


class AlsSolver(Solver):
    makes = jals.ALS
    kind: Literal["als"]
    linsolve: Literal["cholesky", "lu", "cg", "subspace"] = "cholesky"
    cg_steps: Steps | None = None
    block: Steps | None = None
    rounding: Literal["bfloat16", "float16"] | None = None
    storage: Literal["bfloat16"] | None = None
    backend: Literal["auto", "xla", "native"] = "auto"
    first: Literal["user", "item"] = "user"
    init_scale: Number | None = None

    def conflicts(self):
        of = {"cg_steps": "cg", "block": "subspace"}
        unused = [key for key, need in of.items() if getattr(self, key) is not None and self.linsolve != need]
        found = [(key, f'needs linsolve = "{of[key]}".') for key in unused]
        if self.backend == "native" and self.linsolve == "lu":
            found.append(("backend", '"native" has no linsolve = "lu".'))
        if self.rounding is not None and self.storage is not None:
            found.append(("storage", "rounds by itself: leave rounding out."))
        return found


class AndersonSolver(Solver):
    makes = jals.AndersonALS
    kind: Literal["anderson"]
    memory: Annotated[int, Field(ge=1, le=MOST_MEMORY)] | None = None
    linsolve: Literal["cholesky", "lu"] = "cholesky"
    init_scale: Number | None = None


class NewtonSolver(Solver):
    makes = jals.NewtonCG
    kind: Literal["newton"]
    cg_steps: Steps | None = None
    cg_tol: Annotated[float, Field(gt=0, lt=1)] | None = None
    init_scale: Number | None = None


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
    batch_size: Count | None = None
    init_scale: Number | None = None

    @property
    def method(self) -> tuple[str, str]:
        return "optimizer", self.optimizer

    @property
    def batched(self) -> str:
        return self.kind if self.batch_size is None else f"{self.kind}, minibatch"

    @property
    def inner(self) -> dict[str, dict[str, Any]]:
        return {"hyper": dict(self.hyper)}

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
        for key, value in self.hyper.items():
            if isinstance(value, dict):
                if key != "learning_rate":
                    found.append((f"hyper.{key}", "must be a number: only learning_rate can be a schedule."))
            elif key in known and (wanted := self._unlike(key, value)):
                found.append((f"hyper.{key}", f"must be {wanted}, not {str(value).lower()}."))
            elif key == "memory_size" and value > MOST_MEMORY:
                found.append((f"hyper.{key}", f"must be at most {MOST_MEMORY:,}: each is a copy of all factors."))
        found += [
            (f"hyper.{key}", f"is missing: optax.{self.optimizer} needs it.")
            for key, default in known.items()
            if default is inspect.Parameter.empty and key not in self.hyper
        ]
        return found + self._wrong_in_schedule() or self._refused()

    def whole(self, key: str) -> bool:
        table, *rest = key.split(".")
        if table != "hyper" or not rest:
            return super().whole(key)
        if self.schedule is not None and rest[0] == "learning_rate" and len(rest) == 2:
            function, name = getattr(optax, str(self.schedule["schedule"])), rest[1]
        else:
            function, name = getattr(optax, self.optimizer), rest[0]
        return _kind(function, name) == "an integer"

    def _unlike(self, key: str, value: Any) -> str | None:
        """What an argument has to be, where the value is not."""
        wanted = _kind(getattr(optax, self.optimizer), key)
        fits = {"true or false": bool, "an integer": int, "a number": int | float}
        if wanted is None or (isinstance(value, fits[wanted]) and isinstance(value, bool) == (fits[wanted] is bool)):
            return None
        return wanted

    def _refused(self) -> list[tuple[str, str]]:
        """What optax itself says of numbers that fit one by one."""
        try:
            with warnings.catch_warnings():  # they come again when it runs
                warnings.simplefilter("ignore")
                made = self.build()
                made.optimizer(**made.hyper)
                leaves, form = jax.tree.flatten(made)
                _traced(form, len(leaves))
        except Exception as error:  # whatever a library says to numbers that it did not expect
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
            return [("hyper", f"is refused by optax.{self.optimizer}: {said}.")]
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
        if self.schedule is None:
            hyper = _as_reals(optimizer, hyper)
        else:
            table = dict(hyper.pop("learning_rate"))
            schedule = getattr(optax, table.pop("schedule"))
            numbers = _as_reals(schedule, table).items()
            hyper = _as_reals(optimizer, hyper) | {f"schedule_{key}": value for key, value in numbers}
            optimizer = jals.scheduled(optimizer, schedule)
        given = self.model_dump(include={"rank", "batch_size", "init_scale"}, exclude_none=True)
        return jals.Gradient(optimizer=optimizer, hyper=hyper, **given)


def _kind(function: Any, name: str) -> str | None:
    """What an argument of an optimizer or schedule of optax has to be, or None where its signature does not say."""
    each = inspect.signature(function).parameters.get(name)
    if each is None:
        return None
    allowed = types_of(each.annotation)
    if name in ("key", "seed"):  # of a random generator, which optax annotates like any number
        return "an integer"
    if isinstance(each.default, bool) and allowed == {bool}:
        return "true or false"
    if each.annotation is int or (type(each.default) is int and int in allowed):
        return "an integer"
    return "a number" if float in allowed or isinstance(each.default, float) else None


def _as_reals(function: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments, with those as floats that are real numbers and were written without a point: an integer may be
    larger than jax has any."""
    real = {key for key, value in given.items() if type(value) is int and _kind(function, key) == "a number"}
    return {key: float(value) if key in real else value for key, value in given.items()}


@functools.lru_cache(maxsize=1024)
def _traced(form: Any, count: int) -> None:
    """Makes the first step of a gradient solver without computing it; raises whatever optax does. `form` is the tree of
    the solver: real numbers are not in it, and decide nothing here."""

    def stepped(numbers: list[jax.Array]) -> Any:
        solver = jax.tree.unflatten(form, numbers)
        optimizer = optax.with_extra_args_support(solver.optimizer(**solver.hyper))
        params = {"user": jnp.ones((3, 2)), "item": jnp.ones((2, 2)), "user_bias": jnp.ones(3)}

        def value_of(params: Any) -> jax.Array:
            return sum((jnp.sum(each**2) for each in jax.tree.leaves(params)), jnp.zeros(()))

        value, grad = jax.value_and_grad(value_of)(params)
        state = optimizer.init(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=value_of)
        return optax.apply_updates(params, updates), state

    jax.eval_shape(stepped, [jax.ShapeDtypeStruct((), jnp.float32)] * count)


def _plain(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
        raise PydanticCustomError("plain_type", "must be a finite number, a text, or true or false")
    return value


class OwnSolver(Solver):
    """A class of the user's, by its module and name; every other key is a field of it. See `user_solvers`."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[Any, PlainValidator(_plain)]]

    kind: Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$")]

    def whole(self, key: str) -> bool:
        try:
            return super().whole(key) or user_solvers.is_integer(user_solvers.solver_class(self.kind), key)
        except ConfigError:  # the record of a run is read without it
            return False

    @property
    def module(self) -> dict[str, str]:
        return {self.kind.partition(":")[0]: user_solvers.digest(user_solvers.solver_class(self.kind))}

    def misfits(self) -> list[tuple[str, str]]:
        try:
            return user_solvers.problems_of(user_solvers.solver_class(self.kind), self.rank, self.__pydantic_extra__)
        except ConfigError as error:
            return [("kind", str(error))]

    def build(self) -> Any:
        return user_solvers.build_solver(user_solvers.solver_class(self.kind), self.rank, self.__pydantic_extra__)


OWN = "module:Class"


def _tag(table: Any) -> str | None:
    """Which of the tables one is: by its kind."""
    kind = table.get("kind") if isinstance(table, dict) else getattr(table, "kind", None)
    return OWN if isinstance(kind, str) and ":" in kind else None if kind is None else str(kind)


AnySolver = Annotated[
    Annotated[AlsSolver, Tag("als")]
    | Annotated[AndersonSolver, Tag("anderson")]
    | Annotated[NewtonSolver, Tag("newton")]
    | Annotated[GradientSolver, Tag("gradient")]
    | Annotated[OwnSolver, Tag(OWN)],
    Discriminator(_tag),
]
KINDS = {tag.tag: table for table, tag in map(get_args, get_args(get_args(AnySolver)[0]))}
