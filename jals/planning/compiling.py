"""Compiles a program for devices that are not there, in a process of its own, and brings back what the compiler tells.

A process of its own because how many devices a CPU stands for is settled when jax starts, because libtpu writes to
stderr what cannot be helped, and because a compiler that fails may take its process along.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..errors import ArgumentError, JalsError
from . import chips
from .hlo import Module
from .work import Work, work

AXIS = "devices"


class Job(NamedTuple):
    """What is planned: a fit's sweep over a table that nobody has to have.

    Attributes:
        users, items, entries: of the table.
        rank: of the factors.
        precision: "float32", "float64" or "bfloat16", in which the factors are kept and exchanged.
        weighted: whether entries have weights.
        platform: that the program is for: it says how much is worked on at a time.
        value: how values lie in the layouts: "uint8" or "uint16", codes (see `slots.Slots`), or "float", as factors do.
        way, exchanges: how rows reach the devices that need them, as of `Problem.build`.
        shards: of a side; 0: as many as devices and exchanges need.
        skew: of users and items, see `tables`.
    """

    users: int
    items: int
    entries: int
    rank: int
    precision: str = "float32"
    weighted: bool = False
    platform: str = "cpu"
    value: str = "float"
    way: str = "auto"
    exchanges: int = 1
    shards: int = 0
    skew: tuple[float, float] = (0.75, 0.75)


# (a function, its arguments by name), for a job and a mesh with one axis, `AXIS`: arguments are trees of
# `ShapeDtypeStruct` with shardings on the mesh. Of a mesh without devices (`AbstractMesh`) only the arguments are used.
Program = Callable[[Job, Any], tuple[Callable, dict[str, Any]]]


class Compiled(NamedTuple):
    """What the compiler tells of a program on one of its devices.

    Attributes:
        arrays: bytes by argument, as the compiler lays them out.
        memory: bytes of "arguments", "outputs" (without those that take an argument's place), "temporaries", "code".
        work: what a run does; None where it needs more memory than a device has.
        needed: bytes in all, or where it does not fit what the compiler says that it needs.
        seconds: that compiling took.
    """

    arrays: dict[str, int]
    memory: dict[str, int]
    work: Work | None
    needed: int
    seconds: float


def by_array(program: Program, job: Job, devices: int) -> dict[str, int]:
    """Bytes of each argument on one of so many devices, without the padding of layouts. Nothing is compiled."""
    mesh = jax.sharding.AbstractMesh((devices,), (AXIS,))
    return _summed((name, _bytes(leaf)) for name, leaf in _leaves(program(job, mesh)[1]))


def compiled(program: Program, job: Job, topology: chips.Topology) -> Compiled:
    """A program compiled ahead of time for a topology. For GPUs the same number of CPU devices stand in: what is sent
    between devices is settled before a platform's own compiler begins, the rest is that of a CPU's.

    Args:
        program: a function of a module, which the other process imports.

    Raises:
        ArgumentError: where it cannot be compiled for that topology; what the compiler says is in the message.
        ImportError: without libtpu, for a TPU.
    """
    if topology.chip.platform == "tpu" and not _libtpu():
        raise ImportError('planning for TPUs needs their compiler, libtpu: pip install "jals[plan]"')
    asked = [f"{program.__module__}:{program.__name__}", job, str(topology)]
    command = [sys.executable, "-m", "jals.planning.compiling"]
    text = json.dumps(asked)
    done = subprocess.run(command, input=text, env=_environment(job, topology), capture_output=True, text=True)
    if done.returncode or not done.stdout:
        said = done.stderr.strip().rpartition("\n")[2] or f"the compiler ended with {done.returncode}"
        raise ArgumentError(f"the sweep cannot be compiled for {topology}: {said}")
    answer = json.loads(done.stdout.rpartition("\n")[2] or done.stdout)
    if "refused" in answer:
        raise ArgumentError(answer["refused"])
    found = Compiled(**answer)
    return found._replace(work=Work(*found.work)) if found.work else found


def pinned_libtpu() -> str:
    """What is wrong with the version of libtpu that is installed, or "": jax pins the one that it was built with, and
    others compile other programs, or fail."""
    try:
        have = importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return ""
    pins = [each for each in importlib.metadata.requires("jax") or () if each.startswith("libtpu==")]
    want = pins[0].removeprefix("libtpu==").partition(";")[0].strip().removesuffix(".*") if pins else have
    return "" if f"{have}.".startswith(f"{want}.") else f"compiled by libtpu {have}, but jax pins {want}"


def _libtpu() -> bool:
    return bool(os.environ.get("TPU_LIBRARY_PATH")) or importlib.util.find_spec("libtpu") is not None


def _environment(job: Job, topology: chips.Topology) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    given |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "JAX_PLATFORMS": "cpu"}
    given |= {"JAX_ENABLE_COMPILATION_CACHE": "0", "JAX_ENABLE_X64": str(int(job.precision == "float64"))}
    if topology.chip.platform == "tpu":
        return given | {"TPU_SKIP_MDS_QUERY": "1"}
    given["NPROC"] = str(2 * topology.devices)  # more threads than devices, or batched LAPACK calls wait for ever
    return given | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={topology.devices}"}


# ---- in the process that compiles ----


def main() -> None:
    """Reads [program, job, topology] from stdin, and writes what `compiled` returns, or {"refused": why}."""
    program, job, name = json.load(sys.stdin)
    module, _, function = program.partition(":")
    try:
        answer = _compile(getattr(importlib.import_module(module), function), Job(*job), chips.topology(name))._asdict()
    except JalsError as refused:
        answer = {"refused": str(refused)}
    print(json.dumps(answer), flush=True)


def _compile(program: Program, job: Job, topology: chips.Topology) -> Compiled:
    mesh = jax.sharding.Mesh(np.array(_devices(topology)), (AXIS,))
    begun = time.monotonic()
    function, arguments = program(job, mesh)
    leaves = _leaves(arguments)
    try:
        found = jax.jit(function, keep_unused=True).trace(*arguments.values()).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r"\((\d+\.?\d*)([KMGT])\) exceeds", str(error).replace("iB", ""))
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        size = int(float(needed[1]) * 1024 ** " KMGT".index(needed[2])) if needed else 0
        arrays = _summed((name, _bytes(leaf)) for name, leaf in leaves)
        return Compiled(arrays, {}, None, size, time.monotonic() - begun)
    text, told = found.as_text(), found.memory_analysis()
    seconds = time.monotonic() - begun
    assert text is not None
    memory = {
        "arguments": told.argument_size_in_bytes,
        "outputs": told.output_size_in_bytes - told.alias_size_in_bytes,
        "temporaries": told.temp_size_in_bytes,
        "code": told.generated_code_size_in_bytes,
    }
    module = Module(text)
    parameters = module.computations[module.entry].parameters()
    arrays = [(name, each.arrays[0].bytes) for (name, _), each in zip(leaves, parameters, strict=True)]
    return Compiled(_summed(arrays), memory, work(text), sum(memory.values()), seconds)


def _devices(topology: chips.Topology) -> list:
    if topology.chip.platform != "tpu":
        return jax.devices("cpu")[: topology.devices]
    from jax.experimental import topologies

    options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.chip.name == "v4" else {}
    if topology.devices == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    return topologies.get_topology_desc(str(topology), "tpu", **options).devices


def _leaves(arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    """(name, leaf) of all arguments in their order; leaves that differ in a place in a tuple have one name."""
    found = []
    for name, tree in arguments.items():
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
            inner = jax.tree_util.keystr(path, simple=True, separator=".")
            found.append((re.sub(r"\.\d+(?=\.|$)", "", f"{name}.{inner}".removesuffix(".")), leaf))
    return found


def _bytes(leaf: Any) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return int(np.prod(shape, dtype=object)) * leaf.dtype.itemsize


def _summed(arrays: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for name, size in arrays:
        total[name] = total.get(name, 0) + size
    return total


if __name__ == "__main__":
    main()
