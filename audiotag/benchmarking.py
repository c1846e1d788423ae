"""How fast a configuration runs on this machine: data, model, both together, and next to other code.

The model is measured on random features of the configuration's size; the data are the recipe's own
training batches, where its data folder has them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.benchmarks.eagerbeats import build_eager_twin
from audiotag.benchmarks.twin import build_twin
from audiotag.config import Config
from audiotag.data.splits import open_split, read_labels
from audiotag.distributed import World
from audiotag.errors import DataError
from audiotag.evaluation.scoring import model_inputs
from audiotag.frontend import FRAME_LENGTH, FRAME_SHIFT
from audiotag.labels import Label, LabelTable
from audiotag.losses import BinaryCrossEntropy
from audiotag.matrixproducts import allow_tf32
from audiotag.optim.optimizers import build_optimizer
from audiotag.stopwatch import MIB, PeakMemory, Spread, Stopwatch
from audiotag.tagger import build_tagger
from audiotag.training.acceleration import accelerate
from audiotag.training.batchcount import LATE
from audiotag.training.divergence import StepInput
from audiotag.training.flops import peak_flops, training_flops
from audiotag.training.learner import Learner
from audiotag.training.loaders import fill_in_statistics, training_data

DEFAULT_CLASSES = 527  # AudioSet's, where no label list is at hand
DEFAULT_FRAMES = 1000  # 10 s, for encoders that take any length


class Steps:
    """What evaluation and training do with a model.

    Args:
        model: (features (B,T,F), lengths (B,)) to logits (B,C).
        config: precision, compilation, clipping and the optimiser are taken from it.
        world: this process, and where the model is.
        num_classes: C.
    """

    def __init__(self, model: nn.Module, config: Config, world: World, num_classes: int) -> None:
        self.model = model
        self.learner = Learner(
            model,
            BinaryCrossEntropy(torch.ones(num_classes, device=world.device)),
            build_optimizer(config.optimizer.model_dump(), model),
            world,
            amp=config.training.amp,
            clip_norm=config.training.clip_norm,
        )
        self.learner.set_batch_count(LATE)

    @torch.no_grad()
    def forward(self, features: Tensor, lengths: Tensor) -> int:
        """What evaluation does; returns the number of clips."""
        self.model.eval()
        with self.learner.autocast():
            self.model(features, lengths)
        return len(features)

    def train(self, features: Tensor, lengths: Tensor, targets: Tensor) -> int:
        """What training does: forward, backward, clipping, optimiser step; returns the number of clips."""
        self.model.train()
        self.learner.add_gradient(StepInput(features, lengths, targets, [], seed=0), 1, last=True)
        self.learner.update(1.0)
        return len(features)


class Benchmark:
    """Measures one configuration; its `data.batch_size` is the size of all batches.

    Args:
        config: what is measured.
        device: where the model runs.
        data_dir: the recipe's data folder; data are left out of the measurement when it has none.
    """

    def __init__(self, config: Config, device: torch.device, data_dir: Path) -> None:
        allow_tf32(config.training.tf32)
        torch.manual_seed(config.seed)
        self.device = device
        self.world = World(rank=0, local_rank=0, size=1, device=device)
        self.batches: Iterator[dict[str, Any]] | None = None
        self.no_data: str | None = None
        config, labels = self._open_data(config, data_dir)
        self.config = config
        self.tagger = build_tagger(config.features.model_dump(), config.encoder.model_dump(), labels)
        accelerate(
            self.tagger.to(device),
            compile=config.training.compile,
            activation_checkpointing=config.training.activation_checkpointing,
        )
        self.steps = Steps(self.tagger, config, self.world, len(labels))
        frontend = self.tagger.frontend
        batch_size, frames = config.data.batch_size, frontend.target_frames or DEFAULT_FRAMES
        self.features = torch.randn(batch_size, frames, frontend.num_mel_bins, device=device)
        self.lengths = torch.full((batch_size,), frames, device=device)
        self.targets = (torch.rand(batch_size, len(labels), device=device) < 0.01).float()
        samples = (frames - 1) * FRAME_SHIFT + FRAME_LENGTH
        self.waveforms = 0.1 * torch.randn(batch_size, samples, device=device)
        self.num_samples = torch.full((batch_size,), samples, device=device)

    def _open_data(self, config: Config, data_dir: Path) -> tuple[Config, LabelTable]:
        """Open the recipe's training batches if they are there; returns what is known only with them."""
        try:
            labels = read_labels(data_dir)
            config = fill_in_statistics(config, data_dir)
            features = config.features
            manifest = open_split(data_dir, "train", preset=features.preset, storage=features.storage)
            _, loader = training_data(config, manifest, data_dir, labels, self.world)
        except DataError as error:
            self.no_data = str(error)
            labels = LabelTable([Label(i, f"/c/{i}", f"class {i}") for i in range(DEFAULT_CLASSES)])
            plain = config.features.model_copy(update={"normalization": "none"})
            return config.model_copy(update={"features": plain}), labels
        self.batches = itertools.chain.from_iterable(loader(epoch) for epoch in itertools.count(1))
        return config, labels

    def run(self, watch: Stopwatch) -> dict[str, Any]:
        """Clips/s by kind of work, None for what needs data that are not there, and peak memory."""
        memory = PeakMemory(self.device)
        memory.reset()
        rates: dict[str, Spread | None] = {"forward": watch.rate(self.forward)}
        forward_mib = memory.read_mib()
        memory.reset()
        rates["train"] = watch.rate(self.train)
        train_mib = memory.read_mib()
        rates["frontend"] = watch.rate(self.featurize)
        rates["data"] = watch.rate(self.load) if self.batches else None
        rates["together"] = watch.rate(self.load_and_train) if self.batches else None
        return {
            "clips_per_s": rates,
            "mfu": self.utilization(rates["train"]["median"]),
            "no_data": self.no_data,
            "peak_memory": {"kind": memory.kind, "forward_mib": forward_mib, "train_mib": train_mib},
        }

    def utilization(self, clips_per_s: float) -> float | None:
        """Share of the device's peak that training uses (MFU); None where the peak is not known."""
        training = self.config.training
        peak = peak_flops(self.device, training.amp, training.peak_tflops)
        if peak is None:
            return None
        return clips_per_s * training_flops(self.tagger, (1, *self.features.shape[1:])) / peak

    def compare(self, watch: Stopwatch, implementation: str) -> dict[str, Any]:
        """The same model in `transformers`, or `eager`, step by step, with the same optimiser and precision,
        in turn with ours."""
        if implementation == "eager":
            twin = build_eager_twin(self.tagger)
        else:
            twin = build_twin(self.tagger, self.config.encoder)
        if self.config.training.compile != "off":
            twin.compile()
        rival = Steps(twin.to(self.device), self.config, self.world, len(self.tagger.labels))
        return {
            "kept_mib": {
                "ours": self.kept_mib(self.tagger),
                "theirs": self.kept_mib(twin),
            },
            "forward": watch.compare(self.forward, lambda: rival.forward(self.features, self.lengths)),
            "train": watch.compare(
                self.train, lambda: rival.train(self.features, self.lengths, self.targets)
            ),
            "parameters": count_parameters(twin),
        }

    def kept_mib(self, model: nn.Module) -> float:
        """What a training pass keeps for its backward pass, beside the parameters."""
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, Tensor] = {}

        def note(tensor: Tensor) -> Tensor:
            if (place := tensor.untyped_storage().data_ptr()) not in weights:
                kept[place] = tensor
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            self.steps.learner.autocast(),
        ):
            model.train()(self.features, self.lengths)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / MIB

    def forward(self) -> int:
        """One evaluation step on random features."""
        return self.steps.forward(self.features, self.lengths)

    def train(self) -> int:
        """One training step on random features."""
        return self.steps.train(self.features, self.lengths, self.targets)

    def featurize(self) -> int:
        """Features of a batch of random waveforms."""
        return len(self.tagger.frontend(self.waveforms, self.num_samples)[0])

    def load(self) -> int:
        """One batch of the recipe's data."""
        return len(next(self.batches)["ids"])

    def load_and_train(self) -> int:
        """One batch of the recipe's data and a training step on it."""
        batch = next(self.batches)
        features, lengths = model_inputs(self.tagger.frontend, batch, self.device)
        return self.steps.train(features, lengths, batch["labels"].to(self.device, non_blocking=True))


def count_parameters(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())
