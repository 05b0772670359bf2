"""Configs: one TOML file an experiment, read and checked, every problem at once."""

from .reading import at, dump, load, of_record, points, studies_of, tables, touches
