"""Where a result comes from: versions, machine, git state, command. Stored with checkpoints and results."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

import audiotag

CHUNK = 2**20
PACKAGES = ("torch", "torchaudio", "lhotse", "numpy", "scikit-learn")


def collect_provenance() -> dict[str, str]:
    """Plain strings by name; a package that is not installed is left out."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "audiotag": audiotag.__version__,
        **versions,
        "git": git_state(Path(audiotag.__file__).parent),
    }


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            value.update(chunk)
    return value.hexdigest()


def weights_digest(weights: Mapping[str, Tensor], about: object) -> str:
    """A hash of tensors, by their names, and of what else tells a model from others, which JSON can hold."""
    value = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(weights.items()):
        value.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        value.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return value.hexdigest()[:32]


def git_state(folder: Path) -> str:
    """Commit of the checkout that a folder is in, with `+changes` when files differ from it."""
    try:
        commit = run_git(folder, "rev-parse", "--short=12", "HEAD")
        changed = run_git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "not a git checkout"
    return f"{commit}+changes" if changed else commit


def run_git(folder: Path, *arguments: str) -> str:
    """Output of one git command in a folder."""
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()
