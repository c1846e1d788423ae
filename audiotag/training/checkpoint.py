"""Training checkpoints: one file each, written atomically, read without unpickling code.

A checkpoint is a dictionary of plain values and tensors with these keys:
    format, version   what this is
    model             weights of the tagger
    averages          averages of the weights by kind (ema, running_average, swa), in float64
    optimizer         state of the optimiser
    scaler            state of the fp16 loss scaler (empty without fp16)
    loss              state of the loss, where it is trained: the map between embeddings of distillation
    encoder_training  by process: what the encoder remembers of its training, if it does
    position          {"epoch", "batch", "step", "world_size", "validated_step", "trained_ms",
                      "steps_per_epoch", "base_batches"}: epochs finished, base batches of the next one done
                      over all processes, updates done, by how many processes, at which update validation was
                      last, and milliseconds of audio that were trained on, padding included; updates of an
                      epoch as the schedule counts them; base batches that the next epoch has in all
    best              {"metric", "value", "epoch", "step", "file"} so far, or None
    validations       what validation found so far: a list of {"file", "epoch", "step", "value"}
    meter             by process: sums of the log line that the next updates complete
    random            by process: what the random state of the next batch derives from, for people to read
    metrics           what validation measured at this point, if it did
    config            the resolved configuration
    labels            rows [index, mid, name]
    coverage          what stage 1 and stage 4 say of the splits: clips present of clips listed, durations,
                      loudness, feature statistics
    teachers          of distillation: [{"digest", "share"}], else None
    train_data        {"clips", "digest"}: which clips with which labels its own train split has
    mixed_data        the same of all train sets together with data.sources, else None
    class_weights     those of the loss, in the order of the classes
    init              what the run started from: {"model", "path", "format", "weights" of a run, "sha256" by
                      file, "folds", "taken", "adapted", "fresh", "left"}; None for random weights
    folds             [corpus, number] of each fold of a cross-validation that the weights come from: the one
                      of the run, and those of the models that it started and learnt from
    provenance        versions, git state, command
    averaged          in files of bin/average.py: what was averaged, {"name", "files", "sha256", "kind",
                      "measured", "between", "by_validation", "by_stopping", "averaged", "provenance"}; old
                      files lack some of them
Schedules are functions of the position and the configuration, so they have no state.
"""

from __future__ import annotations

import errno
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from audiotag.atomic import atomic_write
from audiotag.errors import CheckpointError

FORMAT = "audiotag-checkpoint"
VERSION = 2
READABLE = (1, 2)
NEEDED = ("model", "optimizer", "scaler", "position", "best", "metrics", "config", "labels")

EPOCH_NAME = re.compile(r"epoch-(\d+)\.pt")
STEP_NAME = re.compile(r"step-(\d+)\.pt")


class DamagedCheckpoint(CheckpointError):
    """The file holds no checkpoint, or no longer: another one may do."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the old file of that name stays until the new one is safely on disk."""
    with atomic_write(path, "wb") as file:
        try:
            torch.save({"format": FORMAT, "version": VERSION, **state}, file)
        except RuntimeError as error:
            # torch's writer hides a full disk behind an error of its own.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Read a checkpoint onto the CPU and check that it is one."""
    path = Path(path)
    try:
        check_archive(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint not found: {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; a checkpoint file is expected") from None
    except MemoryError:
        raise
    except pickle.UnpicklingError:
        raise DamagedCheckpoint(
            f"{path}: refused, since it is damaged or holds objects other than tensors and plain values"
        ) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the file system's fault; zipfile seeks to impossible places in damaged files
        # Arbitrary bytes make torch's reader fail in many ways; its texts say nothing to a user.
        raise DamagedCheckpoint(f"{path}: damaged or not a checkpoint ({type(error).__name__})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not an audiotag checkpoint; import_checkpoint reads other formats")
    if state.get("version") not in READABLE:
        raise CheckpointError(
            f"{path}: checkpoint version {state.get('version')}, this audiotag reads up to {VERSION}"
        )
    missing = [key for key in NEEDED if key not in state]
    if missing:
        raise CheckpointError(f"{path}: incomplete checkpoint, without {', '.join(missing)}")
    return state


def check_archive(path: Path) -> None:
    """Compare all parts of the file with their checksums, which torch writes but does not look at."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged}")


def holds_run(path: Path) -> bool:
    """Whether this is the folder of a run, perhaps without checkpoints yet, and not of a packed model."""
    if not path.is_dir():
        return False
    if list_epochs(path) or list_steps(path):
        return True
    # ESPnet's folders have a config.yaml, too, beside their weights.
    packed = (path / "config.json").exists() or any(path.glob("*.pth"))
    return (path / "config.yaml").is_file() and not packed


def epoch_path(exp_dir: Path, epoch: int) -> Path:
    """Where the checkpoint at the end of an epoch lies."""
    return exp_dir / f"epoch-{epoch}.pt"


def step_path(exp_dir: Path, step: int) -> Path:
    """Where a checkpoint inside an epoch lies, after this many updates."""
    return exp_dir / f"step-{step}.pt"


def list_epochs(exp_dir: Path) -> list[int]:
    """The epochs that have a checkpoint, ascending."""
    return list_numbers(exp_dir, EPOCH_NAME)


def list_steps(exp_dir: Path) -> list[int]:
    """The updates after which there is a checkpoint inside an epoch, ascending."""
    return list_numbers(exp_dir, STEP_NAME)


def list_numbers(exp_dir: Path, name: re.Pattern[str]) -> list[int]:
    """The numbers in the names of a folder's files of one kind, ascending."""
    matches = (name.fullmatch(path.name) for path in exp_dir.glob("*.pt"))
    return sorted(int(match.group(1)) for match in matches if match)


def load_weights(model: torch.nn.Module, weights: dict[str, torch.Tensor], source: Path | str) -> None:
    """Copy weights into a model; the first tensor that does not fit is named."""
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise CheckpointError(f"{source}: does not fit the model: tensor {name} is missing")
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: does not fit the model: tensor {name} has shape {tuple(weights[name].shape)}, "
                f"expected {tuple(tensor.shape)}"
            )
    for name in weights:
        if name not in own:
            raise CheckpointError(f"{source}: does not fit the model: it has an unknown tensor {name}")
    model.load_state_dict(weights)
