"""What holds for all tests: on a busy machine an example may take however long."""

from hypothesis import settings

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")
