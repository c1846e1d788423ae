"""The search for the largest batch that fits into memory."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
import torch

from audiotag.config import Config
from audiotag.data.batching import BatchPlan
from audiotag.distributed import World
from audiotag.errors import ConfigError, TrainingError
from audiotag.training import autobatch
from audiotag.training.autobatch import largest_duration, largest_fitting, sizes_up_to, worst_batches
from audiotag.training.hostmemory import available_bytes
from audiotag.training.hosttrials import HostTrials
from audiotag.training.loaders import known_limit
from audiotag.training.trial import Trial

MIB = 2**20
CPU = torch.device("cpu")
ALONE = World(rank=0, local_rank=0, size=1, device=CPU)
CONFIG = {
    "features": {"preset": "ast128", "target_frames": 200, "storage": "on_the_fly"},
    "encoder": {"name": "ast", "embed_dim": 96, "depth": 2, "num_heads": 3},
    "data": {"batch_size": None, "max_duration_s": "auto"},
    "augment": {"mixup": {}, "random_length": {"probability": 1.0, "duration_s": [0.1, 0.1]}},
    "training": {"accumulate": 2, "ema": {}},
}


def configuration(**sections) -> Config:
    return Config.model_validate({**CONFIG, **sections})


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 15, 16, 17, 23, 100, 1000])
@pytest.mark.parametrize("most", [1, 2, 16, 50, 1000])
def test_the_search_finds_the_largest_size(limit, most):
    sizes, tried = sizes_up_to(most), []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = largest_fitting(sizes, fits)
    assert found == max((size for size in sizes if size <= limit), default=0)
    assert max(tried) <= max(1, 2 * limit)
    assert len(tried) == len(set(tried)) <= 2 * math.log2(most) + 5


def test_sizes_are_few_and_close():
    sizes = sizes_up_to(1001)
    assert sizes[:18] == [*range(1, 17), 18, 20]
    assert sizes[-1] == 1001
    assert len(sizes) < 70
    assert all(b > a and b <= max(a + 1, 1.125 * a) for a, b in itertools.pairwise(sizes))


def test_no_planned_batch_is_worse_than_those_that_are_tried():
    rng = np.random.default_rng(0)
    for number in range(60):
        durations = np.sort(rng.choice([0.5, 1.0, 3.0, 10.0], 60) * rng.uniform(0.5, 1.0, 60))
        limit = float(durations[-1]) * rng.uniform(1.0, 6.0)
        most = int(rng.choice([3, 8, 60]))
        shapes = worst_batches(durations, limit, most)
        constant, linear, square = random.Random(number).choices([0.0, 1.0, 5.0], k=3)

        def need(count, seconds, c=constant, v=linear, q=square):
            return count * (c + v * seconds + q * seconds**2)

        worst = max(need(*shape) for shape in shapes)
        for shape in shapes:
            assert shape[0] <= most and shape[0] * shape[1] <= limit * (1 + 2e-6)
        for buckets in (1, 4):
            plan = BatchPlan(
                durations, seed=number, batch_size=most, max_duration_s=limit, num_buckets=buckets
            )
            for batch in plan.batches(0):
                # Whole numbers of clips: the parabola's argument holds up to one clip.
                count, longest = len(batch), float(durations[batch].max())
                assert need(count, longest) <= worst * (1 + 1 / shapes[0][0]), (batch, shapes)


@pytest.mark.slow
def test_what_is_found_fits_and_more_would_not(monkeypatch):
    """A real model in a real process: the next larger size goes beyond the memory that there is."""
    config, durations = configuration(), np.full(500, 2.0, dtype=np.float32)
    state = torch.get_rng_state()
    monkeypatch.setattr(autobatch, "available_bytes", lambda: 250 * MIB)
    budget = int(0.8 * 250 * MIB)
    found = largest_duration(config, durations, 5, ALONE)
    assert torch.equal(torch.get_rng_state(), state)
    size = round(found / 2.0)
    assert 2 <= size <= 100
    trials = HostTrials(config, 5, 1, budget)
    try:
        # Two neighbours further, since a MiB more or less can be in the way.
        assert trials.peak([(size, 2.0)]) <= 1.1 * budget
        assert trials.peak([(math.ceil(1.5 * size), 2.0)]) > budget
        assert trials.peak([(100_000, 2.0)]) == math.inf
        with pytest.raises(TrainingError, match="a trial failed"):
            trials.peak([(2, -1.0, "no shape")])
    finally:
        trials.close()


def test_a_single_clip_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(autobatch, "available_bytes", lambda: MIB)
    with pytest.raises(TrainingError, match=r"not even one clip of 2 s fits into the 1 MiB"):
        largest_duration(configuration(), np.full(9, 2.0), 5, ALONE)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"batch_size": 6}, 60.0),
        ({"samples_per_epoch": 5}, 50.0),
        ({"samples_per_epoch": 1}, 10.0),
    ],
)
def test_other_limits_hold_as_well(monkeypatch, data, expected):
    class Roomy:
        def peak(self, shapes):
            return 0.0

        def close(self):
            pass

    monkeypatch.setattr(autobatch, "open_trials", lambda *arguments: Roomy())
    config = configuration(data={**CONFIG["data"], **data})
    assert largest_duration(config, np.full(500, 10.0, dtype=np.float32), 5, ALONE) == expected


def test_processes_agree_on_the_smallest(monkeypatch):
    class Two(World):
        def gather(self, item):
            return [item, 3]

        def barrier(self):
            pass

    class Roomy:
        def peak(self, shapes):
            return 0.0

        def close(self):
            pass

    monkeypatch.setattr(autobatch, "open_trials", lambda *arguments: Roomy())
    world = Two(rank=0, local_rank=0, size=2, device=CPU)
    limit = largest_duration(configuration(), np.full(40, 9.7 / 3), 5, world)
    assert limit == pytest.approx(9.7, abs=1e-3)
    BatchPlan(np.full(40, 9.7 / 3, dtype=np.float32), seed=0, max_duration_s=limit)


@pytest.mark.parametrize("storage", ["stored", "on_the_fly"])
def test_a_trial_sees_the_largest_batch(storage, monkeypatch):
    augment = {
        "mixup": {"on": "features", "probability": 0.0},
        "random_length": CONFIG["augment"]["random_length"],
    }
    config = configuration(features={**CONFIG["features"], "storage": storage}, augment=augment)
    trial = Trial(config, 5, CPU, 2)
    seen = []
    original = trial.learner.add_gradient
    monkeypatch.setattr(
        trial.learner,
        "add_gradient",
        lambda inputs, size, last: (
            seen.append((tuple(inputs.features.shape), size, last)) or original(inputs, size, last)
        ),
    )
    trial.run(3, 2.0)
    assert seen == 2 * [((3, 200, 128), 2, False), ((3, 200, 128), 2, True)]
    assert trial.learner.optimizer.state
    partner = trial.make_batch(3, 2.0)["partner"]
    assert partner["inputs"].shape == trial.make_batch(3, 2.0)["inputs"].shape
    assert trial.augmenter.on_features["mixup_features"].probability == 1.0
    assert sum(bucket.numel() for bucket in trial.buckets) == sum(
        p.numel() for p in trial.tagger.parameters()
    )


def test_auto_does_not_reach_a_plan():
    with pytest.raises(ConfigError, match="only training can turn into seconds"):
        known_limit(configuration().data)


def test_limits_of_control_groups_count(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert available_bytes(proc, groups) == 8000 * 1024

    def group(path: str, **values: int | str) -> None:
        folder = groups / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            (folder / name.replace("__", ".")).write_text(f"{value}\n")

    (proc / "self" / "cgroup").write_text("4:cpu,memory:/job/step\n0::/job/step\n")
    group("job/step", memory__max="max", memory__current=100)
    assert available_bytes(proc, groups) == 8000 * 1024
    group(
        "job", memory__max=5_000_000, memory__current=1_000_000, memory__stat="anon 7\ninactive_file 300000"
    )
    assert available_bytes(proc, groups) == 4_300_000
    group("memory/job", memory__limit_in_bytes=3_000_000, memory__usage_in_bytes=1_000_000)
    assert available_bytes(proc, groups) == 2_000_000
    group("memory/job/step", memory__limit_in_bytes=100, memory__usage_in_bytes=200)
    assert available_bytes(proc, groups) == 0
    # A container that sees its own group as the root.
    (proc / "self" / "cgroup").write_text("0::/elsewhere/job\n")
    group(".", memory__max=700, memory__current=600)
    assert available_bytes(proc, groups) == 100
