"""The hospital's role: the ClientApp, code trust, and Flower's SuperNode around it."""

SITE_CONFIG = "FEAT_FED_SITE"
"""Environment variable that tells the executor's process where the site's file is."""

CLIENT_LOCK = "flower/client.lock"
"""In a site's store; held while a client works with it."""
