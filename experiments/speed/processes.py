"""The processes of bench_gpu.py: started where they are asked, and ended where they fail or hang."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from . import measure
from .measure import Unavailable
from .table import held_out_parts

EXPERIMENTS = Path(__file__).parents[1]


class Server(measure.Worker):
    """A process of speed/card.py or speed/peer.py; `log` is where it writes what is no answer."""

    def __init__(self, command: list[str], env: dict[str, str], log: Any, longest: float):
        self.longest = longest
        self.start([sys.executable, "-m", *command], env, log)


class Run:
    """A run: its arguments, table, processes, what has been found, and the time that is left."""

    def __init__(self, arguments: argparse.Namespace, found: dict[str, Any], folder: Path, log: Any):
        self.arguments, self.found, self.folder, self.log = arguments, found, folder, log
        self.started = time.perf_counter()
        self.longest = 60.0  # of the row that is made
        self.workers: dict[str, Server] = {}
        self.parts: dict[str, str] = {}

    @property
    def left(self) -> float:
        return self.arguments.seconds - (time.perf_counter() - self.started)

    def environment(self, **more: str) -> dict[str, str]:
        """Without a cache of compiled programs; memory is taken as it is needed, since others hold some."""
        own = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
        places = [str(EXPERIMENTS), *filter(None, [own.get("PYTHONPATH")])]
        return own | {"PYTHONPATH": os.pathsep.join(places), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | more

    def ask(self, do: str, at: str = "card", **request: Any) -> dict:
        """An answer of the process that stays, "card", "float64" or "peer"; one that fails is ended, as an error on a
        GPU may leave it unable to do anything."""
        try:
            if at not in self.workers:
                peer = str(self.arguments.peer)
                command = ["speed.peer", peer, "serve"] if at == "peer" else ["speed.card", "serve"]
                env = self.environment(**({"JAX_ENABLE_X64": "1"} if at == "float64" else {}))
                self.workers[at] = Server([*command, str(self.folder)], env, self.log, self.longest)
                self.found["versions"] |= self.workers[at].versions
            self.workers[at].longest = self.longest
            return self.workers[at].ask(do, **request)
        except Unavailable:
            self.end(at)
            raise

    def once(self, *command: str, **more: str) -> dict:
        """The answer of a process that ends with it, and its seconds from start to end."""
        started = time.perf_counter()
        told = measure.once([sys.executable, "-m", *command], self.environment(**more), self.longest, self.log)
        return told | {"wall": time.perf_counter() - started}

    def end(self, *names: str) -> None:
        for name in names or tuple(self.workers):
            if name in self.workers:
                self.workers.pop(name).end()

    def job(self, rank: int, sweeps: int, **more: Any) -> str:
        """The request of a whole job."""
        self.parts = self.parts or held_out_parts(self.folder)
        return json.dumps(self.parts | {"rank": rank, "sweeps": sweeps} | more)
