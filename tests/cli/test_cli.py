import json
import os
import pathlib
import subprocess
import sys

import pytest

from nested_fad_tf.cli import main, quiet

_REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def _run(*arguments, module=True, cwd=None, unset=()):
    """Runs the command line in a process of its own, as a user would."""
    script = pathlib.Path(sys.executable).with_name("nested-fad-tf")
    program = [sys.executable, "-m", "nested_fad_tf"] if module else [str(script)]
    path = os.pathsep.join([str(_REPOSITORY), os.environ.get("PYTHONPATH", "")])
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [*program, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**inherited, "PYTHONPATH": path},
    )


def _messages(done):
    """Returns the program's own lines on stderr."""
    return [line for line in done.stderr.splitlines() if line.startswith("nested-fad-tf")]


def test_help_lists_the_commands():
    done = _run("--help")
    assert done.returncode == 0
    assert "train" in done.stdout
    assert "bench" in done.stdout
    assert "exit status" in done.stdout


def test_help_says_nothing_else():
    # The environment may quieten TensorFlow already; a user's does not.
    done = _run("bench", "--help", unset=("TF_CPP_MIN_LOG_LEVEL",))
    assert done.returncode == 0
    assert not done.stderr


def test_the_console_script_is_the_same_program():
    if not pathlib.Path(sys.executable).with_name("nested-fad-tf").exists():
        pytest.skip("the package is not installed")
    assert _run("--help", module=False).stdout == _run("--help").stdout


def test_no_command_is_bad_usage(capsys):
    assert main.main(["nested-fad-tf"]) == 2
    output = capsys.readouterr()
    assert "usage: nested-fad-tf COMMAND" in output.err
    assert not output.out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_train_lists_its_flags_and_models(capsys, flag):
    assert main.main(["nested-fad-tf", "train", flag]) == 0
    output = capsys.readouterr().out
    for word in ("--model", "--preset", "--steps", "--batch_size", "--json", "--plot", "--log_dir"):
        assert word in output
    for word in ("vit", "gpt", "mish_convnet", "efficientnetv2b0", "low_memory", "examples:"):
        assert word in output


def test_help_of_bench_lists_its_flags(capsys):
    assert main.main(["nested-fad-tf", "bench", "--help"]) == 0
    output = capsys.readouterr().out
    for word in ("--models", "--strategies", "--fuse", "--what", "--dtypes", "--json", "--plot"):
        assert word in output
    for word in (
        "--calibrate",
        "--sweep",
        "--memory_limit",
        "bert:batch=32",
        "tradeoff",
        "memory,time; with --sweep nothing",
    ):
        assert word in " ".join(output.split())
    for word in ("mish_mlp", "forward_ad", "gradients", "losses", "float32"):
        assert word in output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "did you mean 'train'"),
        (["trian"], "commands: train, bench"),
        (["train", "--modle=vit"], "modle"),
        (["train", "--model=vti"], "did you mean 'vit'"),
        (["train", "--preset=papr"], "did you mean 'paper'"),
        (["train", "--steps=0"], "--steps=0"),
        (["train", "--steps=many"], "--steps=many"),
        (["train", "something"], "takes flags only"),
        (["train", "--json=/no/such/folder/x.json"], "folder /no/such/folder does not exist"),
        (["bench", "--strategies=auto,no"], "--strategies=no"),
        (["bench", "--what=speed"], "--what=speed"),
        (["bench", "--models=brt"], "did you mean 'bert'"),
        (["inspect"], "SAVED_MODEL is missing"),
        (["inspect", "a", "b"], "takes SAVED_MODEL and flags, not 'b'"),
        (["rewrite", "a"], "OUT is missing"),
        (["rewrite"], "SAVED_MODEL and OUT are missing"),
        (["rewrite", "a", "b", "--fuse=op"], "did you mean 'ops'"),
        (["rewrite", "a", "--overwrit", "b"], "overwrit"),
        (["compare", "--log_dir=x"], "SAVED_MODEL is missing"),
        (["compare", "a"], "--log_dir is missing"),
        (["compare", "a", f"--log_dir={__file__}/x"], "is a file"),
        (["inspect", "a", "--preset=papr"], "did you mean 'paper'"),
        (["inspect", "a", "--json=/no/such/folder/x.json"], "/no/such/folder does not exist"),
        (["inspect", "a", "--html=/no/such/folder/x.html"], "/no/such/folder does not exist"),
        (["inspect", "a", f"--plot={__file__}/x"], "is a file"),
        (["train", f"--plot={__file__}"], "is a file"),
        (["train", f"--log_dir={__file__}"], "is a file"),
        (["bench", "--plot=figures", "--what=time"], "--what=memory,time"),
        (["bench", "--plot=figures", "--sweep"], "--what=memory,time"),
        (["bench", "--sweep", "--what=memory,fit"], "--sweep measures memory, time, not fit"),
        (["bench", "--sweep", "--strategies=recompute"], "leave out --strategies and --peers"),
        (["bench", "--sweep", "--peers=all"], "leave out --strategies and --peers"),
        (["bench", "--sweep", "--calibrate"], "--calibrate and --sweep are different things"),
        (["bench", "--sweep", "--memory_limit=3GiB"], "--sweep and --memory_limit are different"),
        (["bench", "--memory_limit=3 apples"], "expected an amount such as"),
        (["bench", "--memory_limit=3GiB", "--what=time"], "leave out --what"),
        (["bench", "--memory_limit=3GiB", "--plot=figures"], "--memory_limit draws nothing"),
        (["bench", "--models=bert:width=3"], "bert has no 'width'"),
        (["bench", "--models=all:batch=3"], "sizes are of one model"),
        (["bench", "--calibrate", "--plot=figures"], "--calibrate draws nothing"),
        (["bench", "--calibrate", "--json=/no/such/folder/x.json"], "does not exist"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(capsys, arguments, expected):
    assert main.main(["nested-fad-tf", *arguments]) == 2
    output = capsys.readouterr()
    assert len(output.err.splitlines()) == 1
    assert expected in output.err
    assert not output.out


@pytest.mark.parametrize("command", [["inspect", "a"], ["train"], ["bench"]])
def test_plots_without_matplotlib_are_refused_at_once(capsys, monkeypatch, tmp_path, command):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main.main(["nested-fad-tf", *command, f"--plot={tmp_path}"]) == 2
    assert "pip install 'nested-fad-tf[plots]'" in capsys.readouterr().err


def test_bad_usage_ends_the_process_with_status_2():
    done = _run("train", "--model=vti")
    assert done.returncode == 2
    assert len(_messages(done)) == 1
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line_and_status_1(capsys, tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text('[options]\nstrategy = "no"\n')
    assert main.main(["nested-fad-tf", "train", f"--preset={bad}"]) == 1
    output = capsys.readouterr().err
    assert len(output.splitlines()) == 1
    assert "strategy is 'no'" in output


def test_verbosity_shows_the_stack_of_an_error(capsys, tmp_path):
    preset = f"--preset={tmp_path / 'missing.toml'}"
    assert main.main(["nested-fad-tf", "train", preset, "--verbosity=1"]) == 1
    output = capsys.readouterr().err
    assert "Traceback" in output
    assert "cannot read" in output.splitlines()[-1]


def test_train_compares_both_versions_and_writes_json(tmp_path):
    pytest.importorskip("sklearn")
    path = tmp_path / "results.json"
    figures = tmp_path / "figures"
    logs = tmp_path / "logs"
    outputs = f"--json={path}", f"--plot={figures}", f"--log_dir={logs}"
    done = _run("train", "--steps=3", "--batch_size=16", *outputs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("peak memory, measured", "step time", "test accuracy after", "kept for the"):
        assert text in done.stdout
    results = json.loads(path.read_text())
    assert (results["model"], results["steps"], results["batch_size"]) == ("vit", 3, 16)
    for version in ("plain", "rewritten"):
        assert len(results[version]["losses"]) == 3
        assert results[version]["peak_bytes"] > 0
        assert 0 <= results[version]["accuracy_after"] <= 1
    # The same weights, batches and dropout masks: the first losses differ by rounding at most.
    assert results["plain"]["losses"][0] == pytest.approx(
        results["rewritten"]["losses"][0], rel=1e-5
    )
    assert results["report"]["function_name"]
    # The file is moved into place: nothing else is left beside it.
    names = sorted(entry.name for entry in tmp_path.iterdir())
    assert names == ["figures", "logs", "results.json"]
    drawn = {entry.name for entry in figures.glob("*.png")}
    assert drawn == {"kept.png", "measured.png", "memory.png"}
    assert len(list(figures.iterdir())) == 6
    assert f"tensorboard --logdir {logs}" in done.stdout
    for run, version in (("original", "plain"), ("rewritten", "rewritten")):
        board = _scalars(logs / run)
        assert board["loss"] == pytest.approx(results[version]["losses"])
        assert board["measured_peak"] == [results[version]["peak_bytes"]] * 2
    assert _scalars(logs / "original")["kept_bytes"] > _scalars(logs / "rewritten")["kept_bytes"]


def _scalars(run):
    """The values of each scalar of a run of TensorBoard, in order of steps."""
    import tensorflow as tf  # only here: the other tests need none

    found = {}
    for file in run.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                if array.size == 1 and array.dtype != object:
                    found.setdefault(value.tag, []).append(array.item())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vit", "mish_convnet", "gpt", "efficientnetv2b0"])
def test_models_learn_and_both_versions_agree(tmp_path, model):
    path = tmp_path / "results.json"
    done = _run("train", f"--model={model}", f"--json={path}")
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())
    for version in ("plain", "rewritten"):
        gained = results[version]["accuracy_after"] - results[version]["accuracy_before"]
        assert gained > 0.25
    assert results["plain"]["peak_bytes"] > 100 * 2**20


@pytest.fixture
def started(monkeypatch):
    """TensorFlow, started before; it can't be configured again in a process that has used it."""
    monkeypatch.setattr(quiet, "start_tensorflow", lambda: None)


@pytest.mark.usefixtures("started")
def test_bench_calibrates_in_place_of_models(monkeypatch, capsys, tmp_path):
    from nested_fad_tf.bench import calibration, command
    from nested_fad_tf.plan import price_files

    costs = tmp_path / "costs.toml"
    monkeypatch.setenv(price_files.VARIABLE, str(costs))
    monkeypatch.setattr(command, "run_bench", None)
    monkeypatch.setattr(calibration, "measure_prices", lambda progress: price_files.shipped("CPU"))
    json_path = tmp_path / "prices.json"
    assert main.main(["nested-fad-tf", "bench", "--calibrate", f"--json={json_path}"]) == 0
    assert str(costs) in capsys.readouterr().out
    assert costs.read_text().startswith("# Written by")
    assert json.loads(json_path.read_text())["device"] == "CPU"


@pytest.mark.usefixtures("started")
def test_bench_refuses_to_calibrate_what_nobody_would_read(capsys):
    assert main.main(["nested-fad-tf", "bench", "--calibrate"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "NESTED_FAD_TF_COSTS=default" in line


@pytest.mark.usefixtures("started")
def test_bench_searches_the_largest_batch(monkeypatch):
    from nested_fad_tf.bench import largest_batch

    seen = []
    monkeypatch.setattr(largest_batch, "run_largest_batch", lambda *found: seen.append(found))
    arguments = ["--models=bert:depth=2", "--peers=jit_compile", "--memory_limit=1.5GiB"]
    assert main.main(["nested-fad-tf", "bench", *arguments]) == 0
    ((models, versions, limit, how, json_path),) = seen
    assert (models, versions) == (["bert:depth=2"], ["auto", "jit_compile"])
    assert (limit, how.fuse, json_path) == (3 * 2**29, "auto", None)


@pytest.mark.usefixtures("started")
def test_bench_sweeps_tradeoffs(monkeypatch):
    from nested_fad_tf.bench import sweep

    seen = []
    monkeypatch.setattr(sweep, "run_sweep", lambda *arguments: seen.append(arguments))
    assert main.main(["nested-fad-tf", "bench", "--sweep", "--models=mish_mlp"]) == 0
    assert main.main(["nested-fad-tf", "bench", "--sweep", "--what=time", "--fuse=ops"]) == 0
    (models, _, what, _), (_, how, measured, _) = seen
    assert (models, what) == (["mish_mlp"], [])
    assert (how.fuse, measured) == ("ops", ["time"])
