"""The `inspect` command: what is kept when a SavedModel is trained, and what could be saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from absl import flags

from nested_fad_tf.cli import choices, imports, quiet, saved_models
from nested_fad_tf.cli.command import Command, Positional


def _define_flags(values: flags.FlagValues) -> None:
    saved_models.define_preset(values)
    saved_models.define_signature(values)
    imports.define(values)
    flags.DEFINE_bool(
        "detailed", False, "List every function and every kept tensor.", flag_values=values
    )
    saved_models.define_json(values)
    saved_models.define_html_and_plot(values)


def _run(values: Mapping[str, Any]) -> None:
    source = choices.local(values["saved_model"])
    options = choices.options(values["preset"]).replace(fuse="ops")
    signatures = saved_models.signatures(values["signature"])
    json_path = choices.writable("json", values["json"])
    html_path = choices.writable("html", values["html"])
    plot_folder = choices.plot_folder("plot", values["plot"])
    status = quiet.start_tensorflow_visibly()
    imports.run(values["import"])
    # Only now: this imports TensorFlow.
    from nested_fad_tf.integrations import saved_model

    with saved_models.progress_shown(status, "inspecting") as progress:
        report = saved_model.inspect(source, options, signatures, progress=progress)
    saved_models.show(report, options, applied=False, detailed=values["detailed"])
    saved_models.write_json(json_path, report)
    saved_models.write_html(html_path, report)
    saved_models.write_plots(plot_folder, report)


COMMAND = Command(
    name="inspect",
    summary="show what a SavedModel keeps for its backward pass, and what could be saved",
    description=(
        "Shows, for every function of a SavedModel, what is kept for the backward pass when it is "
        "trained, what `rewrite` would leave of that, and which tensors are kept even so and why. "
        "Runs nothing and changes nothing."
    ),
    define_flags=_define_flags,
    run=_run,
    examples=(
        "inspect model",
        "inspect model --signature=serving_default --detailed",
        "inspect model --preset=low_memory --json=report.json",
        "inspect model --html=report.html --plot=figures",
    ),
    positionals=(Positional("SAVED_MODEL", "The folder of a SavedModel."),),
)
