"""The `bench` command: flags and checks; nested_fad_tf.bench does the work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from absl import flags

from nested_fad_tf.bench import catalog, versions
from nested_fad_tf.cli import bench_modes, choices, quiet
from nested_fad_tf.cli.command import Command, UsageError
from nested_fad_tf.errors import OptionsError
from nested_fad_tf.options import Fuse, Strategy

_STRATEGIES = get_args(Strategy)
_FUSE = get_args(Fuse)
_ALL = "all"


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_list(
        "models",
        [_ALL],
        f"Models, or {_ALL}: {', '.join(catalog.MODELS)}. Sizes come behind a colon: "
        "bert:batch=32:depth=12:length=256, vit:size=256.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "strategies",
        ["auto"],
        f"Strategies to compare with plain TensorFlow, or {_ALL}: {', '.join(_STRATEGIES)}. "
        "Other options come behind a colon: auto:budget=0.3, forward_ad:precision=int4.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "peers",
        [],
        f"Other ways to save memory, beside the strategies, or {_ALL}:\n"
        + "\n".join(f"{name}: {way}" for name, way in catalog.PEERS.items()),
        flag_values=values,
    )
    flags.DEFINE_string("fuse", "auto", f"How groups run: {', '.join(_FUSE)}.", flag_values=values)
    flags.DEFINE_bool(
        "jit_compile",
        False,
        "Whether XLA compiles the steps as a whole, the plain ones too.",
        flag_values=values,
    )
    bench_modes.define_flags(values)
    flags.DEFINE_list(
        "what",
        None,
        f"What to measure, or {_ALL} (default: memory,time; with --sweep nothing):\n"
        "memory: peak of a step, requested bytes and whole process, each in a fresh process\n"
        "time: steady steps, all versions alternating in one process\n"
        "gradients: how far loss and gradients are from plain TensorFlow's\n"
        "losses: the same of the losses of ten Adam steps\n"
        "fit: memory and losses of Keras' fit, with batches of unknown size",
        flag_values=values,
    )
    flags.DEFINE_list(
        "dtypes",
        ["float64"],
        f"Types to compare gradients in, or {_ALL}: {', '.join(catalog.DTYPES)}.",
        flag_values=values,
    )
    flags.DEFINE_string("json", None, "File to write the results to.", flag_values=values)
    flags.DEFINE_string(
        "plot",
        None,
        "Folder to draw memory against time to, as SVG and PNG; needs --what=memory,time.",
        flag_values=values,
    )


def _run(values: Mapping[str, Any]) -> None:
    models = _models(values["models"])
    strategies = _rewrites(values["strategies"])
    peers = _several("peers", values["peers"], tuple(catalog.PEERS))
    known = catalog.WHAT_OF_PEERS if peers else catalog.WHAT
    what = _several("what", bench_modes.measured(values), known)
    bench_modes.check(values, what)
    limit = bench_modes.memory_limit(values["memory_limit"])
    dtypes = _several("dtypes", values["dtypes"], catalog.DTYPES)
    fuse = choices.one_of("fuse", values["fuse"], _FUSE)
    json_path = choices.writable("json", values["json"])
    plot_folder = choices.plot_folder("plot", values["plot"])
    if plot_folder and not {"memory", "time"} <= set(what):
        raise UsageError("--plot draws memory against time: it needs --what=memory,time")
    quiet.start_tensorflow()
    # Only now: this imports TensorFlow and Keras.
    from nested_fad_tf.bench import calibration_run, command, largest_batch, sweep, variants

    if values["calibrate"]:
        calibration_run.run_calibration(json_path)
        return
    how = variants.How(fuse, values["jit_compile"])
    if limit is not None:
        largest_batch.run_largest_batch(models, [*strategies, *peers], limit, how, json_path)
        return
    if values["sweep"]:
        results = sweep.run_sweep(models, how, what, json_path)
    else:
        results = command.run_bench(
            models=models,
            strategies=[*strategies, *peers],
            how=how,
            json_path=json_path,
            what=what,
            dtypes=dtypes,
        )
    if plot_folder:
        from nested_fad_tf.report import plots

        drawn = plots.save(plots.pareto({"results": results}), plot_folder, "pareto")
        print("\n".join(map(str, drawn)))


def _models(chosen: list[str]) -> list[str]:
    """Checks the values of --models, each a model with sizes behind it or not."""
    for value in chosen:
        name, *sizes = value.split(":")
        choices.one_of("models", name, [_ALL, *catalog.MODELS])
        if name == _ALL and sizes:
            raise UsageError(f"--models={value}: sizes are of one model; name it")
        try:
            catalog.sizes(value if sizes else next(iter(catalog.MODELS)))
        except ValueError as error:
            raise UsageError(f"--models: {error}") from error
    return list(catalog.MODELS) if _ALL in chosen else list(chosen)


def _rewrites(chosen: list[str]) -> list[str]:
    """Checks the values of --strategies, each a strategy with options behind it or not."""
    expanded = [v for value in chosen for v in (_STRATEGIES if value == _ALL else [value])]
    for value in expanded:
        choices.one_of("strategies", value.split(":")[0], [_ALL, *_STRATEGIES])
        try:
            versions.options(value)
        except OptionsError as error:
            raise UsageError(f"--strategies={value}: {error}") from error
    return expanded


def _several(flag: str, chosen: list[str], known: tuple[str, ...]) -> list[str]:
    """Checks the values of a list flag, and replaces "all" by all there are."""
    for value in chosen:
        choices.one_of(flag, value, [_ALL, *known])
    return list(known) if _ALL in chosen else list(chosen)


COMMAND = Command(
    name="bench",
    summary="measure memory, time and agreement of public models, plain and rewritten",
    description=(
        "Measures the memory peak and the step time of public models, plain and rewritten with "
        "each strategy, or how far gradients and losses agree, and prints a table of each.\n\n"
        "Or it measures what ops take on this machine (--calibrate), or shows what each trade-off "
        "of bytes against seconds gives, with the Pareto front marked (--sweep), or it finds the "
        "largest batch that a process of limited memory trains with (--memory_limit)."
    ),
    define_flags=_define_flags,
    run=_run,
    examples=(
        "bench --models=mish_mlp --strategies=auto,recompute --json=bench.json --plot=figures",
        "bench --models=bert --what=gradients,losses --dtypes=all",
        "bench --models=bert --strategies=auto,auto:budget=0.3 --peers=all --what=memory,time",
        "bench --models=gelu_mlp --sweep --what=memory,time --plot=figures",
        "bench --models=bert,mixer --memory_limit=3GiB",
        "bench --calibrate",
    ),
)
