import pytest

from nested_fad_tf.report import layers


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ("model/dense", ("model", "dense")),
        ("gradient_tape/model/dense", ("model", "dense")),
        ("nested_fad/gradient_tape/model", ("model",)),
        ("model/gradients_3/dense", ("model", "dense")),
        ("my_gradients/dense", ("my_gradients", "dense")),
        ("gradient_tape", ("(top level)",)),
        ("", ("(top level)",)),
    ],
)
def test_scopes_of_the_backward_pass_are_left_out(scope, path):
    assert layers.path_of(scope) == path


def test_what_layers_have_in_common_has_no_numbers():
    name = "model_1/layer_12_1/dense_3/mul_2"
    assert layers.kind_of(name) == "layer/dense/mul"
    assert layers.kind_of(name, parts=1) == "mul"
    assert layers.kind_of("gradient_tape/model/dense/mul_2") == "∂ model/dense/mul"


def test_layers_are_sorted_as_people_count():
    names = [("layer_10",), ("layer_2",), ("embedding",), ("layer_2", "x")]
    assert sorted(names, key=layers.natural) == [
        ("embedding",), ("layer_2",), ("layer_2", "x"), ("layer_10",),
    ]  # fmt: skip


def groups(scopes, few):
    found = layers.grouped(scopes, lambda scope: scope, lambda scope: 1, few)
    assert sorted(s for group in found.values() for s in group) == sorted(scopes)
    return {name: len(group) for name, group in found.items()}


def test_groups_are_as_deep_as_few_allow():
    scopes = [f"model/layer_{i}/{part}" for i in range(3) for part in ("attention", "dense")]
    assert groups(scopes, few=4) == {"layer_0": 2, "layer_1": 2, "layer_2": 2}
    assert len(groups(scopes, few=8)) == 6
    # One group would say nothing, however many there are below.
    assert groups(scopes, few=1) == {"layer_0": 2, "layer_1": 2, "layer_2": 2}


def test_layers_side_by_side_are_grouped_by_the_first_word():
    scopes = [f"net/block{i}_{part}" for i in range(4) for part in ("conv", "bn", "swish")]
    assert groups([*scopes, "net/stem"], few=6) == {
        "block0_*": 3, "block1_*": 3, "block2_*": 3, "block3_*": 3, "stem": 1,
    }  # fmt: skip


def test_names_are_as_long_as_tells_them_apart():
    scopes = ["a/left/dense", "a/right/dense", "a/norm"]
    assert list(groups(scopes, few=5)) == ["left/dense", "norm", "right/dense"]
