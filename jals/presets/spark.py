"""Spark: `pyspark.ml.recommendation.ALS` (4)."""

from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..model.conventions import als_wr, hu_koren, wals
from .translation import (
    Translation,
    entry_counts,
    needed,
    refuse,
    targets_table,
    unweighted,
    with_columns,
)

ELSEWHERE = {
    "rank": "jals.ALS(rank=...)",
    "maxIter": "jals.fit(sweeps=...)",
    "numUserBlocks": "nothing",
    "numItemBlocks": "nothing",
    "numBlocks": "nothing",
    "userCol": "jals.read_ratings(user=...)",
    "itemCol": "jals.read_ratings(item=...)",
    "ratingCol": "jals.read_ratings(value=...)",
    "predictionCol": "nothing",
    "seed": "jals.fit(key=...); Spark starts from random directions of length 1",
    "coldStartStrategy": "nothing: rows without entries are predicted by factors of 0",
    "checkpointInterval": "nothing",
    "intermediateStorageLevel": "nothing",
    "finalStorageLevel": "nothing",
    "blockSize": "nothing",
}
NOTES = (
    'Spark updates items first, then users: jals.ALS(first="item").',
    "A pair that occurs twice is two entries in Spark; jals merges them (duplicates=...).",
)


def translate(
    ratings: Ratings | None,
    *,
    regParam: Any = 0.1,
    implicitPrefs: bool = False,
    alpha: Any = 1.0,
    nonnegative: bool = False,
) -> Translation:
    """Explicit: lambda n of every row. implicitPrefs: C = 1 + alpha |r|, P = 1 for r > 0, else 0; n counts r > 0."""
    refuse("Spark", nonnegative=nonnegative)
    if not implicitPrefs:
        made = None if ratings is None else unweighted("Spark", ratings)
        return Translation(als_wr(regParam), made, NOTES, "item")
    ratings = unweighted("Spark", needed(ratings, "Spark scales lambda by the number of ratings above 0"))
    ratings = ratings.select(ratings.value != 0)  # which Spark takes for missing pairs
    liked = ratings.value > 0
    reg_user, reg_item = (regParam * count for count in entry_counts(ratings, liked))
    notes = (*NOTES, "lambda is multiplied by each row's number of ratings above 0: given for each row.")
    if liked.all():
        return Translation(hu_koren(alpha=alpha, reg_user=reg_user, reg_item=reg_item), ratings, notes, "item")
    told = "With dislikes (r < 0) in the table its values are targets, its weights alpha |r|."
    table = with_columns(ratings, ratings.value)
    table = targets_table(table, 1 + alpha * np.abs(ratings.value), liked, 1.0)
    return Translation(wals(reg_user=reg_user, reg_item=reg_item, unobserved_weight=1.0), table, (*notes, told), "item")
