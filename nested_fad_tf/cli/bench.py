"""The `bench` command: flags and checks; nested_fad_tf.bench does the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags

from nested_fad_tf.cli import choices, quiet
from nested_fad_tf.cli.command import Command

_STRATEGIES = ("auto", "forward_ad", "recompute")
_FUSE = ("auto", "xla", "ops")
_WHAT = ("memory", "time", "gradients", "losses")


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "models", ["all"], "Models by name, separated by commas; all for all.", flag_values=values
    )
    flags.DEFINE_list(
        "strategies",
        ["auto"],
        f"Strategies to compare with plain TensorFlow: {', '.join(_STRATEGIES)}.",
        flag_values=values,
    )
    flags.DEFINE_string("fuse", "auto", f"How groups run: {', '.join(_FUSE)}.", flag_values=values)
    flags.DEFINE_list(
        "what", ["memory", "time"], f"What to measure: {', '.join(_WHAT)}.", flag_values=values
    )
    flags.DEFINE_string("json", None, "File to write the results to.", flag_values=values)


def _run(values: Mapping[str, Any]) -> None:
    for strategy in values["strategies"]:
        choices.one_of("strategies", strategy, _STRATEGIES)
    choices.one_of("fuse", values["fuse"], _FUSE)
    for what in values["what"]:
        choices.one_of("what", what, _WHAT)
    json_path = choices.writable("json", values["json"])
    quiet.start_tensorflow()
    from nested_fad_tf.bench import command, models

    for model in values["models"]:
        choices.one_of("models", model, ["all", *models.names()])
    command.run_bench(
        models=values["models"],
        strategies=values["strategies"],
        fuse=values["fuse"],
        json_path=json_path,
        what=values["what"],
    )


COMMAND = Command(
    name="bench",
    summary="measure memory and time of public models, plain and rewritten",
    description=(
        "Measures the memory peak and the step time of public models, plain and rewritten with "
        "each strategy, and prints a table."
    ),
    define_flags=_define_flags,
    run=_run,
    examples=("bench --models=mish_mlp --strategies=auto,recompute --json=bench.json",),
)
