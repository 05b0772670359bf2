"""The [objective] tables: a preset, and its numbers."""

from typing import Annotated, Literal

from pydantic import Field

import jals

from .base import ConfigTable, Number

Counted = Literal["entries", "weights"]  # what n adds up of a row


class Preset(ConfigTable):
    """What every preset takes: one lambda, or one a side; powers of n that entries are weighed by."""

    preset: str
    reg: Number | None = None
    reg_user: Number | None = None
    reg_item: Number | None = None
    weight_power_user: float | None = None
    weight_power_item: float | None = None

    def conflicts(self):
        given = [key for key in ("reg_user", "reg_item") if getattr(self, key) is not None]
        if self.reg is not None:
            return [(key, "stands beside reg: give reg, or reg_user and reg_item.") for key in given]
        if len(given) < 2:
            return [("reg", "is missing: give reg, or both reg_user and reg_item.")]
        return []

    def build(self) -> jals.Objective:
        return getattr(jals, self.preset)(**self.model_dump(exclude={"preset"}, exclude_none=True))


class Biased(Preset):
    """Presets without a term over all pairs: only these can have biases and a mean."""

    reg_bias: Number | None = None
    reg_bias_user: Number | None = None
    reg_bias_item: Number | None = None
    bias: bool = False
    center: bool = False

    def conflicts(self):
        given = [key for key in ("reg_bias", "reg_bias_user", "reg_bias_item") if getattr(self, key) is not None]
        return super().conflicts() + [(key, "needs bias = true.") for key in given if not self.bias]


class Explicit(Biased):
    preset: Literal["explicit"]


class AlsWr(Biased):
    preset: Literal["als_wr"]
    reg_power: Number = 1.0
    count: Counted = "entries"


class OverPairs(Preset):
    """Presets with a term over all pairs."""

    unobserved_power_user: float | None = None
    unobserved_power_item: float | None = None


class HuKoren(OverPairs):
    preset: Literal["hu_koren"]
    alpha: Number = 1.0
    epsilon: Annotated[float, Field(gt=0)] | None = None
    reg_power: Number = 0.0
    count: Counted = "entries"


class Ials(OverPairs):
    preset: Literal["ials"]
    unobserved_weight: Number
    reg_power: Number = 1.0
    count: Counted = "entries"


class Wals(OverPairs):
    preset: Literal["wals"]
    unobserved_weight: Number
    reg_power: Number = 0.0
    count: Counted = "entries"


AnyObjective = Explicit | AlsWr | HuKoren | Ials | Wals
