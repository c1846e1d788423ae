"""The commands: each module is one, `python -m audiotag.bin.<module>`."""

import sys

from audiotag.errors import leave_at_interrupt

# So Python calls itself while it looks for the module to run; whoever only imports one keeps his handlers.
if sys.argv[:1] == ["-m"]:
    leave_at_interrupt()
