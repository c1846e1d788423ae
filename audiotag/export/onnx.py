"""ONNX: model.onnx in float32 and model.int8.onnx with matrices of 8 bits, as sherpa-onnx runs them.

The names, and what the output holds, are those of icefall's exporter: `logits` are probabilities.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from audiotag.atomic import atomic_write, replace_together
from audiotag.errors import ConfigError
from audiotag.export.graph import DESCRIPTION_FILE, TaggingGraph, build_graph, write_description
from audiotag.export.package import TrainedModel

logger = logging.getLogger(__name__)

FORMAT = "audiotag-onnx"
FILE, INT8_FILE = "model.onnx", "model.int8.onnx"
OPSET = 17  # the first with LayerNorm
SHERPA_MEL_BINS = 80
METADATA = {
    "model_type": "zipformer2",
    "version": "1",
    "model_author": "k2-fsa",
    "comment": "zipformer2 audio tagger",
    "url": "https://github.com/k2-fsa/icefall/tree/master/egs/audioset/AT/zipformer",
}


def export_onnx(folder: Path, model: TrainedModel, info: dict[str, Any]) -> Path:
    """Write model.onnx, model.int8.onnx, config.json and labels.csv into a folder; the path of the first.

    Args:
        folder: made if absent.
        model: to export.
        info: where it comes from.
    """
    onnx, quantization = import_packages()
    is_zipformer = model.config["encoder"]["name"] == "zipformer"
    proto = onnx.load_from_string(convert(build_graph(model)))
    metadata = METADATA if is_zipformer else {"model_type": model.config["encoder"]["name"], "version": "1"}
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    files = {FILE: "float32", INT8_FILE: "weights of matrix products in 8 bits, signed"}
    with replace_together(folder, sign=DESCRIPTION_FILE) as new:
        with atomic_write(new / FILE, "wb") as file:
            file.write(proto.SerializeToString())
        with atomic_write(new / INT8_FILE, "wb") as file:
            file.write(quantized(new / FILE, quantization))
        write_description(new, FORMAT, model, files, info)
    if not is_zipformer or model.tagger.frontend.num_mel_bins != SHERPA_MEL_BINS:
        logger.warning(
            "sherpa-onnx computes %d log-mel bins for a Zipformer: it cannot run this model, onnxruntime can",
            SHERPA_MEL_BINS,
        )
    return folder / FILE


def convert(graph: TaggingGraph) -> bytes:
    """The graph in ONNX. Batch is dynamic, and time where the encoder takes any."""
    dynamic = {"x": {0: "N"}, "x_lens": {0: "N"}, "logits": {0: "N"}}
    if not graph.frames:
        dynamic["x"][1] = "T"
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        torch.onnx.export(
            graph,
            graph.example(),
            content,
            input_names=["x", "x_lens"],
            output_names=["logits"],
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter knows no opset below 18
        )
    return content.getvalue()


def quantized(path: Path, quantization: Any) -> bytes:
    """The model of a file with its matrices in 8 bits; activations are quantised as they come."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".int8-") as folder:
        result = Path(folder) / INT8_FILE
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it recommends a step that changes nothing here
        try:
            quantization.quantize_dynamic(
                path, result, op_types_to_quantize=["MatMul"], weight_type=quantization.QuantType.QInt8
            )
        finally:
            root.setLevel(level)
        return result.read_bytes()


def import_packages() -> tuple[Any, Any]:
    """The modules `onnx` and `onnxruntime.quantization`, which are an extra."""
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise ConfigError(
            f"ONNX needs a package that is not here: pip install -e '.[onnx]' ({error})"
        ) from None
    return onnx, quantization
