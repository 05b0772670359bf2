"""The gallery: every script runs, small, draws its picture, and says what its page says."""

import re

import numpy as np
import pytest

from tests.support import ROOT, needs, script

needs("cli")

DOCS = ROOT / "docs"
SCRIPTS = sorted((DOCS / "gallery").glob("*.py"))


@pytest.fixture
def drawn(tmp_path):
    """Runs a script, small, and returns what it returns; there must be a picture then that shows something."""

    def run(name: str):
        picture = tmp_path / f"{name}.png"
        told = script("docs", "gallery", f"{name}.py").main(small=True, picture=str(picture))
        from matplotlib.image import imread

        shown = imread(picture)
        assert min(shown.shape[:2]) > 300 and shown[..., :3].std() > 0.01
        return told

    return run


def test_lambda_by_degree_is_learned(drawn):
    told = drawn("tune_by_degree")
    for side in ("user", "item"):
        one, by_degree = (np.asarray(getattr(result["objective"], f"reg_{side}")) for result in told.values())
        assert one.ndim == 0 and np.ptp(by_degree) > 0.1 * by_degree.mean()
    for result in told.values():
        assert min(result["held_out"]) < 0.99 * result["held_out"][0]


def test_warm_starts_save_passes_and_end_where_cold_ones_do(drawn):
    told = drawn("regularisation_path")
    warm, cold = told["passes"]["warm"], told["passes"]["cold"]
    assert np.isfinite(warm).all() and warm[1:].sum() < cold[1:].sum()
    assert (np.diff(told["train"]) < 0).all()  # the weaker lambda, the closer the fit
    np.testing.assert_allclose(told["seeds"], np.broadcast_to(told["held_out"][:, None], told["seeds"].shape), rtol=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_caches")
def test_ways_to_a_hypergradient_agree(drawn):
    told = drawn("cost_of_a_hypergradient")
    forward = told["forward"][4:]
    for name in ("differences", "reverse", "reverse, all kept"):
        np.testing.assert_allclose(told[name][4:], forward, rtol=1e-4)
    # Of another point: that which 16 sweeps have all but reached.
    np.testing.assert_allclose(told["adjoint"][4:], forward, rtol=0.02)
    assert (told["adjoint"][4:] != forward).all()
    passes = {name: rows[1, 0] for name, rows in told.items()}
    assert (passes["differences"], passes["forward"], passes["reverse"]) == (4 * 32, 3 * 32, 4 * 32)


def test_the_page_shows_every_script_and_its_picture():
    page = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert SCRIPTS
    for path in SCRIPTS:
        picture = f"figures/gallery-{path.stem.replace('_', '-')}.png"
        assert f'--8<-- "docs/gallery/{path.name}"' in page
        assert re.search(rf"!\[[^\]]+\]\({re.escape(picture)}\)", page)
        assert (DOCS / picture).stat().st_size < 100_000
