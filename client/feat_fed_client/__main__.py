"""The site's executor: ``python -m feat_fed_client HOST:PORT SECRET_FILE``.

Processes that the executor spawns to look at files or to encode them import their parent's main
module anew, unless it is a package's ``__main__``: so it is this one, and they are spared Flower,
torch and DeepSpeed (235 MiB and two seconds each).
"""

import sys

from feat_fed_client.executor import main

if __name__ == "__main__":
    main(sys.argv[1:])
