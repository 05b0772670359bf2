"""What is packed, and what an installation does where the CPU kernel cannot be built.

Nothing is compiled here; `make package` compiles too: a wheel from the archive of the sources, and an editable install.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from jals import native
from tests.support import ROOT

pytest.importorskip("scikit_build_core")
pytestmark = pytest.mark.newest

COMPILED = ("*.so", "*.cpp", "*.hpp", "*.cu", "*.cuh", "CMakeLists.txt")
ON_XLA = "jals works on XLA alone, without its faster CPU kernel: "
needs_cmake = pytest.mark.skipif(not (shutil.which("cmake") or importlib.util.find_spec("cmake")), reason="needs cmake")


@pytest.fixture
def tree(tmp_path):
    """The sources, with what may lie about in a tree that is in use."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "jals", tree / "jals", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for stray in (
        "jals/rows/native/_kernel_9_9.so",
        "jals/__pycache__/old.pyc",
        "tests/test_x.py",
        "runs/x/index.html",
    ):
        (tree / stray).parent.mkdir(parents=True, exist_ok=True)
        (tree / stray).touch()
    return tree


def files(tree, *without):
    """What of the package lies in a tree, by its name from there."""
    left_out = shutil.ignore_patterns("__pycache__", "*.so", *without)
    found = set()
    for folder, folders, names in os.walk(tree / "jals"):
        folders[:] = set(folders) - left_out(folder, folders)
        found |= {
            (pathlib.Path(folder) / name).relative_to(tree).as_posix() for name in set(names) - left_out("", names)
        }
    return found


def build(tree, what="wheel", **environ):
    """(exit status, all that it says, the file or None) of a build as pip starts it."""
    out = tree.parent / "out"
    out.mkdir(exist_ok=True)
    call = f"import scikit_build_core.build as build; build.build_{what}({str(out)!r})"
    kept = {name: value for name, value in os.environ.items() if name != "JALS_NATIVE"}
    environ = kept | {"JALS_CUDA": "0"} | environ  # it takes minutes: test_cuda_emulated.py has it compiled
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=tree, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout, next(iter(out.glob("*")), None)


def packed(wheel):
    """The names in a wheel, its .dist-info aside."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def isas(site):
    """Those of its instruction sets that a package's kernel has here."""
    ask = "for each in ['baseline', 'avx2', 'avx512']: _load()[0].jals_use_isa(each.encode()) and print(each)"
    ask = f"from jals.rows.native import _load\n{ask}"
    environ = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run([sys.executable, "-c", ask], cwd=site, env=environ, capture_output=True, text=True)
    return done.stdout.split()


def test_a_wheel_holds_the_package_and_its_templates(tree):
    status, said, wheel = build(tree, JALS_NATIVE="0", CMAKE_EXECUTABLE="/nowhere")
    assert status == 0 and wheel.name.endswith("-py3-none-any.whl") and "as JALS_NATIVE=0 asks" in said
    assert packed(wheel) == files(tree, *COMPILED)
    assert any(name.endswith(".j2") for name in packed(wheel)) and "jals/py.typed" in packed(wheel)


def test_an_archive_of_the_sources_holds_what_is_compiled(tree):
    status, _, archive = build(tree, "sdist")
    assert status == 0
    with tarfile.open(archive) as file:
        held = {name.partition("/")[2] for name in file.getnames()}
    assert held == files(tree) | {"pyproject.toml", "README.md", "LICENSE", "PKG-INFO"}


@needs_cmake
@pytest.mark.parametrize("what, reason", [("wheel", "/nowhere/c++"), ("editable", "nowhere.hpp")])
def test_without_a_kernel_the_package_is_installed_all_the_same(tree, what, reason):
    """For want of a compiler, or because the source is broken."""
    environ = {"CXX": reason} if reason.startswith("/") else {}
    if not environ:
        (tree / "jals/rows/native/rows.hpp").write_text(f'#include "{reason}"\n')
    status, said, wheel = build(tree, what, **environ)
    assert status == 0 and wheel.name.endswith("-py3-none-any.whl"), said
    assert said.splitlines()[-1].startswith(ON_XLA)
    assert reason in said
    wheel.unlink()
    status, said, wheel = build(tree, what, **environ, JALS_NATIVE="require")
    assert status and wheel is None and "the CPU kernel was not built" in said


def test_a_value_that_means_nothing_is_refused(tree):
    status, said, wheel = build(tree, JALS_NATIVE="no")
    assert status and wheel is None and "JALS_NATIVE" in said and "0 (no CPU kernel) nor require" in said


@needs_cmake
def test_an_instruction_set_of_another_name_is_refused(tree):
    status, said, wheel = build(tree, JALS_ISA="avx2", JALS_NATIVE="require")
    assert status and wheel is None and 'JALS_ISA is "avx2"' in said and "must be host" in said


@pytest.mark.slow
def test_a_wheel_from_the_archive_has_a_kernel_that_loads(tree, tmp_path):
    _, _, archive = build(tree, "sdist")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    status, said, wheel = build(unpacked, JALS_NATIVE="require")
    assert status == 0 and "-py3-none-" in wheel.name and "any" not in wheel.name, said
    grouping, library = sorted(packed(wheel) - files(tree, *COMPILED))
    assert grouping == "jals/data/native/_grouping.so"
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    ask = "from jals import native; from jals.data.grouping import library; print(*native.status(), bool(library()))"
    environ = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", ask], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.stdout.startswith("True") and done.stdout.endswith("True\n"), done.stdout + done.stderr
    assert str(tmp_path / "site" / library) in done.stdout
    assert isas(tmp_path / "site")[0] == "baseline"  # for any machine


@pytest.mark.slow
def test_a_wheel_carries_the_kernel_of_gpus_where_nvcc_makes_it(tree, tmp_path):
    """By an nvcc that only writes what it is told to; test_cuda_emulated.py has the kernel compiled by a real one."""
    nvcc = tmp_path / "toolkit/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho made > "$2"\n')
    nvcc.chmod(0o755)
    environ = {"JALS_NATIVE": "require", "JALS_CUDA": "1", "CUDA_HOME": str(tmp_path / "toolkit")}
    status, said, wheel = build(tree, **environ)
    assert status == 0, said
    made = [name for name in packed(wheel) if "/_cuda_" in name]
    assert len(made) == 1 and zipfile.ZipFile(wheel).read(made[0]) == b"made\n"
    wheel.unlink()
    nvcc.write_text("#!/bin/sh\nexit 1\n")  # the CPU's is none the worse
    status, said, wheel = build(tree, **environ)
    assert status == 0 and "No CUDA kernel" in said
    made = sorted(name.rpartition("/")[2][:8] for name in packed(wheel) if name.endswith(".so"))
    assert made == ["_groupin", "_kernel_"]


@pytest.mark.slow
def test_an_editable_install_goes_by_path(tree):
    before = files(tree)
    status, said, wheel = build(tree, "editable", JALS_NATIVE="require", JALS_ISA="host")
    assert status == 0, said
    assert files(tree) == before  # no litter
    libraries = sorted(path.name for path in tree.rglob("*.so"))
    assert len(libraries) == 3 and libraries[-1] == "_kernel_9_9.so"  # that of another jax is left alone
    assert libraries[0] == "_grouping.so"
    assert not any(name.startswith("jals/") for name in packed(wheel))
    (paths,) = [name for name in packed(wheel) if name.endswith(".pth")]
    assert str(tree) in zipfile.ZipFile(wheel).read(paths).decode().splitlines()
    (isa,) = isas(tree)
    assert isa == native.status().isa  # the best that there is here, and no other
    (tree / "jals/rows/native/rows.hpp").write_text('#include "nowhere.hpp"\n')
    assert build(tree, "editable")[1].splitlines()[-1].startswith(ON_XLA)
    assert [path.name for path in tree.rglob("*.so")] == ["_kernel_9_9.so"]  # what was built of other sources is gone
