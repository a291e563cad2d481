"""Chains of element-wise ops written as formulas."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from nested_fad_tf.graph.nodes import Node, Value, describe
from nested_fad_tf.graph.view import GraphView
from nested_fad_tf.report.neighbours import readers

_INFIX = {
    "Add": "+", "AddV2": "+", "AddN": "+", "BiasAdd": "+", "Sub": "-", "Mul": "·", "RealDiv": "/",
    "Pow": "^", "Equal": "==", "NotEqual": "!=", "Greater": ">", "GreaterEqual": "≥", "Less": "<",
    "LessEqual": "≤", "LogicalAnd": "and", "LogicalOr": "or",
}  # fmt: skip
_NAMES = {"SelectV2": "where", "Select": "where", "Neg": "-", "LogicalNot": "not "}
_LINES = 16
# A part that is longer gets a line of its own.
_LONGEST_PART = 60
# A value in a formula, and whether it needs brackets inside another one.
_Text = tuple[str, bool]


def formula_of(view: GraphView, nodes: Sequence[Node], backward: Sequence[bool]) -> tuple[str, ...]:
    """Writes a chain as equations.

    Args:
        view: The graph.
        nodes: The ops of the chain, in order, each with one output.
        backward: Per node id, whether it is part of the backward pass.

    Returns:
        Lines: the equations, then what the letters stand for. Results are called y, and d what
        only the backward pass reads: a derivative.
    """
    return _Writer(view, nodes, backward).lines()


class _Writer:
    def __init__(self, view: GraphView, nodes: Sequence[Node], backward: Sequence[bool]) -> None:
        self._view = view
        self._nodes = nodes
        self._backward = backward
        self._uses = Counter(v.storage.id for node in nodes for v in node.inputs)
        self._texts: dict[int, _Text] = {}
        self._inputs: dict[int, str] = {}
        self._equations: list[str] = []

    def lines(self) -> tuple[str, ...]:
        members = {node.id for node in self._nodes}
        names: dict[int, str] = {}
        for letter, forward in (("y", True), ("d", False)):
            found = [n for n in self._nodes if self._leaves(n, members, forward)]
            numbers = [""] if len(found) == 1 else range(1, len(found) + 1)
            names |= {n.id: f"{letter}{i}" for n, i in zip(found, numbers, strict=True)}
        for node in self._nodes:
            text = self._applied(node)
            own = names.get(node.id)
            value = node.outputs[0].id
            if own is None and (self._uses[value] > 1 or len(text[0]) > _LONGEST_PART):
                own = f"t{sum(line.startswith('t') for line in self._equations) + 1}"
            if own is None:
                self._texts[value] = text
            else:
                self._equations.append(f"{own} = {text[0]}")
                self._texts[value] = own, False
        where = {letter: self._described(id) for id, letter in self._inputs.items()}
        where |= {names[n.id]: repr(n.outputs[0]) for n in self._nodes if n.id in names}
        shown = _cut(self._equations)
        used = set(re.findall(r"[a-z]+\d*", " ".join(shown)))
        return (*shown, *_cut([f"{key}: {text}" for key, text in where.items() if key in used]))

    def _leaves(self, node: Node, members: set[int], forward: bool) -> bool:
        """Whether the forward pass goes on with a value, or only the backward pass reads it."""
        found = list(readers(self._view, node.outputs[0]))
        ahead = [r for r in found if not self._backward[r.id]]
        if forward:
            return not found or any(r.id not in members for r in ahead)
        return bool(found) and not ahead

    def _applied(self, node: Node) -> _Text:
        args = [self._text(v) for v in node.inputs]
        if node.op_type in _INFIX and len(args) > 1:
            bracketed = [f"({text})" if composed else text for text, composed in args]
            return f" {_INFIX[node.op_type]} ".join(bracketed), True
        if node.op_type in ("Square", "Neg") and args:
            text = f"({args[0][0]})" if args[0][1] else args[0][0]
            return (f"{text}²", False) if node.op_type == "Square" else (f"-{text}", True)
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.op_type).lower()
        name = _NAMES.get(node.op_type, snake)
        return f"{name}({', '.join(text for text, _ in args)})", False

    def _text(self, value: Value) -> _Text:
        root = value.storage
        if root.id in self._texts:
            return self._texts[root.id]
        number = self._view.constant(root)
        if number is not None and number.size == 1 and number.dtype.kind in "biuf":
            return f"{number.item():.6g}", False
        if root.id not in self._inputs:
            self._inputs[root.id] = _letter(len(self._inputs))
        return self._inputs[root.id], False

    def _described(self, id: int) -> str:
        value = self._view.values[id]
        node = value.node
        if node.op_type == "ReadVariableOp":
            return f"{node.inputs[0].node.name} {describe(value.dtype, value.shape)} (variable)"
        return repr(value)


def _letter(index: int) -> str:
    letters = "abcdefghijklmnopqrs"
    return letters[index] if index < len(letters) else f"x{index}"


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= _LINES:
        return lines
    return [*lines[: _LINES - 1], f"... and {len(lines) - _LINES + 1} more"]
