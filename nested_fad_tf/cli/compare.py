"""The `compare` command: a SavedModel and its rewrite side by side in TensorBoard."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from absl import flags

from nested_fad_tf.cli import choices, imports, quiet, saved_models
from nested_fad_tf.cli.command import Command, Positional


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "log_dir",
        None,
        "Folder to write the runs `original` and `rewritten` to. Needed.",
        flag_values=values,
    )
    saved_models.define_preset(values)
    saved_models.define_signature(values)
    imports.define(values)


def _run(values: Mapping[str, Any]) -> None:
    source = choices.local(values["saved_model"])
    rewritten = choices.local(values["rewritten"]) if values["rewritten"] else None
    log_dir = choices.log_folder("log_dir", values["log_dir"])
    options = choices.options(values["preset"]).replace(fuse="ops")
    signatures = saved_models.signatures(values["signature"])
    status = quiet.start_tensorflow_visibly()
    imports.run(values["import"])
    # Only now: this imports TensorFlow.
    from nested_fad_tf.integrations.saved_model import comparing
    from nested_fad_tf.report import tensorboard

    doing = "rewriting" if rewritten is None else "inspecting"
    with saved_models.progress_shown(status, doing) as progress:
        if rewritten is None:
            runs = comparing.rewritten_runs(source, options, signatures, progress)
        else:
            runs = comparing.inspected_runs(source, rewritten, options, signatures, progress)
    tensorboard.write(log_dir, runs)
    for run in runs:
        print(f"{run.name}: {run.kept_bytes / 2**20:.2f} MiB kept, run {log_dir / run.name}")
    print(f"to see both: tensorboard --logdir {shlex.quote(str(log_dir))}")
    print("(if there is no such command: pip install tensorboard)")


COMMAND = Command(
    name="compare",
    summary="show a SavedModel and its rewrite side by side in TensorBoard",
    description=(
        "Writes the graphs of a SavedModel and of its rewrite as two runs for TensorBoard, each "
        "function in a scope of its name; what is kept for the backward pass stands in scopes "
        "`kept` of the layers, and what was added in scopes `nested_fad`. With them come what is "
        "kept, as the scalar `kept_bytes` and by layer as a histogram, and the report, as text."
    ),
    define_flags=_define_flags,
    run=_run,
    examples=(
        "compare model --log_dir=logs",
        "compare model model_small --log_dir=logs",
        "compare model --signature=serving_default --log_dir=logs",
    ),
    positionals=(
        Positional("SAVED_MODEL", "The folder of a SavedModel."),
        Positional(
            "REWRITTEN",
            "What `rewrite` made of it; if it is left out, that is done in a temporary folder.",
            optional=True,
        ),
    ),
)
