"""The presets, each an `Objective` by the conventions of a paper: what an entry adds to the loss, whether the sum runs
over all pairs, and how lambda grows with a row's entries. Each docstring states its loss exactly.
"""

from typing import Any

from ..errors import ArgumentError
from ..reals import reals
from .objectives import NUMBERS, PRIORS, Objective, refuse_offsets


def explicit(
    reg: Any = None,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    reg_bias: Any = None,
    reg_bias_user: Any = None,
    reg_bias_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    weight_user: Any = None,
    weight_item: Any = None,
    weight_power_user: Any = None,
    weight_power_item: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Explicit ratings, lambda outside the sum over entries (nu = 0). It minimises

        sum_entries v g_u h_i (r - s)^2 + sum_u reg_user (|x_u - m_u|^2 + b_u^2)
                                        + sum_i reg_item (|y_i - m_i|^2 + b_i^2).

    Args:
        reg: lambda >= 0 for both sides; or give
        reg_user, reg_item: each one number, or one for each row.
        reg_bias: lambda of the biases, one number for both sides; None: that of their row.
        reg_bias_user, reg_bias_item: the same for one side's biases, one number or one for each row, before `reg_bias`.
        prior_user, prior_item: m, `(rank,)` or `(rows, rank)`; None: 0.
        weight_user, weight_item: g_u >= 0 `(num_users,)` and h_i >= 0 `(num_items,)`, which all entries of a row are
            weighed by; None: 1.
        weight_power_user, weight_power_item: p, any number: g_u is also multiplied by

                max(n_u, 1)^p / (sum_u n_u max(n_u, 1)^p / sum_u n_u),

            and h_i likewise, n being how many entries of weight v > 0 the row has. Entries then weigh 1 in the mean (by
            this factor), so that reg keeps its meaning. None: not multiplied. A p < 0 gives rows with few entries more
            say.
        bias: learn b_u and b_i, jointly with their row's factors.
        center: subtract the weighted mean of the training values, by their weights v.

    Source: the classic ALS lecture notes' equations (1) and (2), with lambda added to the Gram's diagonal.
    """
    numbers = {"reg_bias": reg_bias, "reg_bias_user": reg_bias_user, "reg_bias_item": reg_bias_item}
    numbers |= {"weight_user": weight_user, "weight_item": weight_item}
    numbers |= {"weight_power_user": weight_power_user, "weight_power_item": weight_power_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item}
    return _made("rating", (reg, reg_user, reg_item), 0.0, **numbers, bias=bias, center=center)


def als_wr(
    reg: Any = None,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    reg_bias: Any = None,
    reg_bias_user: Any = None,
    reg_bias_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    reg_power: Any = 1.0,
    count: str = "entries",
    weight_user: Any = None,
    weight_item: Any = None,
    weight_power_user: Any = None,
    weight_power_item: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Explicit ratings, lambda inside the sum over entries: weighted-lambda regularisation (nu = 1). It minimises

        sum_entries v g_u h_i (r - s)^2 + sum_u reg_user n_u (|x_u - m_u|^2 + b_u^2)
                                        + sum_i reg_item n_i (|y_i - m_i|^2 + b_i^2)

    with n the number of a row's entries of weight > 0. Arguments as for `explicit`; `reg_power` is nu (1 here, any
    number >= 0: n^nu). Spark and LensKit scale lambda so. With `count="weights"` n is the sum of the row's weights v,
    as in cmfrec (weights with scale_lam); it has a derivative then. (The n of g_u and h_i stays the number of entries.)
    A lambda of the biases that does not grow with n (its scale_bias_const) is reg_bias_user = lambda / n_u^nu, one for
    each row.

    Source: Zhou, Wilkinson, Schreiber, Pan, "Large-scale parallel collaborative filtering for the Netflix prize",
    2008.
    """
    numbers = {"reg_bias": reg_bias, "reg_bias_user": reg_bias_user, "reg_bias_item": reg_bias_item}
    numbers |= {"weight_user": weight_user, "weight_item": weight_item}
    numbers |= {"weight_power_user": weight_power_user, "weight_power_item": weight_power_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item}
    return _made("rating", (reg, reg_user, reg_item), reg_power, **numbers, count=count, bias=bias, center=center)


def hu_koren(
    reg: Any = None,
    alpha: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    epsilon: Any = None,
    reg_power: Any = 0.0,
    unobserved_user: Any = None,
    unobserved_item: Any = None,
    count: str = "entries",
    weight_user: Any = None,
    weight_item: Any = None,
    weight_power_user: Any = None,
    weight_power_item: Any = None,
    unobserved_power_user: Any = None,
    unobserved_power_item: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Implicit feedback with confidence 1 + alpha r on observed pairs and 1 on missing ones. It minimises, up to a
    constant,

        sum over all (u, i) of c_ui (p_ui - x_u . y_i)^2 + sum_u reg_user |x_u - m_u|^2 + sum_i reg_item |y_i - m_i|^2

    with c = 1 + alpha r, p = 1 where observed; c = 1, p = 0 where missing. (The library `implicit` uses confidence
    alpha r, without the 1: r - 1 / alpha here is r there.) A data weight v, and with it g_u h_i, multiplies what an
    observed entry adds: v g_u h_i (alpha r (s - 1)^2 + 1 - 2 s). An entry of value 0 is an observed pair of confidence
    1, not a missing one. With `epsilon` the confidence grows with the value's logarithm: log(1 + r / epsilon) stands in
    place of r.

    `reg` ... `prior_item` are as for `explicit`; `alpha` >= 0; `epsilon` > 0, or None. A confidence must not be
    negative: alpha r >= -1 (with epsilon r > -epsilon, and alpha log(1 + r / epsilon) >= -1). `reg_power` is nu, by
    which lambda grows: reg_user (n_u + num_items)^nu, and items alike; `count` as for `als_wr`. (Spark's lambda, which
    grows with n alone, is reg_user = lambda n_u, one for each row.) `unobserved_user`, `unobserved_item` and their
    powers are as for `ials`, a0 being 1: they weigh (x_u . y_i)^2 alone, so that an observed pair adds
    v g_u h_i (alpha r (s - 1)^2 + 1 - 2 s) + a_u c_i s^2. That needs v g_u h_i alpha r + a_u c_i >= 0. `weight_user`
    ... `weight_power_item`, of g_u and h_i, are as for `explicit`.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets" (2008), equations (3) and (6).
    """
    refuse_offsets("hu_koren", bias, center)
    numbers = {"unobserved_user": unobserved_user, "unobserved_item": unobserved_item, "unobserved_weight": 1.0}
    numbers |= {"weight_user": weight_user, "weight_item": weight_item}
    numbers |= {"weight_power_user": weight_power_user, "weight_power_item": weight_power_item}
    numbers |= {"unobserved_power_user": unobserved_power_user, "unobserved_power_item": unobserved_power_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item, "alpha": alpha, "epsilon": epsilon}
    feedback = "confidence" if epsilon is None else "log_confidence"
    return _made(feedback, (reg, reg_user, reg_item), reg_power, **numbers, count=count)


def ials(
    reg: Any = None,
    unobserved_weight: Any = 1.0,
    reg_power: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    unobserved_user: Any = None,
    unobserved_item: Any = None,
    count: str = "entries",
    weight_user: Any = None,
    weight_item: Any = None,
    weight_power_user: Any = None,
    weight_power_item: Any = None,
    unobserved_power_user: Any = None,
    unobserved_power_item: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Implicit feedback with one weight for all pairs, and lambda scaled by frequency. It minimises

        sum_entries v g_u h_i (1 - x_u . y_i)^2 + a0 sum over all (u, i) of a_u c_i (x_u . y_i)^2
        + sum_u reg_user (n_u + a0 a_u sum_i c_i)^nu |x_u - m_u|^2
        + sum_i reg_item (n_i + a0 c_i sum_u a_u)^nu |y_i - m_i|^2,

    g_u = h_i = a_u = c_i = 1 unless given. The values of the table are not used.

    `unobserved_weight` is a0 >= 0, `reg_power` nu; `unobserved_user` and `unobserved_item` are a_u >= 0 and c_i >= 0,
    one for each row. `unobserved_power_user` and `unobserved_power_item` are p, any number: a_u is also multiplied by

        max(n_u, 1)^p / (the mean of max(n_u, 1)^p over all users),

    c_i likewise, n being how many entries of weight v > 0 the row has (p > 0 weighs pairs of popular items more, as not
    to have taken what many take says more). `count` is as for `als_wr`, the others, g_u and h_i too, as for `explicit`.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: Rendle, Krichene, Zhang, Koren, "Revisiting the performance of iALS on item recommendation benchmarks"
    (2022), equations (2) to (4); for c_i He, Zhang, Kan, Chua, "Fast matrix factorization for online recommendation
    with implicit feedback" (2016), equation (8). (Theirs is of missing pairs only: an observed one of weight w is here
    an entry of `wals` of weight w - a0 c_i and value w / (w - a0 c_i).)
    """
    refuse_offsets("ials", bias, center)
    numbers = {"unobserved_user": unobserved_user, "unobserved_item": unobserved_item}
    numbers |= {"weight_user": weight_user, "weight_item": weight_item}
    numbers |= {"weight_power_user": weight_power_user, "weight_power_item": weight_power_item}
    numbers |= {"unobserved_power_user": unobserved_power_user, "unobserved_power_item": unobserved_power_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item, "unobserved_weight": unobserved_weight}
    return _made("event", (reg, reg_user, reg_item), reg_power, **numbers, count=count)


def wals(
    reg: Any = None,
    unobserved_weight: Any = 1.0,
    *,
    reg_user: Any = None,
    reg_item: Any = None,
    prior_user: Any = None,
    prior_item: Any = None,
    reg_power: Any = 0.0,
    unobserved_user: Any = None,
    unobserved_item: Any = None,
    count: str = "entries",
    weight_user: Any = None,
    weight_item: Any = None,
    weight_power_user: Any = None,
    weight_power_item: Any = None,
    unobserved_power_user: Any = None,
    unobserved_power_item: Any = None,
    bias: bool = False,
    center: bool = False,
) -> Objective:
    """Values as targets, and every pair drawn to 0: weighted alternating least squares. It minimises

        sum_entries v g_u h_i (r - x_u . y_i)^2 + a0 sum over all (u, i) of a_u c_i (x_u . y_i)^2
        + sum_u reg_user (n_u + a0 a_u sum_i c_i)^nu |x_u - m_u|^2
        + sum_i reg_item (n_i + a0 c_i sum_u a_u)^nu |y_i - m_i|^2,

    nu = 0 unless given. Arguments as for `ials`. The sum over all pairs has the observed ones too: an observed pair of
    weight w in all and target p, missing ones having a0, is an entry of weight v = w - a0 and value r = w p / v, up to
    a constant. TensorFlow's WALS, where the observed pair adds w (p - s)^2 and every pair a0 s^2 but the observed ones
    none, is so; its weights w are a0 + row weight times column weight.

    Raises: ArgumentError when asked for biases or centering: the sum over all pairs has no room for them.

    Source: as for `hu_koren`, whose loss it is for v = alpha r and values 1 + 1 / (alpha r).
    """
    refuse_offsets("wals", bias, center)
    numbers = {"unobserved_user": unobserved_user, "unobserved_item": unobserved_item}
    numbers |= {"weight_user": weight_user, "weight_item": weight_item}
    numbers |= {"weight_power_user": weight_power_user, "weight_power_item": weight_power_item}
    numbers |= {"unobserved_power_user": unobserved_power_user, "unobserved_power_item": unobserved_power_item}
    numbers |= {"prior_user": prior_user, "prior_item": prior_item, "unobserved_weight": unobserved_weight}
    return _made("rating", (reg, reg_user, reg_item), reg_power, **numbers, count=count)


def _made(
    feedback: str, regs: tuple, reg_power: Any, *, bias: bool = False, center: bool = False, count="entries", **numbers
) -> Objective:
    """An objective from a preset's arguments, lists among them made arrays: a list would be a tree of numbers to jax.

    Args:
        regs: (for both sides, of users, of items).
    """
    both, user, item = regs
    if (both is None) == (user is None and item is None) or (user is None) != (item is None):
        raise ArgumentError("give either reg, or both reg_user and reg_item.")
    user, item = (both, both) if user is None else (user, item)
    given = {"reg_user": user, "reg_item": item, "reg_power": reg_power} | numbers
    every = dict.fromkeys((*NUMBERS, *PRIORS)) | {
        name: reals("the list", each) if isinstance(each, (list, tuple)) else each for name, each in given.items()
    }
    return Objective(**every, feedback=feedback, bias=bias, center=center, count=count, by_place=False)
