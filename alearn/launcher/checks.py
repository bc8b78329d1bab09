"""What every launcher asks of a job before it starts it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping

from alearn.errors import LaunchError
from alearn.launcher.base import Job

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What tells the usual libraries how many threads a member may use."""
DIRECTORY = "ALEARN_DIRECTORY"
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(member: str) -> None:
    """Check that a member's id can be part of a file's or a job's name.

    Raises:
        LaunchError: it cannot.
    """
    if not _MEMBER.fullmatch(member) or ".." in member:
        raise LaunchError(f"The member id {member!r} is no plain name; use letters, digits, '.', '_' and '-'.")


def check_program(job: Job, environ: Mapping[str, str]) -> None:
    """Check that a job's program is there.

    Raises:
        LaunchError: it is not, or may not be executed.
    """
    if not job.argv:
        raise LaunchError(f"Member {job.member} has an empty command; give at least the program.")
    program = job.argv[0]
    if "/" in program:
        path = job.directory / program
        if path.is_file() and os.access(path, os.X_OK):
            return
        why = "it is not executable (chmod +x)" if path.is_file() else "there is no such file"
        raise LaunchError(f"Member {job.member} cannot start {path}: {why}.")
    if shutil.which(program, path=environ.get("PATH")) is None:
        raise LaunchError(f"Member {job.member} cannot start '{program}': it is not in PATH; install it or give its full path.")


def make_directory(job: Job) -> None:
    """Make the attempt's directory.

    Raises:
        LaunchError: it cannot be made.
    """
    try:
        job.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"The directory of member {job.member} cannot be made: {error}.") from error
