"""simulators: small, real, documented solvers that are the demos and the fixtures. numpy only.

A simulator is a module with a generator function of its own name, its parameter box ``BOX``, its scalar
``OUTPUTS`` and, where all runs are equally long, its number of frames ``STEPS``:
``alearn.simulators.gray_scott:gray_scott`` is a simulation target.
"""

from alearn.simulators.reference import Reference, load_reference, make_reference

__all__ = ["Reference", "load_reference", "make_reference"]
