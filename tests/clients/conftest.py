import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "alearn" / "clients"
HERE = Path(__file__).parent
STRICT = ["-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Werror", "-O1", "-g"]


def compiler(name, how):
    """The compiler's path; without it the test is skipped, but not in CI."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        subprocess.run([ROOT / "scripts" / "fortran"], check=True, timeout=400)
        found = shutil.which(name)
        assert found is not None, f"{name} cannot be had here"
    if found is None:
        pytest.skip(f"skipped, because there is no {name}; {how}")
    return found


def build(*argv, folder):
    result = subprocess.run([*map(str, argv)], cwd=folder, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def c_program(folder, *options, libraries=()):
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    cc = compiler("gcc", "apt-get install gcc")
    source = HERE / "writer.c"
    build(cc, "-std=c99", "-pedantic", *STRICT, *checks, *options, f"-I{CLIENTS}", source, "-o", "writer", "-lm", *libraries, folder=folder)
    return folder / "writer"


@pytest.fixture(scope="session")
def c_plain_writer(tmp_path_factory):
    """The client without OpenSSL."""
    return c_program(tmp_path_factory.mktemp("c"))


@pytest.fixture(scope="session")
def c_tls_writer(tmp_path_factory):
    """The client with OpenSSL."""
    if not Path("/usr/include/openssl/ssl.h").exists():
        pytest.skip("skipped, because OpenSSL's headers are not here; apt-get install libssl-dev")
    return c_program(tmp_path_factory.mktemp("c_tls"), "-DALEARN_TLS", libraries=("-lssl", "-lcrypto"))


@pytest.fixture(scope="session")
def fortran_writer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fortran")
    fc = compiler("gfortran", "run scripts/fortran")
    cc = compiler("gcc", "apt-get install gcc")
    build(cc, "-std=c99", "-Wall", "-Wextra", "-Werror", "-O1", "-c", CLIENTS / "alearn_fortran.c", folder=folder)
    sources = (CLIENTS / "alearn_client.f90", HERE / "writer.f90")
    build(fc, "-Wall", "-Werror", "-O1", "-fcheck=all", *sources, "alearn_fortran.o", "-o", "writer", "-lm", folder=folder)
    return folder / "writer"


@pytest.fixture(scope="session")
def cplusplus_program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cplusplus")
    (folder / "x.cpp").write_text('#include "alearn.h"\nint main() { return alearn_close(alearn_connect(), NULL); }\n')
    cc = compiler("g++", "apt-get install g++")
    build(cc, "-std=c++11", "-Wall", "-Wextra", "-Werror", f"-I{CLIENTS}", "x.cpp", "-o", "x", folder=folder)
    return folder / "x"


@pytest.fixture(scope="session")
def c_example(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("c_example"), ROOT / "examples" / "04_c_client" / "front.c"
    build(compiler("gcc", "apt-get install gcc"), "-O2", "-Wall", f"-I{CLIENTS}", source, "-o", "front", "-lm", folder=folder)
    return folder / "front"


@pytest.fixture(scope="session")
def fortran_example(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("fortran_example"), ROOT / "examples" / "05_fortran_client" / "rod.f90"
    fc = compiler("gfortran", "run scripts/fortran")
    build(compiler("gcc", "apt-get install gcc"), "-O2", "-c", CLIENTS / "alearn_fortran.c", folder=folder)
    build(fc, "-O2", CLIENTS / "alearn_client.f90", source, "alearn_fortran.o", "-o", "rod", "-lm", folder=folder)
    return folder / "rod"
