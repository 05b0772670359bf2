"""Errors, and what they carry, go through pickle and copy: so they come back from another process."""

import copy
import importlib
import inspect
import pickle
import pkgutil

import jax
import numpy as np
import optax
import pytest

import jals
from jals.errors import StorageError

WAYS = {"pickle": lambda thing: pickle.loads(pickle.dumps(thing)), "copy": copy.copy, "deepcopy": copy.deepcopy}


def _kinds() -> list[type[BaseException]]:
    """Every error class of the package, those of modules that nothing imports included."""
    for module in pkgutil.walk_packages(jals.__path__, "jals."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError:  # of an extra that is not installed
                continue
    found = [jals.JalsError, jals.Interrupted]
    for kind in found:
        found += [each for each in kind.__subclasses__() if each not in found and each.__module__.startswith("jals")]
    return found


def _made(kind: type[BaseException]) -> BaseException:
    """One of this kind, with an argument of its own for every parameter."""
    try:
        parameters = list(inspect.signature(kind).parameters.values())
    except ValueError:  # Python's own `__init__`
        return kind("the message")
    given = [(each, f"{each.name} {place}") for place, each in enumerate(parameters)]
    plain = [value for each, value in given if each.kind is not each.KEYWORD_ONLY]
    return kind(*plain, **{each.name: value for each, value in given if each.kind is each.KEYWORD_ONLY})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
def test_an_error_arrives_as_it_left(kind, way):
    error = _made(kind)
    error.add_note("in fold 3")
    error.__cause__ = KeyError("deep down")
    again = WAYS[way](error)
    assert type(again) is kind and again is not error
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    assert again.__notes__ == ["in fold 3"]
    assert repr(again.__cause__) == repr(error.__cause__) and again.__suppress_context__


def test_the_table_has_errors_of_the_whole_package():
    names = {kind.__name__ for kind in _kinds()}
    assert {"FitError", "AdjointError", "Interrupted", "EntryError", "DuplicateEntries", "ConfigError"} <= names


class Local(Exception):
    """Pickles, but cannot be read again."""

    def __init__(self, *, why):
        super().__init__(f"because of {why}")


@pytest.mark.parametrize("cause", [Local(why="that"), KeyError(lambda: None)], ids=["not read", "not written"])
def test_a_cause_that_does_not_travel_is_left_behind(cause):
    with pytest.raises(StorageError) as caught:
        raise StorageError("factors.npz is damaged") from cause
    again = WAYS["pickle"](caught.value)
    assert str(again) == "factors.npz is damaged" and again.__cause__ is None and again.__suppress_context__


def test_an_error_without_a_cause_shows_no_less_than_before():
    again = WAYS["pickle"](jals.DataError("line 7"))
    assert again.__cause__ is None and not again.__suppress_context__


# ---- what an error of a fit carries, and what a process is sent ----

RATINGS = jals.Ratings.from_arrays([0, 0, 1, 2], [0, 1, 1, 0], [1.0, 2.0, 3.0, 4.0])
SCHEDULED = jals.scheduled(optax.adam, optax.cosine_decay_schedule)
SOLVERS = {
    "als": jals.ALS(2),
    "anderson": jals.AndersonALS(2, memory=2),
    "newton": jals.NewtonCG(2),
    "gradient": jals.Gradient(2),
    "minibatch": jals.Gradient(2, optax.sgd, {"learning_rate": 0.1, "momentum": 0.9}, batch_size=2),
    "scheduled": jals.Gradient(2, SCHEDULED, {"schedule_init_value": 0.1, "schedule_decay_steps": 9}),
}
OBJECTIVE = jals.als_wr(0.1, bias=True, center=True)


def _numbers(tree):
    """(structure, leaves as plain arrays): keys are opaque, so their data."""
    leaves, structure = jax.tree.flatten(tree)
    key = lambda leaf: isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)  # noqa: E731
    return structure, [np.asarray(jax.random.key_data(leaf) if key(leaf) else leaf) for leaf in leaves]


@pytest.mark.parametrize("name", SOLVERS)
def test_what_a_fit_works_with_and_its_error_arrive(name):
    solver, problem = SOLVERS[name], jals.Problem.build(RATINGS)
    state = solver.init(jax.random.key(0), problem, OBJECTIVE)
    result = jals.Result(state.factors, state, jals.History([0], [9.0], [0.0], [0], [1.0]), 0.5, False, "failed", 0)
    error = jals.FitError("sweep 1: no", sweep=1, side="user", row=2, result=result)
    sent = {"error": error.result, "solver": solver, "problem": problem.arrange(), "objective": OBJECTIVE}
    for what, thing in sent.items():
        for way in WAYS.values():
            got = way(error).result if what == "error" else way(thing)
            if what == "error":
                assert got.history == result.history and got.reason == "failed"
                got, thing = got.state, result.state
            (structure, numbers), (wanted, right) = _numbers(got), _numbers(thing)
            assert structure == wanted, what  # and what was compiled for one serves the other
            assert [each.dtype for each in numbers] == [each.dtype for each in right]
            assert all(map(np.array_equal, numbers, right)), what


def test_a_scheduled_optimizer_is_the_same_object_again():
    assert all(way(SCHEDULED) is SCHEDULED for way in WAYS.values())


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_table_arrives(way):
    again = WAYS[way](RATINGS)
    assert np.array_equal(again.value, RATINGS.value) and again.num_users == 3
