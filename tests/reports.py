"""Reports to show: of a step that is traced here, and of names that nobody would choose."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from traced import mish

import nested_fad_tf as nfad
from nested_fad_tf.report.neighbours import Neighbour
from nested_fad_tf.report.summary import ChainReport, Kept, Report

OPTIONS = nfad.Options(fuse="ops", min_bytes=256, on_error="raise")
NASTY = "</script><img src=x onerror=alert(1)>&'\""


def step_report(
    depth: int = 4,
    activation: Any = mish,
    shape: tuple[int, int] = (32, 32),
    loss_of: Any = tf.reduce_sum,
    **options: Any,
) -> Report:
    """A report on `depth` layers of that activation, on tensors of that shape."""
    rows, width = shape

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = x
            for i in range(depth):
                with tf.name_scope(f"block/layer_{i}"):
                    y = activation(y @ w)
            loss = loss_of(y)
        return loss, tape.gradient(loss, w)

    specs = tf.TensorSpec([rows, width]), tf.TensorSpec([width, width])
    return nfad.explain(step, *specs, options=OPTIONS.replace(**options))


def derivative_report() -> Report:
    """A report on layers of which derivatives are kept, each of 512 KiB."""
    return step_report(
        activation=tf.nn.gelu,
        shape=(512, 256),
        loss_of=lambda y: tf.reduce_sum(y * y),
        strategy="forward_ad",
        fuse="xla",
    )


def saved_model_report(*functions: Report) -> Report:
    """A report on functions, as that on a SavedModel."""
    from nested_fad_tf.report.building import combined

    return combined("model", functions, [("serve", functions)], "auto", 0.5)


def nasty_report() -> Report:
    """Names that would end elements, attributes or strings."""
    kept = Kept(f"{NASTY}/op:0", NASTY, NASTY, (2, None), NASTY, 4096, NASTY)
    ops = (
        Neighbour(NASTY, NASTY, "input", NASTY, 8, "both", ()),
        Neighbour(NASTY, NASTY, "chain", NASTY, 8, "before", (0,)),
    )
    chain = ChainReport(NASTY, (NASTY,), NASTY, 8, 4, NASTY, (f"y = {NASTY}", f"a: {NASTY}"), ops)
    return Report(
        NASTY, True, NASTY, NASTY, (chain,), (kept,), 8192, 4096,
        functions=(), kept_before=(kept,), gradient_seeds=(NASTY,),
    )  # fmt: skip


def large_report(layers: int = 60, tensors: int = 20) -> Report:
    """As many tensors and chains as a model of ten thousand ops keeps."""
    kept = tuple(
        Kept(f"{layer}/op_{n}:0", layer, "Mul", (64, 128), "float32", 32768 + n, "read")
        for layer in (f"model/block_{i}/dense" for i in range(layers))
        for n in range(tensors)
    )
    ops = tuple(
        Neighbour(f"op_{n}", "Mul", "chain", "float32[64,128]", 32768, "", (n - 1,) if n else ())
        for n in range(18)
    )
    chains = tuple(
        ChainReport(f"model/block_{i}/dense", ("Mul",) * 18, "recompute", 65536 + i, 0, "18 ops",
                    ("y = a · b", "a: x"), ops)
        for i in range(10 * layers)
    )  # fmt: skip
    return Report(
        "large", True, "", "auto", chains, kept[::2], 10**8, 5 * 10**7, 10**8, 5 * 10**7,
        10**4, 10**4, kept_before=kept, gradient_seeds=("ones:0",),
    )  # fmt: skip
