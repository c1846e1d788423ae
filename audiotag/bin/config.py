"""Look at a configuration: resolve it, list all keys, write a JSON schema, print the stages' keys, look
whether the models are there that training starts from or learns from."""

from __future__ import annotations

import json
from pathlib import Path

from audiotag.commandline import add_config_arguments, config_from_args, make_parser
from audiotag.configfile import dump_yaml
from audiotag.configtable import json_schema, reference_table
from audiotag.errors import run_command
from audiotag.stagekeys import stage_keys, start_path, teacher_paths


def main() -> None:
    parser = make_parser("config", __doc__)
    add_config_arguments(parser, required=False)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--print-config", action="store_true", help="print the resolved config as YAML")
    action.add_argument("--reference", action="store_true", help="print a Markdown table of all keys")
    action.add_argument("--schema", metavar="FILE", help="write a JSON schema that editors can complete with")
    action.add_argument(
        "--stage-keys", action="store_true", help="print `stage key` lines, as the driver's done-marks use"
    )
    action.add_argument(
        "--check-start",
        action="store_true",
        help="refuse a model to start from (init.model) or to learn from (distillation.teachers) that is not "
        "there; those of the hub are fetched",
    )
    args = parser.parse_args()

    if args.reference:
        print(reference_table())
        return
    if args.schema:
        schema = json.dumps(json_schema(), indent=2)
        Path(args.schema).write_text(schema + "\n", encoding="utf-8")
        return
    config = config_from_args(args)
    if args.check_start:
        from audiotag.checks.models import models_to_find  # needs torch, which takes seconds to import

        for _, locate in models_to_find(config):
            locate()
        return
    if args.print_config:
        print(dump_yaml(config), end="")
        return
    print(f"preset {config.features.preset}")
    print(f"stats {config.features.stats_name}")
    print(f"storage {config.features.storage}")
    print(f"noise {'yes' if config.augment.noise else 'no'}")
    print(f"init {'always' if config.distillation else 'once' if config.init.model else 'no'}")
    if models := [path for path in (start_path(config), *teacher_paths(config)) if path]:
        print("start", "\t".join(models))
    for stage, key in stage_keys(config).items():
        print(stage, key)


if __name__ == "__main__":
    run_command(main)
