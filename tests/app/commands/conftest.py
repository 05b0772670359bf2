"""The files of a run, for the commands that serve one."""

import jax
import numpy as np
import pytest

import jals
from jals.app import config as configs
from jals.app.run.data import SplitTable
from jals.app.run.keeper import factors_name
from jals.app.study import plan
from jals.data.vocabulary import Vocabulary
from jals.datasets import Dataset
from jals.files.runs import folder, record
from tests.support import commands

NAMED = 'kind = "als"\nname = "{}"\nrank = {}\n'
CONFIG = commands.CONFIG.format(data="table.npz").replace('kind = "als"\nrank = 2\n', NAMED.format("small", 2))
CONFIG += f"\n[[solver]]\n{NAMED.format('large', 3)}"

USERS = {"whole": np.arange(12) * 10 + 100, "text": np.array([f"user-{row:02d}" for row in range(12)])}


@pytest.fixture(params=USERS)
def saved(request, tmp_path, monkeypatch):
    """(folder, its table, its training part): a run's files with factors of known scores, nothing fitted."""
    pairs = np.random.default_rng(0).permutation(12 * 8)[:60]
    user, item = np.divmod(pairs, 8)
    ratings = jals.Ratings.from_arrays(user, item, (1.0 + pairs % 5).astype(np.float32), 12, 8)
    titles = np.array([f"[bold]Title {row} & <b>" for row in range(8)])
    table = Dataset(ratings, Vocabulary(USERS[request.param], np.arange(8) + 7000), titles)
    monkeypatch.setattr("jals.app.commands.served.read_data", lambda config: table)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / folder.CONFIG).write_text(CONFIG)
    config = configs.load(tmp_path / folder.CONFIG)
    fits, train = [], None
    for study in plan.studies(config):
        (planned,) = study.fits({})
        learnt = SplitTable(planned.config, table)
        train, solver = learnt.folds[study.fold].train, planned.solver
        name = factors_name(config, solver.label, study.fold, planned.key(learnt.hash))
        state = solver.build().init(jax.random.key(0), learnt.problem(study.fold), config.objective.build())
        jals.save(tmp_path / name, state.factors, table.vocab, data_hash=train.data_hash())
        rmse = {part: {"rmse": 1.0, "mae": 1.0} for part in ("train", "test")}
        proof = {"user": 0.0, "item": 0.0, "last_updated": 0.0, "stationarity": 0.0, "bound": 1.0}
        fit = {"key": planned.key(learnt.hash), "solver": solver.label, "kind": solver.kind, "fold": study.fold}
        fit |= {"seed": 0, "point": {}, "trial": None, "tuned": {}, "data": "table", "rank": 2, "factors": name}
        fit |= {"own_minimiser": False, "converged": False, "program": 0, "sweeps": 0, "reason": "sweeps"}
        fit |= {"error": None, "compile_seconds": 0.0, "metrics": rmse}
        fit |= {"history": {"sweep": [0], "loss": [1.0], "seconds": [0.0]}}
        fit |= {"certificate": proof | {"last_updated_required": False, "passed": True}}
        fits.append(record.FitRecord.model_validate(fit))
    blank = {"started": "", "wall_seconds": 0.0, "versions": {}, "hardware": {}, "command": ""}
    run = record.RunRecord(status="running", config=configs.tables(config), **blank)
    folder.append(tmp_path, fits)
    folder.seal(tmp_path, run)
    return tmp_path, table, train
