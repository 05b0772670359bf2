"""What `jals partition` does: a partitioned table, with progress on stderr, and what it is like."""

import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ...partitioned.manifest import SIDES, Manifest
from ...partitioned.writer import partition


def write(source: Path, out: Path, console: Console, **options: Any) -> int:
    """Partitions a file or a folder. Returns the exit code, 0.

    Args:
        options: those of `jals.partition`; a column that is a number is a position.

    Raises:
        JalsError: for what cannot be partitioned.
    """
    for role in ("user", "item", "value", "weight"):
        if (options[role] or "").isdigit():
            options[role] = int(options[role])
    begun = time.monotonic()
    with _Steps() as steps:
        manifest = partition(source, out, progress=steps, **options)
    for line in described(manifest):
        console.print(line, soft_wrap=True)
    console.print(f"wrote {manifest.folder} in {time.monotonic() - begun:.1f} s", soft_wrap=True)
    return 0


def described(manifest: Manifest) -> list[str]:
    """What a table is like, line by line."""
    weighted = "weighted, " if manifest.weighted else ""
    lines = [f"{manifest.entries:,} entries, {weighted}{manifest.value}, in {manifest.shards} shards of each side"]
    for name in SIDES:
        side = getattr(manifest, name)
        share = max(side.entries) * manifest.shards / manifest.entries - 1
        degrees = f"{side.degrees['median']:,.0f} entries in the median, {side.degrees['max']:,} at most"
        lines.append(f"{side.rows:,} {name}s: {degrees}; the largest shard has {share:.1%} above the mean")
    return lines


class _Steps:
    """The steps, as a bar in a terminal and as lines in a log file."""

    def __init__(self) -> None:
        console = Console(file=sys.stderr)
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=console)
        self._terminal, self._step, self._task = console.is_terminal, "", None

    def __enter__(self) -> "_Steps":
        if self._terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._terminal:
            self._bar.stop()

    def __call__(self, step: str, done: int, total: int) -> None:
        if not self._terminal:
            if step != self._step:
                print(step, file=sys.stderr, flush=True)
        elif step != self._step or self._task is None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(step, total=total, completed=done)
        else:
            self._bar.update(self._task, completed=done)
        self._step = step
