"""Every example of docs/extending.md runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^## An? ([^\n]+)\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_names_every_group_of_entry_points():
    groups = set()
    for file in (ROOT / "anipot").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        groups |= set(re.findall(r'Registry\(\s*"[^"]+", "(anipot\.\w+)"', text))
    assert len(groups) == len(EXAMPLES)
    assert all(f"`{group}`" in PAGE for group in groups)


@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_examples_run(code, tmp_path):
    assert len(code.splitlines()) <= 16
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
