"""Records of event files: the checksums and places that TensorBoard's own reader finds."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from audiotag.eventrecords import FEW, checksums, event_files, read_records


def write_records(path, payloads):
    """A file of records as TensorBoard writes them."""
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for payload in payloads:
            writer.write(payload)
    return path


def some_payloads(count):
    """Bytes of many lengths, none and long ones too."""
    chance = random.Random(count)
    return [chance.randbytes(chance.choice([0, 1, 30, 31, 200, 3000])) for _ in range(count)]


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, 500])
def test_checksums_are_those_of_tensorboard(count):
    data = random.Random(count).randbytes(5000)
    chance = random.Random(count)
    starts = [chance.randrange(2000) for _ in range(count)]
    stops = [start + chance.choice([0, 1, 8, 50, 2999]) for start in starts]
    found = checksums(np.frombuffer(data, np.uint8), np.array(starts, int), np.array(stops, int))
    assert found.tolist() == [
        masked_crc32c(data[start:stop]) for start, stop in zip(starts, stops, strict=True)
    ]


@pytest.mark.parametrize("count", [0, 1, 300])
def test_all_records_are_found(tmp_path, count):
    path = write_records(tmp_path / "events.out.tfevents.1.host", some_payloads(count))
    records = read_records(path)
    assert list(records.payloads()) == list(RawEventFileLoader(str(path)).Load()) == some_payloads(count)
    assert (records.torn, records.damaged) == (0, None)


def test_wherever_a_file_is_cut_off_the_whole_records_are_found(tmp_path):
    payloads = some_payloads(4)
    path = write_records(tmp_path / "events.out.tfevents.1.host", [*payloads, b"the last record"])
    content = path.read_bytes()
    size = 16 + len(b"the last record")
    for cut in range(1, size):
        path.write_bytes(content[:-cut])
        records = read_records(path)
        assert list(records.payloads()) == payloads
        assert (records.torn, records.damaged) == (size - cut, None)


@pytest.mark.parametrize("place", [0, 9, 12, 20, -1])
@pytest.mark.parametrize("bit", [1, 128])
def test_a_changed_bit_is_noticed_wherever_it_is(tmp_path, place, bit):
    payloads = [bytes([number]) * 30 for number in range(100)]
    path = write_records(tmp_path / "events.out.tfevents.1.host", payloads)
    content = bytearray(path.read_bytes())
    start = 46 * 50
    content[start + (place if place >= 0 else 45)] ^= bit
    path.write_bytes(content)
    records = read_records(path)
    found = list(records.payloads())
    assert records.damaged and records.torn == 0
    # A wrong length hides what follows; else only the record itself is lost.
    assert found == payloads[:50] + (payloads[51:] if place in (12, 20, -1) else [])


def test_files_come_in_order_and_others_not_at_all(tmp_path):
    for name in ("events.out.tfevents.20.a", "events.out.tfevents.10.b", "events.out.damaged.5.c", "x.tmp"):
        tmp_path.joinpath(name).touch()
    assert [path.name for path in event_files(tmp_path)] == [
        "events.out.tfevents.10.b",
        "events.out.tfevents.20.a",
    ]
    assert event_files(tmp_path / "none") == []
