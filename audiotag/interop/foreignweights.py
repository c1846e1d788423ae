"""Files of weights that other programs wrote: read without running code from them, and held against what is
expected of them."""

from __future__ import annotations

import pathlib
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotag.errors import CheckpointError
from audiotag.provenance import file_digest
from audiotag.training.checkpoint import check_archive

# Training checkpoints hold paths; Python 3.13 calls their classes otherwise.
PATHS: list[Any] = [
    pathlib.PosixPath,
    pathlib.PurePosixPath,
    pathlib.WindowsPath,
    pathlib.PureWindowsPath,
    (pathlib.PosixPath, "pathlib._local.PosixPath"),
    (pathlib.PurePosixPath, "pathlib._local.PurePosixPath"),
]
# torch.hub's files carry the first digits of their SHA-256: deit_..._384-d0272ac0.pth.
NAMED_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.pth")


def read_torch_file(path: Path) -> Any:
    """The content of a file of torch: tensors, plain values and paths; anything else in it is refused."""
    try:
        check_named_digest(path)
        if zipfile.is_zipfile(path):
            check_archive(path)
        with torch.serialization.safe_globals(PATHS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint not found: {path}") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; a file of weights is expected") from None
    except (PermissionError, MemoryError, CheckpointError):
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused, since it is damaged or holds objects other than tensors, plain values, paths"
        ) from None
    except Exception as error:  # arbitrary bytes make torch's reader fail in many ways
        raise CheckpointError(f"{path}: damaged or not a file of torch ({type(error).__name__})") from None


def check_named_digest(path: Path) -> None:
    """Compare a file with the first digits of its SHA-256, where its name has them."""
    named = NAMED_DIGEST.search(path.name)
    if named and named[1].isdecimal():  # rather a date: of all digests one in 43 has no letter so early
        return
    if named and not (digest := file_digest(path)).startswith(named[1]):
        raise CheckpointError(
            f"{path}: damaged: its SHA-256 begins with {digest[: len(named[1])]}, its name says {named[1]}: "
            "fetch it again"
        )


def as_weights(content: Any, path: Path) -> dict[str, Tensor]:
    """A state dict in float32, without the prefix that data-parallel training leaves."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path}: holds no weights by name")
    if all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): value for name, value in content.items()}
    for name, value in content.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise CheckpointError(f"{path}: {name} is not a tensor of numbers")
    return {name: value.float() for name, value in content.items()}


def find(weights: Mapping[str, Tensor], name: str, path: Path, what: str) -> Tensor:
    """A tensor that every model of a kind has.

    Args:
        what: the kind, as in "an AST".
    """
    if name not in weights:
        raise CheckpointError(f"{path}: does not fit {what}: tensor {name} is missing")
    return weights[name]


def check_fit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path, what: str, advice: str = ""
) -> None:
    """Refuse weights of another shape, naming the first tensor that is wrong by its own name.

    Args:
        expected: tensors by the names that they have in the file.
        what: the model that they are to be of, as in "an AST".
        advice: what to do, behind a colon.
    """
    advice = advice and f": {advice}"
    for name, tensor in expected.items():
        if tensor.shape != find(found, name, path, what).shape:
            raise CheckpointError(
                f"{path}: does not fit: tensor {name} has shape {tuple(found[name].shape)}, {what} of the "
                f"inferred sizes {tuple(tensor.shape)}{advice}"
            )
    for name in found:
        if name not in expected:
            raise CheckpointError(f"{path}: does not fit {what}: it has an unknown tensor {name}{advice}")
