"""The evaluator: a process beside a run that measures its checkpoints; no round waits for it."""

HOPELESS = 2
"""Its exit status where another try would end in the same way."""
