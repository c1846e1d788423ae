"""How many floating-point operations training needs, and how many a GPU can do: their ratio is the MFU.

Operations are those of the model as it is written: a multiplication and an addition count as two, and what is
computed twice to save memory, or by a compiler in another way, counts once.
"""

from __future__ import annotations

import copy
import logging
import re

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from audiotag.tagger import Tagger

logger = logging.getLogger(__name__)

# Lengths of batches for which operations are counted one by one; between these they are interpolated.
MOST_COUNTS = 4
TERA = 1e12

# Peak of dense matrix products in TFLOP/s, from NVIDIA's data sheets, by a pattern of the device's name; the
# first that is found counts. In the order of PRECISIONS; None where the hardware has none.
PRECISIONS = ("half", "bf16", "tf32", "float32")
PEAK_TFLOPS: dict[str, tuple[float | None, ...]] = {
    r"GB200": (2500.0, 2500.0, 1250.0, 80.0),
    r"B200": (2250.0, 2250.0, 1125.0, 75.0),
    r"H200 NVL|H100 NVL": (835.5, 835.5, 417.5, 60.0),
    r"H100 PCIe": (756.0, 756.0, 378.0, 51.0),
    r"H100|H200|GH200": (989.4, 989.4, 494.7, 67.0),
    r"A100": (312.0, 312.0, 156.0, 19.5),
    r"A40": (149.7, 149.7, 74.8, 37.4),
    r"A30": (165.0, 165.0, 82.0, 10.3),
    r"A10G": (70.0, 70.0, 35.0, 31.5),
    r"A10": (125.0, 125.0, 62.5, 31.2),
    r"L40S": (362.0, 362.0, 183.0, 91.6),
    r"L40": (181.0, 181.0, 90.5, 90.5),
    r"L4": (121.0, 121.0, 60.0, 30.3),
    r"RTX A6000": (154.8, 154.8, 77.4, 38.7),
    r"RTX 6000 Ada Generation": (364.2, 364.2, 182.1, 91.1),
    # GeForce: with sums in float32, as torch has them, half of what holds for sums in float16.
    r"RTX 5090": (209.5, 209.5, 104.8, 104.8),
    r"RTX 4090 D": (147.1, 147.1, 73.5, 73.5),
    r"RTX 4090": (165.2, 165.2, 82.6, 82.6),
    r"RTX 3090 Ti": (80.0, 80.0, 40.0, 40.0),
    r"RTX 3090": (71.0, 71.0, 35.6, 35.6),
    r"RTX 2080 Ti": (53.8, None, None, 13.4),
    r"V100S": (130.0, None, None, 16.4),
    r"V100-SXM\w*": (125.0, None, None, 15.7),
    r"V100": (112.0, None, None, 14.0),
    r"T4": (65.0, None, None, 8.1),
}
# A slice of a GPU has a share of its peak, a laptop's has another chip or clock.
OTHER_PEAK = re.compile(r"\bMIG\b|\bLaptop\b|\bMax-Q\b")


class BatchFlops:
    """Operations of a training step by the shape of its batch, each shape counted when it first comes.

    Args:
        tagger: the model; counted anew when other parts of it are trained than before.
    """

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger
        self._parameters = list(tagger.parameters())
        # By which parameters are trained: operations of one clip by its length.
        self._counted: dict[tuple[bool, ...], dict[int, float]] = {}
        self._known = True

    def __call__(self, features_shape: tuple[int, int, int]) -> float:
        """Operations for a batch of features (B,T,F), forwards and backwards; 0 if they cannot be told."""
        clips, length, bins = features_shape
        trained = tuple(parameter.requires_grad for parameter in self._parameters)
        counted = self._counted.setdefault(trained, {})
        if length not in counted and len(counted) < MOST_COUNTS and self._known:
            try:
                counted[length] = training_flops(self._tagger, (1, length, bins))
            except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
                self._known = False
                logger.warning("no MFU: the model's operations cannot be counted (%s)", error)
        if not self._known:
            return 0.0
        return clips * (counted[length] if length in counted else estimate(length, counted))


def estimate(length: int, counted: dict[int, float]) -> float:
    """Operations of one clip of another length than the two or more counted ones.

    Per frame they rise evenly with the length, as attention has it: between two counted lengths, and outside
    along the line through the shortest and the longest.
    """
    lengths = sorted(counted)
    per_frame = [counted[known] / known for known in lengths]
    if lengths[0] <= length <= lengths[-1]:
        return float(length * np.interp(length, lengths, per_frame))
    slope = (per_frame[-1] - per_frame[0]) / (lengths[-1] - lengths[0])
    return length * max(per_frame[0] + slope * (length - lengths[0]), 0.0)


def training_flops(tagger: Tagger, features_shape: tuple[int, int, int]) -> float:
    """Floating-point operations of one batch of features (B,T,F), forwards and backwards.

    A copy of the model goes through it whose tensors have shapes but no data: the model itself, its gradients
    and random numbers are not touched, and no memory is needed.
    """
    # With attention written out as products of matrices, the counter knows all of it.
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        model = shape_copy(tagger)
        features = torch.empty(features_shape)
        lengths = torch.full((features_shape[0],), features_shape[1])
        with FlopCounterMode(display=False) as counter:
            logits = model.from_features(features, lengths)
            if logits.requires_grad:
                logits.sum().backward()
    return float(counter.get_total_flops())


def shape_copy(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode, to be made and used where tensors have no data.

    Dropout, stochastic depth and activation checkpointing have no part in it, nor has a compiled forward.
    """
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        empty = torch.empty(parameter.shape, dtype=parameter.dtype)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return copy.deepcopy(module, memo).eval()


def peak_flops(device: torch.device, amp: str, tflops: float | None = None) -> float | None:
    """Floating-point operations that a device can do in a second; None where that is not known.

    Args:
        amp: precision of the matrix products: `fp16`, `bf16`, or `off` for TF32 or float32, whichever
            torch is set to.
        tflops: takes the place of what is known of the device.
    """
    if tflops is not None:
        return tflops * TERA
    if device.type != "cuda":
        return None
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return known_peak(torch.cuda.get_device_name(device), amp, tf32)


def known_peak(device_name: str, amp: str, tf32: bool) -> float | None:
    """The peak of a GPU by its name, from the table."""
    if OTHER_PEAK.search(device_name):
        return None
    for pattern, peaks in PEAK_TFLOPS.items():
        if re.search(rf"\b(?:{pattern})\b", device_name):
            by_precision = dict(zip(PRECISIONS, peaks, strict=True))
            if amp == "off":
                peak = by_precision["tf32"] if tf32 else None
                peak = peak or by_precision["float32"]
            else:
                peak = by_precision["half" if amp == "fp16" else "bf16"]
            return peak and peak * TERA
    return None
