"""An export into the folder of an earlier one that ends early: the earlier one is left, or none at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audiotag.export.package import TrainedModel, export_package
from audiotag.export.torchscript import export_torchscript
from audiotag.interop.espnet import export_espnet
from audiotag.interop.hfexport import export_huggingface
from audiotag.labels import Label, LabelTable
from tests.export.models import NAMES, small_model


def to_package(folder: Path, model: TrainedModel) -> None:
    weights, labels = model.tagger.state_dict(), model.tagger.labels
    config = {**model.config, "loss": {"name": model.loss}}
    export_package(folder, weights=weights, config=config, labels=labels, info={})


def to_onnx(folder: Path, model: TrainedModel) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from audiotag.export.onnx import export_onnx

    export_onnx(folder, model, {})


EXPORTS: dict[str, tuple[str, Callable[[Path, TrainedModel], object]]] = {
    "package": ("ast", to_package),
    "onnx": ("ast", to_onnx),
    "torchscript": ("ast", lambda folder, model: export_torchscript(folder, model, {})),
    "hf": ("ast", lambda folder, model: export_huggingface(folder, model, {})),
    "espnet": ("beats", export_espnet),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_the_sign_is_never_beside_files_of_two_exports(kind, tmp_path, monkeypatch):
    encoder, export = EXPORTS[kind]
    model = small_model(encoder)
    export(tmp_path, model)
    sign = tmp_path / ("config.yaml" if kind == "espnet" else "config.json")
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model.tagger.labels = LabelTable([Label(i, f"/n/{i}", name.upper()) for i, name in enumerate(NAMES)])
    moved = []
    move = Path.replace

    def replace(self: Path, target: Path) -> Path:
        """Look at the folder before each file that is moved."""
        if Path(target).parent == tmp_path:
            moved.append(Path(target).name)
            assert not sign.exists() and (Path(target) != sign or len(moved) == len(old))
        else:
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == old
        return move(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    export(tmp_path, model)
    new = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(moved) == sorted(old) == sorted(new) and moved[-1] == sign.name
    assert new != old
