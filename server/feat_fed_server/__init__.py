"""The coordinator's role: the round loop, its ServerApp, and Flower's SuperLink around it."""

RUN_FOLDER = "FEAT_FED_RUN"
"""Environment variable that tells the ServerApp's process where the run's folder is."""

RUN_ERRAND = "FEAT_FED_ERRAND"
"""Environment variable that tells it what to do there: :mod:`feat_fed_server.errand`."""
