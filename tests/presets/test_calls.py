"""`jals.presets.like` and `translate` as calls: names, defaults, notes, and what has no equal."""

import dataclasses

import jax
import numpy as np
import pytest

import jals
from jals.presets import LIBRARIES, like, translate


def ratings(value=(2.0, 3.0, 1.0, 4.0), weight=None):
    return jals.Ratings.from_arrays([0, 0, 1, 2], [0, 1, 1, 0], np.array(value), weight=weight)


@pytest.mark.parametrize("library, model", [(name, model) for name, models in LIBRARIES.items() for model in models])
def test_like_is_the_objective_of_translate(library, model):
    """Where neither depends on the table; the argument of the library's rank is taken, and told of."""
    given = {"cmfrec": {"lambda_": 0.2}, "tensorflow-wals": {"regularization": 0.2}}.get(library, {})
    objective = like(library, model=model, **given)
    made = translate(library, ratings(), model=model, **given)
    assert objective == made.objective and objective.notes == made.notes == made.objective.notes != ()
    rank = next(name for name, place in LIBRARIES[library][model].elsewhere.items() if place == "jals.ALS(rank=...)")
    told = like(library, model=model, **given, **{rank: 8})
    assert told == objective
    assert told.notes[-1] == f"{rank} has no part in the loss; in its place: jals.ALS(rank=...)."
    assert told.notes[:-1] == objective.notes


def test_defaults_are_the_librarys():
    assert like("implicit") == jals.hu_koren(0.01, 1.0)
    assert like("spark") == jals.als_wr(0.1)
    assert like("lenskit") == jals.als_wr(0.1)
    assert like("lenskit", model="ImplicitMFScorer") == jals.hu_koren(0.1, 40)
    assert like("irspack") == jals.ials(1e-3, 0.0, 1.0)
    assert like("cmfrec") == jals.explicit(10.0, bias=True, center=True)
    assert like("cmfrec", model="CMF_implicit") == jals.hu_koren(1.0, 1.0)
    assert like("buffalo") == jals.hu_koren(0.1, 8.0)
    assert like("rsparse") == jals.hu_koren(0.0, 1.0)
    assert (like("tensorflow-wals").unobserved_weight, like("tensorflow-wals").reg_user) == (0.1, 0.0)


def test_notes_are_no_part_of_the_tree():
    """No recompilation, no other hash, and nothing made of an objective has notes that may not hold of it."""
    noted, plain, traced = like("implicit", alpha=2.0), jals.hu_koren(0.01, 2.0), []

    @jax.jit
    def count(objective):
        traced.append(objective)
        return objective.alpha

    assert count(noted) == count(plain) and len(traced) == 1
    assert noted == plain and repr(noted) == repr(plain) and "notes" not in repr(noted)
    copied = jax.tree.map(lambda number: number, noted)
    for made in (dataclasses.replace(noted, alpha=3.0), noted.cast(np.float32), copied, plain):
        assert made.notes == ()


def test_numbers_may_be_traced():
    def slope(reg):
        return like("spark", regParam=reg).reg_user * like("cmfrec", lambda_=reg).reg_item

    assert jax.grad(slope)(3.0) == 6.0


def test_lambda_by_its_own_name():
    assert like("rsparse", **{"lambda": 0.3}) == like("rsparse", lambda_=0.3) == jals.hu_koren(0.3, 1.0)


def test_offsets_come_back_as_mean_and_biases():
    table = ratings()
    made = translate("lenskit", table, damping=1.0)
    factors = jals.Factors(np.zeros((3, 2)), np.zeros((2, 2)))
    back = jals.predict(made.with_offsets(factors), table.user, table.item) + made.ratings.value
    np.testing.assert_allclose(back, table.value, rtol=1e-14)
    assert translate("implicit", table).with_offsets(factors) is factors
    assert repr(translate("implicit", table)).startswith("Translation(confidence, Ratings(3 users")


@pytest.mark.parametrize(
    "library, arguments, said",
    [
        ("implict", {}, 'Did you mean "implicit"'),
        ("cmfrec", {"model": "CMF_implict"}, 'model of cmfrec is .*Did you mean "CMF_implicit"'),
        ("implicit", {"regularisation": 1}, 'regularisation is no argument of .* Did you mean "regularization"'),
        ("buffalo", {"num_iter": 1}, 'Did you mean "num_iters"'),
        ("spark", {"nonnegative": True}, "Spark's nonnegative=True has no equal in jals"),
        ("spark", {"implicitPrefs": True}, "number of ratings above 0, so that .* use jals.presets.translate"),
        ("buffalo", {"adaptive_reg": True}, "use jals.presets.translate"),
        ("irspack", {"nu_star": 1.0}, "use jals.presets.translate"),
        ("irspack", {"loss_type": "ORIGINL"}, "loss_type"),
        ("irspack", {"user_features": np.ones((3, 2))}, r"user_features=float64\[3, 2\] has no equal"),
        ("cmfrec", {"l1_lambda": 0.1}, "l1_lambda=0.1 has no equal"),
        ("cmfrec", {"method": "lbfgs"}, "method='lbfgs' has no equal"),
        ("cmfrec", {"user_bias": False}, "user_bias without item_bias"),
        ("cmfrec", {"w_main": 2.0}, "w_main is 2.0"),
        ("cmfrec", {"lambda_": [1.0, 2.0]}, "must be one number, or six"),
        ("cmfrec", {"scale_lam": True, "scale_bias_const": True}, "use jals.presets.translate"),
        ("tensorflow-wals", {"row_weights": None, "col_weights": None}, "row_weights=None"),
        ("rsparse", {"solver": "nnls"}, "nnls"),
        ("rsparse", {"with_global_bias": True}, "biases with implicit feedback"),
    ],
)
def test_what_has_no_equal_is_refused(library, arguments, said):
    with pytest.raises(jals.ArgumentError, match=said):
        like(library, **arguments)


@pytest.mark.parametrize(
    "library, table, said",
    [
        ("implicit", ratings(weight=[1.0, 2.0, 1.0, 1.0]), "weight of entry 1 is 2.0, but implicit has no weights"),
        ("implicit", ratings((-3.0, 0.5, 1.0, 1.0)), "entry 0 is a dislike of .* above 1, entry 1 has confidence 0.5"),
        ("irspack", ratings((1.0, 0.0, 1.0, 1.0)), "value of entry 1 is 0.0, but irspack's"),
        ("rsparse", ratings((1.0, 1.0, -1.0, 1.0)), "value of entry 2 is -1.0, but rsparse's"),
    ],
)
def test_entries_that_cannot_be_are_named(library, table, said):
    with pytest.raises(jals.DataError, match=said):
        translate(library, table)


def test_entries_of_weight_0_are_missing_and_weights_of_a_shape_are_needed():
    masked = translate("spark", ratings(weight=[1.0, 0.0, 1.0, 1.0]), implicitPrefs=True)
    assert len(masked.ratings) == 3 and masked.ratings.weight is None
    np.testing.assert_allclose(masked.objective.reg_user, [0.1, 0.1, 0.1])
    with pytest.raises(jals.ArgumentError, match="row_weights must be one number > 0, or 3 of them"):
        translate("tensorflow-wals", ratings(), row_weights=[1.0, 2.0])
    with pytest.raises(jals.ArgumentError, match="ratings is of type list"):
        translate("spark", [1.0])
