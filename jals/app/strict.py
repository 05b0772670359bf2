"""What every table of a config has in common: strict types, and keys that cannot stand together."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Number = Annotated[float, Field(ge=0)]


class Table(BaseModel):
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
