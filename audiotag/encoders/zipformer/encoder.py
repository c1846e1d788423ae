"""The Zipformer: stacks of layers that look at a clip at several frame rates.

Yao et al., "Zipformer: A faster and better encoder for automatic speech recognition", ICLR 2024, as icefall's
AudioSet recipe uses it for audio tagging. Parameters carry the names of its checkpoints.

Shapes: B clips, T frames, F mel bins, D width, P width of the table of positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from audiotag.encoders.zipformer.gradients import IdleParameters
from audiotag.encoders.zipformer.layer import Layer
from audiotag.encoders.zipformer.positions import PositionTable, relative_positions
from audiotag.encoders.zipformer.stack import Downsample, DownsampledStack, Stack, Steps
from audiotag.encoders.zipformer.steps import Schedule, Step, StepSource
from audiotag.encoders.zipformer.subsampling import MIN_FRAMES, Subsampling, num_frames_left
from audiotag.errors import ConfigError, DataError

FEATURE_MASK_RATE = 0.125
PerStack = int | Sequence[int]


class Zipformer(nn.Module):
    """Log-mel features of any length to embeddings at a quarter of their rate.

    Args:
        num_mel_bins: F.
        num_encoder_layers: layers of each stack.
        downsampling_factor: frames, of 20 ms each, that a stack makes one of.
        encoder_dim: width of each stack.
        encoder_unmasked_dim: channels of each stack that no clip ever lacks in training.
        num_heads: attention heads of each stack.
        query_head_dim, pos_head_dim, value_head_dim: widths of a head's queries and keys, of its queries for
            positions, of its values.
        feedforward_dim: hidden width of the second of the three feed-forward parts of a layer.
        cnn_module_kernel: frames that a layer's convolutions see; odd.
        pos_dim: P; even.
        output_dropout: rate on the embeddings.
        warmup_batches: batch count at which the last layers' rates of being skipped have come down.

    One number stands for all stacks. In training `set_batch_count` must be called as training proceeds.
    """

    batch_independent = False
    """Convolutions see a clip's padding, and where frames are joined padding is joined to the last ones."""
    min_frames = MIN_FRAMES

    def __init__(
        self,
        num_mel_bins: int = 80,
        num_encoder_layers: PerStack = (2, 2, 3, 4, 3, 2),
        downsampling_factor: PerStack = (1, 2, 4, 8, 4, 2),
        encoder_dim: PerStack = (192, 256, 384, 512, 384, 256),
        encoder_unmasked_dim: PerStack = (192, 192, 256, 256, 256, 192),
        num_heads: PerStack = (4, 4, 4, 8, 4, 4),
        query_head_dim: PerStack = 32,
        pos_head_dim: PerStack = 4,
        value_head_dim: PerStack = 12,
        feedforward_dim: PerStack = (512, 768, 1024, 1536, 1024, 768),
        cnn_module_kernel: PerStack = (31, 31, 15, 15, 15, 31),
        pos_dim: int = 48,
        output_dropout: float = 0.1,
        warmup_batches: float = 4000.0,
    ) -> None:
        super().__init__()
        sizes = per_stack(
            num_encoder_layers=num_encoder_layers,
            downsampling_factor=downsampling_factor,
            encoder_dim=encoder_dim,
            encoder_unmasked_dim=encoder_unmasked_dim,
            num_heads=num_heads,
            query_head_dim=query_head_dim,
            pos_head_dim=pos_head_dim,
            value_head_dim=value_head_dim,
            feedforward_dim=feedforward_dim,
            cnn_module_kernel=cnn_module_kernel,
        )
        self.num_mel_bins = num_mel_bins
        self.dims = [size["encoder_dim"] for size in sizes]
        self.unmasked_dims = [size["encoder_unmasked_dim"] for size in sizes]
        self.output_dim = max(self.dims)
        self.encoder_embed = Subsampling(num_mel_bins, self.dims[0])
        stacks: list[Stack | DownsampledStack] = []
        for index, size in enumerate(sizes):
            dim, factor = size["encoder_dim"], size["downsampling_factor"]
            layers = [
                Layer(
                    dim,
                    pos_dim,
                    num_heads=size["num_heads"],
                    query_head_dim=size["query_head_dim"],
                    pos_head_dim=size["pos_head_dim"],
                    value_head_dim=size["value_head_dim"],
                    feedforward_dim=size["feedforward_dim"],
                    kernel_size=size["cnn_module_kernel"],
                    skip_rate=rate,
                )
                for rate in layer_skip_rates(
                    index, len(sizes), size["num_encoder_layers"], factor, warmup_batches
                )
            ]
            stacks.append(Stack(layers) if factor == 1 else DownsampledStack(layers, dim, factor))
        # Named as in published checkpoints: encoder.encoders.<stack> beside encoder_embed.
        self.encoder = nn.ModuleDict({"encoders": nn.ModuleList(stacks), "downsample_output": Downsample(2)})
        self.output_dropout = nn.Dropout(output_dropout)
        self._positions = PositionTable(pos_dim)
        self._units = [[self.encoder_embed], *(units_of(stack) for stack in stacks)]
        self._source = StepSource([unit for units in self._units for unit in units])
        self.num_layers = 1 + len(self.blocks)  # as `layer_of` counts

    @property
    def blocks(self) -> list[Layer]:
        """All layers in order, for compilation and activation checkpointing one by one."""
        return [module for module in self.encoder.modules() if isinstance(module, Layer)]

    def layer_of(self, parameter_name: str) -> int:
        """The layer that a parameter belongs to: 0 is all before the stacks, `num_layers - 1` the last layer.

        What changes the rate before and behind a stack belongs to the stack's first and last layer.
        """
        part, *path = parameter_name.split(".")
        if part == "encoder_embed":
            return 0
        if path[0] == "downsample_output":
            return self.num_layers - 1
        stack = int(path[1])
        depths = [len(layers_of(stack)) for stack in self.encoder["encoders"]]
        before = sum(depths[:stack])
        if "layers" in path:
            return before + 1 + int(path[path.index("layers") + 1])
        return before + (1 if path[2] == "downsample" else depths[stack])

    def set_batch_count(self, count: float) -> None:
        """Say how far training is, which all scheduled numbers go by: the batches so far, counted in batches
        of 600 s of audio."""
        self._source.batch_count = float(count)

    def training_state(self) -> dict[str, Any]:
        """What a run that goes on from a checkpoint must know besides weights, of this process: tensors and
        numbers."""
        return self._source.state_dict()

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Go back to a `training_state`."""
        self._source.load_state_dict(state)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel (B,T,F) with lengths (B,) to embeddings (B,S,D) and their lengths.

        The padding of a clip that is shorter than `min_frames` is taken for a part of it.
        """
        if not torch.jit.is_tracing():
            self._check(x)
        lengths = num_frames_left(lengths.clamp(min=MIN_FRAMES))
        num_frames = num_frames_left(x.shape[1])
        positions, steps = self._prepare(x, num_frames)
        x = self.encoder_embed(x, steps[0][0])
        padding = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        # Stacks of the same rate share what is padding.
        factors = {stack.factor for stack in self.encoder["encoders"]}
        by_factor = {factor: padding[:, ::factor].contiguous() for factor in factors}
        outputs = []
        for stack, mask, own in zip(self.encoder["encoders"], self._masks(x), steps[1:], strict=True):
            x = fit_channels(x, self.dims[len(outputs)])
            x = stack(x, positions, by_factor[stack.factor], mask, own)
            outputs.append(x)
        y = self.encoder["downsample_output"](widest_of_each(outputs))
        if self.training:
            y = IdleParameters.apply(y, *[layer.bypass_scale for layer in self.blocks])
        return self.output_dropout(y), (lengths + 1) // 2

    def _prepare(self, x: Tensor, num_frames: int) -> tuple[Tensor, list[Steps]]:
        """The table of positions, and what training goes by in this pass, for each part."""
        if torch.jit.is_tracing() or (torch.compiler.is_compiling() and not self.training):
            # Part of what is compiled or exported, so that it serves any length.
            positions = relative_positions(num_frames, self._positions.dim, x.device)
            return positions, self._idle()
        return self._draw(x, num_frames)

    @torch.compiler.disable
    def _draw(self, x: Tensor, num_frames: int) -> tuple[Tensor, list[Steps]]:
        positions = self._positions(num_frames, x.device)
        # Tensors without data are for counting what is computed.
        if not self.training or isinstance(x, FakeTensor):
            return positions, self._idle()
        drawn = iter(self._source.draw(x.device))
        return positions, [list(itertools.islice(drawn, len(units))) for units in self._units]

    def _idle(self) -> list[list[Step | None]]:
        return [[None] * len(units) for units in self._units]

    def _masks(self, x: Tensor) -> list[Tensor | None]:
        """For each stack the channels (B,1,D) that clips have in this pass: of those that may be lacking, one
        half is there with some chance, the other only where that one is, and with another chance."""
        if not self.training:
            return [None] * len(self.dims)
        some, more = torch.rand(2, x.shape[0], 1, 1, device=x.device) >= FEATURE_MASK_RATE
        levels = [torch.ones_like(some), some, some & more]
        masks: list[Tensor | None] = []
        for dim, unmasked in zip(self.dims, self.unmasked_dims, strict=True):
            widths = [unmasked, (dim - unmasked) // 2, dim - unmasked - (dim - unmasked) // 2]
            parts = [level.expand(-1, -1, width) for level, width in zip(levels, widths, strict=True)]
            masks.append(None if dim == unmasked else torch.cat(parts, dim=2).to(x.dtype))
        return masks

    def _check(self, x: Tensor) -> None:
        if x.shape[2] != self.num_mel_bins:
            raise DataError(
                f"this Zipformer takes features of {self.num_mel_bins} mel bins, found {x.shape[2]}: set "
                "features.preset to that which the model was made with"
            )
        if x.shape[1] < MIN_FRAMES:
            raise DataError(
                f"a Zipformer needs {MIN_FRAMES} frames ({10 * MIN_FRAMES} ms) or more, found {x.shape[1]}: "
                "pad the features, as a tagger's front end does, or leave the clip out"
            )


def per_stack(**settings: PerStack) -> list[dict[str, int]]:
    """The settings of each stack, where one number stands for all."""
    lengths = {name: len(values) for name, values in settings.items() if not isinstance(values, int)}
    number = max(lengths.values(), default=1)
    for name, length in lengths.items():
        if length not in (1, number):
            raise ConfigError(f"encoder.{name} has {length} values where other settings have {number}")
    columns = {
        name: [values] * number if isinstance(values, int) else list(values) * (number // len(values))
        for name, values in settings.items()
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def layer_skip_rates(
    stack: int, num_stacks: int, num_layers: int, factor: int, warmup_batches: float
) -> list[Schedule]:
    """How often a clip skips each layer of a stack: earlier layers are to learn first, then later ones."""
    begin, end = (warmup_batches * (index + 1) / (num_stacks + 1) for index in (stack, stack + 1))
    times = [begin + (end - begin) * index / num_layers for index in range(num_layers + 1)]
    return [Schedule((start, 0.5), (stop, 0.035 * factor**0.5)) for start, stop in itertools.pairwise(times)]


def layers_of(stack: Stack | DownsampledStack) -> nn.ModuleList:
    """The layers of a stack."""
    return stack.layers if isinstance(stack, Stack) else stack.encoder.layers


def units_of(stack: Stack | DownsampledStack) -> list[nn.Module]:
    """The parts of a stack that training goes by `Step`s in: layers, and what is behind them."""
    return [*layers_of(stack), *([stack.out_combiner] if isinstance(stack, DownsampledStack) else [])]


def fit_channels(x: Tensor, dim: int) -> Tensor:
    """The first `dim` channels, with zeros for those that are not there."""
    return x[..., :dim] if x.shape[-1] >= dim else functional.pad(x, (0, dim - x.shape[-1]))


def widest_of_each(outputs: list[Tensor]) -> Tensor:
    """Each channel from the last stack that has it."""
    parts = [outputs[-1]]
    width = outputs[-1].shape[-1]
    for output in reversed(outputs):
        if output.shape[-1] > width:
            parts.append(output[..., width:])
            width = output.shape[-1]
    return torch.cat(parts, dim=-1)
