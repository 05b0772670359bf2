"""What every table of a config has in common: strict types, and keys that cannot stand together."""

import types
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ...errors import ArgumentError
from ...model.exchange import Exchange
from ...reals import MOST

MOST_FITS = 100_000  # of a run, trials included: each has a line in the record, and a run reads them all
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, le=MOST)]  # as the library bounds every size
Fraction = Annotated[float, Field(gt=0, lt=1)]
Number = Annotated[float, Field(ge=0)]
Path = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]  # no system has the character NUL in a path


def _known_way(exchange: str) -> str:
    try:
        Exchange.of(exchange)
    except ArgumentError as error:
        raise PydanticCustomError("exchange", "{said}", {"said": str(error).removeprefix("exchange ")}) from None
    return exchange


# "auto", "all_gather", "routed", "ring", and "routed:8", in so many exchanges a half-sweep.
ExchangeWay = Annotated[str, AfterValidator(_known_way)]


def types_of(annotation: Any) -> set[Any]:
    """The types that an annotation allows."""
    if get_origin(annotation) is Annotated:
        return types_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*map(types_of, get_args(annotation)))
    return {annotation}


class ConfigTable(BaseModel):
    """A table of the file: no key but those declared, no conversion between types, no nan or inf."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def conflicts(self) -> list[tuple[str, str]]:
        """(key, what is wrong) for keys that are right one by one but cannot stand together."""
        return []

    @model_validator(mode="after")
    def _no_conflicts(self):
        if found := self.conflicts():
            raise PydanticCustomError("conflict", "keys that cannot stand together", {"found": found})
        return self
