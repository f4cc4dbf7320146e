"""Settings of hypothesis for this room: a machine under load is slow, and that is no failure; and what is
drawn is the same in each run, so that a run tells what the change did.
"""

from hypothesis import settings

settings.register_profile("room", deadline=None, derandomize=True)
settings.load_profile("room")
