"""The kernel without XLA on cases nobody thought of (fuzz.cpp, fuzz_select.cpp), under sanitizers too.

Short here; `make sanitize` runs JALS_FUZZ cases of each instruction set under each sanitizer.
"""

import os
import platform
import re
import subprocess

import pytest

from jals import native
from tests.support import ROOT
from tests.support.compiler import build

pytestmark = pytest.mark.newest

SOURCES = ROOT / "jals/rows/native"
ISAS = dict(re.findall(r"^set\(FLAGS_(\w+) (.*)\)", (SOURCES / "CMakeLists.txt").read_text(), re.M))
if platform.machine().lower() not in ("x86_64", "amd64"):
    ISAS = {"baseline": ISAS["baseline"]}
# Address and undefined compile five times as fast without optimization; a race is looked for in code as it will run.
SANITIZERS = {"plain": ["-O1"], "address,undefined": ["-O0", "-g"], "thread": ["-O1", "-g"]}

CASES = int(os.environ.get("JALS_FUZZ", "0"))
HERE = native.status().isa or "baseline"
BUILDS = [(i, s) for i in ISAS for s in SANITIZERS] if CASES else [(HERE, "plain"), ("baseline", "address,undefined")]


# What the GPUs' kernel is compiled with for a CPU to play the GPU; its fibres are nothing for a sanitizer.
EMULATOR = ["-DJALS_EMULATOR", "-U_FORTIFY_SOURCE", f"-I{ROOT / 'tests/rows/emulator'}"]


@pytest.mark.parametrize("isa, sanitizer", BUILDS)
@pytest.mark.parametrize("program", ["fuzz", "fuzz_select"])  # plain sums, a plain sort
def test_the_kernel_agrees_with_the_plain_way(tmp_path, program, isa, sanitizer):
    flags = list(SANITIZERS[sanitizer])
    if sanitizer != "plain":
        flags += [f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"]
        (tmp_path / "nothing.cpp").write_text("int main() {}")
        tried = build(tmp_path / "nothing.cpp", tmp_path / "nothing", *flags)
        if tried.returncode or subprocess.run([tmp_path / "nothing"], capture_output=True).returncode:
            pytest.skip(f"needs a compiler with -fsanitize={sanitizer}")
    run(ROOT / f"tests/rows/{program}.cpp", tmp_path, isa, flags)


def test_the_kernel_on_an_emulator_agrees_with_the_plain_way(tmp_path):
    run(ROOT / "tests/rows/fuzz.cpp", tmp_path, "baseline", ["-O1", *EMULATOR], CASES or 40)


def run(source, tmp_path, isa, flags, number=CASES or 100):
    flags = [*flags, f"-I{SOURCES}", f"-DJALS_ISA={isa}", *ISAS[isa].split()]
    built = build(source, tmp_path / "fuzz", *flags)
    assert built.returncode == 0, built.stderr
    cases, seed = str(number), os.environ.get("JALS_SEED", "0")
    done = subprocess.run([tmp_path / "fuzz", cases, seed], capture_output=True, text=True, timeout=1000)
    if done.returncode == 77:
        pytest.skip(f"needs a machine with {isa}")
    assert done.returncode == 0 and f"{cases} cases pass" in done.stdout, done.stdout + done.stderr
