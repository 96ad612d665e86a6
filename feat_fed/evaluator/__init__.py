"""The evaluator: a process beside a run that measures its checkpoints; no round waits for it."""
