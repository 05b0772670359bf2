"""`progress=True`: what is shown of a fit while it runs, and where."""

import io
import sys
import types

import jax
import numpy as np
import pytest

import jals
from jals.fitting import progress


class Stream(io.StringIO):
    """stderr, a terminal or not."""

    def __init__(self, terminal: bool, broken: bool = False):
        super().__init__()
        self._terminal, self._broken = terminal, broken

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        if self._broken:
            raise BrokenPipeError
        return super().write(text)


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.permutation(60)[:40], 6)
    return jals.Ratings.from_arrays(user, item, rng.normal(3, 1, 40), num_users=10, num_items=6)


@pytest.fixture
def fit(table):
    problem, objective = jals.Problem.build(table), jals.explicit(reg=0.1)
    return lambda **more: jals.fit(jals.ALS(rank=2), problem, objective, sweeps=3, validation=table, **more)


def shown_on(monkeypatch, stream: Stream) -> Stream:
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_a_log_stays_quiet_but_for_a_line_a_minute(monkeypatch, fit):
    stream = shown_on(monkeypatch, Stream(terminal=False))
    fit(progress=True)
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    result = fit(progress=True)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "fit: compiling" and len(lines) == 5, "the start, and each sweep"
    said = f"fit: 3/3  loss {result.history.loss[-1]:.4g}  val. RMSE {result.history.validation[-1]:.4f}  "
    assert lines[-1].startswith(said) and lines[-1].endswith(" s a sweep  0:00:00 left")


def test_a_terminal_has_a_bar_and_keeps_its_last_line(monkeypatch, fit):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = shown_on(monkeypatch, Stream(terminal=True))
    fit(progress="ALS")
    *_, last, _ = stream.getvalue().splitlines()
    assert "ALS" in last and "3/3  loss " in last and "0:00:00 left" in last
    assert stream.getvalue().endswith("\x1b[?25h"), "the cursor is there again"


def test_a_terminal_without_rich_has_lines(monkeypatch, fit):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(progress.time, "monotonic", iter(range(100)).__next__)
    stream = shown_on(monkeypatch, Stream(terminal=True))
    fit(progress=True)
    assert stream.getvalue().splitlines()[-1].startswith("fit: 3/3  loss ")


def test_a_notebook_has_a_bar_that_is_drawn_anew(monkeypatch, fit):
    drawn = []

    def display(what, raw, display_id):
        assert raw and display_id
        drawn.append(what)
        return types.SimpleNamespace(update=lambda what, raw: drawn.append(what))

    ipython: object = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    stream = shown_on(monkeypatch, Stream(terminal=False))
    fit(progress="<a> & b")
    assert stream.getvalue() == ""
    assert "&lt;a&gt; &amp; b" in drawn[0]["text/html"] and "value" not in drawn[0]["text/html"]
    assert 'value="1.0000"' in drawn[-1]["text/html"] and "3/3  loss" in drawn[-1]["text/html"]
    assert drawn[-1]["text/plain"].startswith("<a> & b: 3/3  loss")


def test_nothing_that_is_shown_ends_or_changes_a_fit(monkeypatch, fit):
    before = fit()
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    for terminal in (False, True):
        shown_on(monkeypatch, Stream(terminal, broken=True))
        after = fit(progress=True)
        np.testing.assert_array_equal(after.factors.user, before.factors.user)
        assert after.history.loss == before.history.loss
    monkeypatch.setattr(sys, "stderr", None)
    fit(progress=True)


def test_without_losses_each_sweep_is_still_shown(monkeypatch, table):
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    stream = shown_on(monkeypatch, Stream(terminal=False))
    given = jals.ALS(rank=2), jals.Problem.build(table), jals.explicit(reg=0.1)
    jals.fit(*given, sweeps=3, loss_every=0, progress=True)
    assert [line.split()[1] for line in stream.getvalue().splitlines()[1:]] == ["0/3", "1/3", "2/3", "3/3"]


def test_what_makes_many_fits_shows_them(monkeypatch, table):
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    stream = shown_on(monkeypatch, Stream(terminal=False))
    solver, problem = jals.ALS(rank=2), jals.Problem.build(table)
    objectives = [jals.explicit(reg) for reg in (0.1, 1.0)]

    def lines():
        found = stream.getvalue().splitlines()
        stream.truncate(0), stream.seek(0)
        return found

    jals.fit_many(solver, problem, objectives, sweeps=2, progress=True)
    assert lines()[-1].startswith("fit: 2/2  2 under way  loss ")
    keys = jax.random.split(jax.random.key(0))
    jals.fit_grid(solver, problem, objectives, keys, sweeps=2, memory_bytes=1, progress=True)
    said = lines()
    assert said[0] == "1 fit, group 1 of 4: compiling"
    assert said[-1].startswith("1 fit, group 4 of 4: 2/2  1 under way")
    jals.regularisation_path(solver, problem, objectives, sweeps=2, tol=None, progress=True)
    assert {line.partition(":")[0] for line in lines()} == {"objectives[0]", "objectives[1]"}


def test_tuning_shows_its_steps(monkeypatch, table):
    monkeypatch.setattr(progress, "SILENCE", 0.0)
    stream = shown_on(monkeypatch, Stream(terminal=False))
    jals.tune(table, table, jals.explicit(0.1), jals.ALS(rank=2), steps=2, sweeps=1, start_sweeps=1, progress=True)
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("tune: 2/2  held-out RMSE ") and "  score " in last


def test_what_is_no_answer_is_refused(fit):
    with pytest.raises(jals.ArgumentError, match="progress is of type int"):
        fit(progress=1)
