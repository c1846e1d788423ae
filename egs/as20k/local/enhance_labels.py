"""Write a copy of a segment list whose labels are those of PSLA's enhanced label set.

    python egs/as20k/local/enhance_labels.py ENHANCED.json SEGMENTS.csv OUT.csv --labels LABELS.csv

The JSON file has for each clip its `video_id` and its `labels`, MIDs separated by commas. Clips that it does
not name, or whose labels are all unknown, keep their lines. Train on the copy with
--set 'corpus.train_lists=[OUT.csv]'.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from audiotag.atomic import atomic_write
from audiotag.errors import DataError, run_command
from audiotag.labels import LabelTable


def main() -> None:
    args = parse_arguments()
    known = LabelTable.read(args.labels).index_of_mid
    enhanced = read_enhanced(args.enhanced, known)
    lines = args.segments.read_text(encoding="utf-8").splitlines()
    changed = 0
    written = []
    for line in lines:
        row = [] if line.startswith("#") else next(csv.reader([line], skipinitialspace=True), [])
        labels = enhanced.get(row[0]) if len(row) == 4 else None
        if labels:
            line = f'{", ".join(row[:3])}, "{",".join(labels)}"'
            changed += 1
        written.append(f"{line}\n")
    if not changed:
        raise DataError(f"{args.enhanced} names none of the clips of {args.segments}: are its ids YouTube's?")
    with atomic_write(args.out) as file:
        file.writelines(written)
    print(
        f"{changed} of {sum(not line.startswith('#') for line in lines)} clips got other labels: {args.out}"
    )


def read_enhanced(path: Path, known: dict[str, int]) -> dict[str, list[str]]:
    """The known labels of each clip, by its id."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["data"] if isinstance(content, dict) else content
        return {
            entry["video_id"]: [mid for mid in entry["labels"].split(",") if mid in known]
            for entry in entries
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: not a list of enhanced labels, clips with video_id and labels ({type(error).__name__})"
        ) from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("enhanced", type=Path, metavar="ENHANCED", help="the JSON file")
    parser.add_argument("segments", type=Path, metavar="SEGMENTS", help="the list to copy")
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write")
    parser.add_argument("--labels", type=Path, required=True, help="AudioSet's class_labels_indices.csv")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
