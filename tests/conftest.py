"""Settings of the whole suite: time on a busy machine is no failure, so hypothesis judges results only."""

from hypothesis import HealthCheck, settings

settings.register_profile("alearn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("alearn")
