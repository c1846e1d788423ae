"""The training loop: updates, validation, checkpoints; it goes on wherever it was stopped.

Every random choice is a function of (seed, epoch, base batch), so a resumed run repeats none and misses none.
Whatever falls due at an update is done in one order: log line, validation, checkpoint. So a checkpoint stands
for all that came before it, and what comes after it is done again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from audiotag.augment.augmenter import Augmenter
from audiotag.data.batching import BatchPlan
from audiotag.distributed import World
from audiotag.errors import StoppedBySignal, TrainingError, describe
from audiotag.logs import progress
from audiotag.optim.eden import Eden
from audiotag.optim.freezing import Freezer
from audiotag.optim.schedules import Schedule
from audiotag.tagger import Tagger
from audiotag.training.batchcount import BatchCount
from audiotag.training.checkpoint import epoch_path, step_path
from audiotag.training.divergence import StepInput
from audiotag.training.divergencereport import report_divergence
from audiotag.training.encoderstate import gather_training_state
from audiotag.training.keeper import CheckpointKeeper
from audiotag.training.learner import Learner
from audiotag.training.position import Position, derive_seed, group_sizes, stretch_ends
from audiotag.training.prefetch import prefetch
from audiotag.training.runlog import RunLog
from audiotag.training.scalercare import ScalerCare
from audiotag.training.scoreboard import Scoreboard
from audiotag.training.signals import StopRequest
from audiotag.training.validation import Validation
from audiotag.training.weightaverages import WeightAverages

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a tagger from its start, or from a checkpoint, to the last epoch.

    Args:
        learner: the model and what changes its weights.
        schedule: factor on the base rates by number of the update.
        steps_per_epoch: updates of an epoch when the run began, by which the schedule counts.
        plan: the batches of all epochs.
        train_loader: the training batches of this process, by epoch and first base batch.
        validation: measures the model; None without a valid split.
        augmenter: makes features of training batches, changed as configured.
        averages: averages of the weights.
        freezer: says which parameters are trained in an epoch.
        scoreboard: what validation found.
        keeper: writes checkpoints.
        settings: the `training` section of the configuration.
        seed: what every random choice derives from.
        world: the processes of the run.
        batch_count: counts the audio that is trained on, for schedules inside the encoder.
        log: log lines, TensorBoard and the profiler.
        stop: tells whether a signal asked to stop.
        go_on: how a run that was stopped goes on, in words.
    """

    def __init__(
        self,
        *,
        learner: Learner,
        schedule: Schedule,
        steps_per_epoch: int,
        plan: BatchPlan,
        train_loader: Callable[[int, int], Any],
        validation: Validation | None,
        augmenter: Augmenter,
        averages: WeightAverages,
        freezer: Freezer,
        scoreboard: Scoreboard,
        keeper: CheckpointKeeper,
        settings: dict[str, Any],
        seed: int,
        world: World,
        batch_count: BatchCount,
        log: RunLog,
        stop: StopRequest,
        go_on: str = "the same command goes on from there",
    ) -> None:
        self.learner = learner
        self.tagger: Tagger = learner.tagger
        self.schedule = schedule
        self.steps_per_epoch = steps_per_epoch
        self.plan = plan
        self.train_loader = train_loader
        self.validation = validation
        self.augmenter = augmenter
        self.averages = averages
        self.freezer = freezer
        self.scoreboard = scoreboard
        self.keeper = keeper
        self.settings = settings
        self.seed = seed
        self.world = world
        self.batch_count = batch_count
        self.scaler_care = ScalerCare(learner.scaler, settings["grad_scaler"]["lift"])
        self.log = log
        self.stop = stop
        self.go_on = go_on
        self.position = Position()
        self.stopping = False
        # Inputs of the newest updates, the last of which may turn out to be bad.
        self.recent: list[list[StepInput]] = []

    def go_back(self, position: Position, meters: list[dict[str, Any]] | None) -> None:
        """Begin where a checkpoint was written, whose state the parts have; `meters`: of its log line."""
        self.position = position
        self.log.restore(meters)

    def run(self) -> None:
        """Train until all epochs are done, or nothing gets better, or a signal comes."""
        done_before = self.is_done()
        if done_before:
            logger.info("nothing to do: trained for %d epochs, %s", self.position.epoch, self.why_done())
        self.freezer.apply(self.position.epoch + 1)
        self.learner.distribute()
        self.catch_up()
        while not self.is_done():
            self.train_epoch(self.position.epoch + 1)
        if not done_before and self.position.epoch < self.settings["epochs"]:
            logger.info("training ends early: %s", self.why_done())
        self.keeper.finish()

    def is_done(self) -> bool:
        """Whether there is nothing more to train."""
        return self.position.epoch >= self.settings["epochs"] or self.has_stalled()

    def has_stalled(self) -> bool:
        """Whether the last validations found nothing better."""
        patience = self.settings["patience"]
        return patience is not None and self.scoreboard.without_improvement() >= patience

    def why_done(self) -> str:
        """In words."""
        if self.position.epoch >= self.settings["epochs"]:
            return f"{self.settings['epochs']} asked for"
        return (
            f"{self.scoreboard.metric} did not get better in {self.scoreboard.without_improvement()} "
            "validations (training.patience)"
        )

    def catch_up(self) -> None:
        """The validation that a signal came in the way of."""
        if self.position.step > 0 and self.position.validated_step != self.position.step:
            self.validate_if_due()

    def train_epoch(self, epoch: int) -> None:
        """What is left of an epoch, and what is due at its end."""
        self.begin_epoch(epoch)
        loader = self.train_loader(epoch, self.position.batch)
        sizes = group_sizes(len(loader), self.settings["accumulate"])
        base_per_update = self.settings["accumulate"] * self.world.size
        done = -(-self.position.batch // base_per_update)
        log_after = stretch_ends(done + len(sizes), self.settings["log_every"])
        self.log.begin()
        shown = progress(loader, len(loader), f"epoch {epoch}", "batch", enabled=self.world.is_main)
        with contextlib.closing(prefetch(shown, self.world.device)) as batches:
            for number, size in enumerate(sizes, start=done + 1):
                self.update(batches, epoch, size)
                keep = self.scaler_care.after_update(number - 1)
                if number in log_after:
                    self.log.write(epoch, self.position.step, self.learner)
                if number < done + len(sizes):
                    self.inside_epoch(keep)
                    if self.has_stalled():
                        return
        self.end_epoch(epoch)

    def begin_epoch(self, epoch: int) -> None:
        """Set which parameters are trained, and the modes of the modules."""
        if self.freezer.apply(epoch):
            self.learner.distribute()
        self.set_modes()

    def set_modes(self) -> None:
        """Training mode, but for frozen parts."""
        self.tagger.train()
        self.freezer.set_modes()

    def update(self, batches: Iterator[Any], epoch: int, size: int) -> None:
        """One update from the next `size` batches."""
        if len(self.recent) > 1:
            self.recent.pop(0)
        self.recent.append([])
        self.learner.set_batch_count(self.batch_count.value(self.position))
        for index in range(size):
            inputs, wait_s, replaced = self.next_inputs(batches, epoch, index)
            self.recent[-1].append(inputs)
            loss = self.learner.add_gradient(inputs, size, last=index == size - 1)
            self.log.add_batch(loss, self.learner.loss.parts, inputs, wait_s, replaced)
        outcome = self.learner.update(self.rate_factor(), self.stop.name is not None)
        if outcome.bad:
            lagged = self.learner.flags.lagged
            self.diverged(self.recent[0 if lagged else -1], self.position.step + (0 if lagged else 1))
        self.position.step += 1
        first = self.position.batch
        self.position.batch = min(first + size * self.world.size, self.plan.num_base_batches(epoch - 1))
        self.position.trained_ms += self.batch_count.trained_ms(epoch - 1, first, self.position.batch)
        self.stopping = outcome.stop
        self.averages.update(self.position.step)
        self.log.add_update(outcome, self.position.step)

    def next_inputs(self, batches: Iterator[Any], epoch: int, index: int) -> tuple[StepInput, float, int]:
        """The next batch as the model gets it, the seconds waited for it, and how many of its clips stand
        for others."""
        start = time.perf_counter()
        batch = next(batches)
        wait_s = time.perf_counter() - start
        base_batch = self.position.batch + index * self.world.size + self.world.rank
        key = (self.seed, epoch, batch["batch_name"])  # its number changes with that of the processes
        features, lengths, targets = self.augmenter(batch, self.tagger.frontend, self.world.device, key)
        # The 0 stands where the rank once was: a single process has the random states that it always had.
        seed = derive_seed(self.seed, epoch, base_batch, 0)
        return StepInput(features, lengths, targets, batch["ids"], seed), wait_s, batch["num_replaced"]

    def rate_factor(self) -> float:
        """The factor on the base rates at the coming update."""
        if isinstance(self.schedule, Eden):
            return self.schedule.at(self.position.step + 1, self.position.epoch)
        return self.schedule(self.schedule_step())

    def schedule_step(self) -> int:
        """The update by which the schedule counts: by the share of the epoch that is done, since the number
        of updates changes with that of the processes."""
        position = self.position
        done = self.steps_per_epoch * position.batch // self.plan.num_base_batches(position.epoch)
        return self.steps_per_epoch * position.epoch + done

    def inside_epoch(self, keep: bool = False) -> None:
        """What is due after an update that is not the last of its epoch; a checkpoint also where one should
        be kept."""
        if self.stopping:
            self.leave()
        every = self.settings["save_every_steps"]
        if not self.validate_if_due() and (keep or (every and self.position.step % every == 0)):
            self.save({})

    def end_epoch(self, epoch: int) -> None:
        """Close an epoch: averages, validation, checkpoint."""
        self.averages.end_epoch(epoch)
        self.position.epoch, self.position.batch = epoch, 0
        if self.stopping:
            self.leave()
        if not self.validate_if_due():
            self.save({})

    def validation_is_due(self) -> bool:
        """Whether the configuration wants a validation at this point."""
        if self.validation is None:
            return False
        epoch, step = self.position.epoch, self.position.step
        every_steps = self.settings["validate_every_steps"]
        by_step = every_steps is not None and step % every_steps == 0
        if self.position.batch > 0:
            return by_step
        return (
            by_step or epoch % self.settings["validate_every_epochs"] == 0 or epoch >= self.settings["epochs"]
        )

    def validate_if_due(self) -> bool:
        """Measure the model and save it, where that is due; returns whether it was."""
        if not self.validation_is_due():
            return False
        self.settle()
        if self.stopping:  # of which a GPU has only told now
            self.leave()
        step = self.position.step
        epoch = self.position.epoch + (self.position.batch > 0)
        with self.averages.swapped(self.tagger, self.settings["validate_weights"]):
            metrics = self.validation(self.tagger, epoch, step, lambda: self.stop.name is not None)
        if metrics is None:
            self.leave()
        self.set_modes()
        self.log.begin()
        self.position.validated_step = step
        value = metrics[self.scoreboard.metric]
        if value is None and self.scoreboard.metric == "d_prime" and metrics["mAUC"] == 1.0:
            value = math.inf  # of a perfect ranking, which JSON has no number for
        self.scoreboard.note(value, file=self.path().name, epoch=epoch, step=step)
        self.save(metrics)
        return True

    def path(self) -> Path:
        """Where the checkpoint of this moment lies."""
        if self.position.batch == 0:
            return epoch_path(self.keeper.folder, self.position.epoch)
        return step_path(self.keeper.folder, self.position.step)

    def save(self, metrics: dict[str, Any]) -> None:
        """Have this moment's checkpoint written, while training goes on."""
        self.settle()
        meters = self.world.gather(self.log.state_dict())
        encoder_state = gather_training_state(self.tagger, self.world)
        if not self.world.is_main:
            return
        self.log.flush()
        position = self.position
        state = {
            "model": self.tagger.state_dict(),
            "averages": self.averages.state_dict(),
            **self.learner.state_dict(),
            **encoder_state,
            "position": {
                **asdict(position),
                "world_size": self.world.size,
                "steps_per_epoch": self.steps_per_epoch,
                "base_batches": self.plan.num_base_batches(position.epoch) if position.batch else None,
            },
            "best": self.scoreboard.best,
            "validations": self.scoreboard.validations,
            "meter": meters,
            "random": [
                [self.seed, position.epoch + 1, position.batch + rank] for rank in range(self.world.size)
            ],
            "metrics": metrics,
        }
        self.keeper.save(self.path(), state, self.scoreboard)

    def leave(self) -> None:
        """Save this moment, and end the run for now."""
        self.save({})
        self.keeper.finish()
        # Before the processes meet for the last time: then none of them leaves before all are ready to.
        self.stop.disarm()
        names = [name for name in self.world.gather(self.stop.name) if name]
        self.world.leave(
            StoppedBySignal(
                f"stopped by {names[0] if names else 'a signal'} after update {self.position.step}; saved "
                f"{self.path()}; {self.go_on}"
            )
        )

    def settle(self) -> None:
        """Learn of the last update what is only known now, before the weights are looked at."""
        stop, bad = self.learner.flags.settle()
        self.stopping = self.stopping or stop
        if bad:
            self.diverged(self.recent[-1], self.position.step)

    def diverged(self, group: list[StepInput], step: int) -> None:
        """Find out what is not finite, keep it for a look at it, and end the run."""
        what, replay = report_divergence(
            self.learner,
            group,
            step,
            world=self.world,
            folder=self.keeper.folder,
            config=self.keeper.record["config"],
        )
        try:
            self.keeper.finish()
        except OSError as error:
            logger.error("the last checkpoint was not written: %s", describe(error)[0])
        newest = self.world.gather(self.keeper.newest)[0]
        last = f"last good checkpoint: {newest}" if newest else "no checkpoint yet"
        raise TrainingError(
            f"{what} ({last}); try a lower optimizer.lr, a longer warm-up, training.clip_norm, or amp bf16 "
            f"in place of fp16{replay}"
        )
