"""Under which conditions scores were made, in words for results and in short for the names of folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from audiotag.evaluation.windows import Windowing

KINDS = {
    "model": "trained weights",
    "ema": "EMA weights",
    "running_average": "running average of the weights",
    "swa": "SWA weights",
}
# The means that `evaluation.window_mean` stands for unless it is set.
USUAL_MEANS = ("sigmoid", "softmax")


def weights_in_words(kind: str, files: Sequence[str], *, between: bool, by_validation: bool) -> str:
    """Which weights were scored.

    Args:
        kind: of the weights that were taken from each file.
        files: the checkpoints.
        between: they are the two ends of a mean over updates.
        by_validation: a validation metric chose the files.
    """
    reason = ", chosen by validation" if by_validation else ""
    if between:
        return f"mean of the weights over all updates behind {files[0]} up to {files[1]}{reason}"
    if len(files) == 1:
        return f"{KINDS[kind]} of {files[0]}{reason}"
    return f"mean of the {KINDS[kind]} of {', '.join(files)}{reason}"


def precision_in_words(amp: str, device: torch.device, tf32: bool) -> str:
    """What the forward pass was computed in; TF32 is a matter of GPUs."""
    exact = "float32 with TF32 products" if tf32 and device.type == "cuda" else "float32"
    return exact if amp == "off" else f"{amp} (automatic mixed precision), last layer {exact}"


def device_name(device: torch.device) -> str:
    """The kind of device: a GPU by its name, else cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def describe_windows(windowing: Windowing | None, durations: np.ndarray) -> dict[str, Any] | None:
    """How clips of these durations (N,) in seconds were cut; None where all were taken whole."""
    if windowing is None:
        return None
    counts = windowing.counts(durations)
    return {
        "window_s": windowing.window_s,
        "hop_s": windowing.hop_s,
        "mean": windowing.mean,
        "clips_in_windows": int((counts > 1).sum()),
        "windows": int(counts.sum()),
    }


def folder_suffix(amp: str, windowing: Windowing | None) -> str:
    """What follows the weights in the name of an evaluation's folder, so that none takes another's place."""
    suffix = "" if amp == "off" else f"-{amp}"
    if windowing is not None:
        suffix += f"-windows{windowing.window_s:g}-hop{windowing.hop_s:g}"
        suffix += "" if windowing.mean in USUAL_MEANS else f"-{windowing.mean}"
    return suffix
