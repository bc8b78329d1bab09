"""The clients for simulations in C, C++ and Fortran: source files to compile into a simulation.

``python -m alearn.clients`` prints the folder they lie in::

    gcc -I"$(python -m alearn.clients)" simulation.c -o simulation -lm
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["folder"]


def folder() -> Path:
    """Where ``alearn.h``, ``alearn_client.f90`` and ``alearn_fortran.c`` lie."""
    return Path(__file__).parent
