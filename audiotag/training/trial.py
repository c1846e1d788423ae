"""Updates on made-up batches, to see how much memory they take: the real model, optimiser, precision and
augmentation, on weights that nobody needs."""

from __future__ import annotations

from typing import Any

import torch

from audiotag.augment.augmenter import Augmenter, build_augmenter
from audiotag.config import Config
from audiotag.distributed import World
from audiotag.frontend import SAMPLING_RATE
from audiotag.labels import Label, LabelTable
from audiotag.losses import BinaryCrossEntropy
from audiotag.optim.freezing import Freezer
from audiotag.optim.optimizers import build_optimizer
from audiotag.tagger import build_tagger
from audiotag.training.acceleration import accelerate
from audiotag.training.batchcount import LATE
from audiotag.training.divergence import StepInput
from audiotag.training.learner import Learner
from audiotag.training.weightaverages import WeightAverages

UPDATES = 2  # the optimiser's state comes with the first


class Trial:
    """Training that goes nowhere.

    Args:
        config: a whole configuration.
        num_classes: C.
        device: where the model is.
        num_processes: of the run. With several, gradients lie in buckets that stay from update to update.
    """

    def __init__(self, config: Config, num_classes: int, device: torch.device, num_processes: int) -> None:
        section = config.model_dump(mode="json")
        settings = section["training"]
        labels = LabelTable([Label(i, f"/c/{i}", f"class {i}") for i in range(num_classes)])
        self.stored = config.features.storage == "stored"
        self.tagger = build_tagger(section["features"], section["encoder"], labels).to(device)
        self.tagger.frontend.pad_to_multiple(config.data.length_multiple_s)
        accelerate(
            self.tagger,
            compile=settings["compile"],
            activation_checkpointing=settings["activation_checkpointing"],
        )
        self.learner = Learner(
            self.tagger,
            BinaryCrossEntropy(torch.ones(num_classes, device=device)),
            build_optimizer(section["optimizer"], self.tagger),
            World(rank=0, local_rank=0, size=1, device=device),
            amp=settings["amp"],
            clip_norm=settings["clip_norm"],
        )
        self.learner.set_batch_count(LATE)
        self.averages = WeightAverages(
            self.tagger, settings["ema"], settings["running_average"], settings["swa"]
        )
        # What is frozen for a time only will need its memory later.
        freezer = Freezer(self.tagger, [part for part in settings["freeze"] if part["epochs"] is None])
        freezer.apply(1)
        self.tagger.train()
        freezer.set_modes()
        self.augmenter = build_augmenter(at_its_largest(section["augment"])) or Augmenter({}, {})
        self.has_partners = bool(config.augment.mixup and config.augment.mixup.partner == "corpus")
        self.accumulate = settings["accumulate"]
        self.group_size = min(2, self.accumulate)  # the second finds the gradient of the first
        self.buckets = [torch.zeros_like(weight) for weight in self.tagger.parameters() if num_processes > 1]

    def run(self, num_clips: int, seconds: float) -> None:
        """Some updates on batches of this many clips of this length."""
        batch = self.make_batch(num_clips, seconds)
        kept: list[torch.Tensor] = []
        for _ in range(UPDATES):
            for index in range(self.group_size):
                features, lengths, targets = self.augmenter(
                    batch, self.tagger.frontend, self.learner.world.device, (0, 0, 0)
                )
                # As the trainer keeps the inputs of two updates, to look at them if one goes wrong.
                kept = kept or [features.clone() for _ in range(2 * self.accumulate - 1)]
                inputs = StepInput(features, lengths, targets, batch["ids"], seed=0)
                self.learner.add_gradient(inputs, self.group_size, last=index == self.group_size - 1)
            self.learner.update(1.0)

    def make_batch(self, num_clips: int, seconds: float) -> dict[str, Any]:
        """Noise in the shapes of a batch that the loader would make."""
        frontend, samples = self.tagger.frontend, max(400, round(seconds * SAMPLING_RATE))
        size = (frontend.num_frames(samples), frontend.num_mel_bins) if self.stored else (samples,)
        clips = {
            "inputs": 0.1 * torch.randn(num_clips, *size),
            "lengths": torch.full((num_clips,), size[0]),
            "labels": torch.zeros(num_clips, len(self.tagger.labels)),
        }
        if self.has_partners:
            clips["partner"] = {**clips, "rows": torch.arange(num_clips)}
        return {**clips, "ids": [str(number) for number in range(num_clips)]}


def at_its_largest(augment: dict[str, Any]) -> dict[str, Any]:
    """The `augment` section when chance takes most memory: every clip is mixed, and no batch cut shorter."""
    mixup = augment["mixup"] and {**augment["mixup"], "probability": 1.0}
    return {**augment, "mixup": mixup, "random_length": None}
