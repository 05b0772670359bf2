"""The tables of [[baseline]]: what a ranking has to beat."""

from typing import Annotated, Any, Literal

from pydantic import Field

import jals

from . import toml
from .base import ConfigTable, Count, Number


class Baseline(ConfigTable):
    """What every baseline takes. The name labels its row in the table."""

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None

    @property
    def label(self) -> str:
        return toml.table_name({"kind": self.kind} | ({"name": self.name} if self.name else {}))

    def fit(self, train: jals.Ratings) -> Any:
        """What `jals.baselines` makes of the training part: its `scores(users)` are ranked."""
        return getattr(jals.baselines, self.kind)(train, **self.model_dump(exclude={"kind", "name"}))


class MostPopular(Baseline):
    kind: Literal["most_popular"]


class ItemKnn(Baseline):
    kind: Literal["item_knn"]
    neighbours: Count = 100
    shrink: Number = 0.0
    measure: Literal["cosine", "jaccard"] = "cosine"


class Ease(Baseline):
    kind: Literal["ease"]
    reg: Annotated[float, Field(gt=0)]


AnyBaseline = Annotated[MostPopular | ItemKnn | Ease, Field(discriminator="kind")]
