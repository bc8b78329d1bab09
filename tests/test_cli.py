"""The command line: help without heavy imports, sentences and exit codes for wrong input."""

import subprocess
import sys

import pytest

from alearn.cli import COMMANDS, main


def test_bare_call_prints_the_commands(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    for command in ("run", "resume", "status", "report", "predict", "plugins", "doctor"):
        assert f"alearn {command}" in text


def test_help_imports_neither_torch_nor_hydra():
    code = "import sys; from alearn.cli import main; main(['--help']); assert not {'torch', 'hydra', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["rnu"], "Did you mean 'alearn run'"),
        (["run", "experiment=gray_scot"], "Did you mean 'gray_scott'"),
        (["run"], "space"),
        (["status", "/nowhere"], "no directory"),
        (["resume", "/nowhere"], "no study"),
        (["predict", "/nowhere", "--at", "F=1"], "no study"),
        (["plugins", "surogate"], "Did you mean 'surrogate'"),
        (["kill", "/nowhere", "m0001"], "no study"),
        (["status"], "required"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(argv, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("alearn: ")
    assert words in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_plugins_lists_every_room(capsys):
    assert main(["plugins"]) == 0
    out = capsys.readouterr().out
    assert "std_distance" in out
    assert "ensemble" in out


def test_doctor_finds_what_is_needed(capsys):
    assert main(["doctor"]) == 0
    assert "everything that every study needs is here" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("alearn ")


def test_every_command_is_in_the_help(capsys):
    main([])
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
