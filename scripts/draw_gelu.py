#!/usr/bin/env python
"""Draws the figures of docs/how_it_works.md: one GELU from traced graph to cut to fused ops.

    pip install -e .[plots]
    scripts/draw_gelu.py                    docs/images/gelu_{graph,cut,fused,memory}.svg

Ops, edges, roles, what is kept, what is computed again and the memory are read off the package's
view and plan of the step; only where a box lies, and what its op computes, is written down here.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import matplotlib

matplotlib.use("svg")  # No display is needed, and the text stays text.
import matplotlib.pyplot as plt
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch

import nested_fad_tf as nfad
from nested_fad_tf import pipeline
from nested_fad_tf.graph.nodes import Node
from nested_fad_tf.graph.roles import Roles, find_roles
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.plan.plan import Plan

_REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
_MIB = 2**20
_GRADIENT = "gradient_tape/"
_LAYER = "Gelu_1"

# Where the box of each op of the layer lies, and what the op computes.
_BOXES: Mapping[str, tuple[float, float, str]] = {
    "matmul_1": (0, 3.4, "a"),
    f"{_LAYER}/mul": (4.4, 4.0, "a/2"),
    f"{_LAYER}/Neg": (1.35, 3.0, "-a"),
    f"{_LAYER}/mul_1": (2.7, 3.0, "-a/√2"),
    f"{_LAYER}/Erfc": (4.05, 3.0, "erfc(-a/√2)"),
    f"{_LAYER}/mul_2": (5.6, 3.4, "h"),
    "matmul_2": (7.1, 3.4, "next layer"),
    f"{_GRADIENT}{_LAYER}/Square": (0.75, 2.05, "a²/2"),
    f"{_GRADIENT}{_LAYER}/Neg": (1.95, 2.05, "-a²/2"),
    f"{_GRADIENT}{_LAYER}/Exp": (3.15, 2.05, "exp(-a²/2)"),
    f"{_GRADIENT}matmul_2/MatMul_1": (7.1, 2.05, "∂ weights"),
    f"{_GRADIENT}matmul_2/MatMul": (7.1, 0.6, "∂h"),
    f"{_GRADIENT}{_LAYER}/mul_2/Mul": (5.6, 0.2, "∂(a/2)"),
    f"{_GRADIENT}{_LAYER}/mul_2/Mul_1": (5.6, 1.0, "∂ erfc"),
    f"{_GRADIENT}{_LAYER}/mul": (4.05, 1.0, "· -2/√π"),
    f"{_GRADIENT}{_LAYER}/mul_1": (2.7, 1.0, "∂(-a/√2)"),
    f"{_GRADIENT}{_LAYER}/mul_1/Mul": (1.35, 1.25, "∂(-a)"),
    f"{_GRADIENT}{_LAYER}/Neg_1": (1.35, 0.6, "∂a, one part"),
    f"{_GRADIENT}{_LAYER}/mul/Mul": (4.05, 0.2, "∂a, the other"),
    "AddN_3": (0, 0.6, "∂a"),
}
_ROLES = {"forward": "#d6e4f0", "unclaimed": "#efe3c2", "cotangent": "#ead4dc"}
_KEPT, _AGAIN, _LINE = "#b3412f", "#2f6f9f", "#4a5560"
_WIDTH, _HEIGHT = 1.06, 0.5


@dataclasses.dataclass(frozen=True)
class Step:
    """The step of docs/how_it_works.md, and what the package makes of it."""

    view: GraphView
    roles: Roles
    plan: Plan


def trace() -> Step:
    """Traces four GELU layers of width 512 with 4096 examples, and plans their rewrite."""
    weights = [tf.Variable(tf.zeros([512, 512])) for _ in range(4)]

    def step(x: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            h = x
            for w in weights:
                h = tf.nn.gelu(h @ w)
            loss = tf.reduce_sum(h * h)
        return tape.gradient(loss, weights)

    spec = tf.TensorSpec([4096, 512])
    view = GraphView.from_func_graph(tf.function(step).get_concrete_function(spec).graph)
    roles = find_roles(view)
    return Step(view, roles, pipeline.make_plan(view, roles, nfad.Options()))


def draw_graph(step: Step, axes: Axes) -> None:
    """The traced graph of one layer: roles, and what plain TensorFlow keeps."""
    kept = {k.value.node.id: k.nbytes for k in step.plan.kept_before}
    _draw_layer(step, axes, kept, collections.Counter())
    axes.legend(handles=[*_role_patches(), _edge("kept by TensorFlow", _KEPT)], **_LEGEND)


def draw_cut(step: Step, axes: Axes) -> None:
    """The same ops after the cut: what is kept now, and what is computed again."""
    kept = {k.value.node.id: k.nbytes for k in step.plan.kept_after}
    again = collections.Counter(node.origin.id for node in step.plan.rewrite.nodes if node.origin)
    _draw_layer(step, axes, kept, again)
    handles = [*_role_patches(), _edge("kept now", _KEPT), _edge("computed again", _AGAIN)]
    axes.legend(handles=handles, **_LEGEND)


def draw_fused(step: Step, axes: Axes) -> None:
    """What runs in the end: matrix products, and groups of ops compiled into one."""
    groups = [g for g in step.plan.rewrite.groups if f"{_LAYER}/" in g.nodes[0].name]
    forward, copy, backward = sorted(groups, key=lambda g: (len(g.nodes), g.nodes[0].id))
    nodes = {node.name: node for node in step.view.nodes}
    kept = {k.value.node.id: k.nbytes for k in step.plan.kept_after}
    places = {
        nodes["matmul_1"].id: (0.0, 2.4, "MatMul\na"),
        forward.outputs[0].node.id: (2.4, 2.4, f"{len(forward.nodes)} ops in one\na → h"),
        nodes["matmul_2"].id: (4.8, 2.4, "MatMul\nnext layer"),
        copy.outputs[0].node.id: (2.4, 1.4, f"{len(copy.nodes)} ops in one\na → h, again"),
        nodes[f"{_GRADIENT}matmul_2/MatMul_1"].id: (4.8, 1.4, "MatMul\n∂ weights"),
        nodes[f"{_GRADIENT}matmul_2/MatMul"].id: (4.8, 0.4, "MatMul\n∂h"),
        backward.outputs[0].node.id: (2.4, 0.4, f"{len(backward.nodes)} ops in one\na, ∂h → ∂a"),
    }
    for group, color in ((forward, "forward"), (copy, "forward"), (backward, "cotangent")):
        target = group.outputs[0].node
        for value in group.inputs:
            if value.node.id in places:
                _arrow(axes, places[value.node.id][:2], places[target.id][:2])
        _box(axes, *places[target.id], _ROLES[color])
    for name in (
        "matmul_1",
        "matmul_2",
        f"{_GRADIENT}matmul_2/MatMul_1",
        f"{_GRADIENT}matmul_2/MatMul",
    ):
        node = nodes[name]
        for index, value in enumerate(node.inputs):
            value = step.plan.rewrite.redirects.get((node.id, index), value)
            if value.node.id in places:
                _arrow(axes, places[value.node.id][:2], places[node.id][:2])
        role = step.roles.of(node).value
        _box(axes, *places[node.id], _ROLES[role], kept=kept.get(node.id))
    x, y, _ = places[backward.outputs[0].node.id]
    _arrow(axes, (x, y), (0, y))
    axes.text(0, y, "∂a, to the layer before", ha="center", va="center", fontsize=7.5)
    _frame(axes, 5.5, 3.0)


def draw_memory(step: Step, axes: Axes) -> None:
    """The simulated memory of the whole step, op by op."""
    series = (
        ("plain TensorFlow", step.plan.before, "#9aa5b1"),
        ("rewritten", step.plan.after, _AGAIN),
    )
    for label, lifetimes, color in series:
        mib = [nbytes / _MIB for nbytes in lifetimes.timeline]
        share = [100 * (i + 1) / len(mib) for i in range(len(mib))]
        peak = lifetimes.peak_bytes // _MIB
        axes.fill_between(share, mib, step="post", color=color, alpha=0.35, linewidth=0)
        axes.step(share, mib, where="post", color=color, label=f"{label}: peak {peak} MiB")
        axes.axhline(peak, color=color, linewidth=0.8, linestyle=":")
    axes.set_xlabel("ops that have run, in percent of the step's")
    axes.set_ylabel("MiB above weights and inputs")
    axes.set_xlim(0, 100)
    axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper right")


_LEGEND = {"loc": "upper center", "bbox_to_anchor": (0.5, 1.02), "ncols": 5, "frameon": False}


def _draw_layer(
    step: Step, axes: Axes, kept: Mapping[int, int], again: collections.Counter[int]
) -> None:
    nodes = {node.name: node for node in step.view.nodes if node.name in _BOXES}
    for node in nodes.values():
        for value in node.inputs:
            if value.node.name in _BOXES:
                crossing = _AGAIN if again[value.node.id] else _KEPT
                color = crossing if _crosses(step, value.node, node) else _LINE
                _arrow(axes, _BOXES[value.node.name][:2], _BOXES[node.name][:2], color)
    for name, node in nodes.items():
        x, y, formula = _BOXES[name]
        color = _ROLES[step.roles.of(node).value]
        text = f"{node.op_type}\n{formula}"
        _box(axes, x, y, text, color, kept=kept.get(node.id), again=again[node.id])
    _frame(axes, 7.7, 4.7)


def _crosses(step: Step, writer: Node, reader: Node) -> bool:
    """Whether an edge leads out of the forward pass."""
    return step.roles.of(writer).value == "forward" and step.roles.of(reader).value != "forward"


def _box(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    color: str,
    *,
    kept: int | None = None,
    again: int = 0,
) -> None:
    edge = _KEPT if kept else _AGAIN if again else _LINE
    corner = (x - _WIDTH / 2, y - _HEIGHT / 2)
    style = {"facecolor": color, "edgecolor": edge, "linewidth": 2.2 if kept or again else 0.8}
    shape = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, _WIDTH, _HEIGHT, boxstyle=shape, zorder=2, **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=7.5, zorder=3)
    note = f"kept: {kept // _MIB} MiB" if kept else f"again: {again}x" if again else ""
    axes.text(x, y + _HEIGHT / 2 + 0.03, note, ha="center", va="bottom", fontsize=7, color=edge)


def _arrow(axes: Axes, start: Sequence[float], end: Sequence[float], color: str = _LINE) -> None:
    """From the edge of the box around one point to the edge of the box around another."""
    style = {"arrowstyle": "-|>", "color": color, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 1}
    tail, head = _toward(start, end), _toward(end, start)
    axes.annotate("", head, tail, arrowprops=style, zorder=1)


def _toward(center: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Where the line from a box's centre to another one leaves the box."""
    dx, dy = other[0] - center[0], other[1] - center[1]
    share = 1 / max(abs(dx) / (_WIDTH / 2), abs(dy) / (_HEIGHT / 2))
    return center[0] + share * dx, center[1] + share * dy


def _role_patches() -> list[Patch]:
    return [Patch(facecolor=color, edgecolor=_LINE, label=role) for role, color in _ROLES.items()]


def _edge(label: str, color: str) -> Patch:
    return Patch(facecolor="white", edgecolor=color, linewidth=2.2, label=label)


def _frame(axes: Axes, right: float, top: float) -> None:
    axes.set_xlim(-0.6, right)
    axes.set_ylim(-0.15, top)
    axes.axis("off")


FIGURES: Mapping[str, tuple[Callable[[Step, Axes], None], tuple[float, float]]] = {
    "gelu_graph": (draw_graph, (9, 4.6)),
    "gelu_cut": (draw_cut, (9, 4.6)),
    "gelu_fused": (draw_fused, (7, 2.9)),
    "gelu_memory": (draw_memory, (7.5, 3)),
}


def draw_all(folder: pathlib.Path) -> None:
    """Draws every figure.

    Args:
        folder: Where to; made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Same input, same file: no random ids, no date.
    plt.rcParams.update({"svg.hashsalt": "nested_fad_tf", "svg.fonttype": "none", "font.size": 8.5})
    step = trace()
    for name, (draw, size) in FIGURES.items():
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(step, axes)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        plt.close(figure)


def main() -> None:
    """Reads the command line and draws."""
    parser = argparse.ArgumentParser(description="Draws the figures of docs/how_it_works.md.")
    default = _REPOSITORY / "docs/images"
    parser.add_argument("--out", type=pathlib.Path, default=default, help=f"default: {default}")
    folder = parser.parse_args().out
    draw_all(folder)
    print(f"{len(FIGURES)} figures -> {folder}")


if __name__ == "__main__":
    main()
