"""Studies run, small: what they write follows from what they measured. (What the page says of the large ones:
test_studies.py.)"""

import json

import numpy as np
import pytest

import jals
from tests.support import needs, script

needs("cli")
pytestmark = pytest.mark.slow


def test_convergence(tmp_path):
    study = script("experiments", "convergence.py")
    study.main("--small", str(tmp_path))
    assert (tmp_path / "convergence.png").stat().st_size > 10_000
    fits = json.loads((tmp_path / "convergence.json").read_text(encoding="utf-8"))["fits"]
    assert [fit["solver"] for fit in fits] == ["ALS", "AndersonALS", "NewtonCG"]
    passes = {fit["solver"]: fit["reached"]["1e-06"] for fit in fits}
    assert passes["AndersonALS"] < passes["ALS"] / 2 and passes["NewtonCG"] < passes["ALS"]
    ends = [fit["loss"][-1] for fit in fits]
    np.testing.assert_allclose(ends, min(ends), rtol=1e-6)


def test_leave_one_out(tmp_path):
    study = script("experiments", "leave_one_out.py")
    study.main("--small", str(tmp_path))
    assert (tmp_path / "leave_one_out.png").stat().st_size > 10_000
    (found,) = json.loads((tmp_path / "leave_one_out.json").read_text(encoding="utf-8"))["ranks"]
    table, _ = jals.datasets.synthetic(80, 60, 3, 0.3, noise=0.5, bias=True)
    train, test = next(iter(jals.split.kfold(table.ratings, 5, 0)))
    fold = found["folds"][0]
    for name in study.CRITERIA:
        assert fold["chosen"][name] == found["grid"][np.argmin(fold["curves"][name])]
    objective = jals.als_wr(fold["chosen"]["both"], bias=True, center=True)
    result = jals.fit(jals.ALS(4), jals.Problem.build(train), objective, sweeps=4)
    predicted = jals.predict(result.factors, test.user, test.item)
    assert fold["test"]["both"] == pytest.approx(float(jals.metrics.rmse(predicted, test.value)), rel=1e-4)
    errors = [each["test"]["user"] - each["test"]["validation"] for each in found["folds"]]
    expected = [np.mean(errors), np.std(errors, ddof=1) / 5**0.5, 5]
    assert found["less_validation"]["user"] == pytest.approx(expected, abs=1e-9)


def test_side_features(tmp_path):
    study = script("experiments", "side_features.py")
    study.main("--small", str(tmp_path))
    assert (tmp_path / "side_features.png").stat().st_size > 10_000
    found = json.loads((tmp_path / "side_features.json").read_text(encoding="utf-8"))
    for draw in found["draws"]:
        assert sum(draw["entries"][label] for label in study.BINS if label != "all") == draw["entries"]["all"]
        for better in ("zero", "shared"):  # features tell the items apart, by construction
            assert draw["validation"]["features"] < draw["validation"][better]
            assert draw["squares"]["features"]["0"] < draw["squares"][better]["0"]
    rmse = {name: [draw["squares"][name]["0"] ** 0.5 for draw in found["draws"]] for name in ("features", "zero")}
    less = np.subtract(rmse["features"], rmse["zero"])
    assert found["less_zero"]["features"]["0"] == pytest.approx([less.mean(), abs(less[0] - less[1]) / 2, 2])
