"""Runs whose tuning has a budget of seconds, or ranges of integers."""

import json

import pytest

from jals.app.run import session
from jals.files.runs import folder
from jals.files.runs.record import HistoryRecord
from tests.support.commands import jals_command, write_experiment
from tests.support.records import read_run as recorded

SEGMENTED = ("[objective]", '[problem]\nlayout = "segmented"\n\n[objective]')  # compiles quickest
VALIDATED = ("test_fraction = 0.2", "test_fraction = 0.2\nvalidation_fraction = 0.2")


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Drawing takes as long as all else."""
    monkeypatch.setattr(session.Session, "draw", lambda self: (self.place / folder.PAGE).write_text("drawn"))


def test_trials_of_integers_are_timed_and_end_with_their_seconds(tmp_path, monkeypatch):
    """A run that is stopped between two trials goes on to the same trials as one that is not, since what decides is in
    the lines of those that are made."""
    tune = '[tune]\ntrials = 3\nseconds = 1.0\n[tune.range]\n"solver.als.rank" = [1, 3]\n'
    changes = (SEGMENTED, VALIDATED, ("sweeps = 3", f"sweeps = 3\nseconds = 50.0\n\n{tune}"))
    ended = session.Keeper.finish

    def slow(*given, **named):
        """A fit that took a second of work less a bit, so that the second trial spends the budget."""
        fit = ended(*given, **named)
        seconds = [0.9 * each for each in fit.history.sweep]
        return fit.changed(history=HistoryRecord(**fit.history.columns() | {"seconds": seconds}))

    def stopped(self, fits):
        folder.append(self.place, fits)
        raise KeyboardInterrupt

    path = write_experiment(tmp_path, *changes)
    monkeypatch.setattr(session.Keeper, "finish", slow)
    with monkeypatch.context() as patch:
        patch.setattr(session.Session, "add", stopped)
        assert jals_command("run", path, "--out", tmp_path / "run").exit_code == 130
    done = jals_command("run", path, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "at most 3 trials, 1 s" in " ".join(done.output.split())
    fits = recorded(tmp_path / "run")["fits"]
    (trial,) = [fit for fit in fits if fit["trial"] is not None]  # 2.7 s
    (fit,) = [fit for fit in fits if fit["trial"] is None]
    assert trial["trial"] == 0 and trial["history"]["seconds"][-1] == pytest.approx(2.7)
    assert fit["tuned"] == trial["tuned"] == {"rank": fit["rank"]}
    assert type(json.loads((tmp_path / "run" / folder.FITS).read_text().splitlines()[-1])["tuned"]["rank"]) is int
