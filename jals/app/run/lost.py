"""The processes of a run as their parent sees them: what each says, how it ended, and which of them was lost first."""

import collections
import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any

LOST = 3  # exit code of a run that lost a process
BY_ITSELF = (0, 1, 2, 129, 130, 143)  # of a process that ended as it should, see `app.cli`

# Of jax's runtime and of gloo: lines that say nothing to who runs jals, and are kept for the verdict only.
_NOISE = re.compile(r"[IWEF]\d{4} \d\d:|\*\*\* Check failure|    @ |\[Gloo\]|jals rank \d|\s*$")
_UNHEARD = re.compile(r"[Tt]ask:?\s*(\d+)\b[^\n]*heartbeat timeout|stopped sending heartbeats\):\s*(\d+)")
_AT_START = "RegisterTask"
_LEADER = ("Failed to send RPC to coordination service", "CoordinationService/Heartbeat", "Socket closed")


class Child:
    """A process of the run. What it writes to stderr is kept, and shown if it is the first."""

    def __init__(self, command: list[str], environment: dict[str, str], shown: bool):
        self._shown, self._said = shown, collections.deque(maxlen=2000)
        self._noise = False
        self.ended: int | None = None  # its exit code, where it had ended before it was killed
        quiet = None if shown else subprocess.DEVNULL
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": quiet, "stderr": subprocess.PIPE}
        # Ctrl-C in a terminal reaches a whole group: it is for the parent to pass on.
        self.process = subprocess.Popen(command, env=os.environ | environment, start_new_session=True, **pipes)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for raw in self.process.stderr:
            line = raw.decode(errors="replace")
            self._said.append(line)
            # What follows a line of the runtime's log belongs to it, until something else begins.
            self._noise = bool(_NOISE.match(line)) or (self._noise and not line.startswith("jals: "))
            if self._shown and not self._noise:
                sys.stderr.write(line)
                sys.stderr.flush()

    def poll(self) -> int | None:
        return self.process.poll()

    @property
    def code(self) -> int:
        code = self.process.returncode
        return LOST if code is None else code

    def send(self, signum: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signum)

    def kill(self) -> None:
        """Ends it, also where it was paused; its exit code is that of before, where it had ended."""
        self.ended = self.process.poll()
        self.send(signal.SIGKILL)
        self.process.wait()
        self._reader.join(5)

    @property
    def said(self) -> str:
        return "".join(self._said)

    def own_words(self) -> str:
        """Its last message, from "jals: " on."""
        lines = self.said.splitlines()
        starts = [at for at, line in enumerate(lines) if line.startswith("jals: ")]
        return "\n".join(lines[starts[-1] :]) if starts else ""

    @property
    def rank(self) -> tuple[int, int] | None:
        """(its rank, of how many), once it has met the others."""
        found = re.search(r"^jals rank (\d+) of (\d+)$", self.said, re.MULTILINE)
        return None if found is None else (int(found[1]), int(found[2]))


def verdict(children: list[Child], settings: Any) -> str | None:
    """Which process was lost, in a sentence, of children that all have ended; None where each ended by itself.

    Args:
        settings: of the processes, from the config.
    """
    ended = [child.ended for child in children]
    lost = [child for child, code in zip(children, ended, strict=True) if code is not None and code < 0]
    for child in lost:
        assert child.ended is not None
        if child.ended != -signal.SIGABRT:
            how = signal.Signals(-child.ended).name
            return f"{_named(child, children)} was killed by {how}."
    for child in lost:  # what jax said when it gave up
        if _AT_START in child.said:
            many = f"all {len(children)} processes" if len(children) > 1 else "all processes"
            why = "one was not started, or cannot reach rank 0."
            return f"not {many} met within {settings.start} seconds (processes.start): {why}"
    silent = f"gave no sign of life for {settings.heartbeat} seconds (processes.heartbeat): it was paused, or is gone."
    for child in lost:
        if found := _UNHEARD.search(child.said):
            return f"rank {found[1] or found[2]}{_of(children)} {silent}"
    for child in lost:
        if any(sign in child.said for sign in _LEADER):
            return f"rank 0{_of(children)} has ended, or {silent}"
    for child in children:
        if child.ended is not None and child.ended not in BY_ITSELF:
            last = [line for line in child.said.splitlines() if line.strip() and not _NOISE.match(line)][-1:]
            return f"{_named(child, children)} ended with an error: {' '.join(last)[:500]}"
    return None


def _named(child: Child, children: list[Child]) -> str:
    rank = child.rank[0] if child.rank else children.index(child)
    known = child.rank is not None or len(children) > 1
    return f"{f'rank {rank}{_of(children)}' if known else 'this'} (process {child.process.pid})"


def _of(children: list[Child]) -> str:
    many = max([len(children), *(child.rank[1] for child in children if child.rank)])
    return f" of {many}" if many > 1 else ""
