"""See that the files behind a split are there before hours are spent on what needs them."""

from __future__ import annotations

from pathlib import Path

from audiotag.data.index import IndexedManifest
from audiotag.data.loading import audio_path
from audiotag.errors import DataError


def check_files(manifest: IndexedManifest, split: str, *, stored: bool) -> None:
    """Raise when files of a split are gone: scores must be of all its clips.

    Args:
        manifest: the split's cuts.
        split: its name, for the message.
        stored: whether features are read, rather than audio.
    """
    paths: dict[str, str] = {}
    for position in range(len(manifest)):
        record = manifest.record(position)
        path = (record.get("features") or {}).get("storage_path") if stored else audio_path(record)
        # Others are no paths, such as audio inside the manifest.
        if isinstance(path, str) and path.startswith("/"):
            paths.setdefault(path, record["id"])
    missing = [(path, clip) for path, clip in paths.items() if not Path(path).exists()]
    if missing:
        path, clip = missing[0]
        raise DataError(
            f"{len(missing)} of {len(paths)} files of the split {split} are gone, such as {path} (clip "
            f"{clip}), and all must be there to be scored: restore them, or run the stages from "
            f"{2 if stored else 1} on again with --force"
        )
