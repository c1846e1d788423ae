"""The original AST checkpoints: read them, and write models as the original code loads them.

They are state dicts of torch, each name with the prefix `module.`, and hold two heads left over from ImageNet
that nothing uses. Classes, strides and length are not in them: the file's name gives the strides.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotag.atomic import atomic_write
from audiotag.errors import ConfigError
from audiotag.export.package import TrainedModel
from audiotag.interop.astsizes import HEAD_DIM, infer_grid, infer_sizes
from audiotag.interop.epsilons import Epsilons, measure_other_epsilons
from audiotag.interop.foreignweights import as_weights, check_fit, find, read_torch_file
from audiotag.interop.sourcemodel import Hints, SourceModel, complete, make_layout

logger = logging.getLogger(__name__)

WHAT = "an AST"
PRESET = "ast128"
PREFIX = "module."
EPSILONS = Epsilons(block=1e-6, final=1e-6, head=1e-5)
UNUSED = ("v.head.", "v.head_dist.")
NUM_UNUSED_CLASSES = 1000
# Mean and deviation of the corpora that published models are of, by (frames, classes): files do not say.
CORPORA: dict[tuple[int, int], dict[str, Any]] = {
    (512, 50): {"corpus": "ESC-50", "mean": -6.6268077, "std": 5.358466, "loss": "ce"},
    (128, 35): {"corpus": "Speech Commands", "mean": -6.845978, "std": 5.5654526, "loss": "bce"},
}


def own_name(name: str) -> str:
    """What a tagger calls a tensor of the original, or nothing for another part."""
    for theirs, ours in (("v.", "encoder."), ("mlp_head.0.", "head_norm."), ("mlp_head.1.", "head.")):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return ""


def foreign_name(name: str) -> str:
    """What the original calls a tensor of a tagger."""
    for theirs, ours in (("v.", "encoder."), ("mlp_head.0.", "head_norm."), ("mlp_head.1.", "head.")):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(name)


def is_ast(path: Path, content: Any) -> bool:
    """Whether the content of a file is that of an original AST."""
    return isinstance(content, Mapping) and any(
        str(name).removeprefix(PREFIX) == "v.cls_token" for name in content
    )


def read_ast(path: Path, hints: Hints) -> SourceModel:
    """The model of an original checkpoint."""
    weights = as_weights(read_torch_file(path), path)
    used = {name: value for name, value in weights.items() if not name.startswith(UNUSED)}
    body = {name.removeprefix("v."): value for name, value in used.items() if name.startswith("v.")}
    sizes = infer_sizes(body, hints, path, WHAT)
    num_tokens = find(used, "v.pos_embed", path, WHAT).shape[1]
    freq_stride, time_stride, frames = infer_grid(num_tokens, sizes["patch_size"], hints, path)
    num_classes = len(find(used, "mlp_head.1.bias", path, WHAT))
    trained_on = dict(CORPORA.get((frames, num_classes), {}))
    corpus, loss = trained_on.pop("corpus", None), trained_on.pop("loss", "bce")
    if corpus:
        logger.warning(
            "%s: taken to be of %s by its %d frames and %d classes: features are normalised by the mean and "
            "deviation of that corpus; where it is not, give features.mean and features.std",
            path,
            corpus,
            frames,
            num_classes,
        )
    tree = {
        "features": {"preset": PRESET, "target_frames": frames, **trained_on},
        "encoder": {
            "name": "ast",
            **sizes,
            "freq_stride": freq_stride,
            "time_stride": time_stride,
            **EPSILONS.settings(),
        },
    }
    features, encoder = complete(tree, path)
    layout = make_layout(features, encoder)
    width = encoder["embed_dim"]
    expected = {f"v.{name}": value for name, value in layout.state_dict().items()}
    for name, shape in {"0.weight": [width], "0.bias": [width], "1.weight": [num_classes, width]}.items():
        expected[f"mlp_head.{name}"] = torch.empty(shape, device="meta")
    expected["mlp_head.1.bias"] = torch.empty(num_classes, device="meta")
    check_fit(expected, used, path, WHAT)
    own = {own_name(name): value for name, value in used.items()}
    return SourceModel(path, (path,), own, encoder, features, layout, loss=loss)


def export_ast(folder: Path, model: TrainedModel) -> Path:
    """Write ast_<strides>.pth and labels.csv into a folder, for the original code; the path of the first."""
    encoder = model.config["encoder"]
    if encoder["name"] != "ast":
        raise ConfigError(f"--to ast writes an AST, not the encoder {encoder['name']}")
    if model.config["features"]["preset"] != PRESET:
        raise ConfigError(
            f"--to ast: the original code computes features of preset {PRESET}, this model's are of "
            f"{model.config['features']['preset']}"
        )
    if Epsilons.of(encoder) != EPSILONS:
        difference = measure_other_epsilons(model, EPSILONS)
        logger.warning(
            "the original code's LayerNorm eps are %s, this model's %s: %s",
            EPSILONS,
            Epsilons.of(encoder),
            difference.in_words(),
        )
    warn_of_what_is_lost(model)
    path = folder / f"ast_{encoder['freq_stride']}_{encoder['time_stride']}.pth"
    content = io.BytesIO()
    torch.save(foreign_weights(model.tagger.state_dict()), content)
    with atomic_write(path, "wb") as file:
        file.write(content.getvalue())
    model.tagger.labels.write(folder / "labels.csv")
    return path


def warn_of_what_is_lost(model: TrainedModel) -> None:
    """Say what of a model is not in such a file, so that whoever reads it must know."""
    encoder, frontend = model.config["encoder"], model.tagger.frontend
    lost = []
    if (frontend.mean, frontend.std) != (frontend.preset.mean, frontend.preset.std):
        lost.append(f"features are normalised by mean {frontend.mean} and deviation {frontend.std}")
    if model.loss == "ce":
        lost.append("probabilities are a softmax over the classes, not sigmoids")
    if encoder["embed_dim"] != HEAD_DIM * encoder["num_heads"]:
        lost.append(f"it has {encoder['num_heads']} attention heads")
    if lost:
        logger.warning(
            "the file does not say, and its readers must be told: %s; --to package and --to hf keep it",
            "; ".join(lost),
        )


def foreign_weights(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tagger's state dict as the original has it: its names and order, and zeros for the unused heads."""
    renamed = {foreign_name(name): value.cpu() for name, value in own.items()}
    width = renamed["v.cls_token"].shape[-1]
    for head in UNUSED:
        renamed[f"{head}weight"] = torch.zeros(NUM_UNUSED_CLASSES, width)
        renamed[f"{head}bias"] = torch.zeros(NUM_UNUSED_CLASSES)
    order = ["v.cls_token", "v.pos_embed", "v.dist_token"]
    order += [name for name in renamed if name.startswith("v.") and name not in order]
    order += [name for name in renamed if name not in order]
    return {PREFIX + name: renamed[name] for name in order}
