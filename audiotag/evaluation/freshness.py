"""Whether the checkpoints that were evaluated are still those that lie under their names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from audiotag.errors import DataError
from audiotag.evaluation.results import Evaluation
from audiotag.provenance import file_digest

logger = logging.getLogger(__name__)


def leave_out_stale(
    exp_dir: Path, evaluations: Sequence[Evaluation]
) -> tuple[list[Evaluation], list[Evaluation]]:
    """The evaluations whose checkpoints are still those that were scored, and the others.

    A run that goes on from an earlier checkpoint writes other ones under the old names.
    """
    digests: dict[Path, str] = {}
    fresh, stale = [], []
    for evaluation in evaluations:
        changed = changed_checkpoint(exp_dir, evaluation, digests)
        (stale if changed else fresh).append(evaluation)
        if changed:
            logger.warning(
                "%s is left out: %s was written anew since; run stage 6 again, or delete the folder",
                evaluation.folder,
                changed,
            )
    if not fresh:
        raise DataError(
            f"all evaluations in {exp_dir} are of checkpoints that were written anew since; run stage 6 again"
        )
    return fresh, stale


def changed_checkpoint(exp_dir: Path, evaluation: Evaluation, digests: dict[Path, str]) -> Path | None:
    """The first of an evaluation's checkpoints that is another file by now; None where all are the same.

    Files that are gone, or are older than the evaluation, count as the same; to hash them all would take
    minutes. digests: those of files that were hashed already.
    """
    evaluated_ns = (evaluation.folder / "metrics.json").stat().st_mtime_ns
    for name, expected in known_digests(evaluation.info).items():
        path = exp_dir / name
        if not path.is_file() or path.stat().st_mtime_ns < evaluated_ns:
            continue
        if path not in digests:
            digests[path] = file_digest(path)
        if digests[path] != expected:
            return path
    return None


def known_digests(origin: Mapping[str, Any]) -> dict[str, str]:
    """Digests by file of all checkpoints that scores come from, those behind averaged files too."""
    digests = dict(origin.get("sha256") or {})
    for inner in (origin.get("averaged") or {}).values():
        digests = {**known_digests(inner), **digests}
    return digests


def stale_note(stale: Sequence[Evaluation]) -> str:
    """Which evaluations are not in the report, and why."""
    if not stale:
        return ""
    names = ", ".join(f"`{evaluation.folder.name}`" for evaluation in stale)
    return f"Left out, since their checkpoints were written anew after they were evaluated: {names}."
