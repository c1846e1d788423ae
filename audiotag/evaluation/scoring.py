"""From a model and a loader to scores: one pass without gradients, on one process or shared out.

The scores of a split are in the order of its manifest, and do not depend on the number of processes: these
share batches that are the same for any number. Other batch sizes change the logits by rounding (float32: 1e-5
of the largest), as long as the encoder is `batch_independent`.

Shapes: B clips or windows of a batch, N clips of a process, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from audiotag.distributed import World
from audiotag.errors import CheckpointError, ConfigError
from audiotag.evaluation.logodds import log_odds
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.windowmeans import WindowMerger
from audiotag.frontend import Frontend
from audiotag.tagger import Tagger

AMP_DTYPES = {"off": None, "fp16": torch.float16, "bf16": torch.bfloat16}

# Rows that processes exchange at a time, which bounds the memory that it takes on a GPU.
GATHERED_ROWS = 4096


class ScoringStopped(Exception):
    """The pass was asked to stop before its end; there are no scores."""


@dataclass
class ScoredShare(Scores):
    """The scores of some clips of a split.

    positions: (N,) places of the clips in the manifest.
    """

    positions: np.ndarray


@torch.no_grad()
def score_batches(
    tagger: Tagger,
    batches: Iterable[dict],
    *,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    loss: str = "bce",
    columns: Sequence[int] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ScoredShare:
    """Logits of every clip in float32; every module of the tagger is left in the mode it was in.

    Args:
        tagger: on `device`.
        batches: as evaluation's loaders yield them, of clips or of windows; none at all gives scores of no
            clips.
        device: where the model is.
        amp_dtype: precision of the forward pass; None for float32.
        loss: what the model was trained with; `ce` turns its logits into log odds.
        columns: the model's output for each class of the batches' labels; None when they are the same.
        should_stop: asked before every batch; when it says so, `ScoringStopped` is raised.
    """
    chosen = slice(None) if columns is None else list(columns)
    num_classes = len(tagger.labels) if columns is None else len(columns)
    ids: list[str] = []
    positions = [np.zeros(0, np.int64)]
    logits, labels = [np.zeros((0, num_classes), np.float32)], [np.zeros((0, num_classes), np.float32)]
    merger = WindowMerger()
    with evaluation_mode(tagger):
        for batch in batches:
            if should_stop is not None and should_stop():
                raise ScoringStopped
            features, lengths = model_inputs(tagger.frontend, batch, device)
            with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
                output = tagger(features, lengths)
            output = output.float().cpu().numpy()
            rows = list(range(len(output)))
            if "windows" in batch:
                rows, output = merger.merge(batch, output)
            if loss == "ce":
                output = log_odds(output)
            ids += [batch["ids"][row] for row in rows]
            positions.append(batch["positions"].numpy()[rows])
            logits.append(output[:, chosen])
            labels.append(batch["labels"].numpy()[rows])
    return ScoredShare(ids, np.concatenate(logits), np.concatenate(labels), np.concatenate(positions))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and back in its own at the end: frozen ones are not in the model's."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def gather_scores(scores: ScoredShare, world: World) -> Scores | None:
    """The scores of all processes in the order of the manifest, on the first process; None on the others."""
    shares = world.gather((scores.ids, scores.positions, scores.labels.dtype == np.uint8))
    ids, positions, hard = zip(*shares, strict=True)
    order = np.argsort(np.concatenate(positions), kind="stable")
    label_type = np.uint8 if all(hard) else np.float32
    logits = gather_rows(scores.logits, list(map(len, ids)), world)
    labels = gather_rows(scores.labels.astype(label_type), list(map(len, ids)), world)
    if logits is None or labels is None:
        return None
    every_id = [clip for part in ids for clip in part]
    return Scores([every_id[place] for place in order], logits[order], labels[order])


def gather_rows(rows: np.ndarray, counts: Sequence[int], world: World) -> np.ndarray | None:
    """The rows (N,C) of all processes, one process' behind the other's, on the first; None on the others.

    They go as tensors, some thousand at a time: neither pickled nor all at once on the device.

    Args:
        rows: of this process.
        counts: how many each process has.
        world: the processes.
    """
    if world.size == 1:
        return rows
    result = np.empty((sum(counts), *rows.shape[1:]), rows.dtype) if world.is_main else None
    starts = np.cumsum([0, *counts])
    for first in range(0, max(counts), GATHERED_ROWS):
        size = min(GATHERED_ROWS, max(counts) - first)
        own = torch.zeros((size, *rows.shape[1:]), dtype=torch.from_numpy(rows).dtype)
        part = rows[first : first + size]
        own[: len(part)] = torch.from_numpy(part)
        own = own.to(world.device)
        received = [torch.empty_like(own) for _ in counts] if world.is_main else None
        dist.gather(own, received)
        for rank, values in enumerate(received or []):
            missing = max(0, min(size, counts[rank] - first))
            start = starts[rank] + first
            result[start : start + missing] = values[:missing].cpu().numpy()
    return result


def check_finite(scores: Scores, tagger: Tagger, amp: str) -> None:
    """Say why scores are not finite, where it is not the clips' own fault."""
    bad = np.flatnonzero(~np.isfinite(scores.logits).all(axis=1))
    if len(bad) == 0:
        return
    example = scores.ids[bad[0]]
    what = f"scores of {len(bad)} of {len(scores.ids)} clips are not finite, such as those of {example}"
    for name, tensor in tagger.state_dict().items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"{what}: the model's {name} is not finite; evaluate another checkpoint")
    if amp == "fp16":
        raise ConfigError(f"{what}: numbers above 65504 overflow in fp16; set evaluation.amp to bf16 or off")


@torch.no_grad()
def model_inputs(
    frontend: Frontend, batch: dict, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Finished features (B,T,F) and lengths (B,) on the device, from waveforms or stored features; stored
    embeddings (B,D) as they are, without lengths."""
    inputs = batch["inputs"].to(device, non_blocking=True)
    if batch["lengths"] is None:
        return inputs, None
    lengths = batch["lengths"].to(device, non_blocking=True)
    if inputs.ndim == 2:
        return frontend(inputs, lengths)
    return frontend.finish(inputs, lengths)
