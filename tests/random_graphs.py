"""Random training steps, as source code: what a counterexample prints is what was run.

A step is a random directed acyclic graph of element-wise ops, broadcasts, reductions, products and
layout ops over variables and inputs, and one of several ways to differentiate it. `programs` is the
Hypothesis strategy; `run` runs a program with any replacement of `tf.function`; `difference` says
how two runs differ.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import random
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

import nested_fad_tf as nfad
from nested_fad_tf.plan import auto, forward_ad, groups

# Expressions of one value. `{a}` is what they are applied to, `{k}` a fresh small integer.
_ACTIVATIONS = (
    "tf.nn.relu({a})",
    "tf.nn.relu6({a})",
    "tf.nn.elu({a})",
    "tf.nn.selu({a})",
    "tf.nn.leaky_relu({a}, 0.2)",
    "tf.nn.gelu({a}, approximate=True)",
    "tf.nn.gelu({a}, approximate=False)",
    "{a} * tf.tanh(tf.nn.softplus({a}))",
    "tf.nn.silu({a})",
    "tf.nn.silu({a}, beta=1.5)",
    "{a} * tf.sigmoid({a})",
    "tf.nn.softplus({a})",
    "tf.nn.softsign({a})",
    "tf.sigmoid({a})",
    "tf.tanh({a})",
    "tf.math.log_sigmoid({a})",
    "{a} * tf.nn.relu6({a} + 3.0) / 6.0",
    "0.5 * ({a} + tf.sqrt(tf.square({a}) + 4.0))",
    "tf.maximum({a}, 0.0) + tf.minimum(tf.math.expm1({a}), 0.0)",
)
_FUNCTIONS = (
    "tf.math.erf({a})",
    "tf.exp(0.3 * {a})",
    "tf.sqrt(tf.abs({a}) + 0.1)",
    "tf.math.rsqrt(tf.square({a}) + 0.5)",
    "tf.math.log1p(tf.abs({a}))",
    "tf.math.log(tf.abs({a}) + 0.05)",
    "tf.pow(tf.abs({a}) + 0.1, 1.7)",
    "tf.pow({a}, 3.0)",
    "{a} ** 2",
    "tf.square({a})",
    "tf.sin({a})",
    "tf.cos({a})",
    "tf.atan({a})",
    "tf.abs({a})",
    "-{a}",
    "1.0 / (1.5 + tf.abs({a}))",
    "tf.math.reciprocal(1.5 + tf.square({a}))",
    "tf.clip_by_value({a}, -1.0, 1.0)",
    "tf.math.xlogy(tf.nn.relu({a}), tf.abs({a}) + 0.1)",
    "tf.round({a}) + 0.1 * {a}",
    "tf.stop_gradient({a})",
    "{a} * tf.stop_gradient({a})",
    "tf.identity({a})",
)
_GUARDS = (
    "tf.where({a} > 0.0, {a}, 0.2 * tf.exp(tf.minimum({a}, 0.0)))",
    "tf.where({a} > 0.0, tf.math.log(tf.where({a} > 0.0, {a}, 1.0)), 0.0)",
    "tf.where({a} > 0.0, tf.sqrt(tf.where({a} > 0.0, {a}, 1.0)), {a})",
    "tf.math.divide_no_nan({a}, tf.nn.relu({a}))",
    "tf.math.multiply_no_nan(1.0 / {a}, tf.cast({a} > 0.1, {a}.dtype))",
    "{a} * tf.cast(tf.logical_and({a} > -1.0, {a} < 0.5), {a}.dtype)",
    "tf.sqrt(tf.nn.relu({a}))",
)
_CASTS = (
    "tf.cast(tf.nn.silu(tf.cast({a}, tf.bfloat16)), {a}.dtype)",
    "tf.cast(tf.nn.gelu(tf.cast({a}, tf.float16), approximate=True), {a}.dtype)",
    "tf.cast(tf.square(tf.tanh(tf.cast({a}, tf.float64))), {a}.dtype)",
    "tf.cast(tf.cast({a}, tf.bfloat16), {a}.dtype)",
    "tf.cast(tf.cast(4.0 * {a}, tf.int32), {a}.dtype) * {a}",
)
_DROPOUT = (
    "tf.where(tf.random.stateless_uniform(tf.shape({a}), [1, {k}]) < 0.8, {a} / 0.8, 0.0)",
    "{a} * tf.cast(tf.random.stateless_uniform(tf.shape({a}), [3, {k}]) < 0.8, {a}.dtype)",
    "tf.nn.experimental.stateless_dropout({a}, 0.3, seed=[{k}, 2])",
    "{a} + 0.1 * tf.random.stateless_normal(tf.shape({a}), [{k}, 4], dtype={a}.dtype)",
)
_CUSTOM = (
    "clip_gradient({a})",
    "straight_through({a})",
    "own_swish({a})",
    "inner_mish({a})",
)
_BRANCH = (
    "tf.cond(tf.reduce_sum({a}) > 0.0, lambda: tf.nn.gelu({a}), lambda: 2.0 * {a})",
    "tf.while_loop(lambda i, h: i < 2, lambda i, h: (i + 1, tf.nn.softplus(tf.sin(h))),"
    " (0, {a}))[1]",
)

# Expressions of a matrix [rows, columns] that stay one.
_LAYOUT = (
    "tf.transpose(tf.tanh(tf.transpose({a})))",
    "tf.reshape(tf.nn.gelu(tf.reshape({a}, [-1])), tf.shape({a}))",
    "tf.concat([tf.nn.silu({a}[:, :3]), {a}[:, 3:]], 1)",
    "tf.concat(tf.split({a}, [3, -1], 1)[::-1], 1)",
    "tf.reverse({a}, [1]) * {a}",
    "tf.roll({a}, 1, 1) * tf.sigmoid({a})",
    "tf.gather(tf.exp(-tf.abs({a})), tf.range(tf.shape({a})[0])[::-1])",
    "tf.pad(tf.tanh({a}), [[0, 0], [1, 0]])[:, :-1]",
    "tf.expand_dims({a}, 1)[:, 0]",
    "tf.tile({a}, [1, 2])[:, 1 : 1 + {a}.shape[1]]",
)
_NORMALISE = (
    "({a} - tf.reduce_mean({a}, 1, keepdims=True))"
    " * tf.math.rsqrt(tf.math.reduce_variance({a}, 1, keepdims=True) + 1e-3)",
    "({a} - tf.reduce_mean({a}, 0)) / tf.sqrt(tf.math.reduce_variance({a}, 0) + 1e-3)",
    "{a} * tf.math.rsqrt(tf.reduce_mean(tf.square({a}), 1, keepdims=True) + 1e-3)",
    "tf.nn.batch_normalization({a}, *tf.nn.moments({a}, [0]), bias, scale, 1e-3)",
    "tf.nn.softmax({a})",
    "tf.nn.log_softmax({a})",
    "tf.nn.l2_normalize({a}, 1)",
    "{a} / (tf.reduce_sum(tf.abs({a}), 1, keepdims=True) + 1.0)",
    "tf.exp({a} - tf.reduce_max({a}, 1, keepdims=True))",
)
_MATRIX = (
    "{a} @ weight",
    "tf.nn.bias_add({a} @ other, bias)",
    "{a} @ weight + bias",
    "0.1 * (tf.matmul({a}, {a}, transpose_b=True) @ {a})",
    "tf.einsum('ij,kj->ik', {a}, weight)",
    "tf.nn.bias_add({a}, bias)",
)
_REDUCE = {
    "column": (
        "tf.reduce_mean({a}, 1, keepdims=True)",
        "tf.reduce_max({a}, 1, keepdims=True)",
        "tf.reduce_logsumexp({a}, 1, keepdims=True)",
        "0.1 * tf.reduce_sum(tf.square({a}), 1, keepdims=True)",
    ),
    "row": (
        "tf.reduce_mean({a}, 0, keepdims=True)",
        "0.1 * tf.reduce_sum({a}, 0)",
        "tf.reduce_min({a}, 0)",
    ),
    "scalar": (
        "tf.reduce_mean({a})",
        "tf.reduce_max({a})",
        "tf.norm({a}) * 0.1",
    ),
}
_DIVISION = "{a} / {b}"
_BINARY = (
    "{a} + {b}",
    "{a} - {b}",
    "{a} * {b}",
    "{a} / (1.0 + tf.square({b}))",
    _DIVISION,
    "tf.maximum({a}, {b})",
    "tf.minimum({a}, {b})",
    "tf.math.squared_difference({a}, {b})",
    "tf.where({a} > {b}, {a}, 0.5 * {b})",
    "tf.pow(tf.abs({a}) + 0.1, tf.tanh({b}))",
    "tf.add_n([{a} + {b}, {a} + {b}])",
    "tf.atan2({a}, tf.abs({b}) + 0.5)",
)

_ALONE = {
    "activation": _ACTIVATIONS,
    "function": _FUNCTIONS,
    "guard": _GUARDS,
    "cast": _CASTS,
    "dropout": _DROPOUT,
    "custom": _CUSTOM,
}
_OF_MATRIX = {"layout": _LAYOUT, "normalise": _NORMALISE, "matrix": _MATRIX, "branch": _BRANCH}
# What a line becomes when a counterexample is made smaller.
_TRIVIAL = {
    "matrix": "x",
    "row": "bias",
    "column": "x[:, :1]",
    "scalar": "x[0, 0]",
}
# How often each kind is drawn.
_KINDS = (
    ["activation"] * 8
    + ["function"] * 4
    + ["binary"] * 5
    + ["matrix"] * 4
    + ["guard", "normalise", "layout", "reduce"] * 2
    + ["cast", "dropout", "custom", "branch"]
)

_PREAMBLE = """
@tf.custom_gradient
def clip_gradient(x):
    return tf.identity(x), lambda dy: tf.clip_by_value(dy, -0.5, 0.5)


@tf.custom_gradient
def straight_through(x):
    return tf.sign(x) * tf.sqrt(tf.abs(x) + 0.1), lambda dy: dy * tf.exp(-tf.square(x))


@tf.custom_gradient
def own_swish(x):
    gate = tf.sigmoid(x)

    def gradient(dy):
        return dy * (gate + x * gate * (1.0 - gate))

    return x * gate, gradient


@tf.function(autograph=False)
def inner_mish(x):
    return x * tf.tanh(tf.nn.softplus(x))


ROWS, COLUMNS, DTYPE = {rows}, {columns}, tf.{dtype}
numbers = np.random.default_rng({seed})


def variable(*shape, scale=1.0):
    value = tf.constant(scale * numbers.standard_normal(shape), DTYPE)
    return tf.Variable(value)


weight = variable(COLUMNS, COLUMNS, scale=COLUMNS**-0.5)
other = variable(COLUMNS, COLUMNS, scale=COLUMNS**-0.5)
bias, scale = variable(COLUMNS, scale=0.1), variable(COLUMNS)
average = tf.Variable(tf.zeros([COLUMNS], DTYPE), trainable=False)
variables = [weight, other, bias, scale, average]
trained = variables[:4]
batch = [tf.constant(numbers.standard_normal((ROWS, COLUMNS)), DTYPE) for _ in range(2)]
"""

# Ways to differentiate. `{lines}` computes what `{out}` (a matrix) and `{all}` (a sum over
# everything) depend on.
_WAYS = {
    "one tape": """
with tf.GradientTape() as tape:
    tape.watch(x)
    {lines}
    loss = {all}
gradients = tape.gradient(loss, [*trained, x], unconnected_gradients="zero")
""",
    "two losses": """
with tf.GradientTape(persistent=True) as tape:
    tape.watch(x)
    {lines}
    loss = {all}
    second = tf.reduce_mean(tf.square({out} - t))
gradients = tape.gradient(loss, trained, unconnected_gradients="zero")
gradients += tape.gradient(second, [weight, x], unconnected_gradients="zero")
""",
    "list of losses": """
with tf.GradientTape() as tape:
    tape.watch(x)
    {lines}
    loss = {all}
gradients = tape.gradient([loss, {out}, {middle}], [*trained, x], unconnected_gradients="zero")
""",
    "gradient penalty": """
with tf.GradientTape() as outer:
    with tf.GradientTape() as tape:
        tape.watch(x)
        {lines}
        loss = {all}
    (inside,) = tape.gradient(loss, [x], unconnected_gradients="zero")
    total = loss + tf.reduce_sum(tf.square(inside))
gradients = outer.gradient(total, [*trained, x], unconnected_gradients="zero")
gradients.append(inside)
""",
    "output gradients": """
with tf.GradientTape() as tape:
    tape.watch(x)
    {lines}
    loss = {all}
gradients = tape.gradient(
    {out}, [*trained, x], output_gradients=t, unconnected_gradients="zero"
)
""",
    "computed output gradients": """
with tf.GradientTape(persistent=True) as tape:
    tape.watch(x)
    {lines}
    loss = {all}
gradients = tape.gradient(
    {out}, [*trained, x], output_gradients=tf.tanh({out}) * t, unconnected_gradients="zero"
)
gradients += tape.gradient(loss, [weight], unconnected_gradients="zero")
""",
    "no reduction": """
with tf.GradientTape() as tape:
    tape.watch(x)
    {lines}
    loss = {all}
gradients = tape.gradient({out}, [*trained, x], unconnected_gradients="zero")
""",
    "tf.gradients": """
{lines}
loss = {all}
gradients = tf.gradients(loss, [x, {middle}], unconnected_gradients="zero")
""",
    "tf.gradients of tf.gradients": """
{lines}
loss = {all}
(inside,) = tf.gradients(loss, [x], unconnected_gradients="zero")
gradients = tf.gradients(inside, [x], grad_ys=[t], unconnected_gradients="zero") + [inside]
""",
    "two steps": """
gradients = []
for number in range(2):
    with tf.GradientTape() as tape:
        tape.watch(x)
        {lines}
        loss = {all}
    some = tape.gradient(loss, [*trained, x], unconnected_gradients="zero")
    weight.assign_sub(0.01 * tf.clip_by_value(some[0], -1.0, 1.0))
    gradients += some
""",
    "assign before the backward pass": """
with tf.GradientTape() as tape:
    tape.watch(x)
    {lines}
    loss = {all}
    average.assign(0.9 * average + 0.1 * tf.reduce_mean({middle}, 0))
    weight.assign(0.99 * weight)
    bias.assign_add(0.01 * tf.ones_like(bias))
gradients = tape.gradient(loss, [*trained, x], unconnected_gradients="zero")
""",
    "loss scaling": """
with tf.GradientTape() as tape:
    tape.watch(x)
    {lines}
    loss = {all}
    scaled = loss * 1024.0
gradients = tape.gradient(scaled, [*trained, x], unconnected_gradients="zero")
gradients = [g / 1024.0 for g in gradients]
""",
    "forward over reverse": """
with tf.autodiff.ForwardAccumulator(x, t) as accumulator:
    with tf.GradientTape() as tape:
        tape.watch(x)
        {lines}
        loss = {all}
    gradients = tape.gradient(loss, [x], unconnected_gradients="zero")
gradients += [accumulator.jvp(gradients[0], unconnected_gradients="zero")]
""",
}
_USUAL = ("one tape", "two losses", "list of losses", "assign before the backward pass")


@dataclasses.dataclass(frozen=True)
class Program:
    """A training step.

    Attributes:
        lines: Source of the forward pass: line i makes `h<i>`.
        kinds: What each of them makes: a matrix, a row, a column or a scalar.
        way: How it is differentiated.
        returns: Whether it returns activations too.
        rows: Of its matrices.
        columns: Of its matrices.
        dtype: Name of the dtype of its variables.
        seed: Of its numbers.
        dynamic: Whether the number of rows is unknown when it is traced.
        min_bytes: Which tensors the rewrite may touch.
        grappler: Whether TensorFlow's own graph optimizer runs.
    """

    lines: tuple[str, ...]
    kinds: tuple[str, ...]
    way: str
    returns: bool
    rows: int
    columns: int
    dtype: str
    seed: int
    dynamic: bool
    min_bytes: int
    grappler: bool

    @property
    def half(self) -> bool:
        """Whether something in it has half precision."""
        return "float16" in self.dtype + self.step or "bfloat16" in self.dtype + self.step

    @property
    def setup(self) -> str:
        """Source that makes the variables and the batch."""
        return _PREAMBLE.format(
            rows=self.rows, columns=self.columns, dtype=self.dtype, seed=self.seed
        )

    @property
    def step(self) -> str:
        """Source of the function `step(x, t)`."""
        named = [(f"h{i}", kind) for i, kind in enumerate(self.kinds)]
        matrices = [name for name, kind in named if kind == "matrix"][-3:]
        middle, out = ["x", "x", *matrices][-2:]
        losses = [f"tf.reduce_mean({name})" for name in matrices]
        # Values that nothing reads would be pruned: give them a loss of their own.
        for i, line in enumerate(self.lines):
            if not any(re.search(rf"\bh{i}\b", later) for later in self.lines[i + 1 :]):
                losses.append(f"0.1 * tf.reduce_sum(tf.sin({line.split(' = ')[0]}))")
        template = _WAYS[self.way].strip("\n")
        indent = next(t for t in template.splitlines() if "{lines}" in t).partition("{")[0]
        body = template.format(
            lines=f"\n{indent}".join(self.lines), all=" + ".join(losses), out=out, middle=middle
        )
        if self.way in ("one tape", "two losses"):
            body += "\nweight.assign_sub(0.1 * tf.clip_by_value(gradients[0], -1.0, 1.0))"
        body += "\nreturn loss, *gradients" + (f", {middle}, {out}" if self.returns else "")
        return "def step(x, t):\n" + textwrap.indent(body, "    ") + "\n"

    def script(self, options: nfad.Options) -> str:
        """A script that shows what it gives without and with a rewrite."""
        signature = "[tf.TensorSpec([None, COLUMNS], DTYPE)] * 2" if self.dynamic else "None"
        switch = {"disable_meta_optimizer": not self.grappler}
        return "\n".join(
            [
                "import numpy as np",
                "import tensorflow as tf",
                "",
                "import nested_fad_tf as nfad",
                "",
                f"tf.config.optimizer.set_experimental_options({switch})",
                self.setup,
                self.step,
                f"options = nfad.{options}",
                f"keywords = dict(input_signature={signature}, autograph=False)",
                "before = [v.numpy() for v in variables]",
                "for wrap in tf.function, lambda f, **k: nfad.function(f, options=options, **k):",
                "    for v, value in zip(variables, before):",
                "        v.assign(value)",
                "    print(wrap(step, **keywords)(*batch))",
            ]
        )


class _Writer:
    """Draws the lines of a forward pass."""

    def __init__(self, rng: random.Random, kinds: Sequence[str]) -> None:
        self._pick = rng.choice
        self._kinds_drawn = kinds
        # Plain division makes most of what follows infinite: leave it to some of the programs.
        self._binary = _BINARY if rng.random() < 0.1 else [t for t in _BINARY if t != _DIVISION]
        self.lines: list[str] = []
        self._kind_of = {"x": "matrix", "t": "matrix", "bias": "row"}

    @property
    def kinds(self) -> tuple[str, ...]:
        """What each line makes."""
        return tuple(self._kind_of.values())[-len(self.lines) :]

    def _value(self, *kinds: str) -> str:
        names = [n for n, kind in self._kind_of.items() if kind in kinds]
        return self._pick(names + 3 * names[-4:])  # most graphs are deep rather than wide

    def add(self) -> None:
        """Adds a line."""
        kind = self._pick(self._kinds_drawn)
        if kind == "binary":
            operands = [self._value("matrix"), self._value("matrix", "row", "column", "scalar")]
            a, b = operands[:: self._pick((1, -1))]
            text, made = self._pick(self._binary).format(a=a, b=b), "matrix"
        elif kind == "reduce":
            made = self._pick(list(_REDUCE))
            text = self._pick(_REDUCE[made]).format(a=self._value("matrix"))
        elif kind in _OF_MATRIX:
            text, made = self._pick(_OF_MATRIX[kind]).format(a=self._value("matrix")), "matrix"
        else:
            operand = self._value(*self._pick((("matrix",), ("matrix", "row", "column"))))
            made = self._kind_of[operand]
            text = self._pick(_ALONE[kind]).format(a=operand, k=len(self.lines))
        name = f"h{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        self._kind_of[name] = made


def program(seed: int, dtypes: Sequence[str] = ("float32",), most: int = 16) -> Program:
    """Writes the training step of a number.

    Args:
        seed: Any number.
        dtypes: Names of the dtypes that its variables may have.
        most: How many lines its forward pass has at most.

    Returns:
        The program.
    """
    rng = random.Random(seed)
    way = rng.choice([*_WAYS, *_USUAL * 3])
    # TensorFlow can't differentiate branches in all these ways.
    kinds = [kind for kind in _KINDS if kind != "branch" or way in _USUAL]
    writer = _Writer(rng, kinds)
    for _ in range(rng.randint(min(8, most), most)):
        writer.add()
    if way not in _USUAL:  # SoftsignGrad can't be differentiated again
        writer.lines = [line.replace("softsign", "softplus") for line in writer.lines]
    return Program(
        tuple(writer.lines),
        writer.kinds,
        way=way,
        returns=rng.random() < 0.5,
        rows=rng.choice([32, 40, 7]),
        columns=rng.choice([24, 32, 13]),
        dtype=rng.choice(dtypes),
        seed=rng.randint(0, 99),
        dynamic=rng.random() < 0.4,
        min_bytes=rng.choice([256, 1024, 1]),
        grappler=rng.random() < 0.5,
    )


def programs(dtypes: Sequence[str] = ("float32",), most: int = 16) -> st.SearchStrategy[Program]:
    """Hypothesis' strategy for programs.

    Hypothesis draws a number only: of choices drawn one by one, most of its examples are the
    simplest ones and their mutations. `shrink` makes a counterexample small instead.

    Args:
        dtypes: Names of the dtypes that their variables may have.
        most: How many lines their forward passes have at most.

    Returns:
        The strategy.
    """
    return st.integers(0, 2**63 - 1).map(lambda seed: program(seed, dtypes, most))


def shrink(failing: Program, fails: Callable[[Program], bool]) -> Program:
    """Makes a counterexample smaller: lines become trivial, settings the usual ones.

    Args:
        failing: A program that fails.
        fails: Whether another one fails too.

    Returns:
        The smallest one found that still fails.
    """
    usual = {"returns": False, "grappler": True, "dynamic": False, "way": "one tape"}
    for name, value in usual.items():
        simpler = dataclasses.replace(failing, **{name: value})
        if simpler != failing and fails(simpler):
            failing = simpler
    for index in reversed(range(len(failing.lines))):
        trivial = f"h{index} = {_TRIVIAL[failing.kinds[index]]}"
        lines = [*failing.lines[:index], trivial, *failing.lines[index + 1 :]]
        simpler = dataclasses.replace(failing, lines=tuple(lines))
        if simpler != failing and fails(simpler):
            failing = simpler
    return failing


@dataclasses.dataclass(frozen=True)
class Run:
    """What a program did.

    Attributes:
        results: By name: every returned tensor of every call, and every variable afterwards.
        function: What it was run with.
    """

    results: Mapping[str, np.ndarray]
    function: Any


def run(program: Program, wrap: Callable[..., Any], nudge: float = 0.0) -> Run:
    """Runs a program twice (the second time on fewer rows if it is dynamic).

    Args:
        program: The program.
        wrap: `tf.function` or what replaces it.
        nudge: Relative change of the inputs, to see how much rounding matters.

    Returns:
        What it gave.
    """
    names: dict[str, Any] = {"np": np, "tf": tf}
    exec(program.setup + program.step, names)
    spec = tf.TensorSpec([None, names["COLUMNS"]], names["DTYPE"])
    signature = [spec] * 2 if program.dynamic else None
    function = wrap(names["step"], input_signature=signature, autograph=False)
    batch = [x * tf.cast(1.0 + nudge, x.dtype) for x in names["batch"]]
    results = {}
    with optimizer(program.grappler):
        for call in range(2):
            outputs = function(*batch)
            results |= {f"call {call}, output {i}": _array(t) for i, t in enumerate(outputs)}
            batch = [x[1:] for x in batch] if program.dynamic else batch
    results |= {f"variable {i}": _array(v) for i, v in enumerate(names["variables"])}
    return Run(results, function)


def _array(tensor: Any) -> np.ndarray:
    array = tensor.numpy()
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


@contextlib.contextmanager
def optimizer(enabled: bool) -> Iterator[None]:
    """Turns TensorFlow's graph optimizer on or off.

    Args:
        enabled: Whether it runs.

    Yields:
        Nothing.
    """
    options = tf.config.optimizer
    options.set_experimental_options({"disable_meta_optimizer": not enabled})
    try:
        yield
    finally:
        options.set_experimental_options({"disable_meta_optimizer": False})


@contextlib.contextmanager
def eager(forced: bool = False) -> Iterator[None]:
    """Lets small groups be fused, although calling them takes longer than running their ops.

    Args:
        forced: Whether plans that lower no peak are carried out, too.

    Yields:
        Nothing.
    """
    with contextlib.ExitStack() as stack:
        for name in ("_LEAST_SAVED", "_LEAST_SAVED_BY_KIND"):
            stack.enter_context(mock.patch.object(groups, name, 1))
        for module in (auto, forward_ad) if forced else ():
            stack.enter_context(mock.patch.object(module, "worthwhile", lambda *_: True))
        yield


def difference(
    plain: Run,
    rewritten: Run,
    relative: float,
    nudged: Run | None = None,
    *,
    special: bool = True,
    least: float = 0.0,
) -> str | None:
    """Says where two runs differ by more than rounding.

    Args:
        plain: The run to compare with.
        rewritten: The other one.
        relative: Tolerated difference, relative to a tensor's largest entry; 0 for bit equality.
        nudged: The first one with its inputs changed a little: it shows how much rounding matters.
        special: Whether infinities and NaNs have to be the same ones.
        least: What to take for a tensor's largest entry if that is smaller.

    Returns:
        The first difference, `None` if there is none.
    """
    for name, expected in plain.results.items():
        actual = rewritten.results[name]
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            return f"{name}: {expected.dtype}{expected.shape}, {actual.dtype}{actual.shape}"
        finite = np.isfinite(expected)
        same = np.array_equal(expected[~finite], actual[~finite], equal_nan=True)
        if special and not same:
            return f"{name}: other special values"
        if not np.isfinite(actual[finite]).all():
            return f"{name}: {(~np.isfinite(actual[finite])).sum()} values are not finite now"
        largest = float(np.abs(expected[finite]).max(initial=0.0))
        allowed = relative * max(largest, least)
        if nudged is not None and relative:
            moved = np.abs(nudged.results[name][finite] - expected[finite])
            allowed += 30 * float(np.nan_to_num(moved, nan=math.inf).max(initial=0.0))
        error = float(np.abs(actual[finite] - expected[finite]).max(initial=0.0))
        if error > allowed:
            return f"{name}: differs by {error:.3g}, largest entry {largest:.3g}"
    return None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of comparing a program with its rewrite.

    Attributes:
        changed: Whether it was rewritten.
        identical: Whether every result is equal bit by bit.
        problem: What is wrong; empty if nothing is.
    """

    changed: bool
    identical: bool
    problem: str = ""


def compare(program: Program, options: nfad.Options, forced: bool = False) -> Outcome:
    """Runs a program with and without the rewrite.

    Args:
        program: The program.
        options: What the rewrite may do; `on_error` and `min_bytes` are overridden.
        forced: Whether plans that lower no peak are carried out, too.

    Returns:
        What came of it.
    """
    options = options.replace(on_error="raise", min_bytes=program.min_bytes)
    plain = run(program, tf.function)
    try:
        with eager(forced):
            rewritten = run(program, functools.partial(nfad.function, options=options))
    except Exception as error:  # whatever it is: plain TensorFlow didn't raise it
        return Outcome(False, False, f"{type(error).__name__}: {error}")
    changed = any(report.changed for report in rewritten.function.reports)
    for report in rewritten.function.reports:
        if report.predicted_peak_after > report.predicted_peak_before and not forced:
            return Outcome(changed, False, "the predicted peak rises")
    if difference(plain, rewritten, 0.0) is None:
        return Outcome(changed, True)
    # XLA's selects turn some products of zero and infinity into zero, as do derivatives that mask;
    # and where TensorFlow's graph optimizer reorders factors, half precision overflows elsewhere.
    recomputes = options.strategy != "forward_ad"
    special = options.fuse == "ops" and recomputes and not _reorders_halves(program)
    tolerance = _tolerance(program, options)
    found = difference(plain, rewritten, tolerance, special=special)
    if found:
        nudged = run(program, tf.function, nudge=_NUDGE[program.dtype])
        found = difference(plain, rewritten, tolerance, nudged, special=special)
    if found and program.grappler:
        # Is it the graph optimizer's doing? Without it the runs have to agree as before, and with
        # it by and large.
        as_traced = compare(dataclasses.replace(program, grappler=False), options, forced)
        loose = _OPTIMIZED["bfloat16" if program.half else program.dtype]
        found = as_traced.problem or difference(plain, rewritten, loose, special=special, least=1.0)
    return Outcome(changed, False, found or "")


_NUDGE = {"float64": 4e-16, "float32": 2e-7, "bfloat16": 8e-3, "float16": 1e-3}
_EXACT = {"float64": 4e-15, "float32": 1e-6, "bfloat16": 1.6e-2, "float16": 2e-3}
# Where terms cancel, the graph optimizer's reordering and fusing (with oneDNN) leaves less.
_OPTIMIZED = {"float64": 1e-10, "float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
_CLOSE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 5e-2, "float16": 1e-2}


def _reorders_halves(program: Program) -> bool:
    return program.half and program.grappler


def _tolerance(program: Program, options: nfad.Options) -> float:
    """The tolerated difference, relative to a tensor's largest entry.

    Recomputation by the same kernels gives the same bits, but for two things: TensorFlow's graph
    optimizer fuses and reorders differently in a graph that has more readers, and AddN adds first
    what it may overwrite, which depends on who else reads it. Derivatives are multiplied in another
    order, and XLA has approximations of its own and keeps half-precision values in float32.
    """
    if options.fuse == "ops" and options.strategy != "forward_ad":
        return max(_EXACT[program.dtype], _EXACT["bfloat16"] * _reorders_halves(program))
    return max(_CLOSE[program.dtype], _CLOSE["bfloat16"] * program.half)
