"""A frozen encoder's embeddings of all clips, computed once and kept on disk, for the training of a head.

Checkpoints are of whole taggers, and nothing but training knows of these embeddings.

Shapes: N clips, B clips of a batch, D width of an embedding, C classes.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audiotag.config import Config
from audiotag.data.dataset import Batch, ClipDataset
from audiotag.data.loading import Unreadable
from audiotag.data.rowstore import RowKind, RowStore, describe_clips, key_of
from audiotag.distributed import World
from audiotag.errors import ConfigError
from audiotag.evaluation.scoring import AMP_DTYPES, evaluation_mode, model_inputs
from audiotag.frontend import Frontend
from audiotag.provenance import collect_provenance, file_digest, weights_digest
from audiotag.tagger import Tagger
from audiotag.training.hearing import BLOCK_CLIPS, HeardClips, Hearer, fill_store
from audiotag.training.signals import StopRequest

logger = logging.getLogger(__name__)

# As the head gets them: in half precision the result would not be that of training without a store.
EMBEDDINGS = RowKind("the encoder's embeddings", "embeddings", "audiotag-embeddings", "float32")


class StoredEmbeddings:
    """Embeddings by the position of a clip; only the rows that are asked for are read.

    Args:
        rows: (N,D) float32, memory-mapped, in the order of the clips.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self.rows = rows

    def __call__(self, position: int, clip_id: str) -> NDArray[np.float32]:
        """The embedding (D,) of a clip; one that could not be read then cannot be now."""
        row = self.rows[position]
        if np.isnan(row[0]):
            raise Unreadable(clip_id, "it could not be read when the embeddings were made")
        return row


class Unaugmented:
    """In the place of an `Augmenter`: batches of embeddings as they are."""

    def __call__(
        self, batch: Batch, frontend: Frontend, device: torch.device, rng_key: tuple[int, ...]
    ) -> tuple[Tensor, None, Tensor]:
        """Embeddings (B,D), no lengths, and targets (B,C), on the device."""
        return batch["inputs"].to(device), None, batch["labels"].to(device)


def use_embeddings(
    dataset: ClipDataset,
    config: Config,
    tagger: Tagger,
    data_dir: Path,
    world: World,
    stop: StopRequest,
    *,
    split: str,
    amp: str,
) -> None:
    """Have a dataset give the encoder's embeddings of its clips, which are made now where they are not there.

    Args:
        dataset: of a loader whose processes have not begun.
        config: the configuration, with `encoder.freeze`.
        tagger: with the weights that its encoder keeps; on its device.
        data_dir: the recipe's data folder, in which `embeddings/` holds them.
        world: the processes.
        stop: tells whether a signal asked to stop.
        split: which clips these are.
        amp: precision of the encoder: off, fp16 or bf16.
    """
    store, info = describe_store(dataset, config, tagger, data_dir, world, split, amp)
    heard = HeardClips(dataset.manifest, storage=config.features.storage, num_classes=dataset.num_classes)
    hearer = Hearer(
        lambda batch: embeddings_of(batch, tagger, world.device, amp),
        f"the encoder hears {split}:",
        "it gets no embedding",
    )
    with evaluation_mode(tagger):
        fill_store(store, info, config, heard, hearer, world, stop)
    logger.info("embeddings of %d clips of %s: %s", store.num_clips, split, store.folder)
    dataset.embeddings = StoredEmbeddings(store.open()[0])
    dataset.length_multiple = 1


def describe_store(
    dataset: ClipDataset, config: Config, tagger: Tagger, data_dir: Path, world: World, split: str, amp: str
) -> tuple[RowStore, dict[str, Any]]:
    """Where embeddings belong, and what they are made of: another encoder or clip gives another place."""
    sections = config.model_dump(mode="json", include={"features", "encoder"})
    paths = dataset.manifest.paths
    info = {
        "encoder": weights_digest(tagger.encoder.state_dict(), sections),
        "clips": describe_clips(dataset.manifest),
        "manifests": world.gather([file_digest(path) for path in paths] if world.is_main else None)[0],
        "padding": config.data.length_multiple_s,
        # Clips in a batch with others may be heard otherwise.
        "batch_size": None if tagger.encoder.batch_independent else config.evaluation.batch_size,
        "amp": amp,
    }
    key = key_of(info)
    folder = data_dir / "embeddings" / f"{split}-{key[:8]}"
    store = RowStore(folder, key, len(dataset.manifest), tagger.encoder.output_dim, BLOCK_CLIPS, EMBEDDINGS)
    return store, {**info, "init": config.init.model, "provenance": collect_provenance()}


@torch.no_grad()
def embeddings_of(batch: Batch, tagger: Tagger, device: torch.device, amp: str) -> NDArray[np.float32]:
    """The mean embeddings (B,D) of a batch."""
    dtype = AMP_DTYPES[amp]
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        _, mean = tagger(*model_inputs(tagger.frontend, batch, device), pooled=True)
    mean = mean.float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(mean).all(axis=1))
    if len(bad):
        advice = "take bf16 or off in place of fp16" if amp == "fp16" else "take other weights (init.model)"
        raise ConfigError(
            f"encoder.freeze: the embedding of clip {batch['ids'][bad[0]]} is not finite; {advice}"
        )
    return mean
