"""The two calls, and the libraries that they know."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from ..data.ratings import Ratings
from ..errors import ArgumentError, check_choice, did_you_mean
from ..model.objectives import Objective
from . import buffalo, cmfrec, implicit, irspack, lenskit, rsparse, spark, tensorflow
from .translation import Translation


class Model(NamedTuple):
    """A model of a library: its translation, and which of its arguments have no part in the loss, with what takes their
    place in jals."""

    translate: Callable[..., Translation]
    elsewhere: dict[str, str]


# {library: {model: ...}}, the default model first.
LIBRARIES = {
    "implicit": {"AlternatingLeastSquares": Model(implicit.translate, implicit.ELSEWHERE)},
    "spark": {"ALS": Model(spark.translate, spark.ELSEWHERE)},
    "lenskit": {
        "BiasedMFScorer": Model(lenskit.translate_biased, lenskit.ELSEWHERE),
        "ImplicitMFScorer": Model(lenskit.translate_implicit, lenskit.ELSEWHERE),
    },
    "irspack": {"IALSRecommender": Model(irspack.translate, irspack.ELSEWHERE)},
    "cmfrec": {
        "CMF": Model(cmfrec.translate_explicit, cmfrec.ELSEWHERE),
        "CMF_implicit": Model(cmfrec.translate_implicit, cmfrec.ELSEWHERE),
    },
    "tensorflow-wals": {"WALSModel": Model(tensorflow.translate, tensorflow.ELSEWHERE)},
    "buffalo": {"ALS": Model(buffalo.translate, buffalo.ELSEWHERE)},
    "rsparse": {"WRMF": Model(rsparse.translate, rsparse.ELSEWHERE)},
}


def like(library: str, /, *, model: str | None = None, **theirs: Any) -> Objective:
    """The objective that minimises what a library minimises, by the library's own arguments.

    Args:
        library: "implicit", "spark", "lenskit", "irspack", "cmfrec", "tensorflow-wals", "buffalo" or "rsparse".
        model: its class, where it has several: "BiasedMFScorer" (default) or "ImplicitMFScorer" of lenskit, "CMF"
            (default) or "CMF_implicit" of cmfrec.
        theirs: arguments of that class, with its names (`lambda` as `lambda_`) and its defaults. Those with no part in
            the loss (rank, iterations, threads) are taken too, and `notes` say what takes their place.

    Returns: the objective. Its `notes`, a tuple of sentences, say what differs all the same: above all, whether the
        table's values or weights must change, which `translate` does. Whatever is made of it (by `cast`,
        `dataclasses.replace` or a transformation of jax) has no notes.

    Raises:
        ArgumentError: for an unknown library, model or argument, for what has no equal in jals, and where the objective
            depends on the table: `translate` it then.
    """
    made = _translated(library, model, None, theirs)
    object.__setattr__(made.objective, "notes", made.notes)  # beside the fields: no part of the tree that jax sees
    return made.objective


def translate(library: str, ratings: Ratings, /, *, model: str | None = None, **theirs: Any) -> Translation:
    """What a library minimises on a table: the objective, and the table with the values and weights that jals needs for
    it. Arguments and errors as for `like`; `ratings` is the table as that library would get it.

    Raises:
        DataError: for entries that the library does not take, or that jals cannot express.
    """
    if not isinstance(ratings, Ratings):
        raise ArgumentError(f"ratings is of type {type(ratings).__name__}, but must be jals.Ratings.")
    made = _translated(library, model, ratings, theirs)
    object.__setattr__(made.objective, "notes", made.notes)
    return made


def _translated(library: str, name: str | None, ratings: Ratings | None, theirs: dict[str, Any]) -> Translation:
    check_choice("library", library, LIBRARIES)
    models = LIBRARIES[library]
    name = next(iter(models)) if name is None else name
    check_choice(f"model of {library}", name, models)
    model = models[name]
    known = [each for each in inspect.signature(model.translate).parameters if each != "ratings"]
    ours, notes = {}, []
    for argument, value in theirs.items():
        argument = f"{argument}_" if argument == "lambda" else argument
        if argument in model.elsewhere:
            notes.append(f"{argument} has no part in the loss; in its place: {model.elsewhere[argument]}.")
        elif argument in known:
            ours[argument] = value
        else:
            hint = did_you_mean(argument, [*known, *model.elsewhere])
            listing = ", ".join(known)
            raise ArgumentError(
                f"{argument} is no argument of {library}'s {name} that jals knows.{hint} Its loss takes {listing}."
            )
    made = model.translate(ratings, **ours)
    return dataclasses.replace(made, notes=(*made.notes, *notes))
