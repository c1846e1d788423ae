"""How much memory updates take on a GPU: tried in this process, until memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch

from audiotag.config import Config
from audiotag.training.trial import Trial


class GpuTrials:
    """Trials on a GPU; to be closed.

    Args:
        config: a whole configuration.
        num_classes: C.
        num_processes: of the run.
        device: the GPU.
    """

    def __init__(self, config: Config, num_classes: int, num_processes: int, device: torch.device) -> None:
        self.request = config, num_classes, device, num_processes
        self.device = device
        self.compiled = config.training.compile != "off"
        self._trial: Trial | None = None

    def peak(self, shapes: Sequence[tuple[int, float]]) -> float:
        """Bytes that updates on batches of these shapes take at their peak; infinite if they do not fit."""
        try:
            # Everything random is drawn from a copy of the generators.
            with torch.random.fork_rng(devices=[self.device]):
                self._trial = self._trial or Trial(*self.request)
                torch.cuda.reset_peak_memory_stats(self.device)
                for shape in shapes:
                    self._trial.run(*shape)
            return float(torch.cuda.max_memory_allocated(self.device))
        except torch.OutOfMemoryError:
            self._trial = None  # in the middle of an update
            return float("inf")
        finally:
            gc.collect()
            torch.cuda.empty_cache()

    def close(self) -> None:
        """Give all memory back, and forget what was compiled for the sizes that were tried."""
        self._trial = None
        gc.collect()
        torch.cuda.empty_cache()
        # The peak that the run reports is its own.
        torch.cuda.reset_peak_memory_stats(self.device)
        if self.compiled:
            torch.compiler.reset()
