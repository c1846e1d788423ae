"""audiotag: train, evaluate and use audio taggers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from audiotag.tagger import Tagger

__version__ = "0.1.0"


def load(path: str | Path, device: str = "cpu") -> Tagger:
    """The tagger stored in a training checkpoint or an exported folder, in eval mode.

    torch is imported here and not with the package, so that `import audiotag` stays quick.
    """
    from audiotag.export.package import load_tagger

    return load_tagger(path, device=device)
