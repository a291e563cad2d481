from nested_fad_tf.report import kept_layers
from nested_fad_tf.report.summary import Kept


def kept(name, size=1, layer=None):
    layer = name.rpartition("/")[0] if layer is None else layer
    return Kept(f"{name}:0", layer, "Mul", (1,), "float32", size, "")


def test_layers_in_order_of_execution_and_of_all_runs():
    runs = {"a": [kept("m/second/x", 2)], "b": [kept("m/first/y", 3), kept("m/second/z", 4)]}
    names, sizes = kept_layers.by_layer(runs, ["m/second/x", "m/second/z", "m/first/y"])
    assert names == ["second", "first"]
    assert sizes == {"a": [2, 0], "b": [4, 3]}


def test_layers_in_order_of_their_names():
    tensors = [kept(f"m/layer_{i}/x", i) for i in (10, 2, 1)]
    assert kept_layers.by_layer({"a": tensors}) == (
        ["layer_1", "layer_2", "layer_10"],
        {"a": [1, 2, 10]},
    )


def test_parts_of_layers_are_joined_where_there_are_too_many():
    parts = ("attention", "dense", "norm")
    tensors = [kept(f"m/block_{i}/{part}/x") for i in range(16) for part in parts]
    names, sizes = kept_layers.by_layer({"a": tensors})
    assert names == [f"block_{i}" for i in range(16)]
    assert sizes == {"a": [3] * 16}


def test_of_too_many_layers_those_that_keep_least_are_one():
    runs = {
        "a": [kept(f"m/layer_{i}/x", i) for i in range(1, 31)],
        "b": [kept("m/layer_1/x", 100), kept("m/layer_2/x", 1)],
    }
    names, sizes = kept_layers.by_layer(runs)
    assert len(names) == 24
    assert names[0] == "layer_1"
    assert names[-1] == "7 others"
    assert sizes["a"][-1] == sum(range(2, 9))
    assert sizes["b"] == [100, *[0] * 22, 1]


def test_what_the_rewrite_made_belongs_to_its_layer():
    tensors = [
        kept("nested_fad/gradient_tape/m/first/AddN/derivative", layer="m/first"),
        kept("gradient_tape/m/second/x"),
        kept("m/first/x"),
        kept("x"),
    ]
    names, sizes = kept_layers.by_layer({"a": tensors})
    assert names == ["(top level)", "first", "second"]
    assert sizes == {"a": [1, 2, 1]}


def test_nothing_is_kept():
    assert kept_layers.by_layer({"a": [], "b": []}) == ([], {"a": [], "b": []})
