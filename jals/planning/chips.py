"""Chips, at the rates that their makers state, and how a slice of them is wired.

All rates are peaks of one chip, and of one direction of a link: floors of time come of them, never estimates. Each has
its source beside it, read in November 2026.
"""

import math
import re
from typing import NamedTuple

from ..devices import memory_bytes
from ..errors import ArgumentError, did_you_mean

_CUBES = ((4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16), (16, 16, 16))
_GRIDS = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_ROWS = tuple((2**each,) for each in range(9))
HOST = 8  # GPUs that NVLink joins in one machine (DGX and HGX)


class Chip(NamedTuple):
    """One kind of chip.

    Attributes:
        name: as in a topology.
        platform: "tpu", "gpu" or "cpu".
        memory: bytes that a program may use of it; None where that is the machine's.
        bandwidth: bytes a second of its main memory.
        products: operations a second of matrix products, by precision (see `work.Work`).
        link: bytes a second over one link, one way: a TPU's to one neighbour, all of a GPU's NVLinks together.
        network: of a GPU, bytes a second to another machine, one way.
        shapes: the slices that one can have, the smallest first.
        sources: of all these numbers.
    """

    name: str
    platform: str
    memory: int | None
    bandwidth: float | None
    products: dict[str, float]
    link: float | None
    network: float | None
    shapes: tuple[tuple[int, ...], ...]
    sources: tuple[str, ...]


_GOOGLE = "https://docs.cloud.google.com/tpu/docs/"
_LIMIT = "memory: what libtpu 0.0.42 lets a program use"
_PASSES = (
    "float32 products: a TPU multiplies bfloat16, 3 or 6 times for the precisions high and highest "
    "(https://docs.jax.dev/en/latest/jax.lax.html#jax.lax.Precision)"
)


def _tpu(name: str, memory: float, bandwidth: float, products: float, link: float, shapes: tuple, source: str) -> Chip:
    """From GiB, GB/s, TFLOP/s in bfloat16, and GB/s a link and direction."""
    passes = {"bf16": 1, "f32": 1, "f32 high": 3, "f32 highest": 6}
    rates = {precision: products * 1e12 / times for precision, times in passes.items()}
    sources = (source, _LIMIT, _PASSES)
    return Chip(name, "tpu", int(memory * 2**30), bandwidth * 1e9, rates, link * 1e9, None, shapes, sources)


def _gpu(
    name: str, memory: float, bandwidth: float, products: dict[str, float], link: float, network: float, source: str
) -> Chip:
    """From GB, GB/s, TFLOP/s, and GB/s in one direction."""
    rates = {precision: rate * 1e12 for precision, rate in products.items()}
    sizes = int(memory * 1e9), bandwidth * 1e9
    return Chip(name, "gpu", *sizes, rates, link * 1e9, network * 1e9, _ROWS, (source,))


# TFLOP/s without sparsity: bfloat16 and TF32 on tensor cores, float32 off them, float64 on them.
_HOPPER = {"bf16": 989.4, "f32": 494.7, "f32 high": 494.7, "f32 highest": 66.9, "f64": 66.9}
_AMPERE = {"bf16": 312, "f32": 156, "f32 high": 156, "f32 highest": 19.5, "f64": 19.5}
_H100 = "NVIDIA H100 Tensor Core GPU architecture, white paper; network: DGX H100 data sheet, 400 Gb/s a GPU"
_H200 = "NVIDIA H200 data sheet; products as the H100's; network: DGX H200 data sheet, 400 Gb/s a GPU"
_A100 = "NVIDIA A100 data sheet, 80 GB SXM; network: DGX A100 data sheet, 200 Gb/s a GPU"

CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v5e", 15.75, 819, 197, 50, _GRIDS, _GOOGLE + "v5e: 400 GB/s both ways over 4 links"),
        _tpu("v6e", 31.25, 1638, 918, 100, _GRIDS, _GOOGLE + "v6e: 800 GB/s both ways over 4 links"),
        _tpu(
            *("v5p", 95.74, 2765, 459, 100, ((2, 2, 1), (2, 2, 2), (2, 4, 4), *_CUBES, (16, 16, 24))),
            _GOOGLE + "v5p: 1200 GB/s both ways over 6 links",
        ),
        _tpu(
            *("v4", 31.25, 1200, 275, 50, ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), *_CUBES)),
            _GOOGLE + "v4; links: Jouppi et al., TPU v4 (ISCA 2023), table 4: 6 of 50 GB/s",
        ),
        _gpu("h100", 80, 3350, _HOPPER, 450, 50, _H100),
        _gpu("h200", 141, 4800, _HOPPER, 450, 50, _H200),
        _gpu("a100", 80, 2039, _AMPERE, 300, 25, _A100),
        Chip("cpu", "cpu", None, None, {}, None, None, (), ("this machine's memory, which all devices share",)),
    )
}


class Topology(NamedTuple):
    """So many chips of a kind, wired as a grid, or of GPUs and CPUs a row."""

    chip: Chip
    shape: tuple[int, ...]

    def __hash__(self) -> int:
        return hash((self.chip.name, self.shape))

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape))
        prefix = f"gpu:{self.chip.name}x" if self.chip.platform == "gpu" else f"{self.chip.name}:"
        return prefix + sizes

    @property
    def devices(self) -> int:
        return math.prod(self.shape)

    @property
    def memory(self) -> int:
        """Bytes that a program may use on one device."""
        return memory_bytes() // self.devices if self.chip.memory is None else self.chip.memory

    def slices(self) -> "list[Topology]":
        """The slices of this chip that one can have, this one among them, the smallest first."""
        return [Topology(self.chip, shape) for shape in sorted({self.shape, *self.chip.shapes}, key=math.prod)]

    def interconnect_seconds(self, sent: dict[str, float]) -> dict[str, float]:
        """The least time of each kind of collective over all devices, from the bytes that a device sends.

        On a TPU a device sends over all its links at once; one at the edge of a grid that is not closed to a torus has
        half of them. Of an all-to-all half the bytes of either half of a dimension of n cross its middle, over
        (n sizes of the others) links, twice as many in a torus: bytes n / (4 w link), w 2 in a torus and else 1, of
        the dimension where it takes longest. GPUs of one machine send over NVLink. Among several machines of 8 the
        part of an all-to-all that leaves the machine goes over each GPU's own network card; others need to send to
        another machine once, and share its cards.
        """
        return {kind: self._least(kind, number) for kind, number in sent.items()}

    def _least(self, kind: str, sent: float) -> float:
        link = self.chip.link
        if not sent or link is None:
            return math.nan if sent else 0.0
        if self.chip.network is not None:
            away = max(0, self.devices - HOST) / max(1, self.devices - 1)
            cards = 1 if "all-to-all" in kind else HOST
            return max(sent / link, sent * away / (cards * self.chip.network))
        closed = [2 if each else 1 for each in self._closed()]
        long = [(size, ways) for size, ways in zip(self.shape, closed, strict=True) if size > 1]
        least = sent / (link * sum(ways for _, ways in long)) if long else 0.0
        if "all-to-all" in kind:
            least = max([least, *(sent * (n // 2) * (n - n // 2) / n / (ways * link) for n, ways in long)])
        return least

    def _closed(self) -> list[bool]:
        """Of each dimension of a TPU's grid, whether its ends are joined: on v5e and v6e those of 16, on v4 and v5p
        all of a slice of whole cubes of 4."""
        if len(self.shape) == 2:
            return [size == 16 for size in self.shape]
        return [all(size % 4 == 0 for size in self.shape)] * len(self.shape)


def topology(text: str) -> Topology:
    """A topology by its name: "v5e:16x16", "v5p:4x4x4", "gpu:h100x8", "cpu:8".

    Raises:
        ArgumentError: for what names none; it says which there are.
    """
    matched = re.fullmatch(r"gpu:([a-z]\w*?)x(\d+)|(\w+):(\d+(?:x\d+)*)", text.strip().lower())
    if not matched:
        raise _unknown(text, 'does not name one. Write "v5e:16x16", "v5p:4x4x4", "gpu:h100x8" or "cpu:8".')
    name, sizes = (matched[1], matched[2]) if matched[1] else (matched[3], matched[4])
    chip = CHIPS.get(name)
    if chip is not None and (chip.platform == "gpu") != bool(matched[1]):
        meant = Topology(chip, chip.shapes[-1] if matched[1] else (int(sizes.partition("x")[0]),))
        raise _unknown(text, f'is no way to name {name}. Write it as in "{meant}".')
    if chip is None:
        known = ", ".join(f"gpu:{each.name}" if each.platform == "gpu" else each.name for each in CHIPS.values())
        raise _unknown(text, f"is of a chip that is not known. Known are {known}.{did_you_mean(name, CHIPS)}")
    found = Topology(chip, tuple(int(size) for size in sizes.split("x")))
    if 0 in found.shape:
        raise _unknown(text, "has no devices.")
    if chip.platform == "tpu" and found.shape not in chip.shapes and not _of_cubes(found):
        several = ", ".join("x".join(map(str, shape)) for shape in chip.shapes)
        cubes = "" if len(chip.shapes[0]) == 2 else ", and others of multiples of 4"
        raise _unknown(text, f"is no slice of {name}. These are: {several}{cubes}.")
    return found


def _of_cubes(found: Topology) -> bool:
    sizes = found.shape
    return len(sizes) == len(found.chip.shapes[0]) == 3 and all(each % 4 == 0 for each in sizes)


def _unknown(text: str, why: str) -> ArgumentError:
    return ArgumentError(f"the topology {text!r} {why}")
