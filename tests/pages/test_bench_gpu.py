"""The benchmark for GPUs on this machine's device: its arithmetic, its table, and that it keeps what it has found. No
seconds."""

import importlib
import json
import sys

import numpy as np
import pytest

from tests.support import ROOT, needs

needs("cli")
pytestmark = pytest.mark.newest


@pytest.fixture(scope="module")
def study():
    folder = str(ROOT / "experiments")
    sys.path.insert(0, folder)
    yield importlib.import_module("bench_gpu")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def card():
    return importlib.import_module("speed.card")


def sweep(backend="native", rank=64, share=1, seconds=0.006, **more):
    spread = {"median": seconds, "low": 0.9 * seconds, "high": 1.1 * seconds}
    told = {"entries": 1000 // share, "compile_seconds": 3.0, "same_bits": True, "finite": True, "bias": False}
    return {"kind": "sweep", "backend": backend, "rank": rank, "share": share, **told, **spread, **more}


def found_of(rows, **more):
    about = {"table": {"entries": 1000}, "machine": {"device": {"device": "a card"}}, "ranks": (16, 64, 128)}
    return about | {"rows": rows, "left_out": {}, "dropped": [], "main_rank": 64} | more


# ---- what is said ----


def test_the_floor_of_a_card(study):
    """The larger of Grams at a third of TF32's rate and of gathers."""
    entries, rank = 1000, 64
    ceilings = {"kind": "ceilings", "tf32": 3e9, "float32": 1e9, "copy": 1e12, "tf32_error": 3e-4}
    gram = 2 * entries * (rank * (rank + 1) / 2) * 2 / 1e9
    for rate, floor in ((1e3, 2 * entries / 1e3), (1e9, gram)):
        gather = {"kind": "gather", "rank": rank, "rows": rate, "bytes": 256 * rate}
        found = found_of({"ceilings": ceilings, "gather": gather, "sweep": sweep(seconds=2.5 * floor)})
        (told,) = [line.measured for line in study.report.lines(found) if line.what.startswith("sweep, jals native")]
        assert "2.5 x floor" in told
        assert study.report.floors_of(found)[rank]["floor"] == pytest.approx(floor)
    assert study.report.floors_of(found_of({"gather": gather})) == {}


@pytest.mark.parametrize(
    "row, right",
    [
        (sweep(), True),
        (sweep(same_bits=False), False),
        (sweep(finite=False), False),
        ({"kind": "sanitizer", "tool": "memcheck", "summary": "ERROR SUMMARY: 2 errors", "clean": False}, False),
        ({"kind": "against the CPU", "rank": 8, "dtype": "float32", "apart": 2e-6, "of_the_cpu": 1e-6}, True),
        ({"kind": "against the CPU", "rank": 8, "dtype": "float32", "apart": 2e-5, "of_the_cpu": 1e-6}, False),
        ({"kind": "against the CPU", "rank": 8, "dtype": "float64", "apart": 1e-9, "of_the_cpu": 1e-15}, False),
        ({"kind": "against the CPU", "rank": 8, "dtype": "float32", "apart": None, "of_the_cpu": 1e-6}, False),
    ],
)
def test_what_is_wrong_is_called_wrong(study, row, right):
    made = study.report.lines(found_of({"it": row}))
    assert [line.right for line in made if line.right is not None] == [right]
    assert ("WRONG" in study.report.text(made)) == (not right)


def test_what_is_slow_is_not_wrong(study):
    rows = {"a": sweep(seconds=0.007), "b": sweep(rank=128, seconds=0.02), "c": sweep("xla", seconds=0.05)}
    rows["d"] = {"kind": "peer", "rank": 64, "cg_steps": 3, "median": 0.07, "low": 0.06, "high": 0.08}
    rows["e"] = {"kind": "compile", "backend": "xla", "rank": 64, "compile_seconds": 9.0}
    made = study.report.lines(found_of(rows, left_out={"memcheck": "not here"}, dropped=["build", "transfer"]))
    assert [line.fast for line in made if line.fast is not None] == [False, True, True, False, False]
    assert not any(line.right is False for line in made)
    text = study.report.text(made)
    assert "implicit's sweep over the kernel's, rank 64" in text and "memcheck" in text and "build, transfer" in text


def test_the_picture(study, tmp_path):
    from matplotlib.image import imread

    assert not study.report.draw(found_of({}), tmp_path / "none.png")
    rows = {f"{rank} {share}": sweep("native", rank, share) for rank in (16, 64, 128) for share in (1, 4)}
    assert study.report.draw(found_of(rows), tmp_path / "some.png")
    shown = imread(tmp_path / "some.png")
    assert min(shown.shape[:2]) > 300 and shown[..., :3].std() > 0.01


# ---- what is measured ----


@pytest.fixture
def placed(study, tmp_path):
    """A small table in a folder, and what the processes measure on it."""
    table = study.made_table(0.001)
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(table, name))
    (tmp_path / "shape.json").write_text(json.dumps(table.shape), encoding="utf-8")
    return table, tmp_path


def test_a_certificate_and_a_sweep_of_the_table(card, placed):
    table, folder = placed
    made = card.Card(folder)
    proof = made.certificate(4, "auto", 1, "float64")
    assert proof["entries"] == table.nnz and proof["holds"] and proof["bound"] == 1e-13
    assert 0 < max(proof["user"], proof["item"], proof["last_updated"]) < 1e-13
    told = made.sweep(4, "auto", 4, True, 0.0)
    assert told["entries"] == made.table(4).nnz < table.nnz / 2
    assert told["same_bits"] and told["finite"] and told["low"] <= told["median"] <= told["high"]
    assert json.loads(json.dumps(told)) == told


def test_predictions_here_and_on_the_cpu(card, placed, monkeypatch):
    made = card.Card(placed[1])
    told = made.against_cpu(4, "xla", 1, "float64")
    assert told["apart"] < 1e-12 and told["of_the_cpu"] < 1e-12
    two = made._two_sweeps
    wrong = lambda *given: card.jax.tree.map(lambda leaf: 1.01 * leaf, two(*given))  # noqa: E731
    monkeypatch.setattr(made, "_two_sweeps", wrong)
    assert made.against_cpu(4, "xla", 1, "float64")["apart"] == pytest.approx(1.01**2 - 1, rel=1e-6)


# ---- a run ----


def row(study, name, told=None, expects=0.0, by=""):
    def make(run):
        if told is None:
            raise study.Unavailable("not done after 3 s")
        return dict(told)

    return study.Row(name, expects, make, by)


def run(study, tmp_path, *more):
    code = study.main(["--small", "--anyway", "--out", str(tmp_path), *more])
    path = tmp_path / "bench_gpu.json"
    return code, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def test_rows_are_kept_as_they_come_and_dropped_where_no_time_is_left(study, tmp_path, monkeypatch, capsys):
    def stopped(run):
        raise KeyboardInterrupt

    rows = [
        row(study, "first", sweep()),
        row(study, "hangs", by="xla"),
        row(study, "too long", sweep(), expects=1e9),
        row(study, "after it", sweep("xla"), by="xla"),
        row(study, "last", sweep(rank=16)),
    ]
    monkeypatch.setattr(study, "plan", lambda arguments: rows)
    code, found = run(study, tmp_path)
    assert code == 0 and list(found["rows"]) == ["first", "last"] and found["dropped"] == ["too long"]
    assert found["left_out"] == {"hangs": "not done after 3 s", "after it": "hangs was not done after 3 s"}
    assert found["table"]["users"] == 277 and found["versions"]["jals"]
    assert "too long" in capsys.readouterr().out
    rows[1:] = [study.Row("stops", 0, stopped)]
    code, found = run(study, tmp_path)
    assert code == 130 and list(found["rows"]) == ["first"]
    rows[:] = [row(study, "wrong", sweep(same_bits=False)), row(study, "other", sweep())]
    assert run(study, tmp_path)[0] == 1
    assert run(study, tmp_path, "--only", "oth")[0] == 0


def test_without_a_gpu_it_says_so(study, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert study.main(["--small", "--out", str(tmp_path)]) == 2
    assert "There is no GPU here: jax sees cpu" in capsys.readouterr().out


def test_rows_of_the_plan_are_of_all_that_is_to_be_shown(study):
    names = [row.name for row in study.plan(study.parsed([]))]
    assert len(set(names)) == len(names)
    for backend in ("native", "xla"):
        for rank in (16, 32, 64, 128, 256):
            assert {f"sweep {backend} {rank}{share}" for share in ("", " 1/4", " 1/16")} <= set(names)
    assert {"memcheck", "racecheck", "implicit 64", "whole job implicit", "build", "transfer"} <= set(names)


def test_a_small_run_in_processes_of_its_own(study, tmp_path, capsys):
    """One that stays, and the peer, whose wheels are not here."""
    (tmp_path / "wheels").mkdir()
    peer = ["--peer", str(tmp_path / "wheels"), "--only", "implicit 8", "ceilings", "gather 8"]
    code, found = run(study, tmp_path, *peer)
    assert code == 0 and list(found["rows"]) == ["ceilings", "gather 8"]
    assert "librapids_logger.so is not under" in found["left_out"]["implicit 8"]
    assert "floor" in capsys.readouterr().out
