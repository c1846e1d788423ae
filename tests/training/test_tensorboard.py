"""TensorBoard files of runs that were killed, cut off and damaged, read back as TensorBoard reads them."""

from __future__ import annotations

import itertools
import logging
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from audiotag.evaluation.metrics import compute_metrics
from audiotag.eventrecords import event_files
from audiotag.training import eventhistory
from audiotag.training.tensorboard import RunWriter
from tests.tiny import tiny_labels

ROOT = Path(__file__).resolve().parents[2]


def values_at(step: int) -> dict[str, float]:
    """What a run logs at an update."""
    return {"train/loss": 1.0 / step, "train/lr": 1e-3 * step}


def write_run(folder: Path, steps, last_step: int = 0, texts=(("config", "a: 1"),)) -> None:
    """One part of a run: its texts, and a point of two curves at each step."""
    writer = RunWriter(folder, last_step=last_step, enabled=True)
    for tag, text in texts:
        writer.text(tag, text)
    for step in steps:
        writer.scalars(values_at(step), step)
    writer.close()


def raw_points(folder: Path) -> list[tuple[str, int, float]]:
    """All scalars that lie in the files, duplicates too, in order."""
    points = []
    for path in event_files(folder):
        for record in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(record)
            points += [
                (value.tag, event.step, value.simple_value)
                for value in event.summary.value
                if value.WhichOneof("value") == "simple_value"
            ]
    return points


def shown(folder: Path) -> EventAccumulator:
    """What TensorBoard shows of a folder."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def texts(folder: Path, tag: str) -> list[tuple[int, str]]:
    """Steps and texts of a tag."""
    return [
        (event.step, event.tensor_proto.string_val[0].decode())
        for event in shown(folder).Tensors(f"{tag}/text_summary")
    ]


def test_a_run_is_shown_as_it_was_written(tmp_path):
    write_run(tmp_path, range(1, 31))
    events = shown(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["train/loss", "train/lr"]
    found = [(point.step, point.value) for point in events.Scalars("train/loss")]
    assert found == [(step, float(np.float32(1.0 / step))) for step in range(1, 31)]
    assert texts(tmp_path, "config") == [(0, "    a: 1")]


@pytest.mark.parametrize("last_step", [0, 1, 7, 19, 20, 25])
def test_a_resumed_run_has_the_points_of_an_undisturbed_one(tmp_path, last_step):
    write_run(tmp_path / "whole", range(1, 31))
    write_run(tmp_path / "parts", range(1, 21))
    write_run(tmp_path / "parts", range(min(last_step, 20) + 1, 31), last_step=last_step)
    assert raw_points(tmp_path / "parts") == raw_points(tmp_path / "whole")
    assert shown(tmp_path / "parts").Scalars("train/loss")[-1].step == 30
    assert len(texts(tmp_path / "parts", "config")) == 1


def test_a_run_resumed_many_times_has_each_point_once(tmp_path):
    write_run(tmp_path / "whole", range(1, 61))
    for last_step, end in ((0, 20), (10, 35), (30, 31), (5, 50), (45, 45), (40, 60)):
        write_run(tmp_path / "parts", range(last_step + 1, end + 1), last_step=last_step)
    assert raw_points(tmp_path / "parts") == raw_points(tmp_path / "whole")
    # What is left of parts of which nothing is left, is no file.
    assert len(event_files(tmp_path / "parts")) == 3


def test_nothing_is_rewritten_where_nothing_is_to_go(tmp_path):
    write_run(tmp_path, range(1, 21))
    (path,) = event_files(tmp_path)
    before = path.stat().st_ino, path.read_bytes()
    RunWriter(tmp_path, last_step=20, enabled=True).close()
    assert (path.stat().st_ino, path.read_bytes()) == before


@pytest.mark.parametrize("cut", [1, 3, 11, 13, 30])
def test_a_record_that_was_cut_off_is_dropped(tmp_path, caplog, cut):
    caplog.set_level(logging.INFO)
    write_run(tmp_path / "whole", range(1, 31))
    write_run(tmp_path / "parts", range(1, 21))
    (path,) = event_files(tmp_path / "parts")
    path.write_bytes(path.read_bytes()[:-cut])
    write_run(tmp_path / "parts", range(20, 31), last_step=19)
    assert raw_points(tmp_path / "parts") == raw_points(tmp_path / "whole")
    assert "cut off" in caplog.text and path.name in caplog.text
    assert not list((tmp_path / "parts").glob("*damaged*"))


def test_a_damaged_record_is_named_and_the_rest_kept(tmp_path, caplog):
    write_run(tmp_path, range(1, 21))
    (path,) = event_files(tmp_path)
    content = bytearray(path.read_bytes())
    at = content.index(Event(step=9).SerializeToString(), 300)
    content[at + 1] ^= 1  # step 9 reads 8
    path.write_bytes(content)
    write_run(tmp_path, range(21, 31), last_step=20)
    steps = [step for tag, step, _ in raw_points(tmp_path) if tag == "train/loss"]
    assert steps == [*range(1, 9), *range(10, 31)]
    (aside,) = tmp_path.glob("*damaged*")
    assert aside.read_bytes() == content
    assert "wrong checksums" in caplog.text and str(aside) in caplog.text
    assert [point.step for point in shown(tmp_path).Scalars("train/loss")] == steps


def test_behind_a_damaged_length_nothing_can_be_read(tmp_path, caplog):
    write_run(tmp_path, range(1, 21))
    (path,) = event_files(tmp_path)
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(200) + content[half + 200 :])
    write_run(tmp_path, range(21, 31), last_step=20)
    steps = [step for tag, step, _ in raw_points(tmp_path) if tag == "train/loss"]
    assert steps[:4] == [1, 2, 3, 4] and steps[-10:] == list(range(21, 31))
    assert len(set(steps)) == len(steps) < 30
    assert "cannot be read" in caplog.text or "no record" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no event file at all, but some other text", bytes(64)])
def test_a_file_without_any_event_is_no_obstacle(tmp_path, content):
    tmp_path.joinpath("events.out.tfevents.1700000000.host").write_bytes(content)
    write_run(tmp_path, range(1, 6))
    assert len(raw_points(tmp_path)) == 10
    kept = [path.read_bytes() for path in tmp_path.glob("*damaged*")]
    assert kept == ([content] if content else [])


def test_a_kill_while_rewriting_loses_nothing(tmp_path, monkeypatch):
    write_run(tmp_path / "whole", range(1, 31))
    folder = tmp_path / "parts"
    write_run(folder, range(1, 11))
    write_run(folder, range(11, 21), last_step=10)
    before = raw_points(folder)

    class Killed(BaseException):
        pass

    rename, unlink = Path.replace, Path.unlink
    left = [0]

    def unless_killed(do):
        def call(*arguments, **options):
            left[0] -= 1
            if not left[0]:
                raise Killed
            return do(*arguments, **options)

        return call

    for calls in itertools.count(1):
        left[0] = calls
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", unless_killed(rename))
            patch.setattr(Path, "unlink", unless_killed(unlink))
            try:
                RunWriter(folder, last_step=8, enabled=True)
                break
            except Killed:
                pass
        found = raw_points(folder)
        assert found == before[: len(found)] and len(found) >= 16  # two curves up to update 8
    assert calls >= 3
    folder.joinpath(eventhistory.REWRITTEN).write_bytes(b"half")
    folder.joinpath(f".{eventhistory.REWRITTEN}.77.tmp").write_bytes(b"half")
    write_run(folder, range(9, 31), last_step=8)
    assert raw_points(folder) == raw_points(tmp_path / "whole")
    assert {path.name.split(".")[0] for path in folder.iterdir()} == {"events"}


def test_points_are_on_their_way_to_the_disk_when_a_process_is_killed(tmp_path):
    code = f"""
import os, signal
from pathlib import Path
from audiotag.training.tensorboard import RunWriter
writer = RunWriter(Path({str(tmp_path)!r}), last_step=0, enabled=True)
for step in range(1, 6):
    writer.scalars({{"train/loss": 1.0 / step}}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120)
    assert [step for _, step, _ in raw_points(tmp_path)] == [1, 2, 3, 4, 5]


def test_doubles_of_an_older_version_are_taken_out(tmp_path):
    # As torch's own writer leaves them: the first part stays, with a note of where it no longer counts.
    for name, steps, options in (
        (".a", range(1, 21), {}),
        (".b", range(13, 31, 2), {"purge_step": 12}),
    ):
        with SummaryWriter(str(tmp_path), filename_suffix=name, **options) as writer:
            for step in steps:
                writer.add_scalar("train/loss", 1.0 / step, step)
    before = [(point.step, point.value) for point in shown(tmp_path).Scalars("train/loss")]
    RunWriter(tmp_path, last_step=25, enabled=True).close()
    expected = [*range(1, 12), *range(13, 26, 2)]
    assert [step for _, step, _ in raw_points(tmp_path)] == expected
    after = [(point.step, point.value) for point in shown(tmp_path).Scalars("train/loss")]
    assert after == [point for point in before if point[0] <= 25]


def test_only_what_came_again_is_taken_out_of_an_event(tmp_path):
    write_run(tmp_path, range(1, 11))
    with SummaryWriter(str(tmp_path), filename_suffix=".b") as writer:
        writer.add_scalar("train/loss", 7.0, 10)
    RunWriter(tmp_path, last_step=10, enabled=True).close()
    points = raw_points(tmp_path)
    assert [value for tag, step, value in points if tag == "train/loss" and step == 10] == [7.0]
    assert [step for tag, step, _ in points if tag == "train/lr"] == list(range(1, 11))


def test_a_text_comes_again_only_when_it_changed(tmp_path):
    write_run(tmp_path, range(1, 11))
    write_run(tmp_path, range(11, 21), last_step=10)
    assert texts(tmp_path, "config") == [(0, "    a: 1")]
    write_run(tmp_path, range(16, 21), last_step=15, texts=[("config", "a: 2")])
    assert texts(tmp_path, "config") == [(0, "    a: 1"), (15, "    a: 2")]
    write_run(tmp_path, range(16, 21), last_step=15, texts=[("config", "a: 2")])
    assert texts(tmp_path, "config") == [(0, "    a: 1"), (15, "    a: 2")]
    write_run(tmp_path, range(11, 21), last_step=10, texts=[("config", "a: 1")])
    assert texts(tmp_path, "config") == [(0, "    a: 1")]


def test_a_new_part_comes_after_the_old_ones_whatever_the_clock_says(tmp_path):
    write_run(tmp_path, range(1, 11))
    (path,) = event_files(tmp_path)
    path.rename(path.with_name("events.out.tfevents.9000000000.other.1.0"))
    write_run(tmp_path, range(11, 21), last_step=10)
    assert [step for tag, step, _ in raw_points(tmp_path) if tag == "train/lr"] == list(range(1, 21))


def test_values_that_are_not_finite_are_written_and_cut_like_others(tmp_path):
    for last_step in (0, 1):
        writer = RunWriter(tmp_path, last_step=last_step, enabled=True)
        writer.scalars({"train/loss": math.nan, "train/grad_norm": math.inf}, last_step + 1)
        writer.close()
    points = raw_points(tmp_path)
    assert [(tag, step) for tag, step, _ in points] == [
        ("train/loss", 1), ("train/grad_norm", 1), ("train/loss", 2), ("train/grad_norm", 2)
    ]  # fmt: skip
    assert math.isnan(points[0][2]) and points[1][2] == math.inf


def test_other_ranks_leave_the_folder_alone(tmp_path):
    write_run(tmp_path / "runs", range(1, 11))
    before = [path.read_bytes() for path in event_files(tmp_path / "runs")]
    writer = RunWriter(tmp_path / "runs", last_step=3, enabled=False)
    writer.scalars({"train/loss": 1.0}, 11)
    writer.text("config", "other")
    writer.validation(some_metrics(), tiny_labels(), 11)
    writer.flush()
    writer.close()
    assert [path.read_bytes() for path in event_files(tmp_path / "runs")] == before


def test_a_write_that_fails_names_the_file_and_leaves_it_whole(tmp_path, caplog):
    writer = RunWriter(tmp_path, last_step=0, enabled=True)
    writer.scalars({"train/loss": 1.0}, 1)
    file = writer._file
    before = event_files(tmp_path)[0].read_bytes()

    class Full:
        """A disk that takes 20 more bytes."""

        name = file.name

        def write(self, data):
            if len(data) <= 20:
                raise OSError(28, "No space left on device")
            return file.write(data[:20])

        def __getattr__(self, name):
            return getattr(file, name)

    writer._file = Full()
    writer.scalars({"train/loss": 2.0}, 2)
    (path,) = event_files(tmp_path)
    assert f"TensorBoard's points of update 2 are lost: the disk is full while writing {path}" in caplog.text
    assert path.read_bytes() == before
    writer._file = file
    writer.scalars({"train/loss": 3.0}, 3)
    writer.close()
    assert raw_points(tmp_path) == [("train/loss", 1, 1.0), ("train/loss", 3, 3.0)]


def some_metrics():
    """Metrics of three classes, of which the last has no positive clip."""
    logits = np.array([[3.0, -1.0, 0.0], [2.0, 1.0, -1.0], [-1.0, 2.0, -2.0], [-2.0, -2.0, 1.0]], np.float32)
    labels = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], np.float32)
    return compute_metrics(logits, labels)


def test_a_validation_shows_metrics_classes_and_the_worst_of_them(tmp_path):
    writer = RunWriter(tmp_path, last_step=0, enabled=True)
    metrics = some_metrics()
    for step in (5, 10):
        writer.validation(metrics, tiny_labels(), step)
    writer.close()
    points = {(tag, step): value for tag, step, value in raw_points(tmp_path)}
    assert len(points) == len(raw_points(tmp_path))
    for step in (5, 10):
        assert points["valid/mAP", step] == pytest.approx(metrics.summary["mAP"])
        assert points["valid/loss", step] == pytest.approx(metrics.summary["loss"])
        assert points["valid_AP/0 class 0", step] == 1.0
        assert points["valid_AP/1 class 1", step] == pytest.approx(metrics.ap[1])
    assert not any("class 2" in tag or "num_" in tag for tag, _ in points)
    table = texts(tmp_path, "valid/worst classes")
    assert [step for step, _ in table] == [5]  # nothing changed
    rows = table[0][1].splitlines()
    assert len(rows) == 4 and "class 1" in rows[2] and "class 0" in rows[3]
