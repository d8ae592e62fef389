"""Exit statuses. They are part of the interface: scripts branch on them."""

OK = 0
FAILED = 1
"""An error of ours or of the machine's."""
BAD_INPUT = 2
"""The caller's (argparse uses it too)."""
SOME_FAILED = 3
"""Done, but some sources could not be read."""
INFEASIBLE = 4
"""No index keeps to the objective; the nearest was told."""
INTERRUPTED = 130
