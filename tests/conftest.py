"""Settings of the whole suite: time on a busy machine is no failure, so hypothesis judges results only.

The suite draws the same examples every time, so that a change is judged by what it changed. New examples are what
``HYPOTHESIS_PROFILE=explore`` is for; what that finds becomes a test of its own.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("alearn", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("alearn"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "alearn"))
