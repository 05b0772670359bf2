"""The same mathematics in plain NumPy loops, float64, from the presets' formulas, sharing no code with jals."""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Table:
    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    num_users: int
    num_items: int


@dataclasses.dataclass
class Setting:
    """A preset's name and its numbers; `reg_user` and `reg_item` one number a row, as are those of a side below."""

    preset: str
    reg_user: np.ndarray
    reg_item: np.ndarray
    reg_bias: float | None = None
    reg_power: float = 0.0
    alpha: float | None = None
    epsilon: float | None = None
    unobserved_weight: float | None = None
    prior_user: np.ndarray | None = None
    prior_item: np.ndarray | None = None
    bias: bool = False
    center: bool = False
    reg_bias_user: np.ndarray | None = None
    reg_bias_item: np.ndarray | None = None
    unobserved_user: np.ndarray | None = None
    unobserved_item: np.ndarray | None = None
    count: str = "entries"
    weight_user: np.ndarray | None = None
    weight_item: np.ndarray | None = None
    weight_power_user: float | None = None
    weight_power_item: float | None = None
    unobserved_power_user: float | None = None
    unobserved_power_item: float | None = None


def confidence(setting: Setting, r):
    """hu_koren's c of an observed pair of value r; with an epsilon Hu, Koren and Volinsky's equation (6)."""
    return 1 + setting.alpha * (r if setting.epsilon is None else np.log((setting.epsilon + r) / setting.epsilon))


def by_count(table: Table, side: str, power: float) -> tuple[np.ndarray, np.ndarray]:
    """(max(n, 1)^power of each row, n of entries of weight > 0)."""
    ids, rows = (table.user, table.num_users) if side == "user" else (table.item, table.num_items)
    n = np.bincount(ids[table.weight > 0], minlength=rows)
    return np.maximum(n, 1.0) ** power, n


def entry_weight(table: Table, setting: Setting, u: int, i: int) -> float:
    """What the entry's term counts for, beside v."""
    weight = 1.0
    for side, row in (("user", u), ("item", i)):
        given, power = getattr(setting, f"weight_{side}"), getattr(setting, f"weight_power_{side}")
        weight *= 1.0 if given is None else given[row]
        if power is not None:
            every, n = by_count(table, side, power)
            weight *= every[row] / np.repeat(every, n).mean()  # the mean of all entries
    return weight


def pair_weight(table: Table, setting: Setting, u: int, i: int) -> float:
    """What (x_u . y_i)^2 counts for in the sum over all pairs."""
    weight = setting.unobserved_weight or 0.0
    for side, row in (("user", u), ("item", i)):
        given, power = getattr(setting, f"unobserved_{side}"), getattr(setting, f"unobserved_power_{side}")
        weight *= 1.0 if given is None else given[row]
        if power is not None:
            every, _ = by_count(table, side, power)
            weight *= every[row] / every.mean()
    return weight


def row_reg(table: Table, setting: Setting, side: str, row: int) -> tuple[float, float]:
    """(lambda, lambda of the bias) of one row."""
    ids, others = (table.user, table.num_items) if side == "user" else (table.item, table.num_users)
    reg = (setting.reg_user if side == "user" else setting.reg_item)[row]
    mine = [table.weight[e] for e in range(len(ids)) if ids[e] == row and table.weight[e] > 0]
    base = sum(mine) if setting.count == "weights" else len(mine)
    for other in range(others):
        base += pair_weight(table, setting, *((row, other) if side == "user" else (other, row)))
    scale = float(base) ** setting.reg_power  # Python: 0.0 ** 0.0 == 1.0
    own = setting.reg_bias_user if side == "user" else setting.reg_bias_item
    reg_bias = own[row] if own is not None else reg if setting.reg_bias is None else setting.reg_bias
    return reg * scale, reg_bias * scale


def loss(table: Table, setting: Setting, X, Y, bu, bi, mean) -> float:
    total = 0.0
    for u, i, r, v in zip(table.user, table.item, table.value, table.weight, strict=True):
        s = X[u] @ Y[i] + bu[u] + bi[i] + mean
        v *= entry_weight(table, setting, u, i)
        if setting.preset in ("explicit", "als_wr", "wals"):
            total += v * (r - s) ** 2
        elif setting.preset == "hu_koren":  # c (1 - s)^2 - s^2: what the entry adds to the sum over all pairs
            total += v * (confidence(setting, r) * (1 - s) ** 2 - s**2)
        else:
            total += v * (1 - s) ** 2
    if setting.unobserved_weight is not None:
        total += sum(pair_weight(table, setting, u, i) * (x @ y) ** 2 for u, x in enumerate(X) for i, y in enumerate(Y))
    for side, rows, biases, prior in (("user", X, bu, setting.prior_user), ("item", Y, bi, setting.prior_item)):
        for row in range(len(rows)):
            reg, reg_bias = row_reg(table, setting, side, row)
            away = rows[row] - (0 if prior is None else prior[row])
            total += reg * away @ away + reg_bias * biases[row] ** 2
    return total


def half_sweep(table: Table, setting: Setting, side: str, X, Y, bu, bi, mean):
    """The rows and biases of one side that minimise `loss` with the other side held."""
    ids, other_ids = (table.user, table.item) if side == "user" else (table.item, table.user)
    rows, others, other_bias = (X, Y, bi) if side == "user" else (Y, X, bu)
    prior = setting.prior_user if side == "user" else setting.prior_item
    new_rows, new_bias = np.zeros_like(rows), np.zeros(len(rows))
    rank = rows.shape[1]
    for row in range(len(rows)):
        reg, reg_bias = row_reg(table, setting, side, row)
        A = np.diag([reg] * rank + [reg_bias] * setting.bias)
        b = np.concatenate([reg * (np.zeros(rank) if prior is None else prior[row]), np.zeros(int(setting.bias))])
        if setting.unobserved_weight is not None:
            for other, y in enumerate(others):
                pair = (row, other) if side == "user" else (other, row)
                A += pair_weight(table, setting, *pair) * np.outer(y, y)
        entries = [e for e in range(len(ids)) if ids[e] == row]
        for e in entries:
            z = np.concatenate([others[other_ids[e]], np.ones(int(setting.bias))])
            r, v, held = table.value[e], table.weight[e], mean + other_bias[other_ids[e]]
            v *= entry_weight(table, setting, table.user[e], table.item[e])
            if setting.preset in ("explicit", "als_wr", "wals"):
                w, p = v, v * (r - held)
            elif setting.preset == "hu_koren":
                w, p = v * (confidence(setting, r) - 1), v * confidence(setting, r)
            else:
                w, p = v, v
            A += w * np.outer(z, z)
            b += p * z
        pairs = [pair_weight(table, setting, *((row, o) if side == "user" else (o, row))) for o in range(len(others))]
        if not any(pairs) and not any(table.weight[e] > 0 for e in entries):
            x = np.zeros(len(b)) if prior is None else np.concatenate([prior[row], np.zeros(int(setting.bias))])
        else:
            x = np.linalg.solve(A, b)
        new_rows[row] = x[:rank]
        new_bias[row] = x[rank] if setting.bias else 0.0
    return new_rows, new_bias
