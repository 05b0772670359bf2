"""Random configs. What `jals config check` accepts runs: it is listed, and every fit of it is made, or breaks down
numerically, or the data is not what it takes. What is wrong is told with its line; nothing else comes out.

One is run here, more are listed; `make fuzz` runs JALS_FUZZ_CONFIGS of them, and draws the pages of JALS_FUZZ_DRAWN."""

import io
import os
import re
from pathlib import Path

import pytest
from rich.console import Console

import jals
from jals.app import config as configs
from jals.app.config.schema import Config
from jals.app.run import runner, session
from jals.app.study import plan
from jals.files.runs import folder
from tests.support.configs import Draw, changed, write_tables

# Optax tells of what it will change, and a fit of a lambda that is too large for its table.
IGNORED = ("ignore::DeprecationWarning", "ignore:Specifying", "ignore:all factors have shrunk to 0")
pytestmark = [pytest.mark.filterwarnings(each) for each in IGNORED]

CASES = int(os.environ.get("JALS_FUZZ_CONFIGS", "0"))
FIRST = int(os.environ.get("JALS_FUZZ_FIRST", "46"))
DRAWN = int(os.environ.get("JALS_FUZZ_DRAWN", "0"))  # of so many the page and the report are drawn


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    place = tmp_path_factory.mktemp("tables")
    write_tables(place)
    return place


def listed(path: Path, said: Console) -> tuple[Config, list[plan.Study], list[plan.PlannedFit]]:
    """The config in that file, its studies and the fits that count, once it is listed and reads back as it is."""
    config = configs.load(path)
    path.write_bytes(configs.dump(config))
    assert configs.load(path) == config
    studies = list(plan.studies(config))
    highs = [{key: high for key, (_, high) in study.ranges.items()} for study in studies]
    fits = [fit for study, chosen in zip(studies, highs, strict=True) for fit in study.fits(chosen)]
    assert runner.dry_run(path, said) == 0
    assert f"{len(fits) + sum(len(study.tried) for study in studies):,} fits, at most" in said.file.getvalue()  # type: ignore
    return config, studies, fits


@pytest.mark.parametrize("seed", range(1000, 1015))
def test_what_checks_is_listed(tables, tmp_path, seed):
    path = tmp_path / "experiment.toml"
    path.write_text(Draw(seed, tables).text(), encoding="utf-8")
    listed(path, Console(file=io.StringIO(), width=200))


@pytest.mark.parametrize("seed", range(FIRST, FIRST + (CASES or 1)))
def test_what_checks_runs(tables, tmp_path, monkeypatch, seed):
    if not 0 <= seed - FIRST < DRAWN:
        monkeypatch.setattr(session.Session, "draw", lambda self: (self.place / folder.PAGE).write_text("drawn"))
    path = tmp_path / "experiment.toml"
    path.write_text(Draw(seed, tables).text(), encoding="utf-8")
    console = Console(file=io.StringIO(), width=200)
    config, studies, fits = listed(path, console)
    try:
        code = runner.run(path, tmp_path / "run", False, console)
    except jals.DataError:  # which no check without the data could foresee
        return
    found = folder.read(tmp_path / "run")
    assert found.run.status == "finished"
    made = [fit for fit in found.fits if fit.trial is None]
    assert len(made) == len(fits)
    assert len(found.fits) - len(made) <= sum(len(study.tried) for study in studies)
    assert code == (0 if all(fit.certificate is not None and fit.certificate.passed for fit in made) else 1)
    for fit in found.fits:
        ranges = plan.study_of_fit(config, fit).ranges
        for number, (low, high) in zip(fit.tuned.values(), ranges.values(), strict=True):
            assert type(number) is type(low)
            assert low * (1 - 1e-9) <= number <= high * (1 + 1e-9)


@pytest.mark.parametrize("seeds", [range(start, start + 30) for start in range(0, max(CASES, 30), 30)])
def test_what_is_changed_is_a_config_or_told_by_its_line(tables, tmp_path, seeds):
    path = tmp_path / "experiment.toml"
    refused = 0
    for seed in seeds:
        path.write_bytes(changed(Draw(seed, tables).text(), seed))
        try:
            config = configs.load(path)
        except jals.ConfigError as error:
            message = str(error)
            assert message.isprintable() or all(line.isprintable() for line in message.split("\n"))
            assert re.search(r"\n  line \d+, \S+: ", message) or re.search(r"line \d+[:),. ]", message), message
            refused += 1
            continue
        path.write_bytes(configs.dump(config))
        assert configs.load(path) == config
        for study in plan.studies(config):
            study.fits({key: low for key, (low, _) in study.ranges.items()})
    assert refused
