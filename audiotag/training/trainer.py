"""The training loop: epochs of updates, validation and a checkpoint after each, resumable.

Every random choice is a function of (seed, epoch, batch, rank), so a resumed run repeats none and
misses none.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from audiotag.augment.augmenter import Augmenter
from audiotag.distributed import World
from audiotag.errors import TrainingError
from audiotag.evaluation.metrics import compute_metrics
from audiotag.evaluation.scoring import gather_scores, score_batches
from audiotag.logs import progress
from audiotag.optim.schedules import Schedule
from audiotag.tagger import Tagger
from audiotag.training.checkpoint import epoch_path, list_epochs, load_weights, save_checkpoint
from audiotag.training.meter import Meter
from audiotag.training.tensorboard import RunWriter

logger = logging.getLogger(__name__)

AMP_DTYPES = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Trainer:
    """Trains a tagger from its start, or from a checkpoint, to the last epoch.

    Args:
        tagger: the model, on its device.
        optimizer: over the tagger's parameters; its groups' `lr` at this moment are the base rates.
        schedule: factor on the base rates by number of the update.
        steps_per_epoch: updates of an epoch, by which the schedule counts.
        train_loader: the training batches of this process, by epoch.
        valid_loader: the validation batches of this process, or None without a valid split.
        augmenter: makes features of training batches, changed as configured.
        settings: the `training` section of the configuration.
        keep_before_best: epochs before the best one whose checkpoints stay, to be averaged with it.
        seed: what every random choice derives from.
        world: the processes of the run.
        exp_dir: where checkpoints go.
        writer: TensorBoard.
        record: what every checkpoint carries besides the state: config, labels, coverage, provenance.
    """

    def __init__(
        self,
        *,
        tagger: Tagger,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        steps_per_epoch: int,
        train_loader: Callable[[int], Any],
        valid_loader: Callable[[], Any] | None,
        augmenter: Augmenter,
        settings: dict[str, Any],
        keep_before_best: int,
        seed: int,
        world: World,
        exp_dir: Path,
        writer: RunWriter,
        record: dict[str, Any],
    ) -> None:
        self.tagger = tagger
        self.optimizer = optimizer
        self.schedule = schedule
        self.steps_per_epoch = steps_per_epoch
        self.train_loader = train_loader
        self.valid_loader = valid_loader
        self.augmenter = augmenter
        self.settings = settings
        self.keep_before_best = keep_before_best
        self.seed = seed
        self.world = world
        self.exp_dir = exp_dir
        self.writer = writer
        self.record = record
        self.amp_dtype = AMP_DTYPES[settings["amp"]]
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=settings["amp"] == "fp16")
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.epoch = 0
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.meter = Meter()
        self.model: nn.Module = tagger
        if settings["compile"] == "model":
            tagger.compile()
        if world.size > 1:
            self.model = DistributedDataParallel(
                tagger,
                device_ids=[world.device.index] if world.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,
            )

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where a checkpoint was written."""
        load_weights(self.tagger, state["model"], "the checkpoint")
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch = state["position"]["epoch"]
        self.step = state["position"]["step"]
        self.best = state["best"]

    def run(self) -> None:
        """Train until the configured number of epochs is done."""
        if self.epoch >= self.settings["epochs"]:
            logger.info(
                "nothing to do: trained for %d epochs, %d asked for", self.epoch, self.settings["epochs"]
            )
        while self.epoch < self.settings["epochs"]:
            self.train_epoch(self.epoch + 1)
            self.epoch += 1
            metrics = self.validate()
            self.note_best(metrics)
            self.save(metrics)
            self.drop_old_checkpoints()

    def train_epoch(self, epoch: int) -> None:
        """One pass over this process' batches, `accumulate` of them for every update."""
        self.tagger.train()
        loader = self.train_loader(epoch)
        total = len(loader)
        batches = iter(progress(loader, total, f"epoch {epoch}", "batch", enabled=self.world.is_main))
        self.meter.reset()
        size = self.settings["accumulate"]
        groups = [range(first, min(first + size, total)) for first in range(0, total, size)]
        ends = stretch_ends(len(groups), self.settings["log_every"])
        for number, group in enumerate(groups):
            for index in group:
                with self.gradient_sync(index == group[-1]):
                    self.backward(batches, epoch, index, len(group))
            # Counted by epochs, not by updates so far: their number changes with that of the processes.
            self.update(self.steps_per_epoch * (epoch - 1) + self.steps_per_epoch * number // len(groups))
            if number + 1 in ends:
                self.log_updates(epoch)

    def gradient_sync(self, wanted: bool) -> contextlib.AbstractContextManager:
        """Gradients are exchanged between processes only on the last batch before an update."""
        if wanted or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def backward(self, batches: Any, epoch: int, index: int, group_size: int) -> None:
        """Take the next batch and add its gradient."""
        start = time.perf_counter()
        batch = next(batches)
        wait_s = time.perf_counter() - start
        torch.manual_seed(derive_seed(self.seed, epoch, index, self.world.rank))
        key = (self.seed, epoch, batch["batch_name"])  # its number changes with that of the processes
        features, lengths, targets = self.augmenter(batch, self.tagger.frontend, self.world.device, key)
        with self.autocast():
            logits = self.model(features, lengths)
        loss = self.tagger.loss(logits, targets)
        self.scaler.scale(loss / group_size).backward()
        self.meter.add_batch(loss, len(batch["ids"]), wait_s)

    def update(self, schedule_step: int) -> None:
        """Clip, step with the scheduled rate, clear the gradients."""
        factor = self.schedule(schedule_step)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.tagger.parameters(), self.settings["clip_norm"] or float("inf"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.meter.add_norm(norm)
        self.step += 1

    def autocast(self) -> torch.autocast:
        """Mixed precision as configured; losses are taken outside of it, in float32."""
        return torch.autocast(
            self.world.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
        )

    def log_updates(self, epoch: int) -> None:
        """One log line and TensorBoard points; a loss that is not finite ends the run here."""
        values = self.meter.read(self.world.size)
        values["train/lr"] = self.optimizer.param_groups[0]["lr"]
        if self.scaler.is_enabled():
            values["train/scale"] = self.scaler.get_scale()
        self.check_finite(values)
        self.meter.reset()
        self.writer.scalars({**values, "train/epoch": epoch}, self.step)
        logger.info(
            "epoch %d update %d: loss %.4f, lr %.3g, grad norm %.3g, %.1f clips/s, waiting for data %.0f %%",
            epoch,
            self.step,
            values["train/loss"],
            values["train/lr"],
            values["train/grad_norm"],
            values["train/clips_per_s"],
            100 * values["train/data_wait"],
        )

    def check_finite(self, values: dict[str, float]) -> None:
        """Stop before bad weights are saved; fp16 gradients may overflow now and then, losses may not."""
        bad = not np.isfinite(values["train/loss"])
        if not self.scaler.is_enabled():
            bad = bad or not np.isfinite(values["train/grad_norm"])
        if any(self.world.gather(bad)):
            raise self.divergence("the loss or gradient is")

    def divergence(self, what: str) -> TrainingError:
        """The error of a run whose numbers are no longer finite."""
        last = f"epoch-{self.epoch}.pt" if self.epoch else "no checkpoint yet"
        return TrainingError(
            f"{what} not finite near update {self.step} (last good: {last}); "
            "try a lower optimizer.lr, a longer warm-up, training.clip_norm, or amp bf16 in place of fp16"
        )

    def validate(self) -> dict[str, float]:
        """Metrics of the valid split, on every process; empty without one."""
        if self.valid_loader is None:
            return {}
        scores = score_batches(
            self.tagger, self.valid_loader(), device=self.world.device, amp_dtype=self.amp_dtype
        )
        scores = gather_scores(scores, self.world)
        if not np.isfinite(scores.logits).all():
            raise self.divergence("the model's output on valid is")
        summary = compute_metrics(scores.logits, scores.labels, ids=scores.ids).summary
        metrics = {name: summary[name] for name in ("loss", "mAP", "mAUC", "d_prime", "accuracy")}
        self.writer.scalars(
            {f"valid/{name}": value for name, value in metrics.items() if value is not None}, self.step
        )
        shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if value is not None)
        logger.info("epoch %d validation on %d clips: %s", self.epoch, len(scores.ids), shown)
        return metrics

    def note_best(self, metrics: dict[str, float]) -> None:
        """Remember this epoch when its validation metric is the best so far."""
        metric = self.settings["best_metric"]
        value = metrics.get(metric)
        if value is None:
            return
        sign = -1 if metric == "loss" else 1
        if self.best is None or sign * value > sign * self.best["value"]:
            self.best = {"epoch": self.epoch, "metric": metric, "value": value}

    def save(self, metrics: dict[str, float]) -> None:
        """Write this epoch's checkpoint; the other processes wait for it."""
        if self.world.is_main:
            path = epoch_path(self.exp_dir, self.epoch)
            save_checkpoint(
                path,
                {
                    "model": self.tagger.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "scaler": self.scaler.state_dict(),
                    "position": {
                        "epoch": self.epoch,
                        "batch": 0,
                        "step": self.step,
                        "world_size": self.world.size,
                    },
                    "best": self.best,
                    "metrics": metrics,
                    **self.record,
                },
            )
            self.writer.flush()
            best = "; best {metric} {value:.4f} of epoch {epoch}".format(**self.best) if self.best else ""
            logger.info("saved %s%s", path, best)
        self.world.barrier()

    def drop_old_checkpoints(self) -> None:
        """Delete checkpoints beyond the newest `keep_last`, never the best one and those averaged with it."""
        keep = self.settings["keep_last"]
        if not self.world.is_main or keep == 0:
            return
        best = self.best["epoch"] if self.best else 0
        for epoch in list_epochs(self.exp_dir)[:-keep]:
            if not best - self.keep_before_best <= epoch <= best:
                epoch_path(self.exp_dir, epoch).unlink()


def stretch_ends(updates: int, every: int) -> set[int]:
    """The updates of an epoch after which a log line comes: even stretches of about `every` updates."""
    count = max(1, round(updates / every))
    return {updates * (number + 1) // count for number in range(count)}


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from numbers such as (seed, epoch, batch, rank)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
