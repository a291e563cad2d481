import pytest

from nested_fad_tf.report import shown_names
from nested_fad_tf.report.shown_names import Layers, Origin

_OPS = ["model/dense/BiasAdd", "model/dense/Gelu/mul", "model/drop/Greater", "add", "model/AddN"]
_LAYERS = Layers(_OPS, backward=["model/AddN"])


@pytest.mark.parametrize(
    ("name", "path", "added", "derivative"),
    [
        ("model/dense/mul", "model/dense/mul", False, False),
        ("gradient_tape/model/dense/mul", "model/dense/mul", False, True),
        ("nested_fad/model/dense/mul", "model/dense/mul", True, False),
        ("nested_fad/outer/gradient_tape/model/mul", "outer/model/mul", True, True),
    ],
)
def test_origin(name, path, added, derivative):
    assert shown_names.origin(name) == Origin(path, added, derivative)


@pytest.mark.parametrize(
    ("path", "layer", "rest"),
    [
        ("model/dense/Gelu/mul/Mul_1", "model/dense/Gelu", "mul/Mul_1"),
        ("model/drop/Greater/bits/rows", "model/drop", "Greater/bits/rows"),
        ("model/unknown/op", "model/unknown", "op"),
        ("add", "", "add"),
    ],
)
def test_the_layer_of_an_op_and_of_its_derivatives(path, layer, rest):
    assert _LAYERS.split(path) == (layer, rest)


def test_ops_that_the_rewrite_added():
    assert (
        _LAYERS.single("nested_fad/model/drop/Greater/bits", late=False)
        == "model/drop/nested_fad/kept/Greater/bits"
    )
    assert (
        _LAYERS.single("nested_fad/model/dense/Gelu/mul", late=True)
        == "gradient_tape/model/dense/Gelu/nested_fad/recomputed/mul"
    )
    # The second copy of an op.
    assert (
        _LAYERS.single("nested_fad/model/dense/Gelu/mul_1", late=True)
        == "gradient_tape/model/dense/Gelu/nested_fad/recomputed/mul_1"
    )
    assert (
        _LAYERS.single("nested_fad/model/AddN/derivative/const", late=False)
        == "model/nested_fad/kept/AddN/derivative/const"
    )
    # What stands for a sum of gradients is no copy of it.
    assert (
        _LAYERS.single("nested_fad/model/AddN", late=True)
        == "gradient_tape/model/nested_fad/gradient/AddN"
    )


@pytest.mark.parametrize(
    ("names", "late", "scope"),
    [
        (["model/dense/Gelu/mul"], False, "model/dense/fused_Gelu"),
        (["model/dense/BiasAdd", "model/dense/Gelu/mul"], False, "model/dense/fused_Gelu"),
        (["model/dense/BiasAdd", "model/drop/Greater"], False, "model/fused_dense+drop"),
        (["model/dense/BiasAdd", "AddN"], True, "gradient_tape/model/fused_dense"),
        ([f"model/l{i}/mul" for i in range(5)], False, "model/fused_l0+l1+l2+2_more"),
        (["a/mul", "b/mul"], False, "fused_a+b"),
        (["add"], False, "fused_add"),
    ],
)
def test_a_group_is_named_after_its_layers(names, late, scope):
    assert _LAYERS.group(names, (), late)[0] == scope


def test_ops_of_a_group_are_named_within_it():
    names = ["nested_fad/model/dense/Gelu/mul", "gradient_tape/model/dense/Gelu/mul/Mul", "AddN"]
    assert _LAYERS.group(names, (), True)[1] == ["recomputed/mul", "mul/Mul", "AddN"]


def test_constants_do_not_name_a_group():
    names = ["model/other/Cast/x", "model/dense/Gelu/mul"]
    assert _LAYERS.group(names, {names[0]}, False)[0] == "model/dense/fused_Gelu"


def test_kept_tensors():
    assert shown_names.kept("model/dense/Gelu/mul", None) == "model/dense/Gelu/kept/mul"
    assert shown_names.kept("model/dense/Gelu/mul", "model/fused") == "model/fused/kept/mul"
    assert shown_names.kept("sub", None) == "kept/sub"
