"""Configs: one TOML file an experiment, read and checked, every problem at once."""

from .measures import ranked
from .reading import (
    WITHOUT_EFFECT,
    applies_to,
    at,
    config_of_run,
    count_studies,
    decisive,
    dump,
    load,
    on_one_device,
    points,
    tables,
)
