"""The `train` command: trains a real model plain and rewritten, and shows what the rewrite gave."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from absl import flags
from rich import console, progress

from nested_fad_tf.cli import choices, quiet
from nested_fad_tf.cli.command import Command
from nested_fad_tf.examples import registry
from nested_fad_tf.options import preset_names

if TYPE_CHECKING:
    from nested_fad_tf.examples.comparison import Comparison


def _define_flags(values: flags.FlagValues) -> None:
    models = "\n".join(f"{name}: {summary}" for name, summary in registry.SUMMARIES.items())
    flags.DEFINE_string("model", registry.DEFAULT, f"What to train.\n{models}", flag_values=values)
    flags.DEFINE_string(
        "preset",
        "exact",
        f"How to rewrite: {', '.join(preset_names())}, or a TOML file with an [options] table.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "steps", None, "Training steps; by default what the model needs to learn.",
        lower_bound=1, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "batch_size", None, "Examples per step; by default what suits the model.",
        lower_bound=1, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("json", None, "File to write all results to.", flag_values=values)
    flags.DEFINE_string(
        "plot",
        None,
        "Folder to draw to, as SVG and PNG: memory over a step, simulated and measured, and what is"
        " kept by layer.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "log_dir",
        None,
        "Folder to write the runs `original` and `rewritten` to, for TensorBoard: graphs, losses, "
        "peaks, what is kept.",
        flag_values=values,
    )


def _run(values: Mapping[str, Any]) -> None:
    preset = values["preset"]
    model = choices.one_of("model", values["model"], registry.SUMMARIES)
    options = choices.options(preset)
    json_path = choices.writable("json", values["json"])
    plot_folder = choices.plot_folder("plot", values["plot"])
    log_dir = choices.log_folder("log_dir", values["log_dir"]) if values["log_dir"] else None
    status = quiet.start_tensorflow_visibly()
    # Only now: these import TensorFlow and Keras.
    from nested_fad_tf.cli import train_output
    from nested_fad_tf.examples.comparison import Comparison

    example = registry.load(model)
    data = example.load()
    batch_size = values["batch_size"] or example.batch_size
    steps = values["steps"] or example.steps
    print(f"{model}: {registry.SUMMARIES[model]}")
    print(f"data: {data.description}")
    print(f"{steps} steps of {batch_size} examples, plain and rewritten (preset {preset})")
    with status.status("building the model"):
        comparison = Comparison(example, data, options, batch_size)
    _train(comparison, steps, status)
    train_output.show(comparison)
    if example.note:
        print(f"note: {example.note}")
    if json_path:
        settings = {"model": model, "steps": steps, "batch_size": batch_size}
        train_output.write_json(json_path, comparison, settings, options)
        print(f"results are in {json_path}")
    if plot_folder:
        print("\n".join(map(str, train_output.draw(plot_folder, comparison))))
    if log_dir:
        train_output.write_board(log_dir, comparison, options)
        print(f"to see both: tensorboard --logdir {shlex.quote(str(log_dir))}")


def _train(comparison: Comparison, steps: int, status: console.Console) -> None:
    """Trains and measures both versions under a progress bar."""
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=status) as bars:
        # One unit of work for each step; testing and measuring take a few steps' time, too.
        task = bars.add_task("testing before training", total=steps)
        for version in comparison.versions:
            version.accuracy_before = comparison.accuracy(version)
        bars.update(task, description="tracing, rewriting")
        training = comparison.train(steps)
        with quiet.native_messages_held():
            bars.update(task, completed=next(training))
        for done in training:
            plain, rewritten = (version.losses[-1] for version in comparison.versions)
            text = f"loss {plain:.4f} plain, {rewritten:.4f} rewritten"
            bars.update(task, completed=done, description=text)
        bars.update(task, description="testing after training")
        for version in comparison.versions:
            version.accuracy_after = comparison.accuracy(version)
        bars.update(task, description="measuring memory")
        with quiet.native_messages_held():
            for version in comparison.versions:
                comparison.measure_memory(version)
        bars.update(task, description="done")


COMMAND = Command(
    name="train",
    summary="train a real model, plain and rewritten, and compare memory, time and losses",
    description=(
        "Trains a model on data that needs no download: once under tf.function, once under "
        "nested_fad_tf.function, from the same weights, on the same batches, with the same dropout "
        "masks. Prints the memory peak of a step, the step time, how far the loss curves agree, "
        "the test accuracy, and what is still kept for the backward pass."
    ),
    define_flags=_define_flags,
    run=_run,
    examples=(
        "train",
        "train --model=gpt --preset=low_memory",
        "train --steps=10 --json=results.json --plot=figures",
        "train --log_dir=logs",
    ),
)
