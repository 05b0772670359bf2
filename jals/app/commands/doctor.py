"""What this machine and environment are to jals: facts, what is wrong with them, and what to do.

Facts are plain functions of the environment; `examine` prints them and tries a small fit on every device.
"""

import dataclasses
import os
import platform
import re
import textwrap
import threading
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

import jals
from jals.data.sources import as_path
from jals.devices import device_bytes, in_units
from jals.rows import native

from ..run.cluster import in_cluster

if TYPE_CHECKING:
    from rich.console import Console

# What the package's metadata does not say: what an extra is for.
PURPOSES = {
    "cli": "the command line: experiments from TOML files",
    "tables": "CSV and Parquet files, data frames",
    "plot": "figures of fits: jals.plot",
    "partition": "tables larger than memory, cut into shards",
    "distributed": "runs by several processes",
    "safetensors": "factors in .safetensors files",
    "optuna": "tuning by a sampler that learns from its trials",
    "explore": "a page to look at a model, and play with it",
    "data": "MovieLens latest-small without a download",
    "cuda12": "NVIDIA GPUs",
    "cuda13": "NVIDIA GPUs",
    "tpu": "Google's TPUs",
    "plan": "planning for TPUs, without one",
    "nvcc": "compiling the kernel for NVIDIA GPUs",
    "docs": "building the documentation",
    "test": "running the tests",
    "lint": "checking the code",
}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
FIT_SECONDS = 120  # a fit of 200 entries that takes longer waits for something that will not come


class Finding(NamedTuple):
    """Something to know, and what to do about it; `wrong` where jals itself will not work as it should."""

    what: str
    cure: str
    wrong: bool = True


@dataclasses.dataclass(frozen=True)
class Topic:
    """A titled list of (name, value), and what was found wrong there."""

    title: str
    rows: list[tuple[str, str]]
    findings: list[Finding] = dataclasses.field(default_factory=list)


class Need(NamedTuple):
    """A package that another one requires, and the lowest version that it takes ("" for any)."""

    package: str
    floor: str


def examine(console: "Console") -> int:
    """Prints what the environment is, with a cure for each problem, and tries a fit on every device.

    Returns: the exit code: 0, or 1 when something is wrong.
    """
    findings = []
    for section in sections(os.environ):
        if not section.rows and not section.findings:
            continue
        lines = [section.title, *(line for name, value in section.rows for line in _row(name, value))]
        for finding in section.findings:
            lines += textwrap.wrap(f"{'!' if finding.wrong else '-'} {finding.what}", 80, subsequent_indent="  ")
            lines.append(f"  {finding.cure}")
        for line in [*lines, ""]:
            console.print(line, soft_wrap=True)
        findings += section.findings
    wrong = sum(finding.wrong for finding in findings)
    verdict = f"{wrong} problem{'s' if wrong > 1 else ''}, marked ! above." if wrong else "Everything jals needs works."
    console.print(verdict)
    return 1 if wrong else 0


def sections(environ: Mapping[str, str]) -> Iterator[Topic]:
    """The sections in turn, each when the one before has been taken: the fits at the end take seconds."""
    yield versions()
    yield extras()
    found, devices = devices_here()
    yield devices
    hosts = sum(device.platform == "cpu" for device in found)
    yield threads(environ, usable_cores(), hosts, jax.__version__)
    yield kernel(native.status(), pool_size(usable_cores(), environ.get("NPROC"), hosts), hosts)
    gpus = [device for device in found if device.platform == "gpu"]
    if gpus or native.cuda_status().path:
        yield cuda_kernel(native.cuda_status(), len(gpus))
    yield settings(environ)
    yield local_data(environ)
    if found:
        yield fits(found)


# Packages


def needs(package: str, extra: str = "") -> list[Need]:
    """What a package requires, or with an extra what that adds, by its own metadata; extras of extras resolved.

    Raises:
        PackageNotFoundError: when the package is not installed.
    """
    found = []
    for line in metadata.requires(package) or []:
        requirement, _, marker = line.partition(";")
        if (re.findall(r"extra\s*==\s*['\"]([^'\"]+)", marker) or [""])[0] != extra:
            continue
        name, more = re.match(r"\s*([\w.-]+)\s*(?:\[([^\]]*)\])?", requirement).groups()  # pyright: ignore
        floor = re.search(r">=\s*([\w.]+)", requirement)
        if name != package:
            found.append(Need(name, floor[1] if floor else ""))
        for each in (more or "").replace(" ", "").split(","):
            if each and installed(name):
                found += needs(name, each)
    return list(dict.fromkeys(found))


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def below(version: str, floor: str) -> bool:
    """Whether a version is lower than a floor, by their numbers: "0.9.2" is below "0.10"."""
    numbers = [tuple(map(int, re.findall(r"\d+", each.split("+")[0])[:3])) for each in (version, floor)]
    return numbers[0] < numbers[1]


def versions() -> Topic:
    """Of Python, of jals and of what its core needs."""
    rows = [("jals", jals.__version__), ("python", f"{platform.python_version()} on {platform.platform(terse=True)}")]
    findings, core = [], [Need(name, "") for name in ("jax", "optax", "numpy")]
    try:
        core = needs("jals")
    except metadata.PackageNotFoundError:
        findings.append(
            Finding(
                f"jals runs from {Path(jals.__file__).parent} without being installed: what it requires is not known.",
                f"pip install -e {Path(jals.__file__).parents[1]}",
                wrong=False,
            )
        )
    for package, floor in [*core, Need("jaxlib", "")]:
        version = installed(package)
        rows.append((package, version or "not installed"))
        if version is None or (floor and below(version, floor)):
            findings.append(_too_old(package, version, floor))
    return Topic("Versions", rows, findings)


def extras() -> Topic:
    """Which extras are there, what the others would add, and how to get them."""
    try:
        names = metadata.metadata("jals").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return Topic("Extras", [], [])
    rows, findings = [], []
    for name in names:
        packages = needs("jals", name)
        if name not in PURPOSES:  # one that only gathers others
            continue
        if any(installed(package) is None for package, _ in packages):
            rows += [(name, f"missing: {PURPOSES[name]}"), ("", f'pip install "jals[{name}]"')]
        else:
            rows.append((name, ", ".join(f"{package} {installed(package)}" for package, _ in packages)))
        for package, floor in packages:
            version = installed(package)
            if version and floor and below(version, floor):
                findings.append(_too_old(package, version, floor))
    return Topic("Extras", rows, list(dict.fromkeys(findings)))


def _too_old(package: str, version: str | None, floor: str) -> Finding:
    requirement = f"{package}>={floor}" if floor else package
    problem = f"{package} is {version or 'missing'}, but jals needs {requirement}."
    return Finding(problem, f'pip install -U "{requirement}"')


# Devices and threads


def devices_here() -> tuple[list[Any], Topic]:
    """jax's devices, and what is known of them."""
    try:
        found = jax.devices()
    except (RuntimeError, AssertionError) as error:  # jax 0.10 asserts that it has found a platform
        why = (str(error) or "no platform that JAX_PLATFORMS allows is there").splitlines()[0]
        cure = "Unset JAX_PLATFORMS, or install what it asks for: cuda12, cuda13 and tpu are extras of jals."
        return [], Topic("Devices", [], [Finding(f"jax has no device: {why}.", cure)])
    rows = []
    for device in found:
        memory = device_bytes(device)
        size = "" if memory is None else f", {in_units(memory)}"
        rows.append((f"{device.platform}:{device.id}", f"{device.device_kind}{size}"))
    launched = ", as a launcher's environment says" if in_cluster(os.environ) else ""
    rows.append(("processes", f"{'several' if launched else 1}{launched}; jals run --processes N starts more here"))
    findings = []
    if found[0].platform == "cpu" and Path("/dev/nvidia0").exists():
        what = "there is an NVIDIA GPU, but jax does not use it."
        findings.append(Finding(what, 'pip install "jals[cuda13]", or "jals[cuda12]" for older drivers.', wrong=False))
    return found, Topic("Devices", rows, findings)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pool_size(cores: int, nproc: str | None, devices: int) -> int:
    """Threads in XLA's CPU pool: NPROC where that is a number, else the usable cores; one a host device at least."""
    try:
        wanted = cores if nproc is None else max(int(nproc), 0)
    except ValueError:
        wanted = cores
    return max(wanted, devices, 1)


def can_hang(devices: int, cores: int, nproc: str | None, jax_version: str) -> bool:
    """Whether batched LAPACK calls under `shard_map` may wait for ever on host devices.

    Since jax 0.10 such a call splits its batch over XLA's pool and waits for the parts. One on each device at a time,
    and as many devices as threads: then every thread waits, and none is left to do the work.
    """
    return not below(jax_version, "0.10") and devices > 1 and pool_size(cores, nproc, devices) <= devices


def threads(environ: Mapping[str, str], cores: int, hosts: int, jax_version: str) -> Topic:
    """Cores, the size of XLA's CPU pool, and whether `hosts` host devices on it can hang."""
    nproc = environ.get("NPROC")
    pool = pool_size(cores, nproc, hosts)
    rows = [
        ("cores", f"{cores} usable of {os.cpu_count()}"),
        ("XLA's CPU pool", f"{pool} threads (NPROC {'not set' if nproc is None else f'is {nproc}'})"),
        *((name, f"{environ[name]} (not for XLA's pool, which NPROC sizes)") for name in THREADS if name in environ),
    ]
    findings = []
    if nproc is not None and not re.fullmatch(r"\s*[+-]?\d+\s*", nproc):
        findings.append(Finding(f"NPROC is {nproc!r}, which is no number: XLA ignores it.", "Unset it.", wrong=False))
    if can_hang(hosts, cores, nproc, jax_version):
        what = (
            f"{hosts} host devices on a pool of {pool} threads: with jax {jax_version}, batched cholesky, solve and "
            "other LAPACK calls under shard_map can wait for ever. jals makes none; your own code may. What prevents "
            "it, set before jax starts:"
        )
        findings.append(Finding(what, f"export NPROC={2 * hosts}", wrong=False))
    return Topic("Threads", rows, findings)


def kernel(found: native.Status, pool: int, hosts: int) -> Topic:
    """What `backend = "auto"` solves rows with on this machine, and why not with the CPU kernel where it does not."""
    takes = "native on CPUs, xla elsewhere" if found.available else "xla"
    if not hosts:
        takes += " (there is no CPU device here)"
    rows = [("backend auto", takes)]
    if found.available:
        rows.append(("instructions", str(found.isa)))
        rows.append(("threads", f"{pool}, XLA's CPU pool; results do not depend on how many"))
    if found.path:
        rows.append(("library", str(found.path)))
        interface = ".".join(re.findall(r"\d+", found.path.stem))  # CMakeLists.txt names it so
        rows.append(("interface", f"{interface or 'unknown'}, of XLA's headers when it was built"))
    if found.available:
        return Topic("CPU kernel", rows)
    what, _, cure = found.reason.rpartition(". Install ")
    finding = Finding(f"{what}. XLA solves instead, slower.", f"Install {cure}", wrong=False)
    return Topic("CPU kernel", rows, [finding])


def cuda_kernel(found: native.Status, gpus: int) -> Topic:
    """The same on the GPUs; without one, what is built here."""
    takes = "native on CUDA GPUs" if found.available else "xla on GPUs"
    rows = [("backend auto", takes + ("" if gpus else " (there is none here)"))]
    if found.isa:
        rows.append(("compiled for", f"{found.isa}, and newer by PTX"))
    if found.path:
        rows.append(("library", str(found.path)))
    if found.available:
        rows += [("driver", found.reason)] if found.reason else []
        return Topic("CUDA kernel", rows)
    what, _, cure = found.reason.rpartition(". Install ")
    cure = f"Install {cure}" if what else "There is none: XLA works on any GPU."
    finding = Finding(f"{what or found.reason[:-1]}. XLA solves instead, slower.", cure, wrong=False)
    return Topic("CUDA kernel", rows, [finding])


# Settings


def settings(environ: Mapping[str, str]) -> Topic:
    """x64, and the variables that jax and XLA read."""
    on, off = "on: float64 where values are float64", "off: everything is float32; JAX_ENABLE_X64=1 turns it on"
    rows = [("x64", on if _option("jax_enable_x64") else off)]
    names = [name for name in sorted(environ) if re.match("JAX_|XLA_|CUDA_VISIBLE_DEVICES$|LIBTPU_INIT_ARGS$", name)]
    rows += [(name, environ[name]) for name in names]
    findings = []
    for option, effect in (
        ("jax_disable_jit", "nothing is compiled: a fit takes many times as long, or fails"),
        ("jax_debug_nans", "a row without a unique solution ends in jax's error instead of one that names it"),
    ):
        if _option(option):
            findings.append(Finding(f"{option} is on: {effect}.", f"Unset {option.upper()}.", wrong=False))
    return Topic("Settings", rows, findings)


def _option(name: str) -> bool:
    return bool(getattr(jax.config, name))


def local_data(environ: Mapping[str, str]) -> Topic:
    """The folder of local data sets."""
    folder = environ.get("JALS_DATA")
    if not folder:
        return Topic("Data", [("JALS_DATA", "not set (the folder of data sets that are not downloaded)")])
    try:
        names = sorted(path.name for path in as_path(folder).iterdir() if path.is_file() and path.name[0] != ".")
    except OSError as error:
        what = f"JALS_DATA is {folder}, which cannot be read: {error.strerror}."
        return Topic("Data", [("JALS_DATA", folder)], [Finding(what, "Set it to a folder that exists, or unset it.")])
    return Topic("Data", [("JALS_DATA", folder), ("there", ", ".join(names) or "nothing")])


# A small fit


def fits(devices: list[Any]) -> Topic:
    """Factors of a small table on every device, and whether they certify."""
    rows, findings = [], []
    for device in devices:
        name = f"{device.platform}:{device.id}"
        what, cure = _in_time(device)
        rows.append((name, what))
        if cure:
            findings.append(Finding(f"a small fit on {name} went wrong: {what}.", cure))
    return Topic("A small fit", rows, findings)


def _in_time(device: Any) -> tuple[str, str]:
    """(what came of the fit, what to do if that is wrong); not waiting for ever."""
    outcome: list[tuple[str, str]] = []
    report = "Do not rely on jals here; report it with all of this output."

    def attempt() -> None:
        try:
            cert = small_fit(device)
            worst = max(float(np.max(errors)) for errors in (cert.user, cert.item, cert.last_updated))
            what = f"largest backward error {worst:.1e}, bound {cert.bound:.0e}"
            outcome.append((f"certified, {what}", "") if cert.holds() else (f"not certified, {what}", report))
        except Exception as error:  # whatever it is, it is what the doctor was asked for
            outcome.append((str(error).splitlines()[0] if str(error) else repr(error), report))

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(FIT_SECONDS)
    return outcome[0] if outcome else (f"no end within {FIT_SECONDS} s", report)


def small_fit(device: Any) -> jals.Certificate:
    """The certificate of ALS on a made-up table of 20 x 20 with 6 entries a row, all on one device."""
    user, step = np.divmod(np.arange(20 * 6), 6)
    value = np.cos(np.arange(20 * 6, dtype=float if _option("jax_enable_x64") else np.float32))
    ratings = jals.Ratings.from_arrays(user, (user + 3 * step) % 20, value)
    with jax.default_device(device):
        problem, objective = jals.Problem.build(ratings, layout="padded"), jals.als_wr(0.05)
        factors = jals.fit(jals.ALS(rank=4), problem, objective, sweeps=2, loss_every=0).factors
        return jals.certify(factors, problem, objective)


def _row(name: str, value: str) -> list[str]:
    return textwrap.wrap(value, 80, initial_indent=f"  {name:<16} ", subsequent_indent=" " * 19) or [f"  {name}"]
