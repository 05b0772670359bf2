"""What a compiled program does on one device: a walk over it that counts a loop's body as often as it runs.

`cost_analysis` of a compiled program counts a loop once, and no collective at all.

Bytes that a device sends over the interconnect, of a collective among g devices whose operand has b bytes on each:

    all-gather           (g - 1) b         its own part to every other device
    reduce-scatter       (g - 1) / g b     to every other device the part that it adds up
    all-reduce           2 (g - 1) / g b   a reduce-scatter, and an all-gather of the sums
    all-to-all           (g - 1) / g b     to every other device its part
    collective-permute   b                 to one other device

These are the fewest that an algorithm can send which uses all devices alike, such as a ring: what one passes on for
others is counted where it is sent first. An asynchronous collective counts once, where it starts.

Bytes in main memory (HBM): what every instruction reads and writes there; of a fusion, what goes in and what comes out.
Of a gather and a slice the rows touched are read, not the whole operand; an update in place writes the update. What the
compiler has put into memory within the chip costs nothing here, whatever put it there does.

Operations: two for each product that a matrix product adds up, by the precision that it is made in.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .hlo import Array, Computation, Instruction, Module

COLLECTIVES: dict[str, Callable[[int, int], float]] = {
    "all-gather": lambda g, b: (g - 1) * b,
    "reduce-scatter": lambda g, b: (g - 1) / g * b,
    "all-reduce": lambda g, b: 2 * (g - 1) / g * b,
    "all-to-all": lambda g, b: (g - 1) / g * b,
    "ragged-all-to-all": lambda g, b: (g - 1) / g * b,
    "collective-broadcast": lambda g, b: (g - 1) / g * b,
    "collective-permute": lambda g, b: b,
}
# Instructions that move nothing, or whose work stands where an asynchronous one starts.
_NOTHING = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "add-dependency"),
}
# Custom calls that are marks for the compiler, and run nothing.
_MARKS = {
    *("AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding"),
    *("AsyncCollectiveStart", "AsyncCollectiveDone"),
}


class Work(NamedTuple):
    """What one device does in one run of a program.

    Attributes:
        sent: bytes over the interconnect, by kind of collective.
        collectives: how many, by kind.
        memory: bytes read and written in its main memory.
        operations: of matrix products, by precision: "bf16", "f32 highest".
        unestimated: how many calls of kernels that the compiler does not look into, by name: their operations are not
            counted.
        loops: of loops with an unknown number of rounds, each counted once, the names.
        begun_early: of the collectives, how many are begun before they are waited for, so that other work may go on
            beside them, by kind.
    """

    sent: dict[str, float]
    collectives: dict[str, int]
    memory: float
    operations: dict[str, float]
    unestimated: dict[str, int]
    loops: list[str]
    begun_early: dict[str, int] = {}  # noqa: RUF012 - never altered


def work(text: str) -> Work:
    """Of a program's HLO text, as `compiled.as_text()` gives it."""
    walk = _Walk(Module(text))
    total = walk.computation(walk.module.entry)

    def of(what: str, number: Callable = float) -> dict[str, Any]:
        return {key[1]: number(count) for key, count in sorted(total.items()) if key[0] == what and count}

    loops = list(of("loop"))
    sent, begun = of("sent"), of("begun early", round)
    return Work(sent, of("collective", round), total["memory", ""], of("operations"), of("call", round), loops, begun)


Totals = defaultdict[tuple[str, str], float]  # by what is counted, and its kind


class _Walk:
    def __init__(self, module: Module):
        self.module, self._known = module, {}

    def computation(self, name: str) -> Totals:
        """Of one run of a computation that works in main memory: the entry, a loop's body, a branch."""
        if name not in self._known:
            total, seen = Totals(float), set()
            here = self.module.computations[name]
            for instruction in here:
                _add(total, self._instruction(here, instruction, seen))
            self._known[name] = total
        return self._known[name]

    def _instruction(self, here: Computation, it: Instruction, seen: set) -> Totals:
        total = Totals(float)
        opcode = it.opcode.removesuffix("-start")
        if it.opcode in _NOTHING or it.opcode.endswith(("-done", "async-update")) or it.target in _MARKS:
            return total
        if it.opcode == "while":
            times = self.module.trips(here, it)
            if times is None:
                total["loop", it.name] += 1
            for name in it.called("body", "condition"):
                _add(total, self.computation(name), 1 if times is None else times)
        elif it.opcode == "conditional":
            for name in it.called("branch_computations", "true_computation", "false_computation"):
                for key, count in self.computation(name).items():
                    total[key] = max(total[key], count)  # of each the branch with the most
        elif opcode in ("call", "async"):
            for name in it.called("to_apply", "calls", "called_computation"):
                inside = self.computation(name)
                _add(total, inside)
                if it.opcode == "async-start":
                    for kind in COLLECTIVES:
                        total["begun early", kind] += inside["collective", kind]
        elif opcode in COLLECTIVES:
            count = len(here.operands(it))  # what is begun holds its operands, its results, and what it needs to end
            begun = it.opcode != opcode and opcode != "all-reduce"
            made = it.arrays[count : 2 * count] if begun else it.arrays
            self._collective(here, it, opcode, made, total, early=it.opcode != opcode)
        elif it.opcode == "fusion":
            inner = self.module.computations[it.called("calls")[0]]
            total["memory", ""] += self._fused_traffic(inner)
            self._fused(inner, total, seen)
        else:
            self._arithmetic(here, it, total)
            total["memory", ""] += _traffic(here, it)
        return total

    def _fused(self, here: Computation, total: Totals, seen: set) -> None:
        """What a fusion's instructions do but move: operations, and collectives, of which a fusion that starts one, one
        that works on beside it and the one that ends it each hold a copy."""
        for it in here:
            if it.opcode == "fusion":
                self._fused(self.module.computations[it.called("calls")[0]], total, seen)
            elif it.opcode in COLLECTIVES:
                channel = re.search(r"channel_id=(\d+)", it.attributes)
                key = it.opcode, channel[1] if channel else it.name
                again, devices = (*key, "again"), self._group(it)
                kind, made = _scattered(here, it, devices)
                if key not in seen:
                    seen.add(key)
                    self._collective(here, it, kind, made, total)
                elif again not in seen:  # so the first has begun it
                    seen.add(again)
                    total["begun early", kind] += devices > 1
            else:
                self._arithmetic(here, it, total)

    def _collective(
        self, here: Computation, it: Instruction, kind: str, made: tuple[Array, ...], total: Totals, early: bool = False
    ) -> None:
        devices, arrays = self._group(it), here.operands(it)
        total["sent", kind] += COLLECTIVES[kind](devices, sum(array.bytes for array in arrays))
        total["collective", kind] += devices > 1
        total["begun early", kind] += devices > 1 and early
        total["memory", ""] += sum(array.main for array in (*arrays, *made))

    def _group(self, it: Instruction) -> int:
        """Among how many devices; 1 where none sends to another."""
        if pairs := re.search(r"source_target_pairs=\{([\d,{}]*)\}", it.attributes):
            away = any(a != b for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1]))
            return self.module.devices if away else 1
        if listed := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", it.attributes):
            return max(len(group.split(",")) for group in re.findall(r"\{([\d,]+)\}", listed[1]))
        if tiled := re.search(r"replica_groups=\[[\d,]*?(\d+)\]<=", it.attributes):
            return int(tiled[1])
        return self.module.devices

    def _arithmetic(self, here: Computation, it: Instruction, total: Totals) -> None:
        if it.opcode in ("dot", "convolution"):
            made = _dot if it.opcode == "dot" else _convolution
            total["operations", _precision(here, it)] += made(here, it)
        elif it.opcode == "custom-call" and it.target not in _MARKS:
            total["call", it.target] += 1

    # ---- what a fusion reads and writes ----

    def _fused_traffic(self, here: Computation) -> float:
        read = sum(self._read(here, parameter.name, parameter.arrays) for parameter in here.parameters())
        return read + self._written(here, here.root)

    def _read(self, here: Computation, name: str, arrays: Iterable[Array]) -> float:
        """Bytes that a computation reads of a parameter in main memory."""
        whole, used = sum(array.main for array in arrays), 0.0
        for user in here.users(name) if whole else ():
            place = user.operands.index(name)
            if user.opcode in ("bitcast", "get-tuple-element") or user.target in _MARKS:
                used += self._read(here, user.name, user.arrays)
            elif user.opcode in ("slice", "dynamic-slice", "gather") and place == 0:
                used += user.arrays[0].bytes
            elif user.opcode == "dynamic-update-slice" and place == 0:
                continue
            elif user.opcode == "scatter" and place < len(user.arrays):
                used += _updates(here, user)
            elif user.opcode == "fusion":
                inner = self.module.computations[user.called("calls")[0]]
                used += self._read(inner, inner.parameters()[place].name, arrays)
            elif user.opcode not in ("tuple", *COLLECTIVES):
                used += whole
        return min(whole, used)

    def _written(self, here: Computation, name: str) -> float:
        """Bytes that a computation writes for a result in main memory."""
        made = here[name]
        if made.opcode == "tuple":
            return sum(self._written(here, each) for each in made.operands)
        space = [array.space for array in made.arrays]
        while made.opcode == "bitcast":
            made = here[made.operands[0]]
        if any(space) or made.opcode in ("parameter", *COLLECTIVES):
            return 0
        if made.opcode == "dynamic-update-slice":
            return here[made.operands[1]].arrays[0].bytes
        if made.opcode == "scatter":
            return _updates(here, made)
        if made.opcode == "fusion":
            inner = self.module.computations[made.called("calls")[0]]
            return self._written(inner, inner.root)
        return sum(array.main for array in made.arrays)


def _add(total: Totals, more: Totals, times: int = 1) -> None:
    for key, count in more.items():
        total[key] += count * times


def _scattered(here: Computation, it: Instruction, devices: int) -> tuple[str, tuple[Array, ...]]:
    """The kind of a fused collective, and what it makes: a TPU's compiler writes a reduce-scatter as an all-reduce of
    which each device takes its part."""
    readers = here.users(it.name)
    if it.opcode == "all-reduce" and [each.opcode for each in readers] == ["dynamic-slice"]:
        part, whole = (math.prod(each.arrays[0].shape) for each in (readers[0], it))
        if part * devices == whole:
            return "reduce-scatter", readers[0].arrays
    return it.opcode, it.arrays


def _updates(here: Computation, scatter: Instruction) -> float:
    """The bytes of what a scatter adds or sets."""
    return sum(here[name].arrays[0].bytes for name in scatter.operands[len(scatter.arrays) + 1 :])


def _traffic(here: Computation, it: Instruction) -> float:
    """Bytes of main memory that an instruction by itself reads and writes."""
    if it.opcode == "copy-start":
        return sum(array.main for array in it.arrays[:2])
    if it.opcode == "slice-start":  # (operand, result, context)
        part = it.arrays[1].bytes
        return part * ((it.arrays[0].space == 0) + (it.arrays[1].space == 0))
    read, made = here.operands(it), sum(array.main for array in it.arrays)
    if it.opcode in ("slice", "dynamic-slice", "gather"):
        rows = it.arrays[0].bytes if read[0].space == 0 else 0
        return rows + sum(array.main for array in read[1:]) + made
    if it.opcode == "dynamic-update-slice":
        return read[1].main + (read[1].bytes if it.arrays[0].space == 0 else 0)
    if it.opcode == "scatter":
        target = 2 * _updates(here, it) if it.arrays[0].space == 0 else 0
        return target + sum(array.main for array in read[len(it.arrays) :])
    return sum(array.main for array in read) + made


# ---- operations ----


def _precision(here: Computation, it: Instruction) -> str:
    dtype = here[it.operands[0]].arrays[0].dtype
    asked = re.search(r"operand_precision=\{(\w+)", it.attributes)
    return f"{dtype} {asked[1]}" if asked and dtype == "f32" else dtype


def _dot(here: Computation, it: Instruction) -> float:
    left = here[it.operands[0]].arrays[0].shape
    summed = math.prod(left[place] for place in it.number("lhs_contracting_dims"))
    return 2.0 * math.prod(it.arrays[0].shape) * summed


def _convolution(here: Computation, it: Instruction) -> float:
    """2 (rows of the output) (features out) (features in) (pairs of places that meet). A TPU's compiler writes matrix
    products so, batches of them as a window so dilated that each place meets its own partner alone."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", it.attributes)
    assert labels is not None
    left, right, out = (
        dict(zip(each, array.shape, strict=True))
        for each, array in zip(labels.groups(), [*here.operands(it)[:2], it.arrays[0]], strict=True)
    )
    pairs = 1
    for place in sorted(filter(str.isdigit, out)):
        pairs *= _meeting(left[place], right[place], out[place], _window(it.attributes, int(place)))
    return 2.0 * pairs * out["b"] * out["f"] * right["i"]


def _window(attributes: str, place: int) -> tuple[int, int, int, int]:
    """(stride, padding before, dilation of the input, dilation of the kernel) of one dimension."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    given = dict(part.split("=") for part in window[1].split()) if window else {}

    def of(key: str, default: str) -> str:
        return given[key].split("x")[place] if key in given else default

    stride, gaps, apart = (int(of(key, "1")) for key in ("stride", "lhs_dilate", "rhs_dilate"))
    return stride, int(of("pad", "0_0").split("_")[0]), gaps, apart


def _meeting(size: int, kernel: int, out: int, window: tuple[int, int, int, int]) -> int:
    """How many pairs (place of the output, place of the kernel) meet an element of the input, not padding or a gap."""
    stride, before, gaps, apart = window
    places = np.arange(out) * stride - before
    met = 0
    for each in range(kernel):
        at = places + each * apart
        met += int(((at >= 0) & (at <= (size - 1) * gaps) & (at % gaps == 0)).sum())
    return met
