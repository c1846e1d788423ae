"""What is told of a run while it trains: a log line, TensorBoard points and, on request, a profile."""

from __future__ import annotations

import logging
from typing import Any

import torch

from audiotag.distributed import World
from audiotag.errors import TrainingError
from audiotag.optim.scaled_adam import ScaledAdam
from audiotag.training.divergence import StepInput
from audiotag.training.flops import BatchFlops
from audiotag.training.learner import Learner, Outcome
from audiotag.training.logline import format_log
from audiotag.training.meter import Meter
from audiotag.training.profiling import Profiler
from audiotag.training.tensorboard import RunWriter

logger = logging.getLogger(__name__)


class RunLog:
    """Sums up the updates since the last log line.

    Args:
        meter: what is measured.
        flops: operations that the model needs for a batch; None where the device's peak is not known.
        writer: TensorBoard.
        profiler: traces chosen updates.
        world: the processes.
        max_overflows: updates in a row that fp16 may skip.
    """

    def __init__(
        self,
        meter: Meter,
        flops: BatchFlops | None,
        writer: RunWriter,
        profiler: Profiler,
        world: World,
        max_overflows: int,
    ) -> None:
        self.meter = meter
        self.flops = flops
        self.writer = writer
        self.profiler = profiler
        self.world = world
        self.max_overflows = max_overflows
        # Skipped updates up to now, and the most there were in a row; on the device, which nobody waits for.
        self._in_a_row = torch.zeros((), device=world.device)
        self._most = torch.zeros((), device=world.device)

    def begin(self) -> None:
        """Start the clock: what went on since the last log line, such as a validation, is not training."""
        self.meter.start()

    def add_batch(
        self,
        loss: torch.Tensor,
        parts: dict[str, torch.Tensor],
        inputs: StepInput,
        wait_s: float,
        replaced: int,
    ) -> None:
        """Note a batch of this process."""
        flops = self.flops(tuple(inputs.features.shape)) if self.flops else 0.0
        self.meter.add_batch(loss, len(inputs.ids), wait_s, replaced, flops, parts)

    def add_update(self, outcome: Outcome, step: int) -> None:
        """Note an update."""
        self.meter.add_update(outcome.norm, outcome.skipped)
        self._in_a_row = (self._in_a_row + 1) * outcome.skipped
        self._most = torch.maximum(self._most, self._in_a_row)
        self.profiler.step(step)

    def write(self, epoch: int, step: int, learner: Learner) -> None:
        """One log line and TensorBoard points."""
        values = self.meter.read(self.world)
        self.meter.reset()
        groups = learner.optimizer.param_groups
        values["train/lr"] = groups[0]["lr"]
        if len(groups) > 1:
            values |= {f"lr/{group['name']}": group["lr"] for group in groups}
        if learner.batch_count is not None:
            values["train/batch_count"] = learner.batch_count
        if isinstance(learner.optimizer, ScaledAdam):
            figures, remarks = learner.optimizer.report()
            values |= {f"clip/{name}": value for name, value in figures.items()}
            for remark in remarks:
                logger.info("before update %d %s", step, remark)
        if learner.scaler.is_enabled():
            values["train/scale"] = learner.scaler.get_scale()
            self._check_overflows(step)
        self.writer.scalars({**values, "train/epoch": epoch}, step)
        logger.info("%s", format_log(epoch, step, values))

    def state_dict(self) -> dict[str, Any]:
        """What the next log line needs of the updates that are done."""
        return self.meter.state_dict()

    def restore(self, states: list[dict[str, Any]] | None) -> None:
        """Go back to the sums of a checkpoint, by process."""
        if states and len(states) == self.world.size:
            self.meter.load_state_dict(states[self.world.rank])
        elif states:
            clips = states[0]["clips_before"] + sum(state["clips"] for state in states)
            self.meter.load_state_dict(self.meter.state_dict() | {"clips_before": clips})

    def flush(self) -> None:
        """Put the points on disk."""
        self.writer.flush()

    def close(self) -> None:
        """End."""
        self.profiler.close()
        self.writer.close()

    def _check_overflows(self, step: int) -> None:
        most = int(self._most)
        self._most = self._in_a_row.clone()
        if most > self.max_overflows:
            raise TrainingError(
                f"{most} updates in a row overflowed in fp16 before update {step}, and none changed the "
                "weights: take training.amp bf16, a lower optimizer.lr, or raise training.max_overflows"
            )
