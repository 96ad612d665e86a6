"""Whether the server's door is open: a TLS handshake on PORT by the CA in FILE.

``python server_health.py PORT FILE`` ends with 0, or with 1 and the reason.
"""

from __future__ import annotations

import socket
import ssl
import sys

_TIMEOUT_SEC = 5.0


def main(port: int, ca_certificate: str) -> str | None:
    """Return what is wrong, or None."""
    try:
        context = ssl.create_default_context(cafile=ca_certificate)
        context.check_hostname = False  # it is for the name that hospitals use
        with (
            socket.create_connection(("127.0.0.1", port), _TIMEOUT_SEC) as connection,
            context.wrap_socket(connection),
        ):
            return None
    except OSError as error:
        return f"port {port}: {error}"


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2]))
