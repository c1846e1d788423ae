"""sherpa-onnx itself runs an exported Zipformer and says what predict says."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch

from audiotag.export.package import export_package, load_model
from audiotag.prediction.inputs import Input
from audiotag.prediction.predictor import Predictor
from audiotag.prediction.selection import Selection
from tests.export.models import small_model, sounds

sherpa_onnx = pytest.importorskip("sherpa_onnx")
# Its filter bank and lhotse's differ by up to 1e-4.
TOLERANCE = 1e-4


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
@pytest.mark.parametrize(("seconds", "rate"), [(3.0, 16000), (0.4, 16000), (50.0, 16000)])
def test_top_classes_and_probabilities_are_those_of_predict(tmp_path, exported, file, seconds, rate):
    model = small_model("zipformer")
    folder = exported("onnx", model)
    export_package(
        tmp_path / "package",
        weights=model.tagger.state_dict(),
        config={**model.config, "loss": {"name": "bce"}},
        labels=model.tagger.labels,
        info={},
    )
    path = tmp_path / "clip.wav"
    soundfile.write(path, sounds(1, round(seconds * rate), seed=5)[0].numpy(), rate, subtype="FLOAT")
    model = load_model(tmp_path / "package")
    predictor = Predictor(model, device=torch.device("cpu"), window_s=60.0)
    [prediction] = predictor.predict([Input(str(path), path.name)])
    tags = Selection(model.tagger.labels, 4).choose(prediction.logits)

    zipformer = sherpa_onnx.OfflineZipformerAudioTaggingModelConfig(model=str(folder / file))
    tagger = sherpa_onnx.AudioTagging(
        sherpa_onnx.AudioTaggingConfig(
            model=sherpa_onnx.AudioTaggingModelConfig(zipformer=zipformer, num_threads=1, provider="cpu"),
            labels=str(folder / "labels.csv"),
            top_k=4,
        )
    )
    samples, rate = soundfile.read(path, dtype="float32")
    stream = tagger.create_stream()
    stream.accept_waveform(rate, samples)
    events = tagger.compute(stream)
    probabilities = [tag.probability for tag in tags]
    assert np.ptp(probabilities) > 0.01
    if file == "model.int8.onnx":
        assert len(events) == 4 and all(0.0 <= event.prob <= 1.0 for event in events)
        return
    assert [(event.index, event.name) for event in events] == [
        (tag.label.index, tag.label.name) for tag in tags
    ]
    np.testing.assert_allclose([event.prob for event in events], probabilities, rtol=0, atol=TOLERANCE)
