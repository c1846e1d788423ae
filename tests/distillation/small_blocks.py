"""A command that stores rows, with blocks so small, and so slow, that it can be killed between two:

python -m tests.distillation.small_blocks train --config ...
"""

from __future__ import annotations

import sys
import time

from audiotag.bin import teacher_scores, train
from audiotag.data.rowstore import RowStore
from audiotag.distillation import hearing
from audiotag.errors import run_command
from audiotag.training import probing

BLOCK_CLIPS = 4
PAUSE_S = 0.1
COMMANDS = {"teacher_scores": teacher_scores.main, "train": train.main}


def write_slowly(store: RowStore, *block) -> None:
    time.sleep(PAUSE_S)
    write_block(store, *block)


if __name__ == "__main__":
    hearing.BLOCK_CLIPS = probing.BLOCK_CLIPS = BLOCK_CLIPS
    write_block, RowStore.write_block = RowStore.write_block, write_slowly
    run_command(COMMANDS[sys.argv.pop(1)])
