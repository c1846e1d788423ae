"""What all commands' argument parsers have in common."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from audiotag.config import Config
from audiotag.configfile import load_config
from audiotag.corpora.arraytask import parse_task


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines and adds the default to every option that has one worth naming."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if action.required or action.default in (None, False, [], argparse.SUPPRESS) or "default" in text:
            return text
        return f"{text} (default: %(default)s)"


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser for `python -m audiotag.bin.<module>` with `--verbose`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m audiotag.bin.{module}", description=description, formatter_class=HelpFormatter
    )
    parser.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
    return parser


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add `--config` and `--set`, which every command of a stage has."""
    parser.add_argument("--config", required=required, metavar="FILE", help="the recipe's YAML file")
    add_overrides(parser, "override one key of the config, such as optimizer.lr=1e-4; may be repeated")


def add_overrides(parser: argparse.ArgumentParser, help: str) -> None:
    """Add `--set`."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help=help
    )


def make_data_parser(module: str, description: str) -> argparse.ArgumentParser:
    """A parser for one of the stages 1-4, which prepare data with several processes."""
    parser = make_parser(module, description)
    add_config_arguments(parser)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of what stages 1-4 make")
    parser.add_argument(
        "--nj", type=positive, default=os.cpu_count(), help="processes that work side by side"
    )
    return parser


def add_array_task(parser: argparse.ArgumentParser) -> None:
    """Add `--part` to a stage whose work can be dealt to the tasks of a job array."""
    parser.add_argument(
        "--part",
        type=parse_task,
        metavar="I/N",
        help="only do the I-th of N shares of the work, on whatever machine; once all are done, the same "
        "command without it puts them together",
    )


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, found {text}")
    return number


def config_from_args(args: argparse.Namespace) -> Config:
    """The Config that `--config` and `--set` ask for."""
    return load_config(args.config, args.overrides)
