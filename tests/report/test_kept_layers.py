from nested_fad_tf.report import kept_layers
from nested_fad_tf.report.summary import Kept


def kept(name, size=1):
    return Kept(f"{name}:0", name.rpartition("/")[0], "Mul", (1,), "float32", size, "")


def test_layers_in_order_of_execution_and_of_all_runs():
    runs = {"a": [kept("m/second/x", 2)], "b": [kept("m/first/y", 3), kept("m/second/z", 4)]}
    names, sizes = kept_layers.by_layer(runs, ["m/first/y", "m/second/x", "m/second/z"])
    assert names == ["m/first", "m/second"]
    assert sizes == {"a": [0, 2], "b": [3, 4]}


def test_scopes_are_joined_where_there_are_too_many():
    tensors = [kept(f"m/block_{i}/part_{j}/x") for i in range(20) for j in range(3)]
    names, sizes = kept_layers.by_layer({"a": tensors}, [])
    assert names == [f"m/block_{i}" for i in range(20)]
    assert sizes == {"a": [3] * 20}


def test_what_the_rewrite_made_belongs_to_its_layer():
    tensors = [
        kept("nested_fad/gradient_tape/m/first/AddN/derivative"),
        kept("m/first/x"),
        kept("x"),
    ]
    names, sizes = kept_layers.by_layer({"a": tensors}, ["m/first/x"])
    assert names == ["m/first", "m/first/AddN", "(top level)"]
    assert sizes == {"a": [1, 1, 1]}
