import re
from pathlib import Path

import yaml

from alearn.registry import plugins

DOCS = Path(__file__).parents[2] / "docs" / "choosing-an-acquisition.md"


def test_an_own_acquisition_takes_twelve_lines_and_passes_the_suite():
    own, proof = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert len([line for line in own.splitlines() if line.strip()]) <= 12
    names: dict[str, object] = {}
    exec(own, names)  # noqa: S102 - the page's own text
    exec(proof, names)  # noqa: S102


def test_the_page_names_every_acquisition():
    text = DOCS.read_text()
    missing = [name for name in plugins("acquisition") if f"`{name}`" not in text and f"acquisition={name}" not in text]
    assert not missing


def test_what_the_page_says_of_the_defaults_is_so():
    configs = DOCS.parents[1] / "configs"
    entries = yaml.safe_load((configs / "config.yaml").read_text())
    assert {"acquisition": "std_distance"} in entries["defaults"]
    assert entries["design"]["holdout"] == 0.1
