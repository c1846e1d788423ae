"""Under which conditions scores were made, in words for results and in short for the names of folders."""

from __future__ import annotations

from collections.abc import Mapping
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
# What follows the name of a choice of weights, so that none takes another's place.
SUFFIXES = {"ema": "-ema", "running_average": "-running", "swa": "-swa", "model": ""}
# The means that `evaluation.window_mean` stands for unless it is set.
USUAL_MEANS = ("sigmoid", "softmax")


def weights_in_words(origin: Mapping[str, Any]) -> str:
    """Which weights these are.

    origin: what `ChosenWeights.origin` gives; averaged files of earlier versions hold `name`, `files` and
        `by_validation` of it alone.
    """
    name, averaged = origin["name"], origin.get("averaged") or {}
    kind = origin.get("kind") or next((kind for kind in SUFFIXES if name.endswith(SUFFIXES[kind])), "model")
    files = [
        f"{file} ({weights_in_words(averaged[file])})" if file in averaged else file
        for file in origin["files"]
    ]
    if origin.get("between", name.startswith("between-")):
        return f"mean of the weights over all updates behind {files[0]} up to {files[1]}"
    if len(files) > 1:
        return f"mean of the {KINDS[kind]} of {', '.join(files)}{reason(origin, kind)}"
    return f"{'weights' if averaged else KINDS[kind]} of {files[0]}{reason(origin, kind)}"


def reason(origin: Mapping[str, Any], kind: str) -> str:
    """Why these files, where validation is the reason; an averaged file tells of its own."""
    if origin.get("averaged"):
        return ""
    if origin.get("by_validation"):
        measured = origin.get("measured", kind)
        other = (
            ""
            if measured == kind
            else f" of the {KINDS[measured] if measured else 'weights of several kinds'}"
        )
        return f", chosen by validation{other}"
    return ", with which validation ended training early" if origin.get("by_stopping") else ""


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
