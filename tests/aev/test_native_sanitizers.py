"""The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer, with a driver in C++.

``python -m pytest tests/aev/test_native_sanitizers.py`` runs it alone.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import anipot.aev

HERE = Path(__file__).parent
SOURCES = Path(anipot.aev.__file__).parent / "_native"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
FLAGS = ["-std=c++17", "-O1", "-g1", "-fno-math-errno", "-fno-trapping-math", "-pthread", "-w"]
SANITIZERS = [
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
]


@pytest.mark.slow
def test_clean_under_sanitizers(tmp_path):
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "driver"
    empty = tmp_path / "empty.cpp"
    empty.write_text("int main() { return 0; }\n")
    probe = subprocess.run(
        [COMPILER, *SANITIZERS, str(empty), "-o", str(tmp_path / "empty")], capture_output=True
    )
    if probe.returncode:
        pytest.skip(f"{COMPILER} has no sanitizers")
    build = subprocess.run(
        [
            COMPILER,
            *FLAGS,
            *SANITIZERS,
            f"-I{SOURCES}",
            str(HERE / "native_driver.cpp"),
            "-o",
            str(program),
        ],
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    # The memory of a whole process cannot be searched for leaks where it is being traced.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    run = subprocess.run([str(program)], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "base: 0 wrong" in run.stdout
