"""The coordinator's role: the round loop, its ServerApp, and Flower's SuperLink around it."""

RUN_FOLDER = "FEAT_FED_RUN"
"""Environment variable that tells the ServerApp's process where the run's folder is."""
