"""The `compare` command: a SavedModel and its rewrite side by side in TensorBoard."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from nested_fad_tf.cli import choices, imports, quiet, saved_models
from nested_fad_tf.cli.command import Command, Positional

if TYPE_CHECKING:
    from nested_fad_tf.report.tensorboard import Run


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "log_dir",
        None,
        "Folder to write the runs `original` and `rewritten` to. Needed.",
        flag_values=values,
    )
    saved_models.define_preset(values)
    saved_models.define_signature(values)
    flags.DEFINE_string(
        "measure",
        None,
        "A signature to run, and to differentiate by the model's trainable variables, on random "
        "inputs: adds measured memory and time to both runs.",
        flag_values=values,
    )
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
    from nested_fad_tf.integrations.saved_model import comparing, measuring
    from nested_fad_tf.report import tensorboard

    signature = values["measure"]
    measure = None
    if signature is not None:
        measure = functools.partial(
            measuring.measure, signature=signature, nominal_size=options.nominal_size
        )
    doing = "rewriting" if rewritten is None else "inspecting"
    with saved_models.progress_shown(status, doing) as progress:
        if rewritten is None:
            runs = comparing.rewritten_runs(source, options, signatures, progress, measure)
        else:
            runs = comparing.inspected_runs(
                source, rewritten, options, signatures, progress, measure
            )
    tensorboard.write(log_dir, runs)
    for run in runs:
        print(f"{run.name}: {_described(run)}, run {log_dir / run.name}")
    print(f"to see both: tensorboard --logdir {shlex.quote(str(log_dir))}")
    print("(if there is no such command: pip install tensorboard)")


def _described(run: Run) -> str:
    said = [f"{run.kept_bytes / 2**20:.2f} MiB kept"]
    if "measured_peak" in run.scalars:
        said.append(f"peak {run.scalars['measured_peak'] / 2**20:.1f} MiB")
    if "step_seconds" in run.scalars:
        said.append(f"{run.scalars['step_seconds']:.3f} s a step")
    return ", ".join(said)


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
        "compare model --measure=serving_default --log_dir=logs",
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
