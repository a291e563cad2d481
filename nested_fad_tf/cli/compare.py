"""The `compare` command: a SavedModel and its rewrite side by side in TensorBoard."""

from __future__ import annotations

import pathlib
import shlex
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags
from rich import console

from nested_fad_tf.cli import choices, quiet, saved_models
from nested_fad_tf.cli.command import Command, Positional
from nested_fad_tf.options import Options

if TYPE_CHECKING:
    from nested_fad_tf.report.tensorboard import Run

_ORIGINAL, _REWRITTEN = "original", "rewritten"


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "log_dir",
        None,
        f"Folder to write the runs `{_ORIGINAL}` and `{_REWRITTEN}` to. Needed.",
        flag_values=values,
    )
    saved_models.define_preset(values)


def _run(values: Mapping[str, Any]) -> None:
    source = choices.local(values["saved_model"])
    rewritten = choices.local(values["rewritten"]) if values["rewritten"] else None
    log_dir = choices.log_folder("log_dir", values["log_dir"])
    options = choices.options(values["preset"]).replace(fuse="ops")
    status = quiet.start_tensorflow_visibly()
    # Only now: this imports TensorFlow.
    from nested_fad_tf.report import tensorboard

    if rewritten is None:
        runs = _rewrite(source, options, status)
    else:
        runs = _read(source, rewritten, options, status)
    tensorboard.write(log_dir, runs)
    for run in runs:
        print(f"{run.name}: {run.kept_bytes / 2**20:.2f} MiB kept, run {log_dir / run.name}")
    print(f"to see both: tensorboard --logdir {shlex.quote(str(log_dir))}")
    print("(if there is no such command: pip install tensorboard)")


def _rewrite(source: pathlib.Path, options: Options, status: console.Console) -> list[Run]:
    """Returns the model and its rewrite, which is made in a folder that is removed again."""
    from nested_fad_tf.integrations import saved_model
    from nested_fad_tf.integrations.saved_model import graphs
    from nested_fad_tf.report.tensorboard import Run

    with (
        tempfile.TemporaryDirectory(prefix="nested_fad_tf_") as folder,
        saved_models.progress_shown(status, "rewriting") as progress,
    ):
        target = pathlib.Path(folder) / _REWRITTEN
        report = saved_model.rewrite(source, target, options, progress=progress)
        before = graphs.graph_of_functions(source, report.functions)
        after = graphs.graph_of_functions(target, report.functions)
    return [
        Run(_ORIGINAL, before, report.kept_bytes_before, report, applied=True),
        Run(_REWRITTEN, after, report.kept_bytes_after, report, applied=True),
    ]


def _read(
    source: pathlib.Path, rewritten: pathlib.Path, options: Options, status: console.Console
) -> list[Run]:
    """Returns two models as they are, with reports on what could be done to each."""
    from nested_fad_tf.integrations import saved_model
    from nested_fad_tf.integrations.saved_model import graphs
    from nested_fad_tf.report.tensorboard import Run

    runs = []
    for name, folder in ((_ORIGINAL, source), (_REWRITTEN, rewritten)):
        with saved_models.progress_shown(status, "inspecting") as progress:
            report = saved_model.inspect(folder, options, progress=progress)
            graph = graphs.graph_of_functions(folder, report.functions)
        runs.append(Run(name, graph, report.kept_bytes_before, report, applied=False))
    return runs


COMMAND = Command(
    name="compare",
    summary="show a SavedModel and its rewrite side by side in TensorBoard",
    description=(
        "Writes the graphs of a SavedModel and of its rewrite as two runs for TensorBoard, each "
        "function in a scope of its name; what was added lies in scopes `nested_fad` of the "
        "layers. With them come what is kept for the backward pass, as the scalar `kept_bytes`, "
        "and the report, as text."
    ),
    define_flags=_define_flags,
    run=_run,
    examples=(
        "compare model --log_dir=logs",
        "compare model model_small --log_dir=logs",
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
