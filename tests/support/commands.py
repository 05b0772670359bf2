"""Experiments on a small table, and the command in this process."""

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from jals.app import cli

CONFIG = """\
[data]
path = "{data}"

[split]
kind = "random"
test_fraction = 0.2

[objective]
preset = "als_wr"
reg = 0.1
bias = true
center = true

[[solver]]
kind = "als"
rank = 2

[fit]
sweeps = 3
"""

SECOND_SOLVER = """
[[solver]]
kind = "gradient"
rank = 2
hyper = { learning_rate = 0.1 }
"""


def jals_command(*arguments):
    return CliRunner().invoke(cli.build(), [str(argument) for argument in arguments])


def write_experiment(folder: Path, *changes: tuple[str, str]) -> Path:
    """A small table with outside ids that are no row numbers, and a config for it with text replaced."""
    pairs = np.random.default_rng(0).permutation(12 * 8)[:70]
    user, item = np.divmod(pairs, 8)
    np.savez(folder / "table.npz", user=100 + 10 * user, item=7000 + item, rating=1.0 + pairs % 5)
    text = CONFIG.format(data=folder / "table.npz")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "experiment.toml").write_text(text)
    return folder / "experiment.toml"
