"""Programs that answer as Slurm's do, for tests of what they are asked; no job runs unless a test says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

# A job's state is the content of jobs/<number>, at first that of `first`; one that is not there is forgotten.
PROGRAMS = {
    "sbatch": """
[[ ! -e $SLURM/slow ]] || { touch "$SLURM/submitting"; sleep 2; }
number=$(($(cat "$SLURM/last") + 1))
printf '%s\\n' "$number" >"$SLURM/last"
printf '%s %s\\n' "$number" "$*" >>"$SLURM/submitted"
cp "$SLURM/first" "$SLURM/jobs/$number"
printf '%s\\n' "$number"
[[ ! -e $SLURM/run ]] || { bash "${@: -1}" &>"$SLURM/output"; rm "$SLURM/jobs/$number"; }
""",
    "squeue": """
while (($#)) && [[ $1 != -j ]]; do shift; done
found=no
for number in ${2//,/ }; do
    [[ -f $SLURM/jobs/$number ]] || continue
    found=yes
    printf '%s|%s|%s|n1|name%s\\n' "$number" "$number" "$(cat "$SLURM/jobs/$number")" "$number"
done
printf 'asked\\n' >>"$SLURM/questions"
[[ $found == yes ]] || { printf 'slurm_load_jobs error: Invalid job id specified\\n' >&2; exit 1; }
""",
    "scancel": """
printf '%s\\n' "$*" >>"$SLURM/cancelled"
for number; do rm -f "$SLURM/jobs/$number"; done
""",
    "scontrol": "printf 'JobId=%s ExitCode=3:0 \\n' \"${@: -1}\"\n",
}


class Slurm:
    """Slurm's programs in a folder, to be put into PATH, and what they were told.

    Args:
        folder: where they and the jobs' states are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "jobs").mkdir(parents=True)
        (folder / "bin").mkdir()
        (folder / "last").write_text("0\n")
        (folder / "first").write_text("PENDING\n")
        for name, text in PROGRAMS.items():
            program = folder / "bin" / name
            program.write_text(f"#!{shutil.which('bash')}\nset -euo pipefail\nSLURM={str(folder)!r}\n{text}")
            program.chmod(0o755)
        self.variables = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "AUDIOTAG_POLL_S": "0.2"}

    def set_state(self, state: str | None, *numbers: int) -> None:
        """Give jobs a state; None forgets them, and without numbers it is for all."""
        for number in numbers or range(1, int((self.folder / "last").read_text()) + 1):
            path = self.folder / "jobs" / str(number)
            if state is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(f"{state}\n")

    def told(self, what: str) -> list[str]:
        """What was `submitted` (number and arguments) or `cancelled`, or the `questions` for states."""
        path = self.folder / what
        return path.read_text().splitlines() if path.exists() else []
