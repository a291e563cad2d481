"""README.md's code and figures, for somebody who has nothing else."""

import os
import re
import subprocess
import sys

import pages

# Somebody's own step, as the five lines expect it.
_OWN = """
import tensorflow as tf

x = tf.random.normal([4096, 256])
y = tf.tanh(x)
weights = [tf.Variable(tf.random.normal([256, 256]) / 16) for _ in range(6)]

@tf.function
def train_step(x, y):
    with tf.GradientTape() as tape:
        hidden = x
        for w in weights:
            hidden = tf.nn.gelu(hidden @ w)
        loss = tf.reduce_mean(tf.square(hidden - y))
    for w, gradient in zip(weights, tape.gradient(loss, weights)):
        w.assign_sub(0.1 * gradient)
    return loss

"""


def _five_lines():
    return next(pages.blocks(pages.read("README.md"))).code


def test_an_example_of_five_lines_comes_first_after_how_to_install():
    code = [line for line in _five_lines().splitlines() if line.split("#")[0].strip()]
    assert len(code) <= 5
    text = pages.read("README.md")
    start = text.index(_five_lines())
    assert text[:start].count("\n") < 30
    assert "pip install ." in text[:start]


def test_five_lines_give_a_figure_before_and_after(tmp_path):
    script = tmp_path / "own.py"
    script.write_text(_OWN + _five_lines(), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(pages.REPOSITORY)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "train_step: rewritten" in done.stdout
    before, after = map(int, re.search(r"^(\d+) -> (\d+) MiB", done.stdout, re.MULTILINE).groups())
    assert after < before / 2


def test_all_other_code_runs(tmp_path, monkeypatch, capsys):
    _, *blocks = pages.blocks(pages.read("README.md"))
    assert blocks
    monkeypatch.chdir(tmp_path)
    pages.run(blocks, tmp_path, lambda: capsys.readouterr().out)


def test_commands_are_understood():
    pages.check_commands(pages.read("README.md"))
