"""Exports take seconds: each is made once for all tests."""

from __future__ import annotations

import json

import pytest

from audiotag.export.torchscript import export_torchscript


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A function from `onnx` or `torchscript` and a model to the folder of its export."""
    folders = {}

    def export(kind, model):
        key = json.dumps([kind, model.loss, model.config])
        if key not in folders:
            folder = tmp_path_factory.mktemp(kind)
            if kind == "onnx":
                pytest.importorskip("onnx")
                pytest.importorskip("onnxruntime")
                from audiotag.export.onnx import export_onnx

                export_onnx(folder, model, {"weights": "epoch1"})
            else:
                export_torchscript(folder, model, {"weights": "epoch1"})
            folders[key] = folder
        return folders[key]

    return export
