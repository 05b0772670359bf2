"""`jals run` by several processes: a parent that starts and watches them, and speaks when one is lost.

On one host the parent starts all of them; on a cluster, where its launcher starts `jals run` once a process, each is
the parent of one. jax ends a process that has lost another from C++, which no Python sees, so that the parent has to
say which was lost. Orders go down by signals. A process whose parent is gone ends too.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from ...data.sources import as_path
from ...errors import JalsError
from .. import config as configs
from ..config.schema import Config
from ..show.console import Console, printable, robust_stream
from . import runner
from .cluster import in_cluster
from .lost import BY_ITSELF, LOST, Child, verdict

ROLE = "JALS_PROCESS"  # what a process is to do for its parent: "RANK COUNT ADDRESS", or "cluster"
_BEAT = 0.05  # seconds between two looks at the processes
_LOST_TOUCH = re.compile("gloo|nccl|connection|socket|unavailable|deadline|barrier", re.IGNORECASE)
_FAREWELL = 3600  # seconds that the others wait for the first, which draws; a lost one is noticed meanwhile
_SETTLE = 1.0  # seconds in which others follow one that ended: who was first is seen in what they say


def run(
    path: Path,
    out: Path | None,
    overwrite: bool,
    console: Any,
    changes: Sequence[str] = (),
    extend: bool = False,
    processes: int | None = None,
) -> int:
    """`runner.run` by as many processes as the config, `processes` or the cluster's environment says.

    Returns: its exit code; 3 when a process was lost, and all have ended.
    """
    if role := os.environ.get(ROLE):
        _work(role, lambda console: runner.run(path, out, overwrite, console, changes, extend), path, changes)
    more = [] if processes is None else [f"processes.count={processes}"]
    config = configs.load(as_path(path), [*changes, *more])
    count, cluster = config.processes.count, in_cluster(os.environ)
    if count == 1 and not (cluster and config.fit.devices is not None):
        return runner.run(path, out, overwrite, console, changes, extend)
    place = runner.folder_of(as_path(path), config, out)
    told = [str(path), "--out", str(place)]
    told += [part for change in [*changes, *more] for part in ("--set", change)]
    told += ["--extend"] * extend
    again = " ".join(["jals", "run", *map(shlex.quote, told)])
    command = [sys.executable, "-m", "jals", "run", *told, *["--overwrite"] * overwrite]
    environments = [{ROLE: "cluster"}] if count == 1 else _on_this_host(config)
    return _watched(command, environments, config, again)


# ---- the parent ----


def _on_this_host(config: Config) -> list[dict[str, str]]:
    """The environments of as many processes; of a CPU each gets its share of the devices asked for."""
    count, devices = config.processes.count, config.fit.devices
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    own: dict[str, str] = {}
    flag = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "")
    if isinstance(devices, int) and flag not in flags:
        each = devices // count
        own["XLA_FLAGS"] = f"{flags} {flag}={each}"
        # Batched LAPACK calls of as many devices as XLA's pool has threads wait for each other for ever.
        own["NPROC"] = os.environ.get("NPROC") or str(max(os.cpu_count() or 1, 4 * each))
    return [{ROLE: f"{rank} {count} {address}"} | own for rank in range(count)]


def _watched(command: list[str], environments: list[dict[str, str]], config: Config, again: str) -> int:
    """Starts the processes, and waits until all have ended: the worst of their exit codes, or `LOST`."""
    children = [Child(command, given, shown=not rank) for rank, given in enumerate(environments)]
    try:
        with _forwarding(children) as stops:
            while not _all_ended(children):
                time.sleep(_BEAT)
    finally:
        for child in children:
            child.kill()
    codes = [child.code for child in children]
    if stops and not all(code in BY_ITSELF for code in codes):  # asked twice, or before all were ready to listen
        return 128 + stops[0]
    if wrong := [child for child in children if child.ended == 2]:
        if wrong[0] is not children[0]:  # which has said so itself
            print(wrong[0].own_words(), file=sys.stderr)
        return 2
    said = verdict(children, config.processes)
    if said is None:
        return max(codes)
    print(f"jals: {said} All have ended; what was kept is whole. Go on with: {again}", file=sys.stderr)
    return LOST


def _all_ended(children: list[Child]) -> bool:
    """Whether they have, or one has ended in a way that leaves the others waiting."""
    codes = [child.poll() for child in children]
    if all(code is not None for code in codes):
        return True
    if any(code == 2 or (code is not None and code not in BY_ITSELF) for code in codes):
        end = time.monotonic() + _SETTLE
        while time.monotonic() < end and any(child.poll() is None for child in children):
            time.sleep(_BEAT)
        return True
    return False


@contextlib.contextmanager
def _forwarding(children: list[Child]) -> Any:
    """Within, a signal to end goes to all of them, which end together; a second one kills them. Yields those heard."""
    heard: list[int] = []

    def forward(signum: int, _: Any) -> None:
        heard.append(signum)
        for child in children:
            child.send(signal.SIGKILL if len(heard) > 1 else signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) != signal.SIG_IGN:
                before[getattr(signal, name)] = signal.signal(getattr(signal, name), forward)
    try:
        yield heard
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


# ---- a process ----


def _work(role: str, work: Any, path: Path, changes: Sequence[str]) -> Any:
    """Does the work of a process, and ends it."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _keep_stdout()
    settings = configs.load(as_path(path), changes).processes
    given: dict[str, Any] = {
        "initialization_timeout": settings.start,
        "heartbeat_timeout_seconds": settings.heartbeat,
        "shutdown_timeout_seconds": _FAREWELL,
    }
    if role != "cluster":
        rank, count, address = role.split()
        given |= {"process_id": int(rank), "num_processes": int(count), "coordinator_address": address}
        given["coordinator_bind_address"] = address  # nobody else is to reach it
    elif "JAX_PROCESS_ID" in os.environ:
        names = {"process_id": "JAX_PROCESS_ID", "num_processes": "JAX_NUM_PROCESSES"}
        given |= {name: int(os.environ[variable]) for name, variable in names.items()}
    code = LOST
    try:
        jax.distributed.initialize(**given)
        print(f"jals rank {jax.process_index()} of {jax.process_count()}", file=sys.stderr, flush=True)
        code = work(Console(quiet=jax.process_index() > 0))
        jax.distributed.shutdown()
    except JalsError as error:
        print(f"jals: {printable(error, lines=True)}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as stopped:
        code = 128 + getattr(stopped, "signum", signal.SIGINT)
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        if _LOST_TOUCH.search(str(error)):  # jax learns within the heartbeat of whom, says it and ends this process
            time.sleep(settings.heartbeat + 5)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an end by the interpreter would wait for processes that may be gone


def _end_with_parent() -> None:
    while os.read(0, 4096):  # the end of a pipe that only the parent holds
        pass
    os._exit(LOST)


def _keep_stdout() -> None:
    """What libraries print from C++ goes where errors go."""
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="replace", buffering=1)
    os.dup2(2, 1)
    sys.stdout = robust_stream(kept)
