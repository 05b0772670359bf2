"""Objectives by other libraries' arguments, against those libraries' losses written out over all pairs in NumPy."""

import functools

import jax
import numpy as np
import pytest

import jals

USERS, ITEMS, RANK = 6, 5, 2
LIKES, DISLIKES = (1, 2, 3, 5), (-3, -2, 2, 1, 4)
R, C = np.linspace(0.5, 2, USERS), np.linspace(0.3, 1.5, ITEMS)


@functools.cache
def table(values):
    """(observed, r), the same pairs for all; a user and an item have none."""
    rng = np.random.default_rng(0)
    observed = rng.random((USERS, ITEMS)) < 0.6
    observed[3] = observed[:, 1] = False
    return observed, np.where(observed, rng.choice(values, (USERS, ITEMS)), 0.0)


def squares(X, Y, of_user, of_item):
    return (of_user * (X**2).sum(axis=1)).sum() + (of_item * (Y**2).sum(axis=1)).sum()


def counted(observed, power=1.0):
    return observed.sum(axis=1) ** power, observed.sum(axis=0) ** power


def implicit(o, r, s, X, Y, regularization=0.01, alpha=1.0):
    confidence, preference = np.where(o, alpha * np.abs(r), 1), o & (r > 0)
    return (confidence * (preference - s) ** 2).sum() + squares(X, Y, regularization, regularization)


def spark(o, r, s, X, Y, regParam=0.1, implicitPrefs=False, alpha=1.0):
    if not implicitPrefs:
        return (o * (r - s) ** 2).sum() + squares(X, Y, *(regParam * n for n in counted(o)))
    errors = ((1 + alpha * np.abs(r)) * ((r > 0) - s) ** 2).sum()
    return errors + squares(X, Y, *(regParam * n for n in counted(r > 0)))


def lenskit(o, r, s, X, Y, model="BiasedMFScorer", regularization=0.1, damping=5.0, weight=40, use_ratings=False):
    of_user, of_item = regularization if isinstance(regularization, tuple) else (regularization,) * 2
    if model == "ImplicitMFScorer":
        confidence = 1 + weight * np.where(o, r if use_ratings else 1, 0)
        return (confidence * (o - s) ** 2).sum() + squares(X, Y, of_user, of_item)
    left = r - r[o].mean()
    left = left - (left * o).sum(axis=0) / (o.sum(axis=0) + damping)
    left = left - ((left * o).sum(axis=1) / (o.sum(axis=1) + damping))[:, None]
    n_user, n_item = counted(o)
    return (o * (left - s) ** 2).sum() + squares(X, Y, of_user * n_user, of_item * n_item)


def irspack(o, r, s, X, Y, alpha0=0.0, reg=1e-3, nu=1.0, loss_type="IALSPP", confidence_scaling="none", epsilon=1.0):
    c = np.where(o, np.log(1 + np.where(o, r, 0) / epsilon) if confidence_scaling == "log" else r, 0)
    n_user, n_item = counted(o)
    regs = reg * (n_user + alpha0 * ITEMS) ** nu, reg * (n_item + alpha0 * USERS) ** nu
    original = loss_type == "ORIGINAL"
    errors = (np.where(o, alpha0 * original + c, 0) * (1 - s) ** 2).sum()
    errors += alpha0 * (s**2 * (~o if original else 1)).sum()
    return (errors + squares(X, Y, *regs)) / 2


def cmfrec(o, r, s, X, Y, model="CMF", lambda_=None, alpha=1.0, scale_lam=False, **flags):
    of_user, of_item = (lambda_[2], lambda_[3]) if isinstance(lambda_, tuple) else (lambda_, lambda_)
    if model == "CMF_implicit":
        return ((1 + alpha * r) * (o - s) ** 2).sum() + squares(X, Y, of_user, of_item)
    n_user, n_item = counted(o, float(scale_lam))
    return (o * (r - s) ** 2).sum() + squares(X, Y, of_user * n_user, of_item * n_item)


def tensorflow(o, r, s, X, Y, unobserved_weight=0.1, regularization=None, row_weights=1, col_weights=1):
    weight = unobserved_weight + o * np.broadcast_to(row_weights, USERS)[:, None] * np.broadcast_to(col_weights, ITEMS)
    return (weight * (r - s) ** 2).sum() + squares(X, Y, regularization, regularization)


def buffalo(o, r, s, X, Y, alpha=8.0, reg_u=0.1, reg_i=0.1, adaptive_reg=False):
    n_user, n_item = counted(o, float(adaptive_reg))
    return ((1 + alpha * r) * (o - s) ** 2).sum() + squares(X, Y, reg_u * n_user, reg_i * n_item)


def rsparse(o, r, s, X, Y, lambda_=0.0, dynamic_lambda=True, feedback="implicit"):
    if feedback == "implicit":
        return (np.where(o, r, 1) * (o - s) ** 2).sum() + squares(X, Y, lambda_, lambda_)
    return (o * (r - s) ** 2).sum() + squares(X, Y, *(lambda_ * n for n in counted(o, float(dynamic_lambda))))


LOSSES = {"tensorflow-wals": tensorflow} | {
    each.__name__: each for each in (implicit, spark, lenskit, irspack, cmfrec, buffalo, rsparse)
}
PLAIN = {"user_bias": False, "item_bias": False, "center": False}
CASES = [
    ("implicit", {"alpha": 2.5}, LIKES),
    ("implicit", {}, (1,)),
    ("implicit", {"alpha": 3.0, "regularization": 0.4}, DISLIKES),
    ("implicit", {"alpha": 0.2}, DISLIKES),
    ("spark", {"regParam": 0.3}, DISLIKES),
    ("spark", {"implicitPrefs": True}, LIKES),
    ("spark", {"implicitPrefs": True, "alpha": 2.0}, DISLIKES),
    ("spark", {"implicitPrefs": True, "alpha": 2.0}, (0, 0, 1, 2)),
    ("lenskit", {}, LIKES),
    ("lenskit", {"regularization": (0.2, 0.5), "damping": 0.7}, LIKES),
    ("lenskit", {"model": "ImplicitMFScorer"}, LIKES),
    ("lenskit", {"model": "ImplicitMFScorer", "use_ratings": True, "weight": 3.0}, LIKES),
    ("irspack", {}, LIKES),
    ("irspack", {"alpha0": 0.3, "reg": 0.2, "nu": 0.7, "confidence_scaling": "log", "epsilon": 0.5}, LIKES),
    ("irspack", {"alpha0": 0.3, "loss_type": "ORIGINAL"}, LIKES),
    ("cmfrec", {"lambda_": (1.0, 2.0, 0.3, 0.6, 1.0, 1.0), **PLAIN}, LIKES),
    ("cmfrec", {"lambda_": 0.3, "scale_lam": True, **PLAIN}, LIKES),
    ("cmfrec", {"model": "CMF_implicit", "lambda_": 0.3, "alpha": 2.0}, LIKES),
    ("tensorflow-wals", {"regularization": 0.2}, LIKES),
    ("tensorflow-wals", {"regularization": 0.2, "row_weights": R, "col_weights": C}, DISLIKES),
    ("buffalo", {}, LIKES),
    ("buffalo", {"adaptive_reg": True, "reg_u": 0.4, "alpha": 2.0}, LIKES),
    ("rsparse", {"lambda_": 0.3}, LIKES),
    ("rsparse", {"lambda_": 0.3, "feedback": "explicit"}, LIKES),
    ("rsparse", {"lambda_": 0.3, "feedback": "explicit", "dynamic_lambda": False}, LIKES),
]


@pytest.mark.parametrize("library, arguments, values", CASES)
def test_the_loss_is_the_librarys_up_to_a_constant(library, arguments, values):
    """Between any two places both losses differ by the same, irspack's by half: it is half of jals' loss."""
    observed, r = table(values)
    user, item = np.nonzero(observed)
    ratings = jals.Ratings.from_arrays(user, item, r[user, item], USERS, ITEMS)
    made = jals.presets.translate(library, ratings, **arguments)
    problem, objective = jals.Problem.build(made.ratings, "segmented"), made.objective.cast(float)
    rng, ours, theirs = np.random.default_rng(1), [], []
    for scale in (0.0, 0.3, 1.0, 2.0):
        X, Y = scale * rng.normal(size=(USERS, RANK)), scale * rng.normal(size=(ITEMS, RANK))
        ours.append(float(jals.loss(jals.Factors(jax.numpy.asarray(X), jax.numpy.asarray(Y)), problem, objective)))
        theirs.append(LOSSES[library](observed, r, X @ Y.T, X, Y, **arguments))
    share = 0.5 if library == "irspack" else 1.0
    np.testing.assert_allclose(share * np.diff(ours), np.diff(theirs), rtol=1e-11)
