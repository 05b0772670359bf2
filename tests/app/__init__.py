"""Tests of the command. Without its extra they skip, all but those of `jals doctor` (tests/test_doctor.py)."""

from tests.support import needs

needs("cli")
