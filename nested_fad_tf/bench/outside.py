"""Memory of functions that are differentiated from outside, each version in a fresh process.

    python -m nested_fad_tf.bench.outside --json '{"case": "eager tape", "strategy": "auto"}'

Eight layers of 512 with mish on 4,096 rows, called in the ways in which users call functions; a
loop of 20 such layers on 2,048 rows; three training steps that are differentiated themselves.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import nested_fad_tf as nfad
from nested_fad_tf.bench import request, versions
from nested_fad_tf.report import memory

_MODULE = "nested_fad_tf.bench.outside"
_WIDTH, _ROWS, _LAYERS, _TIMES, _UPDATES = 512, 4096, 8, 20, 3

Wrap = Callable[[Callable[..., Any]], Any]


@dataclasses.dataclass(frozen=True)
class OutsideRow:
    """Memory of one way to call a function, plain and rewritten.

    Attributes:
        case: The way, a name of `CASES`.
        strategy: The rewrite's strategy.
        plain_peak: Peak of plain TensorFlow, in requested bytes above what lived before.
        peak: The same rewritten.
        worst_difference: The largest relative difference of the norms of gradients.
    """

    case: str
    strategy: str
    plain_peak: int
    peak: int
    worst_difference: float


def _numbers(*shape: int, seed: int, scale: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(shape)
    return (scale * values).astype(np.float32)


def _mish(x: tf.Tensor) -> tf.Tensor:
    return x * tf.tanh(tf.nn.softplus(x))


class _Net:
    """Layers with mish, and the gradients of their weights."""

    def __init__(self, layers: int) -> None:
        scale = _WIDTH**-0.5
        self.weights = [
            tf.Variable(_numbers(_WIDTH, _WIDTH, seed=i, scale=scale)) for i in range(layers)
        ]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        for weight in self.weights:
            x = _mish(x @ weight)
        return x

    def loop(self, x: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(_TIMES):
            x = _mish(x @ self.weights[0])
        return x

    def update(self, x: tf.Tensor, weights: Sequence[Any]) -> list[tf.Tensor]:
        """A training step from given weights to the next ones."""
        with tf.GradientTape() as tape:
            tape.watch(weights)
            h = x
            for weight in weights:
                h = _mish(h @ weight)
            loss = tf.reduce_mean(tf.square(h))
        slopes = tape.gradient(loss, weights)
        return [w - 0.1 * s for w, s in zip(weights, slopes, strict=True)]

    def gradients(self, function: Callable[..., Any], x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(function(x)))
        return tape.gradient(loss, self.weights)

    def gradients_through(self, update: Callable[..., Any], x: tf.Tensor) -> list[tf.Tensor]:
        """Gradients of what some training steps lead to."""
        with tf.GradientTape() as tape:
            weights = [tf.identity(w) for w in self.weights]
            for _ in range(_UPDATES):
                weights = update(x, weights)
            loss = tf.add_n([tf.reduce_sum(tf.square(w)) for w in weights])
        return tape.gradient(loss, self.weights)


def _eager(net: _Net, wrap: Wrap) -> Callable[..., Any]:
    function = wrap(net.call)
    return lambda x: net.gradients(function, x)


def _nested(net: _Net, wrap: Wrap) -> Callable[..., Any]:
    function = tf.function(net.call)
    return wrap(lambda x: net.gradients(function, x))


def _loop(net: _Net, wrap: Wrap) -> Callable[..., Any]:
    function = tf.autograph.to_graph(net.loop.__func__)  # type: ignore[attr-defined]
    return wrap(lambda x: net.gradients(lambda x: function(net, x), x[: _ROWS // 2]))


def _steps_eager(net: _Net, wrap: Wrap) -> Callable[..., Any]:
    update = wrap(net.update)
    return lambda x: net.gradients_through(update, x)


def _steps_nested(net: _Net, wrap: Wrap) -> Callable[..., Any]:
    update = tf.function(net.update)
    return wrap(lambda x: net.gradients_through(update, x))


# By name: how many layers there are, and what is measured.
CASES: dict[str, tuple[int, Callable[[_Net, Wrap], Callable[..., Any]]]] = {
    "eager tape": (_LAYERS, _eager),
    "tf.function in a step": (_LAYERS, _nested),
    "loop in a step": (1, _loop),
    "training steps, eager tape": (3, _steps_eager),
    "training steps in a step": (3, _steps_nested),
}


def outside_row(case: str, strategy: str = "auto") -> OutsideRow:
    """Measures a way to call a function, plain and rewritten, each in a fresh process.

    Args:
        case: A name of `CASES`.
        strategy: A strategy of `nested_fad_tf.Options`.

    Returns:
        The row.

    Raises:
        RuntimeError: If a process fails; the message ends with its last error lines.
    """
    plain, other = (
        request.ask(_MODULE, {"case": case, "strategy": s}) for s in (versions.PLAIN, strategy)
    )
    differences = [
        abs(a - b) / (abs(a) or 1.0) for a, b in zip(plain["norms"], other["norms"], strict=True)
    ]
    return OutsideRow(case, strategy, plain["peak_bytes"], other["peak_bytes"], max(differences))


def measure(case: str, strategy: str) -> dict[str, Any]:
    """Measures in this process.

    Args:
        case: A name of `CASES`.
        strategy: "plain" or a strategy of `nested_fad_tf.Options`.

    Returns:
        peak_bytes, and norms: of each gradient.
    """
    layers, make = CASES[case]

    def wrap(function: Callable[..., Any]) -> Any:
        if strategy == versions.PLAIN:
            return tf.function(function)
        return nfad.function(function, options=versions.options(strategy))

    function = make(_Net(layers), wrap)
    x = tf.constant(_numbers(_ROWS, _WIDTH, seed=99))
    norms = [float(tf.norm(tf.cast(g, tf.float64))) for g in function(x)]
    return {"peak_bytes": memory.measure(function, x, runs=1).peak_bytes, "norms": norms}


def main(arguments: list[str]) -> None:
    """Answers one request.

    Args:
        arguments: Command-line arguments without the program's name.
    """
    asked = request.parse(_MODULE, "measure", arguments)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    print(json.dumps(measure(**asked)))


if __name__ == "__main__":
    main(sys.argv[1:])
