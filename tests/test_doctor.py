"""The doctor: facts from made-up environments, what it makes of them, and one real visit."""

import os
import pathlib
import subprocess
import sys
import time
import tomllib
import unittest.mock
from importlib import metadata
from types import SimpleNamespace

import jax
import pytest

import jals
from jals import native
from jals.app.commands import doctor
from tests.support import ROOT


class Lines:
    """As much of a rich console as the doctor needs."""

    def __init__(self):
        self.text = ""

    def print(self, text, **_):
        self.text += f"{text}\n"


def made_up(monkeypatch, requires, versions):
    """Packages with these requirements and versions in place of those that are installed."""

    def version(package):
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    def required(package):
        version(package)
        return requires.get(package)

    extras = [line.split("'")[1] for line in requires.get("jals", []) if "extra ==" in line]
    described = SimpleNamespace(get_all=lambda _: list(dict.fromkeys(extras)))
    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.metadata, "requires", required)
    monkeypatch.setattr(doctor.metadata, "metadata", lambda package: version(package) and described)


REQUIRES = {
    "jals": [
        "jax>=0.8.0",
        "numpy (>=2.0.0)",
        "polars>=1.30; extra == 'tables'",
        "narwhals>=2.0; extra == 'tables'",
        "jals[tables]; extra == 'cli'",
        "rich!=14.1,>=13.7; extra == 'cli'",
        "jax[cuda12]; extra == 'cuda12'",
        "jals[cli,cuda12]; extra == 'all'",
    ],
    "jax": ["numpy>=2.0", "jaxlib<=0.10.2,>=0.10.2", "jax-cuda12-plugin[with-cuda]<=0.10.2; extra == 'cuda12'"],
}
VERSIONS = {"jals": "0.2.0", "jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4.6", "polars": "2.1.0", "rich": "15.0"}


def test_needs_follow_extras_of_extras(monkeypatch):
    made_up(monkeypatch, REQUIRES, VERSIONS)
    assert doctor.needs("jals") == [("jax", "0.8.0"), ("numpy", "2.0.0")]
    tables = [("polars", "1.30"), ("narwhals", "2.0")]
    assert doctor.needs("jals", "cli") == [*tables, ("rich", "13.7")]
    assert doctor.needs("jals", "cuda12") == [("jax", ""), ("jax-cuda12-plugin", "")]
    assert doctor.needs("jals", "all") == [*tables, ("rich", "13.7"), ("jax", ""), ("jax-cuda12-plugin", "")]


@pytest.mark.parametrize(
    "version, floor, expected",
    [
        ("0.9.2", "0.10", True),
        ("0.10.0", "0.10", False),
        ("0.10.2", "0.9", False),
        ("1.30.0", "1.30", False),
        ("2", "1.9.9", False),
        ("0.8.0.dev20250101+abc9", "0.8.1", True),
    ],
)
def test_versions_compare_by_number(version, floor, expected):
    assert doctor.below(version, floor) == expected


def test_missing_extras_are_listed_with_how_to_get_them(monkeypatch):
    made_up(monkeypatch, REQUIRES, VERSIONS)
    section = doctor.extras()
    rows = section.rows
    for name in ("tables", "cli", "cuda12"):
        at = rows.index((name, f"missing: {doctor.PURPOSES[name]}"))
        assert rows[at + 1] == ("", f'pip install "jals[{name}]"')
    assert "all" not in dict(rows)
    assert not section.findings, "an extra that is not there is not wrong"
    made_up(monkeypatch, REQUIRES, VERSIONS | {"narwhals": "2.5"})
    assert dict(doctor.extras().rows)["tables"] == "polars 2.1.0, narwhals 2.5"
    made_up(monkeypatch, REQUIRES, VERSIONS | {"narwhals": "1.9"})
    (finding,) = doctor.extras().findings
    assert finding.wrong and finding.cure == 'pip install -U "narwhals>=2.0"'
    assert finding.what == "narwhals is 1.9, but jals needs narwhals>=2.0."


def test_a_core_below_its_floor_is_wrong(monkeypatch):
    made_up(monkeypatch, REQUIRES, VERSIONS | {"jax": "0.7.2"})
    (finding,) = doctor.versions().findings
    assert finding == ("jax is 0.7.2, but jals needs jax>=0.8.0.", 'pip install -U "jax>=0.8.0"', True)
    made_up(monkeypatch, REQUIRES, {name: version for name, version in VERSIONS.items() if name != "numpy"})
    (finding,) = doctor.versions().findings
    assert finding.what == "numpy is missing, but jals needs numpy>=2.0.0."
    made_up(monkeypatch, REQUIRES, VERSIONS)
    section = doctor.versions()
    assert not section.findings
    assert set(dict(section.rows)) >= {"jals", "python", "jax", "jaxlib", "numpy"}


def test_running_without_being_installed_is_no_error(monkeypatch):
    made_up(monkeypatch, {}, {name: version for name, version in VERSIONS.items() if name != "jals"} | {"optax": "1"})
    section = doctor.versions()
    (finding,) = section.findings
    assert not finding.wrong and finding.cure == f"pip install -e {ROOT}"
    assert dict(section.rows)["optax"] == "1"
    assert doctor.extras().rows == []


def test_every_extra_of_this_project_has_a_purpose():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) - {"all"} == set(doctor.PURPOSES)


@pytest.mark.parametrize(
    "cores, nproc, devices, size",
    [
        (2, None, 1, 2),
        (2, None, 5, 5),
        (8, "3", 2, 3),
        (2, "4", 2, 4),
        (2, "1", 2, 2),
        (2, "0", 1, 1),
        (2, " 4", 1, 4),
        (2, "x", 1, 2),
        (2, "", 1, 2),
        (2, "-3", 3, 3),
    ],
)
def test_the_pool_is_sized_as_xla_sizes_it(cores, nproc, devices, size):
    assert doctor.pool_size(cores, nproc, devices) == size


@pytest.mark.parametrize(
    "devices, cores, nproc, version, expected",
    [
        (2, 2, None, "0.10.2", True),
        (2, 2, "2", "0.10.0", True),
        (2, 2, "4", "0.10.2", False),
        (2, 2, "3", "0.11", False),
        (4, 2, "3", "0.10.2", True),
        (8, 8, None, "0.10.2", True),
        (8, 9, None, "0.10.2", False),
        (2, 2, None, "0.9.2", False),
        (1, 1, None, "0.10.2", False),
        (0, 2, None, "0.10.2", False),
    ],
)
def test_as_many_devices_as_threads_can_hang(devices, cores, nproc, version, expected):
    assert doctor.can_hang(devices, cores, nproc, version) == expected
    section = doctor.threads({} if nproc is None else {"NPROC": nproc}, cores, devices, version)
    cures = [finding.cure for finding in section.findings]
    assert cures == ([f"export NPROC={2 * devices}"] if expected else [])
    if expected:
        assert not doctor.can_hang(devices, cores, str(2 * devices), version), "the cure does not cure"


def test_thread_variables_are_shown_and_a_wrong_one_told():
    section = doctor.threads({"OMP_NUM_THREADS": "1", "NPROC": "two"}, 2, 1, "0.10.2")
    assert dict(section.rows)["OMP_NUM_THREADS"].startswith("1 ")
    assert [finding.what for finding in section.findings] == ["NPROC is 'two', which is no number: XLA ignores it."]


def test_the_kernel_that_is_there_is_described():
    path = pathlib.Path("/somewhere/_kernel_0_3.so")
    section = doctor.kernel(native.Status(True, "", "avx2", path), 6, 1)
    rows = dict(section.rows)
    assert rows["backend auto"].startswith("native") and rows["instructions"] == "avx2"
    assert rows["threads"].startswith("6,") and rows["interface"].startswith("0.3,")
    assert rows["library"] == str(path) and not section.findings
    assert "no CPU device" in dict(doctor.kernel(native.Status(True, "", "avx2", path), 6, 0).rows)["backend auto"]


def test_the_kernel_of_gpus_is_described():
    path = pathlib.Path("/somewhere/_cuda_0_3.so")
    section = doctor.cuda_kernel(native.Status(True, "", "sm_80, sm_90", path), 1)
    assert dict(section.rows)["backend auto"] == "native on CUDA GPUs" and not section.findings
    assert dict(section.rows)["compiled for"].startswith("sm_80, sm_90,") and dict(section.rows)["library"] == str(path)
    section = doctor.cuda_kernel(native.Status(True, "there is no driver.", "sm_80", path), 0)
    assert dict(section.rows)["driver"] == "there is no driver." and not section.findings


OLD = "the NVIDIA driver here is for CUDA 12.9, and the CUDA kernel needs one for 13.0 or newer"
NEW = "compute capability 12.0, for which the driver makes the CUDA kernel's code; the driver here is for CUDA 13.0"


@pytest.mark.parametrize(
    "capabilities, driver, said, cure",
    [
        (None, 13010, "is not built", "Install the CUDA toolkit"),
        ([9.0, 7.5], 13010, "a GPU here has compute capability 7.5", "There is none"),
        ([8.0], 13010, "", ""),
        ([], 13010, "", ""),
        ([8.0], 12090, OLD, "Install a driver for CUDA 13.0 or newer."),
        ([8.0], 13000, "", ""),
        ([8.0, 12.0], 13000, NEW, "Install a driver for CUDA 13.1 or newer."),
        ([8.9, 12.0], 13010, "", ""),
    ],
)
def test_gpus_and_drivers_that_the_kernel_is_not_for_are_told(tmp_path, monkeypatch, capabilities, driver, said, cure):
    """A GPU that is too old takes XLA for all, as a program does not know which it will run on."""
    devices = [unittest.mock.Mock(compute_capability=str(each)) for each in capabilities or []]
    library = unittest.mock.Mock()
    library.jals_isa.return_value = b"sm_80, sm_100"
    library.jals_driver = driver_of(driver)
    with unittest.mock.patch.object(native, "_gpus", return_value=devices):
        if capabilities is None:
            monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
            native._load_cuda.cache_clear()
        else:
            monkeypatch.setattr(native, "_load_cuda", lambda: (library, tmp_path, ""))
        found = native.cuda_status()
        assert native.missing()["cuda"] == found.reason
    if capabilities is None:
        native._load_cuda.cache_clear()
    assert found.available == (said == "") and said in found.reason
    findings = doctor.cuda_kernel(found, 1).findings
    assert [finding.cure.startswith(cure) and said in finding.what for finding in findings] == [True] * bool(said)


def driver_of(version):
    """`jals_driver` of a library made by CUDA 13.1, where the driver is of this version."""

    def answer(*into):
        for each, number in zip(into, (version, 13000, 13010), strict=True):
            each.value = number

    return answer


def test_without_a_driver_programs_can_be_lowered_for_another_machine(monkeypatch, tmp_path):
    library = unittest.mock.Mock(jals_driver=driver_of(0))
    library.jals_isa.return_value = b"sm_80"
    monkeypatch.setattr(native, "_load_cuda", lambda: (library, tmp_path, ""))
    found = native.cuda_status()
    assert found.available and found.reason.startswith("there is no NVIDIA driver here. Install a driver for CUDA 13.0")
    assert native.missing()["cuda"] == ""


@pytest.mark.parametrize("names, what", [([], "is not built"), (["_kernel_0_1.so", "_kernel_0_3.so"], "does not load")])
def test_a_kernel_that_is_missing_is_told_with_a_cure(tmp_path, monkeypatch, names, what):
    for name in names:
        (tmp_path / name).write_bytes(b"not a library")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "__init__.py"))
    native._load.cache_clear()
    try:
        found = native.status()
    finally:
        native._load.cache_clear()
    assert not found.available and found.isa is None
    section = doctor.kernel(found, 2, 1)
    assert section.rows[0] == ("backend auto", "xla") and ("interface" in dict(section.rows)) == bool(names)
    (finding,) = section.findings
    assert not finding.wrong, "everything works without it"
    assert what in finding.what and finding.what.endswith("XLA solves instead, slower.")
    assert finding.cure.startswith("Install ") and "Install" not in finding.what


def opened(monkeypatch, path, calls, isa=b"avx2"):
    """(status, whether it can be called, whether XLA knows it) of a library that answers so."""

    class Library:
        jals_isa = unittest.mock.Mock(return_value=isa)

        def __getattr__(self, name):
            if name == "jals_calls" and calls is None:
                raise AttributeError(name)
            return unittest.mock.Mock(return_value=calls)

    path.touch()
    monkeypatch.setattr(native, "__file__", str(path.parent / "__init__.py"))
    monkeypatch.setattr(native.ctypes, "CDLL", lambda path: Library())
    monkeypatch.setattr(native.jax.ffi, "register_ffi_target", unittest.mock.Mock())
    monkeypatch.setattr(native.jax.ffi, "pycapsule", unittest.mock.Mock())
    native._load.cache_clear()
    try:
        return native.status(), native.available(), native.jax.ffi.register_ffi_target.called
    finally:
        native._load.cache_clear()


@pytest.mark.parametrize("calls", [None, 1, native.CALLS + 1])
def test_a_kernel_built_of_other_sources_is_not_called(tmp_path, monkeypatch, calls):
    """It knows other targets or attributes: called all the same, it would fail inside a program, or worse."""
    path = tmp_path / "_kernel_0_3.so"
    found, selects, known = opened(monkeypatch, path, calls)
    assert not found.available and not selects and not known
    assert path.name in found.reason and "other sources" in found.reason and "Install jals again" in found.reason


def test_a_kernel_built_for_another_machine_alone_is_not_called(tmp_path, monkeypatch):
    path = tmp_path / "_kernel_0_3.so"
    assert opened(monkeypatch, path, native.CALLS)[0].isa == "avx2"
    found, selects, known = opened(monkeypatch, path, native.CALLS, isa=None)
    assert not found.available and not selects and not known
    assert path.name in found.reason and "JALS_ISA=host" in found.reason and "Install jals again" in found.reason


def test_settings_tell_x64_and_what_slows_a_fit(monkeypatch):
    assert doctor.settings({}).rows == [("x64", "on: float64 where values are float64")]
    rows = doctor.settings({"JAX_LOG_COMPILES": "1", "XLA_FLAGS": "--a", "HOME": "/", "MY_JAX_": "1"}).rows
    assert rows[1:] == [("JAX_LOG_COMPILES", "1"), ("XLA_FLAGS", "--a")]
    with jax.enable_x64(False), jax.disable_jit():
        section = doctor.settings({})
    assert section.rows[0][1].startswith("off: everything is float32")
    (finding,) = section.findings
    assert "nothing is compiled" in finding.what and finding.cure == "Unset JAX_DISABLE_JIT."


def test_local_data_are_listed(tmp_path):
    assert doctor.local_data({}).rows[0][1].startswith("not set")
    (tmp_path / "b.npz").touch()
    (tmp_path / "a.csv").touch()
    (tmp_path / "folder").mkdir()
    section = doctor.local_data({"JALS_DATA": str(tmp_path)})
    assert dict(section.rows) == {"JALS_DATA": str(tmp_path), "there": "a.csv, b.npz"}
    (finding,) = doctor.local_data({"JALS_DATA": str(tmp_path / "none")}).findings
    assert finding.wrong and "none, which cannot be read: No such file or directory" in finding.what


@pytest.mark.parametrize("error", [RuntimeError("Unable to initialize backend 'tpu'\nmore"), AssertionError()])
def test_no_device_is_wrong(monkeypatch, error):
    def no_devices():
        raise error

    monkeypatch.setattr(jax, "devices", no_devices)
    found, section = doctor.devices_here()
    (finding,) = section.findings
    assert found == [] and finding.wrong and "Unset JAX_PLATFORMS" in finding.cure
    assert "jax has no device: " in finding.what and "more" not in finding.what
    assert [section.title for section in doctor.sections({})][-1] == "Data", "without devices no fit is tried"


def test_a_small_fit_certifies_and_a_broken_one_does_not(monkeypatch):
    certificate = doctor.small_fit(jax.devices()[0])
    assert certificate.holds() and certificate.bound == 1e-13
    broken = SimpleNamespace(user=1.0, item=0.0, last_updated=0.0, bound=1e-5, holds=lambda: False)
    monkeypatch.setattr(jals, "certify", lambda *_: broken)
    section = doctor.fits(jax.devices()[:1])
    assert section.rows == [("cpu:0", "not certified, largest backward error 1.0e+00, bound 1e-05")]
    (finding,) = section.findings
    assert finding.wrong and "a small fit on cpu:0 went wrong: not certified" in finding.what


def test_a_fit_that_fails_or_never_ends_is_reported(monkeypatch):
    def fail(_):
        raise ValueError("first line\nsecond line")

    monkeypatch.setattr(doctor, "small_fit", fail)
    assert doctor.fits(jax.devices()[:1]).rows == [("cpu:0", "first line")]
    monkeypatch.setattr(doctor, "small_fit", lambda _: time.sleep(2))
    monkeypatch.setattr(doctor, "FIT_SECONDS", 0.01)
    section = doctor.fits(jax.devices()[:1])
    assert section.rows == [("cpu:0", "no end within 0.01 s")]
    assert section.findings[0].wrong


def test_what_is_found_decides_the_exit_code(monkeypatch):
    def visit(*findings):
        sections = [doctor.Topic("Title", [("name", "value " * 20)], list(findings)), doctor.Topic("Nothing", [])]
        monkeypatch.setattr(doctor, "sections", lambda _: iter(sections))
        lines = Lines()
        code = doctor.examine(lines)  # pyright: ignore[reportArgumentType]
        assert max(map(len, lines.text.splitlines())) <= 80
        assert "Nothing\n" not in lines.text
        return code, lines.text

    note = doctor.Finding("To know.", "export NPROC=4", wrong=False)
    wrong = doctor.Finding("Badly " + "wrong " * 30, 'pip install "jals[cli]"')
    code, text = visit()
    assert code == 0 and "Everything jals needs works." in text
    code, text = visit(note)
    assert code == 0 and "\n- To know.\n  export NPROC=4\n" in text
    code, text = visit(note, wrong)
    assert code == 1 and "\n! Badly wrong wrong" in text and '\n  pip install "jals[cli]"\n' in text
    assert "1 problem, marked ! above." in text


VISIT = """
import jals.app.commands.doctor as doctor, os, rich.console
code = doctor.examine(rich.console.Console(highlight=False))
found = doctor.devices_here()[0]
expected = doctor.pool_size(doctor.usable_cores(), os.environ.get("NPROC"), len(found))
try:
    names = [open(f"/proc/self/task/{task}/comm").read().strip() for task in os.listdir("/proc/self/task")]
except OSError:
    names = []
pool = sum("XLAEigen" in name for name in names)
print("pool", pool, expected)
raise SystemExit(code)
"""


@pytest.mark.parametrize("threads, at_risk", [(2, True), (4, False)])
def test_a_visit_on_two_host_devices(tmp_path, threads, at_risk):
    """For real: the self-check ends where other code could hang, and the pool has as many threads as was reckoned."""
    pytest.importorskip("rich", reason='the command line needs the extra "cli"')
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"  # the suite's, for fast compiles
    settings = {"XLA_FLAGS": flags, "NPROC": str(threads), "JALS_DATA": str(tmp_path)}
    settings |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": "60"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")} | settings
    done = subprocess.run([sys.executable, "-c", VISIT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("can wait for ever" in done.stdout) == (at_risk and not doctor.below(jax.__version__, "0.10"))
    assert done.stdout.count("certified, largest backward error") == 2
    assert "Everything jals needs works." in done.stdout
    assert "CPU kernel\n  backend auto" in done.stdout
    pool, expected = map(int, done.stdout.split("pool ")[-1].split())
    assert expected == threads
    if pool:
        assert pool == expected
