"""The text of a compiled program, read: its computations, their instructions, and the arrays as they lie in memory.

XLA says what it compiled in HLO text (`jax.stages.Compiled.as_text`): an instruction a line, in computations that call
each other. Read here is what a count needs: shapes, layouts, who calls whom and how often.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_ASSIGNMENT = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](?:\{([^{}]*)\})?")
_COMMENT = re.compile(r"/\*.*?\*/")
_SAME = ("bitcast", "copy", "convert", "reshape")  # of a number, the same number


class Array(NamedTuple):
    """An array of a compiled program.

    Attributes:
        dtype: in XLA's words: f32, bf16, s32.
        shape: without padding.
        space: 0 is the device's main memory (a TPU's HBM); others are within the chip.
        bytes: in memory, padded to the tiles of its layout: a row of 64 float32 may take 512 bytes on a TPU, whose
            tiles are 128 wide.
    """

    dtype: str
    shape: tuple[int, ...]
    space: int
    bytes: int

    @property
    def main(self) -> int:
        """The bytes in the device's main memory."""
        return self.bytes if self.space == 0 else 0


class Instruction(NamedTuple):
    """One line. `arrays` are what it makes, a tuple's flattened; `inside` is what stands in its parentheses, with the
    names of its `operands`; `attributes` what follows."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    inside: str
    attributes: str

    def number(self, key: str) -> tuple[int, ...]:
        """The whole numbers of an attribute such as dimensions={0,1}."""
        found = re.search(rf"\b{key}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(each) for each in found[1].split(",") if each) if found else ()

    def called(self, *keys: str) -> list[str]:
        """The computations that attributes name: one, or a list in braces."""
        names = []
        for key in keys:
            if found := re.search(rf"\b{key}=(?:\{{([^{{}}]*)\}}|%?([\w.\-]+))", self.attributes):
                names += [name.strip().lstrip("%") for name in (found[1] or found[2]).split(",")]
        return names

    @property
    def target(self) -> str:
        """Of a custom call: whom it calls."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""


class Computation:
    """A function of the program: its instructions by name, in their order; `root` is what it returns."""

    def __init__(self, name: str):
        self.name, self.instructions, self.root = name, {}, ""
        self._users: dict[str, list[Instruction]] | None = None

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions.values())

    def __getitem__(self, name: str) -> Instruction:
        return self.instructions[name]

    def operands(self, instruction: Instruction) -> list[Array]:
        """The arrays that an instruction reads, tuples flattened."""
        return [array for name in instruction.operands for array in self[name].arrays]

    def parameters(self) -> list[Instruction]:
        found = [each for each in self if each.opcode == "parameter"]
        return sorted(found, key=lambda each: int(each.inside))

    def users(self, name: str) -> list[Instruction]:
        """The instructions that read what another makes."""
        if self._users is None:
            self._users = {}
            for each in self:
                for operand in set(each.operands):
                    self._users.setdefault(operand, []).append(each)
        return self._users.get(name, [])

    def source(self, name: str) -> Instruction:
        """The instruction that a number comes from, through copies and bitcasts."""
        found = self[name]
        while found.opcode in _SAME and found.operands:
            found = self[found.operands[0]]
        return found


class Module:
    """A compiled program.

    Attributes:
        computations: by name.
        entry: the one that runs.
        devices: how many run it together.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        counts = [re.search(rf"\b{key}=(\d+)", text.partition("\n")[0]) for key in ("num_partitions", "replica_count")]
        self.devices = math.prod(int(found[1]) for found in counts if found)
        here: Computation | None = None
        for line in text.splitlines():
            if header := _HEADER.match(line):
                here = self.computations.setdefault(header[2], Computation(header[2]))
                self.entry = header[2] if header[1] else self.entry
            elif line.startswith("}"):
                here = None
            elif here is not None and (start := _ASSIGNMENT.match(line)):
                here.instructions[start[2]] = _instruction(start[2], line[start.end() :])
                here.root = start[2] if start[1] else here.root

    def trips(self, caller: Computation, loop: Instruction) -> int | None:
        """How often a loop's body runs: as the compiler notes it, else from a condition that compares a counter with a
        constant. None where neither tells."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition, body = (self.computations[loop.called(key)[0]] for key in ("condition", "body"))
        start = caller.source(loop.operands[0])
        compared = condition[condition.root]
        inner, sides = condition, list(compared.operands)
        if compared.opcode == "fusion":
            inner = self.computations[compared.called("calls")[0]]
            compared = inner[inner.root]
            outer = {each.name: sides[int(each.inside)] for each in inner.parameters()}
            sides = [outer.get(inner.source(name).name, name) for name in compared.operands]
        direction = re.search(r"direction=(\w+)", compared.attributes)
        if compared.opcode != "compare" or not direction or len(sides) != 2:
            return None

        def meaning(name: str) -> tuple[int | None, int | None]:
            """(the place in the loop's tuple, the number before the loop) of one side of the comparison."""
            where = condition if name in condition.instructions else inner
            found = where.source(name)
            if found.opcode == "constant":
                return None, _whole(found)
            if found.opcode != "get-tuple-element" or start.opcode != "tuple":
                return None, None
            place = _index(found)
            return place, _whole(caller.source(start.operands[place]))

        (place, first), (_, last) = map(meaning, sides)
        if place is None or first is None or last is None or direction[1] not in ("LT", "LE", "NE"):
            return None
        step = _step(body, place)
        return max(0, -(-(last - first + (direction[1] == "LE")) // step)) if step > 0 else None


def _step(body: Computation, place: int) -> int:
    """What a loop's body adds to its counter; 1 where that is not plain."""
    ends = body[body.root]
    added = body.source(ends.operands[place]) if ends.opcode == "tuple" else ends
    numbers = [_whole(body.source(name)) for name in added.operands] if added.opcode == "add" else []
    return next((number for number in numbers if number is not None), 1)


def _whole(instruction: Instruction) -> int | None:
    """The number of a constant that is a whole one."""
    matched = re.fullmatch(r"-?\d+", instruction.inside) if instruction.opcode == "constant" else None
    return int(matched[0]) if matched else None


def _index(instruction: Instruction) -> int:
    found = re.search(r"\bindex=(\d+)", instruction.attributes)
    assert found is not None
    return int(found[1])


# ---- lines and shapes ----


def _instruction(name: str, rest: str) -> Instruction:
    rest = _COMMENT.sub("", rest)
    made = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:made], rest[made:].lstrip()
    at = rest.index("(")
    end = _closing(rest, at)
    inside = rest[at + 1 : end]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, rest[:at], tuple(_arrays(kind)), operands, inside, rest[end + 1 :])


def _closing(text: str, at: int) -> int:
    """Where the parenthesis closes that opens at a place."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, at):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text)


def _arrays(kind: str) -> Iterator[Array]:
    for dtype, sizes, layout in _ARRAY.findall(kind):
        shape = tuple(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        order, _, rest = layout.partition(":")
        space = re.search(r"S\((\d+)\)", rest)
        elements = math.prod(_padded(shape, order, rest))
        yield Array(dtype, shape, int(space[1]) if space else 0, math.ceil(elements * _bits(dtype) / 8))


def _padded(shape: tuple[int, ...], order: str, rest: str) -> list[int]:
    """The sizes in memory, from the outermost: the innermost ones filled up to whole tiles."""
    inner_first = [int(place) for place in order.split(",") if place]
    sizes = [shape[place] for place in reversed(inner_first)] if len(inner_first) == len(shape) else list(shape)
    tiles = re.match(r"T\(([\d,]+)\)", rest)
    if not tiles or 0 in sizes:
        return sizes
    tile = [int(size) for size in tiles[1].split(",")]
    sizes = [1] * (len(tile) - len(sizes)) + sizes
    whole = len(sizes) - len(tile)
    return sizes[:whole] + [-(-size // each) * each for size, each in zip(sizes[whole:], tile, strict=True)]


def _bits(dtype: str) -> int:
    if dtype in ("token", "opaque"):
        return 0
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 8  # pred
