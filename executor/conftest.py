"""Settings of hypothesis for this room: a machine under load is slow, and that is no failure."""

from hypothesis import settings

settings.register_profile("room", deadline=None)
settings.load_profile("room")
