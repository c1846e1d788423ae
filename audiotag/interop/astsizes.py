"""How large an AST is, from the shapes of its weights and the name of its file.

Weights do not tell everything. Heads are 64 wide in all published models. The number of patches is that of
rows times that of columns, for which there are often several strides and lengths: see `infer_grid`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from audiotag.encoders.ast import NUM_SUMMARY_TOKENS
from audiotag.errors import CheckpointError
from audiotag.interop.foreignweights import find
from audiotag.interop.sourcemodel import Hints

logger = logging.getLogger(__name__)

HEAD_DIM = 64
NUM_MEL_BINS = 128
# Strides and lengths of what was published: AudioSet, ESC-50, Speech Commands.
KNOWN_STRIDES = (10, 12, 14, 16)
KNOWN_FRAMES = (1024, 512, 128)
# audioset_10_10_0.4593.pth: steps along frequency and time.
NAMED_STRIDES = re.compile(r"(?:^|_)(\d{1,2})_(\d{1,2})(?:_|\.pth?$)")


def infer_sizes(weights: Mapping[str, Tensor], hints: Hints, path: Path, what: str) -> dict[str, Any]:
    """Width, depth and the like of a transformer from its weights by our names, without `encoder.`.

    Args:
        what: the kind of model, as in "an AST", for errors.
    """
    width = find(weights, "cls_token", path, what).shape[-1]
    hidden = find(weights, "blocks.0.mlp.fc1.weight", path, what).shape[0]
    blocks = {int(name.split(".")[1]) for name in weights if re.match(r"blocks\.\d+\.", name)}
    heads = hints.encoder.get("num_heads")
    if heads is None and width % HEAD_DIM:
        raise CheckpointError(
            f"{path}: weights do not tell the number of attention heads, and a width of {width} has no heads "
            f"of {HEAD_DIM} as the published models have: give it with --set encoder.num_heads=..."
        )
    if heads is not None and width % HEAD_DIM == 0 and heads != width // HEAD_DIM:
        logger.warning(
            "%s: taken to have %s attention heads, as given; the published models of its width have %d",
            path,
            heads,
            width // HEAD_DIM,
        )
    return {
        "embed_dim": width,
        "depth": len(blocks),
        "num_heads": heads or width // HEAD_DIM,
        "mlp_ratio": hidden / width,
        "patch_size": find(weights, "patch_embed.proj.weight", path, what).shape[-1],
    }


def infer_grid(num_tokens: int, patch_size: int, hints: Hints, path: Path) -> tuple[int, int, int]:
    """Step along frequency, step along time, and frames, from the number of tokens.

    The first of these that gives as many patches: the strides in the file's name; those given, with a length
    that is given or published; strides and lengths of the published models; those given, with any length; a
    stride of 10. Where several lengths give as many columns, it is one given or published, else the shortest.
    """
    patches = num_tokens - NUM_SUMMARY_TOKENS
    default = KNOWN_STRIDES[0]
    given = tuple(hints.encoder.get(name) or default for name in ("freq_stride", "time_stride"))
    if named := NAMED_STRIDES.search(path.name):
        strides = int(named[1]), int(named[2])
        if lengths := lengths_of(patches, patch_size, strides):
            return *strides, choose_length(lengths, hints) or lengths[0]
        logger.warning("%s: its %d patches are not those of the strides in its name", path, patches)
    given_lengths = lengths_of(patches, patch_size, given)
    if frames := choose_length(given_lengths, hints):
        return *given, frames
    for stride in KNOWN_STRIDES:
        if frames := choose_length(lengths_of(patches, patch_size, (stride, stride)), Hints()):
            return stride, stride, frames
    if given_lengths:
        return *given, given_lengths[0]
    if lengths := lengths_of(patches, patch_size, (default, default)):
        return default, default, lengths[0]
    raise CheckpointError(
        f"{path}: {patches} patches, for which no published stride and length is known: give them with --set "
        "encoder.freq_stride=... --set encoder.time_stride=... --set features.target_frames=..."
    )


def lengths_of(patches: int, patch_size: int, strides: tuple[int, int]) -> range:
    """The numbers of frames that have so many patches of these strides; none where there are none such."""
    if min(strides) < 1 or patch_size > NUM_MEL_BINS:
        return range(0)
    columns, rest = divmod(patches, (NUM_MEL_BINS - patch_size) // strides[0] + 1)
    if rest or columns < 1:
        return range(0)
    shortest = patch_size + (columns - 1) * strides[1]
    return range(shortest, shortest + strides[1])


def choose_length(lengths: range, hints: Hints) -> int | None:
    """The given length, else a published one, if it is among these."""
    return next((frames for frames in (hints.target_frames, *KNOWN_FRAMES) if frames in lengths), None)
