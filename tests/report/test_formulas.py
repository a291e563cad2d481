import pytest
import tensorflow as tf
from traced import SQUARE, candidates_of, view_of

from nested_fad_tf.plan.chains import find_chains
from nested_fad_tf.report.formulas import formula_of
from nested_fad_tf.report.neighbours import neighbours_of


def forward_formula(activation):
    """The equations of an activation between two products."""
    view = view_of(lambda x, w: activation(x @ w) @ w, SQUARE, SQUARE)
    inside = [n for n in view.nodes if n.op_type not in ("MatMul", "Placeholder", "Const")]
    nodes = [n for n in inside if n.op_type not in ("Identity", "NoOp", "Reshape")]
    return formula_of(view, nodes, [False] * len(view.nodes))


@pytest.mark.parametrize(
    ("activation", "equations"),
    [
        (lambda a: tf.tanh(a) * a, ["y = tanh(a) · a"]),
        (lambda a: tf.where(a > 0.0, a, -a), ["y = where(a > 0, a, -a)"]),
        (lambda a: tf.exp(-(tf.square(a + 1.0))), ["y = exp(-(a + 1)²)"]),
        (lambda a: tf.square(a) / 2.5, ["y = a² / 2.5"]),
        (lambda a: tf.exp(a) + tf.tanh(tf.exp(a) * 3.0), ["y = exp(a) + tanh(exp(a) · 3)"]),
        # What is used twice is computed once.
        (lambda a: (t := tf.exp(a)) / (1.0 + t), ["t1 = exp(a)", "y = t1 / (1 + t1)"]),
        # Another shape is the same value.
        (
            lambda a: tf.reshape(tf.tanh(tf.reshape(tf.exp(a), [-1])), [128, 128]),
            ["y = tanh(exp(a))"],
        ),
    ],
)
def test_equations(activation, equations):
    lines = forward_formula(activation)
    found = [line for line in lines if " = " in line]
    assert found == equations
    assert any(line.startswith("a: matmul:0 float32[128,128]") for line in lines)
    assert any(line.startswith("y: ") for line in lines)


def test_a_long_chain_is_cut_off_and_so_are_its_letters():
    def step(a):
        for i in range(60):
            a = tf.exp(a) / (1.0 + tf.exp(a * i))
        return a

    lines = forward_formula(step)
    assert len(lines) <= 32
    assert "... and 45 more" in lines
    assert [line.partition(": ")[0] for line in lines if ": " in line] == ["a"]


def gelu_step(x, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        loss = tf.reduce_sum(tf.nn.gelu(x @ w) @ w)
    return loss, tape.gradient(loss, w)


def test_what_only_the_backward_pass_reads_is_a_derivative():
    @tf.custom_gradient
    def swish(a):
        s = tf.sigmoid(a)
        return a * s, lambda dy: dy * s * (1.0 + a * (1.0 - s))

    def step(x, w):
        with tf.GradientTape() as tape:
            tape.watch(w)
            loss = tf.reduce_sum(swish(x @ w) @ w)
        return tape.gradient(loss, w)

    candidates = candidates_of(step, SQUARE, SQUARE)
    (chain,) = find_chains(candidates)
    backward = list(candidates.roles.cotangent)
    lines = formula_of(candidates.view, chain.nodes, backward)
    names = {line.partition(" = ")[0] for line in lines if " = " in line}
    assert "y" in names
    assert any(name.startswith("d") for name in names)


def neighbourhood():
    candidates = candidates_of(gelu_step, SQUARE, SQUARE)
    (chain,) = find_chains(candidates)
    roles = candidates.roles
    before = {v.id for v in candidates.kept_today}
    after = {v.id for v in chain.inputs}
    late = [a or b for a, b in zip(roles.cotangent, roles.gradient_scope, strict=True)]
    view = candidates.view
    return chain, neighbours_of(view, chain.nodes, (), before, after, late)


def test_neighbours_are_inputs_chain_and_readers():
    chain, found = neighbourhood()
    kinds = [n.kind for n in found]
    assert kinds == sorted(kinds, key=["input", "chain", "forward", "backward"].index)
    own = [n for n in found if n.kind == "chain"]
    assert [n.name for n in own] == [node.name for node in chain.nodes]
    assert [n.name for n in found if n.kind == "input"] == ["matmul"]
    assert [n.op_type for n in found if n.kind == "forward"] == ["MatMul"]
    assert {n.op_type for n in found if n.kind == "backward"} >= {"MatMul", "Mul"}
    for position, neighbour in enumerate(found):
        assert all(read < position for read in neighbour.reads)
        if neighbour.kind in ("forward", "backward"):
            assert neighbour.reads
            assert all(found[read].kind == "chain" for read in neighbour.reads)


def test_neighbours_say_what_is_kept():
    _, found = neighbourhood()
    kept = {n.name: n.kept for n in found}
    assert kept["matmul"] == "after"
    assert sum(k == "before" for k in kept.values()) == 4
