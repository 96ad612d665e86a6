"""The server's executor: ``python -m feat_fed_server HOST:PORT SECRET_FILE``.

In a package's ``__main__``, which processes that the round loop spawns do not import anew.
"""

import sys

from feat_fed_server.executor import main

if __name__ == "__main__":
    main(sys.argv[1:])
