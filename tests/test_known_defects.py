"""What was wrong in the recipe that the Zipformer was published with, defect by defect, is not wrong here.

The numbers are those of the specification's list of defects. Where other tests show it at length, `ELSEWHERE`
names them; the others are small tests of their own below.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from audiotag.config import Training
from audiotag.configfile import load_config
from audiotag.corpora.stats import load_sampling_weights, weights_path
from audiotag.data.batching import BatchPlan
from audiotag.data.index import IndexedManifest
from audiotag.data.noise import NoiseMixer
from audiotag.data.trainingset import TrainingDataset
from audiotag.errors import CheckpointError
from audiotag.training.checkpoint import load_weights
from audiotag.training.weightaverages import WeightAverages
from tests.data_pipeline.manifests import noise_clips, record, write_manifest

ROOT = Path(__file__).resolve().parents[1]
AUDIOSET = ROOT / "egs" / "audioset"
ZIPFORMERS = ("zipformer_m", "zipformer_m_weighted", "zipformer_s")

# `[x`, `[[x` or `x]]` where a test begins or ends; in patterns such brackets stand behind other signs.
UNSPACED = re.compile(
    r"(^|[;&|]|\b(if|while|elif|until))\s+!?\s*\[\[?[^\s\[]|(?<=[^\s\]:])\]\](?=\s*([;&|)]|$))"
)

ELSEWHERE = {
    2: ["driver/test_driver_stages.py::test_audioset_fetches_lists_and_refuses_other_pages"],
    4: [
        "corpora/test_audioset.py::test_what_cannot_be_used_is_listed_with_its_reason",
        "corpora/test_audioset.py::test_too_many_skipped_clips_stop_the_stage",
        "corpora/test_cuts.py::test_what_cannot_be_used_of_a_manifest_is_said_clip_by_clip",
    ],
    8: [
        "data_pipeline/test_index_sharing.py::test_a_worker_reads_the_same_memory_and_copies_none",
        "data_pipeline/test_index_sharing.py::test_columns_are_mapped_and_not_copied",
    ],
    13: [
        "training/test_inside_epochs.py::test_a_run_goes_on_from_any_of_them_with_the_same_bits",
        "training/test_zipformer_recipe.py::test_a_resumed_run_ends_with_the_same_bits",
    ],
    # One file by update and process: the same failure writes over it.
    14: [
        "training/test_train_command.py::test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_checkpoints"
    ],
    15: [
        "training/test_weightaverages.py::test_a_stored_and_restored_run_keeps_the_averages_to_the_last_bit"
    ],
    17: [
        "training/test_batchcount.py::test_padding_to_the_longest_clip_of_a_batch_counts",
        "training/test_batchcount.py::test_any_number_of_processes_has_trained_on_the_same",
    ],
    18: ["encoders/zipformer/test_zipformer_training.py::test_numbers_follow_the_batch_count"],
    19: [
        "evaluation/test_results.py::test_the_folder_holds_files_of_the_documented_form",
        "evaluation/test_scoring_processes.py::test_the_first_process_gets_every_clip_once_in_order",
    ],
    20: ["encoders/zipformer/test_zipformer_model.py::test_names_are_strict"],
    22: ["encoders/zipformer/test_zipformer_model.py::test_published_sizes"],
    23: ["encoders/zipformer/test_zipformer_model.py::test_a_clip_alone_and_longer_padding"],
    21: [
        "export/test_graph.py::test_a_zipformer_of_any_length_and_batch_size",
        "export/test_graph.py::test_it_does_not_matter_what_is_behind_a_clip",
        "export/test_graph.py::test_the_interface_is_that_of_icefall",
    ],
}

# The same of the original AST, by the numbers of its own specification.
AST_ELSEWHERE = {
    7: [
        "interop/test_ast_import.py::test_adapted_to_another_length_and_stride",
        "interop/test_transfer.py::test_another_stride_adapts_the_positions",
    ],
    9: [
        "interop/test_ast_import.py::test_what_does_not_fit_is_refused_by_name",
        "interop/test_deit.py::test_what_does_not_fit_is_refused_by_name",
    ],
    13: ["interop/test_deit.py::test_the_published_sizes_are_known"],
    14: [
        "encoders/test_ast_positions.py::test_as_the_original_adapts_them",
        "encoders/test_ast_positions.py::test_an_encoder_adapts_its_own_and_says_so",
    ],
}


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (number, place)
        for numbers in (ELSEWHERE, AST_ELSEWHERE)
        for number, places in numbers.items()
        for place in places
    ],
)
def test_the_tests_elsewhere_are_there(number, place):
    file, name = place.split("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"defect {number}"


def test_1_no_shell_test_lacks_its_blanks():
    scripts = [path for path in ROOT.glob("**/*.sh") if ".venv" not in path.parts]
    assert len(scripts) > 10
    for path in scripts:
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            assert not UNSPACED.search(line.split(" #")[0]), f"{path}, line {number}"


@pytest.mark.parametrize(
    "line", ["if [! -e x ]; then", "  [[! -e x ]]", "if [[ $x == 2]]; then", "a && [-f y ]"]
)
def test_1_such_a_line_would_be_noticed(line):
    assert UNSPACED.search(line)


def test_2_weights_are_made_by_a_stage_that_runs_by_default():
    stages, options = ((ROOT / "local" / name).read_text() for name in ("stages.sh", "options.sh"))
    assert re.search(r"^4 \| statistics +\| .*sampling weights", stages, flags=re.MULTILINE)
    assert re.search(r"^stop-stage +\| N +\| 8 ", options, flags=re.MULTILINE)


def ids_of(manifest):
    return {manifest.id(position) for position in range(len(manifest))}


def opened(recipe, split):
    return IndexedManifest(recipe.folder / "data" / "manifests" / f"cuts_{split}.jsonl")


def listed_ids(recipe, split):
    with (recipe.folder / "corpus" / f"{split}_segments.csv").open(newline="") as file:
        return {row[0] for row in csv.reader(file, skipinitialspace=True) if not row[0].startswith("#")}


def test_3_ids_are_taken_whole(recipe):
    train, evaluated = listed_ids(recipe, "train"), listed_ids(recipe, "eval")
    assert ids_of(opened(recipe, "train")) | ids_of(opened(recipe, "valid")) == train
    assert ids_of(opened(recipe, "eval")) == evaluated
    assert all(any("_" in name[place:] for name in train) for place in (0, 1))
    assert any(name.startswith("-") for name in train)


@pytest.mark.parametrize("name", ZIPFORMERS)
def test_5_features_are_exact(name):
    assert load_config(AUDIOSET / "conf" / f"{name}.yaml").features.storage == "on_the_fly"


def test_6_and_7_weights_are_written_and_read_under_one_name_and_follow_the_ids(tmp_path):
    ids = [f"-clip_{number}" for number in range(9)]
    path = weights_path(tmp_path, "stats")
    path.parent.mkdir(parents=True)
    shuffled = np.random.default_rng(0).permutation(9)
    np.savez(path, ids=np.array([ids[place].encode() for place in shuffled]), weights=1.0 + shuffled)
    manifest = IndexedManifest(write_manifest(tmp_path / "cuts.jsonl", [record(name) for name in ids]))
    np.testing.assert_array_equal(load_sampling_weights(tmp_path, "stats", manifest), 1.0 + np.arange(9))


def test_9_sampling_does_not_change_which_clips_there_are():
    shuffled, weighted = (load_config(AUDIOSET / "conf" / f"{name}.yaml") for name in ZIPFORMERS[:2])
    assert (shuffled.data.sampling, weighted.data.sampling) == ("shuffle", "weighted")
    assert shuffled.corpus == weighted.corpus


@pytest.mark.parametrize("weights", [None, np.linspace(1, 5, 500)])
def test_10_the_clips_of_an_epoch_are_those_of_all_processes(weights):
    durations = np.random.default_rng(1).uniform(2, 10, 500).astype(np.float32)

    def epoch(processes):
        plans = [
            BatchPlan(
                durations,
                seed=3,
                world_size=processes,
                rank=rank,
                batch_size=None,
                max_duration_s=20.0,
                weights=weights,
                replacement=False,
                samples_per_epoch=200,
            )
            for rank in range(processes)
        ]
        return sorted(np.concatenate([batch for plan in plans for batch in plan.batches(2)]).tolist())

    alone = epoch(1)
    assert len(alone) == 200
    for processes in (2, 4):
        together = epoch(processes)
        # Each has as many batches as the others: a few clips may come again to fill them up.
        assert set(together) == set(alone) and len(together) - 200 < processes


def test_11_noise_differs_by_epoch_and_batch_whatever_the_worker(tmp_path):
    clips = IndexedManifest(noise_clips(tmp_path, 8))
    mixer = NoiseMixer(clips, 1.0, (0.0, 20.0))

    def dataset(seed=4):
        options = {"storage": "on_the_fly", "num_classes": 5, "seed": seed}
        return TrainingDataset(clips, substitutes=lambda *_: np.arange(8), noise=mixer, **options)

    def first_clip(epoch, *others, of=None):
        return (of or dataset()).make_batch((epoch, np.array([0, *others])))["inputs"][0, :3200]

    other_seed = dataset(5)
    made = [
        first_clip(0, 1),
        first_clip(1, 1),
        first_clip(2, 1),
        first_clip(0, 2),
        first_clip(0, 1, of=other_seed),
    ]
    for a in range(len(made)):
        for b in range(a):
            assert not torch.equal(made[a], made[b])
    # Another worker, or a process that has done other batches before, makes the same.
    worker = dataset()
    worker.make_batch((7, np.array([3, 4])))
    assert torch.equal(first_clip(1, 1, of=worker), made[1])


def test_12_draws_do_not_depend_on_global_random_states():
    def drawn(global_seed):
        np.random.seed(global_seed)
        weights = np.linspace(1, 9, 300)
        plan = BatchPlan(
            np.full(300, 5.0, np.float32),
            seed=1,
            batch_size=10,
            weights=weights,
            replacement=False,
            samples_per_epoch=100,
        )
        return np.concatenate([batch for epoch in (0, 1) for batch in plan.batches(epoch)])

    np.testing.assert_array_equal(drawn(1), drawn(2))


def test_15_averages_are_float64_before_and_after_they_are_stored():
    model = nn.Linear(3, 2)
    averages = WeightAverages(model, running_average={"period": 1})
    averages.update(1)
    stored = averages.state_dict()
    averages.load_state_dict(stored)
    averages.update(2)
    kept = [averages.averages["running_average"].weights, stored["running_average"]["weights"]]
    assert {tensor.dtype for weights in kept for tensor in weights.values()} == {torch.float64}


def test_16_the_validation_set_is_not_the_evaluation_set(recipe):
    train, valid, evaluated = (ids_of(opened(recipe, split)) for split in ("train", "valid", "eval"))
    assert valid and not (valid & evaluated or valid & train or train & evaluated)
    coverage = json.loads((recipe.folder / "data/manifests/coverage.json").read_text())
    assert "same_as" not in coverage["valid"]
    for path in AUDIOSET.glob("conf/*.yaml"):
        assert load_config(path).corpus.valid == "holdout"


def test_17_schedules_go_by_the_seconds_of_real_batches_unless_a_recipe_repeats_the_published_rule():
    assert Training().batch_count == "trained"
    for name in ZIPFORMERS:
        assert load_config(AUDIOSET / "conf" / f"{name}.yaml").training.batch_count == "configured"


def test_20_a_misspelt_or_missing_tensor_is_refused():
    model = nn.Linear(3, 2)
    weights = model.state_dict()
    with pytest.raises(CheckpointError, match="tensor bias is missing"):
        load_weights(nn.Linear(3, 2), {"weight": weights["weight"]}, "x.pt")
    with pytest.raises(CheckpointError, match="unknown tensor biass"):
        load_weights(nn.Linear(3, 2), {**weights, "biass": weights["bias"]}, "x.pt")
