"""What all tiers share."""

from hypothesis import HealthCheck, settings

# A busy machine is slow, not wrong: no test fails for its time.
settings.register_profile("moodstream", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("moodstream")
