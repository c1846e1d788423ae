"""TensorBoard points of a run, written by the main process only, without doubles after a resume."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class RunWriter:
    """Scalars by tag and update number; does nothing on the other ranks."""

    def __init__(self, folder: Path, *, first_step: int, enabled: bool) -> None:
        # Points that an interrupted run wrote beyond its last checkpoint are purged, as they come again.
        self._writer = SummaryWriter(str(folder), purge_step=first_step) if enabled else None

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Add one point to each of the named curves."""
        if self._writer is not None:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)

    def text(self, tag: str, text: str) -> None:
        """Add a text, shown as preformatted."""
        if self._writer is not None:
            indented = "\n".join(f"    {line}" for line in text.splitlines())
            self._writer.add_text(tag, indented)

    def flush(self) -> None:
        """Put what was added on disk, so that a killed run leaves its curves complete."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Flush and end."""
        if self._writer is not None:
            self._writer.close()
