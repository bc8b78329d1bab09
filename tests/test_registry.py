"""Names become plug-ins; what is not there is told with what is."""

import pytest

from alearn.errors import ConfigError, UnknownName
from alearn.registry import ROOMS, build, load_object, plugins, resolve


def test_every_registered_plugin_loads():
    for room in ROOMS:
        for name in plugins(room):
            assert callable(resolve(room, name)), (room, name)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'ensemble'"):
        resolve("surrogate", "ensembel")


def test_a_file_and_a_name_are_enough(tmp_path):
    (tmp_path / "mine.py").write_text("import helper_beside_mine\nclass Mine:\n    def __init__(self, *, a=1):\n        self.a = a\n")
    (tmp_path / "helper_beside_mine.py").write_text("")
    made = build("acquisition", f"{tmp_path}/mine.py:Mine", {"a": 3})
    assert made.a == 3
    with pytest.raises(UnknownName, match="Did you mean 'Mine'"):
        load_object(f"{tmp_path}/mine.py:Mien")
    with pytest.raises(UnknownName, match="Did you mean 'a'"):
        build("acquisition", f"{tmp_path}/mine.py:Mine", {"aa": 3})


@pytest.mark.parametrize("target", ["nothing", "no_such_module_here:f", "/no/such/file.py:f", ":f", "x.py:"])
def test_targets_that_name_nothing(target):
    with pytest.raises(ConfigError):
        load_object(target)
