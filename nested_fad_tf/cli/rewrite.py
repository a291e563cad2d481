"""The `rewrite` command: from one SavedModel to another that needs less memory to train."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from absl import flags

from nested_fad_tf.cli import choices, imports, quiet, saved_models
from nested_fad_tf.cli.command import Command, Positional
from nested_fad_tf.options import Fuse

_FUSE = get_args(Fuse)


def _define_flags(values: flags.FlagValues) -> None:
    saved_models.define_preset(values)
    flags.DEFINE_string(
        "fuse",
        "ops",
        f"How groups of operations run, whatever the preset says: {', '.join(_FUSE)}.\n"
        "ops: plain TensorFlow operations, which every runtime has\n"
        "auto, xla: compiled, which the program that loads the result must be able to",
        flag_values=values,
    )
    saved_models.define_signature(values)
    imports.define(values)
    flags.DEFINE_bool(
        "overwrite", False, "Replace OUT if it is a SavedModel already.", flag_values=values
    )
    saved_models.define_json(values)


def _run(values: Mapping[str, Any]) -> None:
    source, out = choices.local(values["saved_model"]), choices.local(values["out"])
    fuse = choices.one_of("fuse", values["fuse"], _FUSE)
    options = choices.options(values["preset"]).replace(fuse=fuse)
    signatures = saved_models.signatures(values["signature"])
    json_path = choices.writable("json", values["json"])
    status = quiet.start_tensorflow_visibly()
    imports.run(values["import"])
    # Only now: this imports TensorFlow.
    from nested_fad_tf.integrations import saved_model

    with saved_models.progress_shown(status, "rewriting") as progress:
        report = saved_model.rewrite(
            source, out, options, signatures, overwrite=values["overwrite"], progress=progress
        )
    saved_models.show(report, options, applied=True)
    saved_models.write_json(json_path, report)
    if report.changed:
        print(f"the rewritten model is in {out}")
    else:
        print(f"nothing was rewritten: {out} is a copy of {source}")


COMMAND = Command(
    name="rewrite",
    summary="rewrite a SavedModel so that fine-tuning it needs less memory",
    description=(
        "Writes a SavedModel whose functions keep less for their backward pass: fine-tuning it "
        "needs less memory, and gives the same gradients. Inference is unchanged. The input is "
        "never changed, and OUT appears only once it is complete.\n\n"
        "The result loads with tf.saved_model.load where this package isn't installed. With "
        "--fuse=ops (the default) it holds plain TensorFlow operations only, so that TensorFlow "
        "Serving's C++ runtime loads it, too; --fuse=auto and --fuse=xla need XLA in the serving "
        "binary."
    ),
    define_flags=_define_flags,
    run=_run,
    examples=(
        "rewrite model model_small",
        "rewrite model model_small --preset=low_memory --overwrite",
        "rewrite model model_small --signature=serving_default,train",
    ),
    positionals=(
        Positional("SAVED_MODEL", "The folder of a SavedModel; it is only read."),
        Positional("OUT", "The folder to write."),
    ),
)
