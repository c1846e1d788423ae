"""The Zipformer: stacks of layers that look at a clip at several frame rates.

Yao et al., "Zipformer: A faster and better encoder for automatic speech recognition", ICLR 2024, as icefall's
AudioSet recipe uses it for audio tagging. Parameters carry the names of its checkpoints.

Shapes: B clips, T frames, F mel bins, D width, P width of the table of positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from audiotag.encoders.zipformer.activations import keep_mask
from audiotag.encoders.zipformer.attention import relative_positions
from audiotag.encoders.zipformer.gradients import IdleParameters
from audiotag.encoders.zipformer.layer import Bypass, Layer
from audiotag.encoders.zipformer.steps import Schedule, Step, StepSource
from audiotag.encoders.zipformer.subsampling import MIN_FRAMES, Subsampling, num_frames_left
from audiotag.errors import ConfigError, DataError
from audiotag.frontend import sequence_mask

FEATURE_MASK_RATE = 0.125
POSITION_DROPOUT = 0.15
PerStack = int | Sequence[int]
