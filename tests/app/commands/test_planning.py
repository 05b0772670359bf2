"""`jals plan`: what it says, draws and returns."""

import jals
from jals.planning import compiling
from jals.planning import plan as planning
from jals.planning.work import Work
from tests.support import needs
from tests.support.commands import jals_command

needs("cli")

MORE = ("--value", "uint8", "--exchange", "routed:8")
SIZES = ("--users", 500, "--items", 300, "--entries", 8_000, "--rank", 8)


def made(limit):
    work = Work({"all-to-all": 3e9, "all-gather": 0.0}, {"all-to-all": 7, "all-gather": 1}, 1e9, {"bf16": 1e12}, {}, [])
    floors = {"matrix products": 0.005, "memory": 0.001, "interconnect": 0.02}
    job, gib = compiling.Job(500, 300, 8_000, 8), 2**30
    sent, slices = {"all-to-all": 0.02, "all-gather": 0.0}, {"v5e:1x1": 4 * gib, "v5e:2x2": gib, "v5e:4x4": gib // 4}
    needs = {"factors": gib}, {"arguments": gib}, gib, limit
    return jals.Plan(
        job, "als sweep", "v5e:2x2", *needs, work, floors, sent, "interconnect", slices, "v5e:2x2", (), (), 1.0
    )


def test_a_plan_is_shown_and_drawn(tmp_path, monkeypatch):
    asked = []

    def plan(*given, **options):
        asked.append((given, options))
        return made(2**34)

    monkeypatch.setattr(planning, "plan", plan)
    for name, begins in (("plan.png", b"\x89PNG"), ("plan.svg", b"<?xml")):
        done = jals_command("plan", "v5e:2x2", *SIZES, "--weighted", "--no-search", *MORE, "--picture", tmp_path / name)
        assert done.exit_code == 0, done.output
        assert "500 users x 300 items, 8,000 entries" in done.output and "It fits." in done.output
        assert (tmp_path / name).read_bytes().startswith(begins)
    options = {"precision": "float32", "weighted": True, "search": False, "program": "als"}
    options |= {"value": "uint8", "exchange": "routed:8"}
    assert asked == [(((500, 300, 8_000), 8, "v5e:2x2"), options)] * 2
    drawn = (tmp_path / "plan.svg").read_text(encoding="utf-8")  # texts are drawn as shapes, and said in comments
    for text in ("floors on v5e:2x2", "all-to-all", "GiB a device", "20 ms"):
        assert text in drawn


def test_what_does_not_fit_has_an_exit_code(monkeypatch):
    monkeypatch.setattr(planning, "plan", lambda *_, **__: made(2**29))
    done = jals_command("plan", "v5e:2x2", *SIZES)
    assert done.exit_code == 1 and "It does not fit." in done.output


def test_sizes_or_a_table(tmp_path):
    done = jals_command("plan", "cpu:1", *SIZES, "--exchange", "routed:few")
    assert done.exit_code == 2 and "asks for 'few' exchanges" in done.stderr
    for sizes in (SIZES[:4] + SIZES[6:], (*SIZES, "--table", tmp_path), SIZES[6:]):
        done = jals_command("plan", "cpu:1", *sizes)
        assert done.exit_code == 2 and "--users, --items and --entries, or --table" in done.stderr
