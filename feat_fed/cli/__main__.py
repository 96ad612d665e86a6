"""``python -m feat_fed.cli``: the command where its script is not on the PATH."""

from feat_fed.cli.main import run_main

run_main()
