"""Random configs: right ones over the whole schema, for a tiny table, and ones with a random change."""

import random
import string
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from jals.app.config import trials
from jals.app.config.schema import Config
from jals.app.config.solvers import OPTIMIZERS, SCHEDULES, GradientSolver


def write_tables(place: Path) -> None:
    """The same ratings as text and as arrays, with times and weights; items are texts in the one, numbers in the
    other."""
    pairs = np.random.default_rng(0).permutation(12 * 8)[:80]
    user, item = 100 + 10 * (pairs // 8), 7000 + pairs % 8
    rating, when, sure = 1.0 + pairs % 5, np.arange(80) % 37, 0.5 + pairs % 3
    np.savez(place / "table.npz", user=user, item=item, rating=rating, timestamp=when, sure=sure)
    lines = [f"{u},i{i},{r},{t},{w}" for u, i, r, t, w in zip(user, item, rating, when, sure, strict=True)]
    (place / "table.csv").write_text("\n".join(["user,item,rating,timestamp,sure", *lines]) + "\n")


class Draw:
    """One config; its parts hang together, so that it is right."""

    def __init__(self, seed: int, place: Path):
        self.rng, self.place = random.Random(seed), place
        self.validated = self.maybe(0.6)
        self.raw: dict[str, Any] = {
            "data": self.data(),
            "split": self.split(),
            "objective": self.objective(),
            "fit": self.fit(),
        }
        self.raw["solver"] = self.solvers()
        for name in ("problem", "tune", "grid", "output"):
            self.raw[name] = getattr(self, name)()
        self.rankings()
        if self.maybe(0.3):
            self.raw["question"] = self.one("Why?", "Which λ?\n", '"quoted"')

    def text(self) -> str:
        tables = list(self.raw.items())
        self.rng.shuffle(tables)
        tables.sort(key=lambda pair: isinstance(pair[1], dict | list))
        return tomli_w.dumps({name: table for name, table in tables if table or table == []})

    # ---- what chance is there ----

    def maybe(self, share: float = 0.5) -> bool:
        return self.rng.random() < share

    def one(self, *options: Any) -> Any:
        return self.rng.choice(options)

    def often(self, usual: Any, *others: Any) -> Any:
        """The usual three times in four: fits of one shape share what has been compiled."""
        return usual if self.maybe(0.75) else self.one(*others)

    def some(self, **options: Callable[[], Any]) -> dict[str, Any]:
        return {key: made() for key, made in options.items() if self.maybe(0.35)}

    def size(self, low: float, high: float) -> float:
        return low * (high / low) ** self.rng.random()

    # ---- tables ----

    def data(self) -> dict[str, Any]:
        self.timed_data = self.maybe(0.7)
        text = self.maybe()
        column = dict(zip(("user", "item", "rating", "timestamp", "sure"), range(5), strict=True))
        place = (lambda name: column[name]) if text and self.maybe(0.3) else (lambda name: name)
        made: dict[str, Any] = {"path": str(self.place / ("table.csv" if text else "table.npz"))}
        named = self.maybe()
        made |= {role: place(role) for role in ("user", "item") if named}
        if self.maybe():
            made["value"] = self.one(place("rating"), False)
        made["time"] = place("timestamp") if self.timed_data else False
        if self.maybe(0.3):
            made["weight"] = self.one(place("sure"), False)
        made |= self.some(duplicates=lambda: self.one("error", "last", "mean", "sum"))
        if text:
            made |= self.some(delimiter=lambda: ",", header=lambda: True, quoted=lambda: self.maybe())
            return made | self.some(ids=lambda: self.one("auto", "str", ["int", "str"], ["auto", "str"]))
        return made | self.some(ids=lambda: self.one("auto", "int", "str", ["str", "int"], ["auto", "str"]))

    def split(self) -> dict[str, Any]:
        kind = self.one("random", "kfold", "by_user", *(["leave_last_out", "by_time"] if self.timed_data else []))
        own = {
            "random": {"test_fraction": lambda: self.often(0.1, 0.35)},
            "by_user": {"test_fraction": lambda: self.often(0.1, 0.35)},
            "kfold": {"folds": lambda: self.often(2, 3)},
            "by_time": {"test_fraction": lambda: self.often(0.1, 0.35)},
            "leave_last_out": {"count": lambda: self.often(1, 2)},
        }
        drawn = {} if kind == "by_time" else {"seed": lambda: self.rng.randrange(2**32)}
        made = {"kind": kind} | self.some(**drawn, **own[kind])
        if kind == "kfold":
            made.setdefault("folds", 2)
        return made | ({"validation_fraction": self.often(0.2, 0.25)} if self.validated else {})

    def problem(self) -> dict[str, Any]:
        implicit = self.raw["objective"]["preset"] == "hu_koren"  # a zero is an observed pair there
        missing = {} if implicit else {"missing": lambda: self.often("skipped", "zeros")}
        return {"layout": self.often("segmented", "bucketed", "padded")} | self.some(**missing)

    def objective(self) -> dict[str, Any]:
        preset = self.one("explicit", "als_wr", "als_wr", "hu_koren", "ials", "wals")
        reg = lambda: self.one(self.size(1e-3, 10), self.size(1e-3, 10), 1, 0.0)  # noqa: E731
        made = {"preset": preset}
        made |= {"reg": reg()} if self.maybe() else {"reg_user": reg(), "reg_item": reg()}
        if preset in ("explicit", "als_wr"):
            made |= self.some(bias=lambda: self.maybe(0.8), center=lambda: self.maybe(0.8))
            made |= {self.one("reg_bias", "reg_bias_user"): reg()} if made.get("bias") and self.maybe() else {}
        if preset != "explicit":
            counts = lambda: self.one("entries", "weights")  # noqa: E731
            made |= self.some(reg_power=lambda: self.one(0, 1, 0.5, 1.5), count=counts)
        if preset == "hu_koren":
            made |= self.some(alpha=lambda: self.size(0.1, 40), epsilon=lambda: self.size(0.1, 10))
        return made | ({"unobserved_weight": self.size(0.01, 1)} if preset in ("ials", "wals") else {})

    def fit(self) -> dict[str, Any]:
        made = self.one(
            {"sweeps": self.one(1, 2)},
            {"sweeps": 2},
            {"passes": self.one(2, 5)},
            {"seconds": 0.002},
            {"seconds": 0.002, "sweeps": 2},
            {"tol": 0.5, "sweeps": 3},
            {"tol": 0.9, "seconds": 0.002},
            {"tol": 1e-9, "passes": 6, "sweeps": 2},
        )
        made |= self.some(
            loss_every=lambda: self.one(1, 2, 3) if "tol" in made else self.one(0, 1, 2),
            dtype=lambda: self.often("float32", "float64"),
            timed=lambda: "seconds" in made or self.maybe(),
            loop=lambda: self.one("auto", "map", "vmap"),
        )
        if self.validated:
            made |= self.some(patience=lambda: self.one(1, 3))
        few = lambda: self.rng.randrange(2**32)  # noqa: E731
        return made | self.one({}, {"seed": few()}, {"seeds": [few()]}, {"seeds": [0, few()]})

    def solvers(self) -> list[dict[str, Any]]:
        made = [self.solver() for _ in range(self.often(1, 2))]
        for place, table in enumerate(made):
            if (place and table["kind"] == made[0]["kind"]) or self.maybe(0.3):
                table["name"] = self.one("a", "b.c", "D-d_9") + str(place)
        return made

    def solver(self) -> dict[str, Any]:
        kind = self.one("als", "als", "anderson", "newton", "gradient", "gradient")
        made: dict[str, Any] = {"kind": kind, "rank": self.often(2, 1, 3)}
        made |= self.some(init_scale=lambda: self.one(0.0, 1, self.size(1e-3, 2)))
        if kind == "als":
            made |= self.some(linsolve=lambda: self.one("cholesky", "lu", "cg", "subspace"))
            made |= self.some(rounding=lambda: self.one("bfloat16", "float16"), backend=lambda: self.one("auto", "xla"))
            more = {"cg": {"cg_steps": self.one(1, 2)}, "subspace": {"block": self.one(1, 64)}}
            return made | (more.get(made.get("linsolve"), {}) if self.maybe() else {})
        if kind == "anderson":
            return made | self.some(linsolve=lambda: self.one("cholesky", "lu"), memory=lambda: self.one(1, 3))
        if kind == "newton":
            return made | self.some(cg_steps=lambda: self.one(1, 5), cg_tol=lambda: self.size(1e-3, 0.9))
        made |= self.some(batch_size=lambda: self.often(7, 1, 64, 1000))
        optimizer = self.one(*OPTIMIZERS) if self.maybe(0.6) else "adam"
        made |= {"optimizer": optimizer} if optimizer != "adam" or self.maybe() else {}
        return made | ({"hyper": self.hyper(optimizer)} if optimizer != "adam" or self.maybe(0.7) else {})

    def hyper(self, optimizer: str) -> dict[str, Any]:
        takes = GradientSolver(kind="gradient", rank=1, optimizer=optimizer, hyper={"learning_rate": 0.1})
        made: dict[str, Any] = {"learning_rate": self.one(self.size(1e-4, 0.1), self.schedule(), 1, 1e6)}
        for key, default in OPTIMIZERS[optimizer].items():
            if key == "learning_rate" or not self.maybe(0.25):
                continue
            if isinstance(default, bool) and not key.endswith("mask"):
                made[key] = self.maybe()
            elif takes.whole(f"hyper.{key}"):
                made[key] = self.one(1, 2, 5)
            elif isinstance(default, float):
                made[key] = default * self.size(0.5, 1.0)
        if {"key", "seed"} <= made.keys():
            del made["key"]
        return made

    def schedule(self) -> dict[str, Any]:
        name = self.one(*SCHEDULES)
        made: dict[str, Any] = {"schedule": name}
        for key, needed in SCHEDULES[name].items():
            if key == "warmup_steps":
                made[key] = self.one(0, 1)
            elif key.endswith("_steps"):
                made[key] = self.one(2, 10)
            elif needed:
                made[key] = self.size(1e-4, 0.5)
        return made

    # ---- many ----

    def labels(self) -> list[str]:
        return [table.get("name", table["kind"]) for table in self.raw["solver"]]

    def named(self, place: int) -> str:
        """A solver as a key names it: one with a dot in its name only by its place."""
        label = self.labels()[place]
        return str(place) if "." in label or self.maybe(0.3) else label

    def grid(self) -> dict[str, list]:
        fit, tuned = self.raw["fit"], self.raw["tune"].get("range", {})
        axes: dict[str, list] = {
            "solver.*.rank": [2, 1],
            "solver.*.init_scale": [0.1, 1],
            "problem.layout": ["segmented", "padded"],
            "fit.dtype": ["float32", "float64"],
            "fit.loss_every": [1, 2],
            "fit.sweeps": [1, 2],
            "split.seed": [0, 1],
            "data.duplicates": ["mean", "sum"],
            f"solver.{self.named(0)}.rank": [2],
        }
        if "reg" in self.raw["objective"]:
            axes["objective.reg"] = [0.1, 1]
        if self.raw["split"]["kind"] == "kfold":
            axes["split.folds"] = [2, 3]
        if fit.get("timed") is not False:
            axes["fit.seconds"] = [0.001, 0.002]
        if fit.get("loss_every") != 0 and "fit.loss_every" not in fit:
            axes["fit.tol"] = [0.1, 0.9]
        if self.validated:
            axes["fit.patience"] = [1, 2]
        for place, table in enumerate(self.raw["solver"]):
            if table["kind"] == "gradient":
                axes[f"solver.{self.named(place)}.batch_size"] = [7, 30]
                if not isinstance(table.get("hyper", {}).get("learning_rate"), dict):
                    axes[f"solver.{self.named(place)}.hyper.learning_rate"] = [0.001, 1]
            if table["kind"] == "anderson":
                axes[f"solver.{self.named(place)}.linsolve"] = ["cholesky", "lu"]
        chosen = self.rng.sample(sorted(axes), self.one(0, 0, 1, 1, 2))
        taken = {key.rpartition(".")[2] for key in tuned}
        made: dict[str, list] = {}
        for key in chosen:
            name = key.rpartition(".")[2]
            if name not in taken and (name != "sweeps" or "sweeps" in fit):
                taken.add(name)
                made[key] = axes[key]
        return made

    def tune(self) -> dict[str, Any]:
        if self.maybe(0.45):
            return {}
        if self.raw["fit"].get("loss_every") == 0 and not self.validated:
            return {}
        alone, objective = len(self.raw["solver"]) == 1, self.raw["objective"]
        known = ("reg_user", "reg_item", "alpha", "epsilon", "unobserved_weight")
        numbers = [key for key in known if objective.get(key)]
        if alone and self.validated and numbers and self.maybe(0.4):
            solver = Config.model_validate(self.raw | {"tune": None}).solver[0]
            if trials.why_no_descent(solver) is None:
                ranges = {f"objective.{key}": [0.05, 2] for key in numbers}
                budget = self.some(seconds=lambda: 0.01)
                return {"method": "hypergradient", "trials": 2, "range": ranges} | budget
        ranges = {}
        for place, table in enumerate(self.raw["solver"]):
            own: dict[str, list] = {"rank": [1, 2]}
            if table["kind"] == "gradient":
                own["batch_size"] = [5, 90]
                rate = table.get("hyper", {}).get("learning_rate")
                if isinstance(rate, dict):
                    steps = [key for key in rate if key in ("decay_steps", "transition_steps")]
                    own |= {f"hyper.learning_rate.{key}": [3, 12] for key in steps}
                else:
                    own["hyper.learning_rate"] = [1e-3, 2]
            if table["kind"] == "anderson":
                own["memory"] = [1, 4]
            if table["kind"] == "newton" or "cg_steps" in table:
                own["cg_steps"] = [1, 6]
            if alone:
                own["init_scale"] = [0.01, 1.0]
            for key in self.rng.sample(sorted(own), self.one(*([1] if alone else [0, 1]), 1, min(2, len(own)))):
                ranges[f"solver.{self.named(place)}.{key}"] = own[key]
        if alone and "reg" in objective and self.maybe(0.3):
            ranges["objective.reg"] = [0.01, 1]
        if not ranges:
            return {}
        made: dict[str, Any] = {"trials": self.one(2, 3), "range": ranges} | self.some(seed=lambda: 5)
        if not self.validated or (self.raw["fit"].get("loss_every", 1) and self.maybe(0.3)):
            made["metric"] = "loss"
        most = max(
            sum(key.split(".")[1] in (str(place), label) or key.startswith("objective") for key in ranges)
            for place, label in enumerate(self.labels())
        )
        if self.maybe(0.3) and most == 1:
            return made | {"method": "grid"}
        if self.maybe(0.3) and alone:
            return made | {"method": "grid", "trials": 2 ** len(ranges)}
        made |= self.some(seconds=lambda: self.one(1e-6, 0.01, 10.0))
        return made | ({"sampler": "optuna"} if find_spec("optuna") and self.maybe(0.3) else {})

    def rankings(self) -> None:
        """Of held-out items, in fits and baselines."""
        if self.maybe(0.6):
            return
        output, fit = self.raw["output"], self.raw["fit"]
        descent = self.raw["tune"].get("method") == "hypergradient"
        if self.validated and not descent and self.raw["problem"].get("missing") != "zeros" and self.maybe():
            fit["metric"] = self.one("ndcg@3", "auc", "recall@8")
        if "metric" not in fit or self.maybe():
            output["metrics"] = self.rng.sample(["rmse", "ndcg@3", "recall@1", "map@8", "auc", "novelty@2"], 3)
        if self.raw["objective"]["preset"] in ("explicit", "als_wr"):
            output["relevant"] = self.one(1.0, -1.0, 1)
        if self.maybe():
            kinds = [{"kind": "most_popular"}, {"kind": "ease", "reg": 2.0}, {"kind": "item_knn", "neighbours": 3}]
            usual = self.raw["data"].get("weight") is None  # baselines know no weights, which are read where named so
            self.raw["baseline"] = self.rng.sample(kinds, 2) if usual else [{"kind": "most_popular"}]

    def output(self) -> dict[str, Any]:
        return self.some(factors=lambda: self.maybe(), folder=lambda: str(self.place / "elsewhere"))


# ---- changes ----

DEEP = 3000
ODD = [
    *("0", "-1", "1", "2.5", "-0.0", "1e400", "-inf", "nan", "true", '""', '"als"', '"kfold"', '"*"', "[]", "[[], []]"),
    *(
        "[1]",
        '["a", "a"]',
        "{}",
        "{ a = 1 }",
        "[{ kind = 1 }]",
        "1979-05-27",
        "07:32:00",
        "'''\n'''",
        "0x7f",
        "[[1], 2]",
    ),
    *("9" * 30, "-" + "9" * 30, "1" * 5000, "0x" + "f" * 5000, str(2**31), str(2**63 - 1), "1e308", "5e-324"),
    *(
        "[" * DEEP + "]" * DEEP,
        "[" * 40 + "]" * 40,
        "{ a = " * DEEP + "1" + " }" * DEEP,
        "{ a = " * 30 + "1" + " }" * 30,
    ),
    *(
        r'"\u0000"',
        r'"a\u0000b.csv"',
        r'"\u001b[31m"',
        r'"\u007f"',
        r'"\u202e"',
        r'"\ud800"',
        r'"\U0010FFFF"',
        '"' + "x" * 9999 + '"',
    ),
    *(
        '"a',
        "'",
        "[",
        "{",
        "",
        "= 1",
        '{ schedule = "linear_schedule" }',
        '{ schedule = "constant_schedule", value = 1 }',
    ),
]
ODD_KEYS = [
    *("kind", "rank", "reg", "name", "hyper", "seeds", "range", "preset", "trials", "question", "layout", "path"),
    *("user", "value", "optimizer", "metric", "passes", "timed", "a b", "solver.als.rank", '"solver.*.rank"', '"..."'),
    *('"solver.sgd"', '"objective"', '"data.path"', '"solver.9.rank"', '"fit.seed"', '""', r'"\u001b[2J"', "\u00e9"),
    *(".".join("a" * DEEP), "9" * 5000, f'"solver.{"9" * 5000}.rank"', '"split.folds"', '"fit.sweeps"', "folder"),
]
BYTES = [
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\x1b",
    b"\x7f",
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"=",
    b"\n",
    b'"',
    b"[",
    b"#",
]


def changed(text: str, seed: int) -> bytes:
    """The config with one to three random changes."""
    rng = random.Random(seed)
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        key, equals, value = lines[at].partition(" = ")
        match rng.randrange(9):
            case 0:
                del lines[at]
                lines = lines or [""]
            case 1:
                lines.insert(at, f"{rng.choice(ODD_KEYS)} = {rng.choice(ODD)}")
            case 2 | 3:  # another value
                lines[at] = f"{key} = {rng.choice(ODD)}" if equals else lines[at]
            case 4:  # another key
                lines[at] = f"{rng.choice(ODD_KEYS)} = {value}" if equals else lines[at]
            case 5:  # a slip
                place = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:place] + rng.choice(string.printable) + lines[at][place + rng.randrange(2) :]
            case 6:  # twice
                lines.insert(rng.randrange(len(lines)), lines[at])
            case 7:
                lines.insert(at, rng.choice(["[fit]", "[[solver]]", "[[data]]", "[solver]", "[a.b]", "[fit.seed]"]))
            case 8:
                lines[at] = f"{key} = -{value}" if equals else lines[at]
    content = "\n".join(lines).encode(errors="surrogatepass")
    match rng.randrange(8):
        case 0:
            return content[: rng.randrange(len(content) + 1)]
        case 1:
            place = rng.randrange(len(content) + 1)
            return content[:place] + rng.choice(BYTES) + content[place:]
    return content
