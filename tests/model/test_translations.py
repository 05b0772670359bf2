"""What docs/concepts.md says of other libraries' losses: each written out over all pairs, and by weights and values."""

import jax.numpy as jnp
import numpy as np
import pytest

import jals

USERS, ITEMS, A0, ALPHA, REG = 7, 5, 0.3, 1.5, 0.4
RNG = np.random.default_rng(4)
SEEN = RNG.random((USERS, ITEMS)) < 0.5
W, P, C = RNG.uniform(2, 4, SEEN.shape), RNG.normal(size=SEEN.shape), RNG.uniform(0.1, 1, ITEMS)
LIKED = RNG.random(SEEN.shape) < 0.6
N_U, N_I = SEEN.sum(axis=1), SEEN.sum(axis=0)


def tensorflow():
    return jals.wals(REG, A0), W - A0, W * P / (W - A0), np.where(SEEN, W, A0), np.where(SEEN, P, 0)


def irspack_original():
    """Weight x on (target 1 + a0 / x), and a0 on all pairs: x + a0 in all, towards 1."""
    return jals.wals(REG, A0), W, (W + A0) / W, np.where(SEEN, W + A0, A0), np.where(SEEN, 1, 0)


def spark_with_dislikes():
    value = np.where(LIKED, (1 + ALPHA * W) / (ALPHA * W), 0)
    return jals.wals(REG, 1.0), ALPHA * W, value, np.where(SEEN, 1 + ALPHA * W, 1), SEEN & LIKED


def eals():
    """He et al. (2016), equation (7): observed pairs weigh w, missing ones c_i."""
    shared = A0 * C
    full = np.where(SEEN, W, shared)
    return jals.wals(REG, A0, unobserved_item=C), W - shared, W / (W - shared), full, np.where(SEEN, 1, 0)


def implicit_with_dislikes():
    value = np.where(LIKED, ALPHA * W / (ALPHA * W - 1), 0)
    return jals.wals(REG, 1.0), ALPHA * W - 1, value, np.where(SEEN, ALPHA * W, 1), SEEN & LIKED


def implicit_by_default():
    """alpha = 1 on a table of ones: all confidences are 1."""
    return jals.hu_koren(REG, 1.0), np.ones_like(W), np.zeros_like(W), np.ones_like(W), np.where(SEEN, 1, 0)


KNOWN = [tensorflow, irspack_original, spark_with_dislikes, eals, implicit_with_dislikes, implicit_by_default]


@pytest.mark.parametrize("library", KNOWN)
def test_the_loss_is_the_librarys_up_to_a_constant(library):
    objective, weight, value, full, target = library()
    user, item = np.nonzero(SEEN)
    ratings = jals.Ratings.from_arrays(user, item, value[SEEN], USERS, ITEMS, weight=weight[SEEN])
    problem = jals.Problem.build(ratings)
    objective.check(problem, 2)
    apart = []
    rng = np.random.default_rng(0)
    for _ in range(3):
        X, Y = rng.normal(size=(USERS, 2)), rng.normal(size=(ITEMS, 2))
        theirs = (full * (target - X @ Y.T) ** 2).sum() + REG * ((X**2).sum() + (Y**2).sum())
        apart.append(float(jals.loss(jals.Factors(X, Y, None, None, None), problem, objective)) - theirs)
    np.testing.assert_allclose(apart, apart[0], rtol=0, atol=1e-11 * (1 + abs(apart[0])))


def test_a_lambda_of_biases_without_n_and_one_that_keeps_the_sum():
    rows = {"reg_bias_user": 0.7 / np.maximum(N_U, 1), "reg_bias_item": 0.7 / np.maximum(N_I, 1)}
    objective = jals.als_wr(REG, bias=True, **rows).cast(float)
    for side, n, others in (("user", N_U, ITEMS), ("item", N_I, USERS)):
        reg, reg_bias = objective.row_reg(side, jnp.asarray(n, float), others)
        np.testing.assert_allclose(reg, REG * n)
        np.testing.assert_allclose(reg_bias, np.where(n > 0, 0.7, 0))

    def lambdas(reg, power):
        """The sum of all."""
        objective = jals.ials(reg, A0, power).cast(float)
        counts = (("user", N_U, ITEMS), ("item", N_I, USERS))
        return sum(float(objective.row_reg(side, jnp.asarray(n, float), others)[0].sum()) for side, n, others in counts)

    base = np.concatenate([N_U + A0 * ITEMS, N_I + A0 * USERS])
    reg = REG * (base**1.0).sum() / (base**0.6).sum()
    np.testing.assert_allclose(lambdas(reg, 0.6), lambdas(REG, 1.0), rtol=1e-12)
