"""From a model and a loader to scores: one pass without gradients, on one process or shared out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from audiotag.distributed import World
from audiotag.evaluation.scores import Scores
from audiotag.frontend import Frontend
from audiotag.tagger import Tagger


@torch.no_grad()
def score_batches(
    tagger: Tagger,
    batches: Iterable[dict],
    *,
    device: torch.device,
    amp_dtype: torch.dtype | None = None,
    columns: Sequence[int] | None = None,
) -> Scores:
    """Logits of every clip in float32; the tagger is left in the mode it was in.

    Args:
        tagger: on `device`.
        batches: as loaders yield them; none at all gives scores of no clips.
        device: where the model is.
        amp_dtype: precision of the forward pass; None for float32.
        columns: the model's output for each class of the batches' labels; None when they are the same.
    """
    was_training = tagger.training
    tagger.eval()
    num_classes = len(tagger.labels) if columns is None else len(columns)
    ids: list[str] = []
    logits = [np.zeros((0, num_classes), np.float32)]
    labels = [np.zeros((0, num_classes), np.float32)]
    for batch in batches:
        features, lengths = model_inputs(tagger.frontend, batch, device)
        with torch.autocast(device.type, dtype=amp_dtype, enabled=amp_dtype is not None):
            output = tagger(features, lengths).float().cpu().numpy()
        ids.extend(batch["ids"])
        logits.append(output if columns is None else output[:, columns])
        labels.append(batch["labels"].numpy())
    tagger.train(was_training)
    return Scores(ids, np.concatenate(logits), np.concatenate(labels))


def gather_scores(scores: Scores, world: World) -> Scores:
    """The scores of all processes, on every process."""
    if world.size == 1:
        return scores
    ids, logits, labels = zip(*world.gather((scores.ids, scores.logits, scores.labels)), strict=True)
    return Scores([clip for part in ids for clip in part], np.concatenate(logits), np.concatenate(labels))


@torch.no_grad()
def model_inputs(frontend: Frontend, batch: dict, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Finished features (B,T,F) and lengths (B,) on the device, from waveforms or stored features."""
    inputs = batch["inputs"].to(device, non_blocking=True)
    lengths = batch["lengths"].to(device, non_blocking=True)
    if inputs.ndim == 2:
        return frontend(inputs, lengths)
    return frontend.finish(inputs, lengths)
