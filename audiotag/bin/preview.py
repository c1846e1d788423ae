"""Look at the augmentation of a recipe: an HTML page of clips before and after, to see and to hear.

Each clip is shown as it is and as it enters the model in the first epochs, exactly as training would change
it in a batch of the clips shown. The page needs no other file.
"""

from __future__ import annotations

import logging
from pathlib import Path

import yaml

from audiotag.atomic import atomic_write
from audiotag.commandline import add_config_arguments, config_from_args, make_parser, positive
from audiotag.errors import run_command
from audiotag.logs import set_up_logging
from audiotag.preview.examples import make_examples
from audiotag.preview.page import write_page

logger = logging.getLogger("audiotag.preview")


def main() -> None:
    parser = make_parser("preview", __doc__)
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of stages 1-4")
    parser.add_argument("--output", type=Path, default=Path("preview.html"), help="the page to write")
    parser.add_argument("--clips", type=positive, default=6, help="clips to show, drawn by the config's seed")
    parser.add_argument(
        "--clip", action="append", default=[], metavar="ID", help="show this clip of train; may be repeated"
    )
    parser.add_argument("--takes", type=positive, default=2, help="epochs to show of each clip")
    args = parser.parse_args()
    set_up_logging(verbose=args.verbose)
    config = config_from_args(args)
    examples = make_examples(config, args.data_dir, ids=args.clip, num_clips=args.clips, num_takes=args.takes)
    title = f"Augmentation of {config.title or args.config}"
    switched_on = yaml.safe_dump(config.augment.model_dump(mode="json", exclude_none=True), sort_keys=False)
    with atomic_write(args.output) as file:
        file.write(write_page(title, switched_on, examples))
    logger.info("%d clips: %s", len(examples), args.output)


if __name__ == "__main__":
    run_command(main)
