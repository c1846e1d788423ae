"""`audiotag.bin.teacher_scores` with blocks so small, and so slow, that it can be killed between two."""

from __future__ import annotations

import time

from audiotag.bin.teacher_scores import main
from audiotag.data.rowstore import RowStore
from audiotag.distillation import hearing
from audiotag.errors import run_command

BLOCK_CLIPS = 4
PAUSE_S = 0.1


def write_slowly(store: RowStore, *block) -> None:
    time.sleep(PAUSE_S)
    write_block(store, *block)


if __name__ == "__main__":
    hearing.BLOCK_CLIPS = BLOCK_CLIPS
    write_block, RowStore.write_block = RowStore.write_block, write_slowly
    run_command(main)
