"""The formats that models are read from: one entry each, for import_checkpoint and `init.model`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiotag.data.stagefiles import parse_object
from audiotag.errors import CheckpointError
from audiotag.interop.ast import is_ast, read_ast
from audiotag.interop.beats import is_beats, read_beats
from audiotag.interop.deit import is_deit, read_deit
from audiotag.interop.espnet import find_file, is_espnet, read_espnet
from audiotag.interop.foreignweights import read_torch_file
from audiotag.interop.huggingface import is_huggingface, read_huggingface
from audiotag.interop.icefall import is_icefall, read_icefall
from audiotag.interop.own import is_own, read_own
from audiotag.interop.sourcemodel import Hints, SourceModel


@dataclass(frozen=True)
class Format:
    """One format.

    Args:
        what: what it is, for --help.
        read: a file or folder to a model; raises CheckpointError for whatever it cannot use.
        recognises: whether a path is of this format, by what is in it: the content of a file of torch, or the
            config.json of a folder; asked in the order of the table.
    """

    what: str
    read: Callable[[Path, Hints], SourceModel]
    recognises: Callable[[Path, Any], bool]


FORMATS = {
    "audiotag": Format("an own checkpoint or exported folder, to adapt it", read_own, is_own),
    "icefall": Format("Zipformer taggers: pretrained.pt or epoch-N.pt", read_icefall, is_icefall),
    "ast": Format("the original AST's files, audioset_10_10_0.4593.pth", read_ast, is_ast),
    "hf": Format("a folder of transformers' AST, or its name on the hub", read_huggingface, is_huggingface),
    "beats": Format("BEATs' own files, pre-trained or fine-tuned: BEATs_iter3.pt", read_beats, is_beats),
    "espnet": Format("ESPnet's classifiers with a BEATs: 120epoch.pth", read_espnet, is_espnet),
    "deit": Format("ImageNet weights of distilled DeiT", read_deit, is_deit),
}


def read_model(path: Path, name: str, hints: Hints) -> SourceModel:
    """The model of a file or folder; the format `auto` finds out which it is of."""
    entry = FORMATS[find_format(path) if name == "auto" else name]
    try:
        return entry.read(path, hints)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        # Shapes and values are used before all of them are compared with those of a whole model.
        raise CheckpointError(
            f"{path}: damaged, or not {entry.what} ({type(error).__name__}: {error})"
        ) from error


def find_format(path: Path) -> str:
    """The name of the format that a file or folder is of."""
    is_described = (path / "config.json").exists()
    if path.is_dir() and not is_described and any(path.glob("*.pth")):  # ESPnet's
        content: Any = read_torch_file(find_file(path))
    elif path.is_dir():
        try:
            content = parse_object((path / "config.json").read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"{path} is not the folder of a model: it has no config.json") from None
        except ValueError as error:
            raise CheckpointError(f"{path / 'config.json'}: damaged ({error})") from None
    elif path.suffix == ".safetensors":
        raise CheckpointError(f"{path} holds weights alone: name the folder that it lies in")
    else:
        content = read_torch_file(path)
    for name, entry in FORMATS.items():
        if entry.recognises(path, content):
            return name
    raise CheckpointError(f"{path}: none of the formats that are known here: {', '.join(FORMATS)}")
