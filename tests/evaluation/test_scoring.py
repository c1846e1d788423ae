"""One pass over batches: float32 scores in any precision, each clip by itself, the model left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from audiotag.data.batching import BatchPlan
from audiotag.data.index import IndexedManifest
from audiotag.data.loader import make_loader
from audiotag.encoders.registry import ENCODERS
from audiotag.errors import CheckpointError, ConfigError
from audiotag.evaluation.scores import Scores
from audiotag.evaluation.scoring import ScoringStopped, check_finite, score_batches
from audiotag.evaluation.windows import Windowing, window_loader
from tests.data_pipeline.manifests import noise_clips
from tests.tiny import tiny_tagger

CPU = torch.device("cpu")
NUM_CLIPS = 14
OPTIONS = {"storage": "on_the_fly", "num_classes": 3, "num_workers": 0}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Clips of 0.2 to 0.27 s, each of its own length."""
    return IndexedManifest(noise_clips(tmp_path_factory.mktemp("clips"), NUM_CLIPS, num_classes=3))


@pytest.fixture
def tagger():
    """A model whose logits differ by more than what bf16 can tell apart."""
    tagger = tiny_tagger()
    torch.nn.init.normal_(tagger.head.weight)
    return tagger


def batches(manifest, batch_size=4):
    plan = BatchPlan(manifest.durations, seed=1, batch_size=batch_size, training=False)
    return make_loader(manifest, plan.batches(0), **OPTIONS)


def score(tagger, loader, **options):
    return score_batches(tagger, loader, device=CPU, **options)


def test_a_clip_scores_alike_alone_and_among_others(tagger, manifest):
    """The tolerance that `encoders/registry.py` states for encoders that are independent of the batch."""
    assert tagger.encoder.batch_independent
    alone = score(tagger, batches(manifest, 1))
    assert alone.ids == [manifest.id(position) for position in range(NUM_CLIPS)]
    assert alone.positions.tolist() == list(range(NUM_CLIPS))
    for batch_size in (2, 5, NUM_CLIPS):
        scores = score(tagger, batches(manifest, batch_size))
        assert scores.ids == alone.ids
        np.testing.assert_allclose(scores.logits, alone.logits, atol=1e-5 * np.abs(alone.logits).max())
    # Padded by a neighbour eight times as long.
    [short] = batches(manifest, NUM_CLIPS)
    padded = torch.nn.functional.pad(short["inputs"], (0, 8 * short["inputs"].shape[1]), value=0.3)
    scores = score(tagger, [{**short, "inputs": padded}])
    np.testing.assert_allclose(scores.logits, alone.logits, atol=1e-5 * np.abs(alone.logits).max())


def test_scores_of_a_model_trained_over_the_classes_are_odds_of_its_softmax(tagger, manifest):
    logits = torch.from_numpy(score(tagger, batches(manifest)).logits)
    odds = torch.from_numpy(score(tagger, batches(manifest), loss="ce").logits)
    torch.testing.assert_close(odds.sigmoid(), logits.softmax(dim=1))
    turned = score(tagger, batches(manifest), loss="ce", columns=[2, 0, 1]).logits
    np.testing.assert_array_equal(turned, odds[:, [2, 0, 1]])


def test_every_encoder_says_whether_batches_matter(tagger):
    assert set(ENCODERS) == {"ast", "zipformer", "beats"}, (
        "test the new encoder as above, if it is independent of the batch"
    )
    assert isinstance(tagger.encoder.batch_independent, bool)


@pytest.mark.parametrize("amp_dtype", [torch.bfloat16, torch.float16])
def test_scores_are_float32_in_any_precision(tagger, manifest, amp_dtype):
    exact = score(tagger, batches(manifest)).logits
    logits = score(tagger, batches(manifest), amp_dtype=amp_dtype).logits
    assert logits.dtype == np.float32
    assert not np.array_equal(logits, exact)
    np.testing.assert_allclose(logits, exact, atol=0.03 * np.abs(exact).max())
    # Not rounded to what the forward pass is computed in, which would tie clips.
    assert not np.array_equal(torch.from_numpy(logits).to(amp_dtype).float().numpy(), logits)


def test_unknown_labels_stay_unknown(tagger, manifest):
    given = list(batches(manifest))
    given[1]["labels"][2, 1] = float("nan")
    scores = score(tagger, given)
    assert np.argwhere(np.isnan(scores.labels)).tolist() == [[6, 1]]
    assert scores.labels.dtype == np.float32


def test_columns_are_chosen_and_ordered(tagger, manifest):
    usual = score(tagger, batches(manifest))
    labels = [{**batch, "labels": batch["labels"][:, [2, 0]]} for batch in batches(manifest)]
    chosen = score(tagger, labels, columns=[2, 0])
    np.testing.assert_array_equal(chosen.logits, usual.logits[:, [2, 0]])


@pytest.mark.parametrize("mean", ["sigmoid", "softmax", "logits", "max"])
def test_windows_become_clips(tagger, manifest, mean):
    """Of clips of 0.2 s and more: the one of 0.2 s is one window, all others are two."""
    options = {"batch_size": 5, "world_size": 1, "rank": 0, **OPTIONS}
    scores = score(tagger, window_loader(manifest, Windowing(0.2, 0.2, mean), **options))
    usual = score(tagger, batches(manifest, 1))
    assert scores.ids == usual.ids and np.array_equal(scores.labels, usual.labels)
    np.testing.assert_allclose(scores.logits[0], usual.logits[0], atol=1e-5)
    assert np.abs(scores.logits[1:] - usual.logits[1:]).max() > 1e-3
    # Over all of the model's classes, before any are left out.
    part = [
        {**batch, "labels": batch["labels"][:, :2]}
        for batch in window_loader(manifest, Windowing(0.2, 0.2, mean), **options)
    ]
    chosen = score(tagger, part, columns=[0, 1])
    np.testing.assert_allclose(chosen.logits, scores.logits[:, :2], atol=1e-5)


def test_no_batches_give_scores_of_no_clips(tagger):
    scores = score(tagger, [])
    assert scores.ids == [] and scores.logits.shape == (0, 3) and len(scores.positions) == 0


def test_every_module_keeps_its_mode(tagger, manifest):
    """Parts that are frozen are in evaluation mode while the rest trains."""
    tagger.train()
    tagger.encoder.blocks[0].eval()

    def modes():
        return [module.training for module in tagger.modules()]

    before, meanwhile = modes(), []
    tagger.head.register_forward_pre_hook(lambda *_: meanwhile.append(any(modes())))
    score(tagger, batches(manifest))
    assert meanwhile == [False] * 4
    assert modes() == before and any(before) and not all(before)
    with pytest.raises(KeyError):
        score(tagger, [{}])
    assert modes() == before


def test_a_pass_stops_before_the_next_batch(tagger, manifest):
    asked = []

    def should_stop():
        asked.append(True)
        return len(asked) == 3

    with pytest.raises(ScoringStopped):
        score(tagger, batches(manifest), should_stop=should_stop)
    assert len(asked) == 3
    assert not any(module.training for module in tagger.modules())
    assert score(tagger, batches(manifest), should_stop=lambda: False).ids


def test_scores_that_are_not_finite_are_explained(tagger):
    scores = Scores(["a", "b", "c"], [[0.0], [np.inf], [np.nan]], [[0], [1], [1]])
    with pytest.raises(ConfigError, match=r"2 of 3 clips are not finite, such as those of b: .* fp16"):
        check_finite(scores, tagger, "fp16")
    check_finite(scores, tagger, "bf16")  # the metrics name the clips
    tagger.head.bias.data[1] = float("nan")
    with pytest.raises(CheckpointError, match=r"those of b: the model's head.bias is not finite"):
        check_finite(scores, tagger, "fp16")
    check_finite(Scores(["a"], [[0.0]], [[0]]), tagger, "fp16")
