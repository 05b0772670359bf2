"""Builds the CPU kernel, a plain shared library that ctypes loads. All else about the package is in pyproject.toml.

The kernel is never needed: where it cannot be built, one line says so and the package is installed without it.
JALS_NATIVE=0 in the environment leaves it out, JALS_NATIVE=require makes that an error. CXX, CXXFLAGS and LDFLAGS work
as usual.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("jals/rows/native")
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-Wall", "-Wextra", "-fvisibility=hidden", "-pthread"]
ISAS = {  # builds of kernel.cpp: which of them a machine gets is settled when it loads the library
    "baseline": "-DJALS_BYTES=16",
    "avx2": "-DJALS_BYTES=32 -mavx2 -mfma",
    "avx512": "-DJALS_BYTES=64 -mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma",
}


class NotBuilt(Exception):
    """Why there is no kernel, and what to do about it."""


def compiler() -> tuple[list[str], str]:
    """(a C++ compiler, what it compiles for)"""
    given = shlex.split(os.environ.get("CXX", ""))
    for command in [given] if given else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command, run([*command, "-dumpmachine"]).strip()
    tried = f"CXX is {given[0]}, which is not there" if given else "there is no C++ compiler: no c++, g++ or clang++"
    raise NotBuilt(f"{tried}. Install g++ 12 or a recent clang")


def headers() -> tuple[Path, str] | None:
    """(XLA's headers, the version of the interface that they declare), where the build's jaxlib has them"""
    found = importlib.util.find_spec("jaxlib")
    folder = Path(found.origin).parent / "include" if found and found.origin else Path()
    try:
        text = (folder / "xla/ffi/api/c_api.h").read_text()
    except OSError:
        return None
    return folder, "_".join(re.findall(r"define XLA_FFI_API_M(?:AJ|IN)OR (\d+)", text))


def run(command: list[str]) -> str:
    """What a command prints."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise NotBuilt(f"{command[0]} does not run: {error.strerror}. Install g++ 12 or a recent clang") from None
    if done.returncode:
        lines = done.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing")
        raise NotBuilt(f"{command[0]} fails: {first}. Install g++ 12 or a recent clang")
    return done.stdout


class Build(build_ext):
    """The kernel in place of a Python extension."""

    built: Path | None = None

    def run(self):
        old = [*(Path(self.build_lib) / SOURCES).glob("_kernel*")]  # of earlier builds, perhaps of other sources
        for library in [*old, SOURCES / Path(self.get_ext_filename("_kernel")).name] if self.inplace else old:
            library.unlink(missing_ok=True)
        wanted = os.environ.get("JALS_NATIVE", "")
        if wanted not in ("", "0", "require"):
            raise SystemExit(f'JALS_NATIVE is "{wanted}". Set it to 0 (no CPU kernel) or require, or unset it.')
        if wanted == "0":
            print("jals: no CPU kernel, as JALS_NATIVE=0 asks. XLA alone does the work.", file=sys.stderr)
            return
        try:
            super().run()
        except NotBuilt as why:
            if wanted == "require":
                raise SystemExit(f"jals: the CPU kernel was not built: {why}.") from None
            print(f"jals: works on XLA alone, without its faster CPU kernel: {why}, and jals again.", file=sys.stderr)

    def get_ext_filename(self, fullname):
        # A library works with the interface of its headers and newer ones. Named for it, one of an older jax and one
        # of a newer can lie side by side, and jals/rows/native/__init__.py takes the one that fits.
        found = headers()
        return os.path.join(*fullname.split(".")[:-1], f"_kernel_{found[1]}.so" if found else "_kernel.so")

    def build_extension(self, ext):
        if sys.platform == "win32":
            raise NotBuilt("it is not made for Windows. Install Python under WSL")
        command, machine = compiler()
        found = headers()
        if not found:
            raise NotBuilt("there is no jaxlib with XLA's headers. Install jax")
        flags = [*command, *FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]
        objects = Path(self.build_temp)
        objects.mkdir(parents=True, exist_ok=True)
        calls = []

        def add(source, name, *more):
            calls.append([*flags, *more, "-c", str(SOURCES / source), "-o", str(objects / f"{name}.o")])

        for isa in ISAS if machine.startswith("x86_64") else ["baseline"]:
            add("kernel.cpp", isa, f"-DJALS_ISA={isa}", *ISAS[isa].split())
        add("ffi.cpp", "ffi", "-isystem", str(found[0]))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, calls))
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        linked = [call[-1] for call in calls]
        # Linked under another name and moved: a process that has the old library loaded keeps it whole.
        fresh = library.with_suffix(".new")
        run([*flags, "-shared", *linked, "-o", str(fresh), *shlex.split(os.environ.get("LDFLAGS", ""))])
        fresh.replace(library)
        self.built = library


class Wheel(bdist_wheel):
    """Tagged for what is in it: a library that any Python 3 loads, or only Python."""

    def get_tag(self):
        build = self.get_finalized_command("build_ext")
        built = isinstance(build, Build) and build.built
        self.root_is_pure = not built
        platform = super().get_tag()[2].replace("universal2", os.uname().machine) if built else "any"
        return "py3", "none", platform


sources = [str(SOURCES / name) for name in ("kernel.cpp", "ffi.cpp")]
kernel = Extension("jals.rows.native._kernel", sources, optional=True)
setup(ext_modules=[kernel], cmdclass={"build_ext": Build, "bdist_wheel": Wheel})
