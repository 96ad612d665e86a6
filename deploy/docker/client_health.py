"""Whether a client works with the store of a site's FILE.

``python client_health.py FILE`` ends with 0, or with 1 and the reason.
"""

from __future__ import annotations

import sys
from pathlib import Path

from feat_fed.config import load_site
from feat_fed.errors import ConfigError
from feat_fed_client.running import client_is_running


def main(site_file: Path) -> str | None:
    """Return what is wrong, or None."""
    try:
        site = load_site(site_file)
    except ConfigError as error:
        return str(error)
    return None if client_is_running(site.store) else f"no client works with {site.store}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
