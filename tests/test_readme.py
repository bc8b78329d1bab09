"""What the README says a newcomer can type works as it stands there, in an empty folder.

A python block whose first line is ``# NAME.py`` is a file. Of the others the first is run as a script, and the rest as a
second one. Shell blocks under ``<!-- tested -->`` are run in order. Your own acquisition from the command line is run in
integration/test_run.py and as an example.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
FILES = {m.group(1): block for block in PYTHON if (m := re.match(r"# (\w+\.py)\n", block))}
SCRIPTS = [block for block in PYTHON if not re.match(r"# \w+\.py\n", block)]
SHELL = re.findall(r"^<!-- tested -->\n```sh\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture
def folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder, *words):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_readme_begins_with_the_two_commands():
    top = README[:1500]
    assert top.index("scripts/demo") < top.index("scripts/test")
    assert (ROOT / "scripts" / "demo").exists()
    assert (ROOT / "scripts" / "test").exists()


def test_links_lead_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if not target.startswith("http") and not (page.parent / target).exists()
    ]
    assert not broken


@pytest.mark.slow
def test_shell_blocks(folder):
    assert len(SHELL) == 2
    printed = run(folder, "bash", "-euo", "pipefail", "-c", "\n".join(SHELL))
    assert "a,b,t,y,y_std" in printed
    assert (folder / "my_study" / "report.html").is_file()


@pytest.mark.slow
def test_python_blocks(folder):
    assert len(SCRIPTS) == 3
    printed = ""
    for name, script in (("first.py", SCRIPTS[0]), ("rest.py", "\n".join(SCRIPTS[1:]))):
        (folder / name).write_text(script)
        printed += run(folder, sys.executable, name)
    assert "MemberCounts" in printed
    assert (folder / "uncertainty.png").stat().st_size > 1000
    assert (folder / "my_loop" / "report.html").is_file()
    assert "solver.py" in FILES
    run(folder, sys.executable, "solver.py")
