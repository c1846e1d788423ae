"""What the loss' `class_weights: balanced` weighs by: how many training clips each class has."""

from __future__ import annotations

import numpy as np

from audiotag.config import Config
from audiotag.data.dataset import Manifest
from audiotag.data.sources import MixedManifest


def class_counts(config: Config, clips: Manifest, num_classes: int) -> np.ndarray | None:
    """Clips (C,) of each class that an epoch has on average; None where the loss does not ask for them.

    They are counted as stage 4 counts them, in the very clips that are trained on. Of several sources each
    counts as much as its weight makes of an epoch. A class of which a clip says nothing counts like one that
    it lacks.

    Args:
        config: the configuration.
        clips: the training clips: those of the recipe, or the mixture of `data.sources`.
        num_classes: C.
    """
    if config.loss.class_weights != "balanced":
        return None
    if not isinstance(clips, MixedManifest):
        return np.bincount(clips.label_ids, minlength=num_classes)
    weights = [source.weight for source in config.data.sources]
    counts = np.zeros(num_classes)
    for source, weight in zip(clips.sets, weights, strict=True):
        ours = source.classes[source.manifest.label_ids]
        share = weight / sum(weights)
        counts += np.bincount(ours, minlength=num_classes) * (len(clips) * share / len(source.manifest))
    return counts
