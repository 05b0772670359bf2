"""What reaches a terminal, a page or a figure shows every text and obeys none; and printing never fails."""

import errno
import io
import json
import math
import os
import re
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console as Plain
from rich.progress import Progress, TextColumn
from rich.table import Table as PlainTable
from rich.text import Text

import jals
from jals.app.commands import derivation, recommend
from jals.app.commands.derivation import picture, steps
from jals.app.config import load
from jals.app.config.schema import Config, FitConfig
from jals.app.show import console as door
from jals.app.show import page, printing, progress_bar
from jals.app.show.console import Console, Table, prepare_streams, printable, robust_stream
from jals.app.show.page import plots
from jals.data.vocabulary import Vocabulary
from jals.errors import did_you_mean
from jals.files.runs import folder, record
from jals.fitting import progress
from tests.support import ROOT
from tests.support.commands import jals_command, write_experiment
from tests.support.records import made_run

OBEYED = "\x1b]0;owned\x07\x1b[2J\x9b\x00\r\b\x7f\u202e\u2066\u2028"  # title, clear, and what else a terminal may obey
HOSTILE = f"{OBEYED}[bold]a[/nope]:heart:[red]$x^$\nforged"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b\x00\r\x08\x7f\u202e\u2066\u2028[bold]a[/nope]:heart:[red]$x^$\nforged"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_what_the_project_s_configs_say_is_shown(path):
    """Before a run reads or fits anything, whatever tables its values are."""
    console = Plain(width=300, file=io.StringIO())
    printing.print_setting(console, load(path), [], Path("run"))
    shown = " ".join(console.file.getvalue().split())
    for line in path.read_text("utf-8").splitlines():
        if schedule := re.search(r'schedule = "(\w+)", init_value = ([\d.e-]+), decay_steps = (\d+)', line):
            name, first, steps = schedule.groups()
            assert f"learning_rate schedule {name} init_value {float(first)} decay_steps {steps}" in shown
        if solver := re.match(r'name = "(\w+)"', line):
            assert f"{solver[1]}: " in shown



def clean(text: str) -> bool:
    """Whether nothing is left that a terminal would obey but line breaks, by another list than jals's own."""
    others = {"\n", " ", "\u00a0"}
    return all(letter.isprintable() or letter in others for letter in text)


def shown(console: Plain) -> str:
    """What a console has written to its file, without the styles and the movements that rich made."""
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;]*m|\x1b\[\d*[AK]|\x1b\[\?25[lh]|\r", "", console.file.getvalue())


def a_console(kind=Console, **options):
    return kind(file=io.StringIO(), width=400, **options)


@pytest.mark.parametrize("code", [*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), 0x2066, 0xDC80])
def test_what_would_be_obeyed_is_written_as_python_writes_it(code):
    text = f"é{chr(code)}日"
    assert printable(text) == repr(text)[1:-1]
    assert printable(text, lines=True) == (text if chr(code) == "\n" else printable(text))


def test_what_is_letters_stays():
    assert printable("naïve λ 日本 😀 a\u200db [x] \\x1b") == "naïve λ 日本 😀 a\u200db [x] \\x1b"


def test_a_near_miss_is_told_on_its_line():
    assert did_you_mean("a name", ["a\nname"]) == r' Did you mean "a\nname"?'


# ---- the terminal ----


def in_a_grid(console):
    grid = Table.grid(padding=(0, 1))
    grid.add_row("a", HOSTILE)
    console.print(grid)


def a_bar(console):
    with progress_bar.Watch(console) as bars, bars.fit(HOSTILE) as seen:
        seen(SimpleNamespace(sweep=1, sweeps=2, loss=1.0, validation=math.nan, seconds=0.0))
        console.print("a line beside it")


def the_setting(console):
    solver = {"kind": "als", "rank": 2}
    config = {"data": {"path": HOSTILE.replace("\0", "")}, "split": {"kind": "random"}, "question": HOSTILE}
    config = Config.model_validate(config | {"objective": {"preset": "als_wr", "reg": 0.1}, "solver": [solver]})
    data = [record.DataRecord(name=HOSTILE, hash="", users=2, items=2, entries=3)]
    printing.print_setting(console, config, data, Path(HOSTILE))


PROOF = {"user": 1.0, "item": None, "last_updated": 1e-9, "last_updated_required": True, "stationarity": 0.1}
FIT = record.FitRecord.model_construct(
    solver=HOSTILE,
    fold=None,
    point={"data.path": HOSTILE},
    trial=None,
    seed=0,
    sweeps=1,
    history=record.HistoryRecord(sweep=[1], seconds=[0.1]),
    reason="singular",
    factors=HOSTILE,
    compile_seconds=1.0,
    certificate=record.Proof(**PROOF, bound=1e-5, passed=False, unjudged=1),
    error=record.Failure(message=HOSTILE, side="user", row=0, sweep=1),
)
FOUND = folder.StoredRun(record.RunRecord.model_construct(status="running", started=HOSTILE), [FIT], None)
VOCAB = SimpleNamespace(user=np.array([HOSTILE]), item=np.array([HOSTILE]))
DATA = jals.datasets.Dataset(None, VOCAB, np.array([HOSTILE]))  # pyright: ignore[reportArgumentType]
PRINTED = {
    "a string": lambda console: console.print(HOSTILE),
    "a style": lambda console: console.print(HOSTILE, style="bold", soft_wrap=True),
    "a grid": in_a_grid,
    "a bar": a_bar,
    "the setting": the_setting,
    "expanded": lambda console: printing.print_plan(console, [(HOSTILE, 1, 1.0, HOSTILE)], [(HOSTILE, 1.0)]),
    "progress": lambda console: printing.print_fit_end(console, HOSTILE, FIT),
    "chunk": lambda console: printing.print_chunk_end(
        console, [SimpleNamespace(solver=SimpleNamespace(label=HOSTILE))], 1.0
    ),
    "found": lambda console: printing.print_found(console, Path(HOSTILE), FOUND, False),
    "certificates": lambda console: printing.print_certificates(console, [FIT]),
    "saved": lambda console: printing.print_saved(console, Path(HOSTILE), FOUND),
    "broken": lambda console: printing.print_broken(console, [FIT], VOCAB),  # pyright: ignore[reportArgumentType]
    "stopped": lambda console: printing.print_stopped(console, KeyboardInterrupt(HOSTILE), FOUND),
    "recommended": lambda console: console.print(recommend._table(DATA, np.zeros(1, int), np.ones(1))),
}


@pytest.mark.parametrize(
    ("name", "forced"), [*((name, True) for name in PRINTED), *((name, False) for name in PRINTED if name != "a bar")]
)
def test_texts_are_shown_and_not_obeyed(name, forced):
    console = a_console(force_terminal=forced, color_system="standard" if forced else None)
    PRINTED[name](console)
    text = shown(console)
    assert clean(text) and SHOWN in text, repr(text)
    assert all(not line.strip().startswith("forged") for line in text.splitlines())


def test_the_styles_and_movements_of_rich_survive():
    console = a_console(force_terminal=True, color_system="standard")
    a_bar(console)
    console.print(Text("red", "bold red"))
    assert isinstance(console.file, io.StringIO)
    written = console.file.getvalue()
    assert all(code in written for code in ("\x1b[1;31mred\x1b[0m", "\x1b[?25l", "\x1b[?25h", "\x1b[2K"))


def test_nothing_gets_past_the_console():
    """A table, a progress bar and a text of rich's own, by someone who did not think of the door."""
    console = a_console(force_terminal=True, color_system=None)
    table = PlainTable(HOSTILE, title=HOSTILE, caption=Text(HOSTILE))
    table.add_row(Text(HOSTILE))
    console.print(table, Text(HOSTILE))
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bars:
        bars.add_task(HOSTILE)
    assert clean(shown(console)) and "owned" in shown(console)


def test_the_table_of_recommended_items_needs_no_console_of_ours():
    console = a_console(Plain)
    PRINTED["recommended"](console)
    assert clean(shown(console)) and shown(console).count(SHOWN) == 2


def test_a_derivation_shows_hostile_names():
    data = derivation.built_in()
    vocab = Vocabulary(np.array([HOSTILE, *data.vocab.user[1:]]), data.vocab.item)
    at, console, titles = steps.setting(data.ratings, 0), a_console(), np.array([HOSTILE[::-1], *data.titles[1:]])
    text = derivation.Walkthrough(console, at, vocab, titles)
    text.table()
    text.reach(steps.Reach(np.zeros((5, 3)), np.zeros((4, 3))))
    text.saved(HOSTILE)
    assert clean(shown(console)) and all(part in shown(console) for part in (SHOWN[:15], r"degrof\n", SHOWN))
    texts = [each.get_text() for each in picture.table(at, vocab, titles).axes[0].texts]
    assert all(map(clean, texts)) and any(r"degrof\n" in text for text in texts)


# ---- whole commands ----


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(plots, "picture", lambda draw, *arguments, **options: plots.Picture(b"", b"", b"", 100, 50))


@pytest.mark.usefixtures("undrawn")
def test_a_run_on_hostile_names_is_shown_whole(tmp_path, monkeypatch):
    """Ids, the question, a solver's budget; the run's terminal, its page and report, and the commands on it."""
    budgets = []
    monkeypatch.setattr(progress_bar, "pace_of", lambda asked, *rest: budgets.append(asked) or PACE(asked, *rest))
    user, item = np.divmod(np.arange(20), 4)
    ids = np.array([f"{row}{HOSTILE}" for row in range(5)])
    table = tmp_path / "[red]\u202e$x^$\x1b[2J\nforged.npz"
    np.savez(tmp_path / "it.npz", user=ids[user], item=ids[item], rating=1.0 + (user + item) % 5)
    (tmp_path / "it.npz").rename(table)
    quoted = json.dumps(str(table))  # TOML writes strings like JSON
    config = write_experiment(
        tmp_path, (f'"{tmp_path / "table.npz"}"', quoted), ("sweeps = 3", "sweeps = 1\nseconds = 60")
    )
    config.write_text(f"question = {json.dumps(HOSTILE)}\n{config.read_text()}")
    place = tmp_path / "run[red]\x1b[2J"
    done = jals_command("run", config, "--out", place)
    assert done.exit_code == 0 and clean(done.output), repr(done.output)
    assert r"\x1b]0;owned\x07\x1b[2J\x9b\x00" in done.output and "[bold]a[/nope]:heart:[red]$x^$ forged" in done.output
    assert budgets[0].seconds == 60 and budgets[0].sweeps == 1
    for path in ("index.html", "report/index.html", "report/report.md"):
        text = (place / path).read_text(encoding="utf-8")
        assert clean(text) and r"\x1b]0;owned\x07" in text.replace("\\\\", "\\").replace("\\]", "]"), path
    for more in (("certify", place), ("recommend", place, "--user", ids[0]), ("report", place), ("run", config)):
        done = jals_command(*more, *(("--out", place) if more[0] == "run" else ()))
        assert done.exit_code == 0 and clean(done.output), repr(done.output)
    done = jals_command("recommend", place, "--user", f"{ids[0]}x")
    assert done.exit_code == 2 and clean(done.output) and "\nforged" not in done.output


PACE = progress_bar.pace_of


def test_a_config_is_shown_as_toml_that_says_the_same(tmp_path):
    config = write_experiment(tmp_path)
    config.write_text(f"question = {json.dumps(HOSTILE)}\n{config.read_text()}")
    done = jals_command("config", "check", config)
    assert done.exit_code == 0 and clean(done.output)
    assert tomllib.loads(done.output)["question"] == HOSTILE


@pytest.mark.parametrize(
    "arguments", [("report", HOSTILE), (HOSTILE,), ("run", f"--{HOSTILE}"), ("datasets", HOSTILE), ("derive", HOSTILE)]
)
def test_what_is_wrong_is_told_without_obeying_it(arguments):
    done = jals_command(*(each.replace("\x00", "") for each in arguments))
    assert done.exit_code == 2 and clean(done.output) and r"\x1b]0;owned\x07" in done.output, repr(done.output)


# ---- pages and figures ----


@pytest.mark.usefixtures("undrawn")
def test_a_page_shows_whatever_a_record_holds(tmp_path):
    """Also what no config of ours can say: the record may have been written by anyone."""
    from .test_page import config, make, write

    run = make(config(), titles=np.array([HOSTILE] * 8))
    run.record["fits"][0] |= {"solver": HOSTILE, "reason": HOSTILE}
    write(tmp_path, run.record | {"status": "running", "error": HOSTILE, "started": HOSTILE}, run.data, run.drawn)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert clean(text) and text.count(SHOWN) > 8


@pytest.mark.usefixtures("undrawn")
def test_a_report_shows_whatever_a_record_holds(tmp_path):
    from jals.app.show import report

    made_run(
        tmp_path,
        diverged=[("sgd", 1)],
        data=HOSTILE.replace("\0", ""),
        command=f"jals run {HOSTILE}\n~~~~~~\nforged",
    )
    report.write([tmp_path], tmp_path)
    pages = [(tmp_path / name).read_text(encoding="utf-8") for name in ("index.html", "report.md")]
    assert all(clean(text) and f"jals run {SHOWN}" in text for text in pages)
    assert all(not line.startswith("forged") for text in pages for line in text.splitlines())
    assert "\njals run " in pages[0], "the lines of a program are lines"
    assert pages[1].splitlines().count("~~~~~~") % 4 == 0 and SHOWN in pages[0]


def test_a_figure_shows_the_texts_that_it_is_given():
    """A pair of dollar signs with nonsense between stops matplotlib, and a control character makes its SVG no XML."""
    lines = [plots.Line(f"{name}{HOSTILE}", np.arange(3), np.arange(3.0)) for name in "ab"]
    made = plots.picture(plots.curves, lines, HOSTILE, HOSTILE, pixels=False)
    assert clean(made.svg.decode()) and made.svg.count(rb"\x1b]0;owned\x07") == 4
    assert page.gallery._file("als/0 rank=8") == "als-0 rank=8" and clean(page.gallery._file(HOSTILE))


# ---- streams ----


class Failing(io.RawIOBase):
    """A raw stream that fails from its second write on."""

    def __init__(self, number):
        self.number, self.taken = number, b""

    def writable(self):
        return True

    def isatty(self):
        return self.number is None or not self.taken  # a terminal that is gone is none

    def write(self, data):
        if self.taken and self.number is not None:
            raise OSError(self.number, "gone")
        self.taken += bytes(data[:5])
        return len(data[:5])


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF, None])
@pytest.mark.parametrize("unbuffered", [True, False])
def test_output_that_nobody_takes_is_dropped(number, unbuffered):
    raw = Failing(number)
    under = raw if unbuffered else io.BufferedWriter(raw)
    stream = robust_stream(io.TextIOWrapper(under, "utf-8", write_through=unbuffered))  # pyright: ignore
    assert stream.isatty()
    for _ in range(3):
        stream.write("line\n")
        assert not unbuffered or raw.taken
        stream.flush()
    assert raw.taken == (b"line\n" * 3 if number is None else b"line\n")
    assert stream.isatty(), "bars that were started have to be stopped"
    print("more", file=stream, flush=True)


def test_a_full_pipe_that_does_not_block_is_waited_for():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    text, got = "x" * 300_000, []

    def read():
        with open(reading) as end:
            got.append(end.read())

    reader = threading.Thread(target=read)
    with open(writing, "w") as end:
        stream = robust_stream(end)
        reader.start()
        print(text, end="", file=stream, flush=True)
    reader.join()
    assert got == [text]


@pytest.mark.parametrize(
    ("encoding", "errors", "written"),
    [
        ("ascii", "strict", b"?? ?"),
        ("ascii", "surrogateescape", b"?? ?"),
        ("cp1252", "strict", b"?\xe9 ?"),
        ("ascii", "backslashreplace", b"\\u03bb\\xe9 \\udc80"),
        ("utf-8", "strict", b"\xce\xbb\xc3\xa9 ?"),
    ],
)
def test_what_the_encoding_cannot_hold_is_replaced(encoding, errors, written):
    raw = io.BytesIO()
    stream = robust_stream(io.TextIOWrapper(raw, encoding, errors))
    print("λé \udc80", file=stream, end="", flush=True)
    assert raw.getvalue() == written


@pytest.mark.parametrize("size", ["0", "-3", "abc", "²", "99999999999", "", "07", "72"])
def test_sizes_of_no_terminal_are_forgotten(monkeypatch, size):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    environ = {"COLUMNS": size, "LINES": size, "TERMINAL_WIDTH": size}
    prepare_streams(environ)
    assert environ == (dict.fromkeys(environ, size) if size == "72" else {})


def test_a_stream_that_was_closed_from_the_start_takes_all():
    stream = robust_stream(None)
    assert print("x", file=stream, flush=True) is None
    stream.close()
    assert robust_stream(taken := io.StringIO()) is taken


COMMAND = [sys.executable, "-m", "jals", "config", "check"]
SURROUNDINGS = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "COLUMNS": "0"}


def test_a_command_prints_in_any_encoding_and_width(tmp_path):
    config = write_experiment(tmp_path)
    config.write_text(f'question = "λ?"\n{config.read_text()}', encoding="utf-8")
    done = subprocess.run([*COMMAND, config], capture_output=True, env=SURROUNDINGS, timeout=120)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b'question = "??"')


def test_a_command_whose_reader_has_left_ends_as_ever(tmp_path):
    """Not a word at shutdown either, when Python empties its streams."""
    config = write_experiment(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, config], stdout=writing, stderr=subprocess.PIPE, env=SURROUNDINGS, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


# ---- the time left ----


def at(sweep, seconds=0.0, sweeps=1_000_000):
    return jals.Progress(sweep, math.nan, seconds, 2 * sweep, math.nan, sweeps, None, None)  # pyright: ignore


@pytest.mark.parametrize(
    ("settings", "sweeps", "share", "left", "said"),
    [
        (None, 15, 10 / 15, 5 * 2.0, "10/15  0:00:10 left"),
        ({}, 15, 10 / 15, 5 * 2.0, "10/15"),
        ({"sweeps": 20}, 20, 1 / 2, 10 * 2.0, "10/20"),
        ({"seconds": 5.0}, 1_000_000, 1 / 5, 4 * 20.0, "10 sweeps  0.1 s a sweep  0:01:20 left"),
        ({"passes": 40}, 20, 1 / 2, 10 * 2.0, "10/20"),
        ({"passes": 40}, 1000, 1 / 2, 10 * 2.0, "10/1000"),
        ({"passes": 25, "seconds": 5.0}, 12, 10 / 12, 2 * 2.0, "10/12"),
        ({"sweeps": 1000, "seconds": 2.0}, 1000, 1 / 2, 20.0, "10/1000"),
        ({"tol": 1e-3}, 1_000_000, None, None, "10 sweeps"),
        ({"tol": 1e-3, "sweeps": 30}, 30, 1 / 3, 20 * 2.0, "10/30"),
        ({"tol": 1e-3, "seconds": 1.0}, 1_000_000, 1.0, 0.0, "10 sweeps"),
        ({"seconds": 1e-9}, 1_000_000, 1.0, 0.0, "10 sweeps"),
    ],
)
def test_the_time_left_is_that_of_what_ends_first(settings, sweeps, share, left, said):
    """Ten sweeps in 20 s, of which one was solver work."""
    settings = None if settings is None else FitConfig(**settings)
    pace = progress_bar.pace_of(settings, at(0, 0.0, sweeps), 100.0)
    now = at(10, 0.0 if settings is None else 1.0, sweeps)
    assert pace.share(now) == (None if share is None else pytest.approx(share))
    assert pace.left(now, 120.0) == (None if left is None else pytest.approx(left))
    line = progress.line(now, pace, 120.0)
    assert line.startswith(said) and ("left" in line) == (left is not None)
    assert pace.left(at(0, 0.0, sweeps), 100.0) is None, "nothing is known of the pace yet"


def test_a_time_left_beyond_all_calendars_is_told():
    pace = progress_bar.pace_of(None, at(0, sweeps=2**62), 0.0)
    assert "left" in progress.line_of_many([at(1, sweeps=2**62)], pace, 3600.0)


def test_the_bar_fills_by_the_budget_and_lines_go_through_the_door(monkeypatch):
    monkeypatch.setattr(progress_bar, "SILENCE", 0.0)
    console = a_console(force_terminal=False)
    bars = progress_bar.Watch(console)
    with bars, bars.fit(HOSTILE, FitConfig(seconds=10.0)) as seen:
        for seconds in (0.0, 2.5):
            seen([at(round(seconds * 4), seconds), None])
        (task,) = bars._bars.tasks
        assert (task.completed, task.total) == (0.25, 1)
    assert clean(shown(console)) and f"{SHOWN}: 10 sweeps  1 under way" in shown(console)


def test_spinners_are_letters_of_the_encoding():
    for encoding, name in (("utf-8", "dots"), ("ascii", "line")):
        console = Console(file=io.TextIOWrapper(io.BytesIO(), encoding))
        assert door.spinner(console) == name
