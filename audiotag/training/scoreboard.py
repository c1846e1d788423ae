"""What validation found so far: the best checkpoints by one metric, and when nothing gets better any more."""

from __future__ import annotations

import logging
from typing import Any

from audiotag.evaluation.metricnames import less_is_better

logger = logging.getLogger(__name__)


class Scoreboard:
    """The values of one validation metric, with the checkpoint that each belongs to.

    Args:
        metric: name of the metric.
        min_delta: by how much a value must be better to count as an improvement; the best one is the best
            without regard to it.
    """

    def __init__(self, metric: str, min_delta: float = 0.0) -> None:
        self.metric = metric
        self.min_delta = min_delta
        self.sign = -1.0 if less_is_better(metric) else 1.0
        self.best: dict[str, Any] | None = None
        self.validations: list[dict[str, Any]] = []

    def note(self, value: float | None, *, file: str, epoch: int, step: int) -> None:
        """Add what a validation found; None where the metric does not exist."""
        if value is None:
            return
        entry = {"file": file, "epoch": epoch, "step": step, "value": value}
        self.validations.append(entry)
        if self.best is None or self.sign * (value - self.best["value"]) > 0.0:
            self.best = {"metric": self.metric, **entry}

    def ranking(self) -> list[str]:
        """The checkpoint files from the best to the worst; of equal ones the earlier comes first."""
        ordered = sorted(self.validations, key=lambda entry: -self.sign * entry["value"])
        files = ([self.best["file"]] if self.best else []) + [entry["file"] for entry in ordered]
        return list(dict.fromkeys(files))

    def without_improvement(self) -> int:
        """How many validations there were since the last one that was better than those before by more than
        `min_delta`."""
        count, bar = 0, None
        for entry in self.validations:
            if bar is None or self.sign * (entry["value"] - bar) > self.min_delta:
                count, bar = 0, entry["value"]
            else:
                count += 1
        return count

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what a checkpoint knows."""
        best = state["best"]
        if best and best["metric"] != self.metric:
            logger.warning(
                "validation so far was judged by %s, from here by %s: its best checkpoint is forgotten",
                best["metric"],
                self.metric,
            )
            return
        # Checkpoints of version 1 name no file: they were written at epochs' ends only.
        self.best = best and {"file": f"epoch-{best['epoch']}.pt", "step": 0, **best}
        self.validations = list(state.get("validations", []))
