"""Configs: one TOML file an experiment, read and checked, every problem at once."""

from .reading import applies_to, at, config_of_run, count_studies, dump, load, points, tables
