"""Distilled DeiT, a vision transformer trained on ImageNet: what the AST's published trainings start from.

A file is a state dict of timm's names, as such or under "model". The patch convolution takes one channel in
place of three, by the sum of its weights; the classes of ImageNet are left out, so there is no head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from audiotag.encoders.ast import NUM_SUMMARY_TOKENS, Ast
from audiotag.errors import CheckpointError
from audiotag.interop.ast import EPSILONS
from audiotag.interop.astsizes import infer_sizes
from audiotag.interop.foreignweights import as_weights, check_fit, find, read_torch_file
from audiotag.interop.sourcemodel import Hints, SourceModel

WHAT = "a distilled DeiT"
HEADS = ("head.", "head_dist.")
KERNEL = "patch_embed.proj.weight"


def is_deit(path: Path, content: Any) -> bool:
    """Whether the content of a file is that of a vision transformer in timm's names."""
    state = inner(content)
    return isinstance(state, Mapping) and "cls_token" in state and KERNEL in state


def inner(content: Any) -> Any:
    """The state dict of a file."""
    return content["model"] if isinstance(content, Mapping) and "model" in content else content


def read_deit(path: Path, hints: Hints) -> SourceModel:
    """The model of a file of ImageNet weights, with the settings that an AST made of it has."""
    weights = as_weights(inner(read_torch_file(path)), path)
    body = {name: value for name, value in weights.items() if not name.startswith(HEADS)}
    if "dist_token" not in body:
        raise CheckpointError(
            f"{path}: a vision transformer without distillation token: take a file of distilled DeiT, as "
            "deit_base_distilled_patch16_384-d0272ac0.pth"
        )
    sizes = infer_sizes(body, hints, path, WHAT)
    patches = find(body, "pos_embed", path, WHAT).shape[1] - NUM_SUMMARY_TOKENS
    side = math.isqrt(max(0, patches))
    if side == 0 or side**2 != patches:
        raise CheckpointError(f"{path}: does not fit {WHAT}: {patches} positions are no square of patches")
    patch_size = sizes["patch_size"]
    pixels = side * patch_size
    with torch.device("meta"):
        layout = Ast(pixels, pixels, **sizes, freq_stride=patch_size, time_stride=patch_size)
    expected = layout.state_dict()
    kernel = expected[KERNEL]
    check_fit({**expected, KERNEL: kernel.expand(-1, 3, -1, -1)}, body, path, WHAT)
    body[KERNEL] = body[KERNEL].sum(dim=1, keepdim=True)
    return SourceModel(
        path,
        (path,),
        {f"encoder.{name}": value for name, value in body.items()},
        {"name": "ast", **sizes, **EPSILONS.settings()},
        None,
        layout,
    )
