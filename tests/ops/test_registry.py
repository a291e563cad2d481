"""Whether every op of TensorFlow's that looks element-wise is known to one of the tables."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pytest
import tensorflow as tf
from op_samples import Op
from tensorflow.core.framework import op_def_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import op_def_registry

from nested_fad_tf.ops import elementwise, random, reductions, views

# Ops whose output has their input's shape although elements are mixed, or that no training step
# contains. A pattern stands for a family.
NOT_ELEMENTWISE: Mapping[str, str] = {
    "*FFT*": "mixes the elements of a row",
    "AsString": "strings",
    "CheckPinned": "looks where a buffer lies",
    "Copy*": "for the debugger",
    "CropAndResizeGradBoxes": "looks up neighbours",
    "DataFormatVecPermute": "permutes a vector of dimensions",
    "Debug*": "for the debugger",
    "Decode*": "strings",
    "Dequantize": "the range is of the whole tensor or a slice",
    "EncodeBase64": "strings",
    "Exit": "control flow",
    "Inplace*": "changes its input",
    "LowerBound": "searches a sorted row",
    "NextIteration": "control flow",
    "QuantizeAndDequantize*": "the range is of the whole tensor or a slice",
    "RegexFullMatch": "strings",
    "RegexReplace": "strings",
    "Resize*Grad": "looks up neighbours",
    "ScaleAndTranslateGrad": "looks up neighbours",
    "SparseTensorDenseAdd": "scatters a sparse tensor",
    "StaticRegex*": "strings",
    "String*": "strings",
    "Substr": "strings",
    "TPU*": "for TPUs",
    "TensorListConcatLists": "lists of tensors",
    "TensorStridedSliceUpdate": "writes into a slice",
    "UnicodeScript": "strings",
    "Uniform*": "quantised numbers",
    "UpperBound": "searches a sorted row",
    "XlaSparse*": "for TPUs",
}

SHAPE = (3, 5)
# Tried in turn: not all inputs of an element-wise op need be of one rank, and an axis is a scalar.
SECOND_SHAPES = (SHAPE, ())
DTYPES = (tf.float32, tf.int32, tf.complex64, tf.bool)
GUESSES: Mapping[str, Any] = {
    "type": tf.float32,
    "float": 1.0,
    "int": 1,
    "bool": False,
    "string": "",
    "shape": [],
    "list(float)": [1.0],
    "list(int)": [1],
    "list(string)": [""],
}


def registered() -> list[Any]:
    """The registration of every op."""
    ops = op_def_pb2.OpList()
    ops.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return list(ops.op)


def type_choices(definition: Any) -> Iterator[dict[str, tf.DType]]:
    """Dtypes for the op's type attributes: all floating-point if it can, all integer, ..."""
    attrs = [a for a in definition.attr if a.type == "type"]
    for dtype in DTYPES:
        chosen = {}
        for attr in attrs:
            allowed = attr.allowed_values.list.type
            if not allowed or dtype.as_datatype_enum in allowed:
                chosen[attr.name] = dtype
            else:
                chosen[attr.name] = tf.as_dtype(allowed[0])
        yield chosen


def output_shapes(definition: Any) -> Iterator[tf.TensorShape]:
    """The shapes that shape inference gives for inputs of shape [3, 5]."""
    op = Op(definition.name)
    inferred = {arg.type_attr for arg in definition.input_arg}
    counts = {arg.number_attr for arg in definition.input_arg}
    for types, second in itertools.product(type_choices(definition), SECOND_SHAPES):
        attrs = {
            a.name: types.get(a.name, GUESSES.get(a.type))
            for a in definition.attr
            if a.name not in inferred | counts and not a.HasField("default_value")
        }
        args = list(definition.input_arg) * (op.arity if op.is_list else 1)
        with tf.Graph().as_default():
            inputs = [
                tf.compat.v1.placeholder(
                    types[arg.type_attr] if arg.type_attr else tf.as_dtype(arg.type),
                    second if i else SHAPE,
                )
                for i, arg in enumerate(args)
            ]
            try:
                output = op(inputs, **attrs)
            except Exception:  # Whatever it is: the op doesn't take these inputs.
                continue
            yield output.shape


def looks_elementwise(definition: Any) -> bool:
    """Whether an op turns tensors of one shape into one tensor of that shape."""
    if definition.is_stateful or not definition.input_arg or len(definition.output_arg) != 1:
        return False
    if any(a.type_list_attr or a.is_ref for a in definition.input_arg):
        return False
    if definition.output_arg[0].number_attr or definition.output_arg[0].type_list_attr:
        return False
    return any(
        shape.rank is not None and shape.as_list() == list(SHAPE)
        for shape in output_shapes(definition)
    )


LOOK_ELEMENTWISE = [d.name for d in registered() if looks_elementwise(d)]
TABLES: Mapping[str, Collection[str]] = {
    "elementwise.TABLE": elementwise.TABLE,
    "views.ALIASES": views.ALIASES,
    "views.LAYOUT": views.LAYOUT,
    "views.PAIRWISE_ALIASES": views.PAIRWISE_ALIASES,
    "reductions.NORMALISERS": reductions.NORMALISERS,
    "reductions.REDUCTIONS": reductions.REDUCTIONS,
    "reductions.SCANS": reductions.SCANS,
    "random.STATEFUL": random.STATEFUL,
    "random.STATELESS": random.STATELESS,
}


def test_what_looks_elementwise_is_in_a_table_or_has_a_reason() -> None:
    known = set().union(*TABLES.values())
    unknown = [
        name
        for name in LOOK_ELEMENTWISE
        if name not in known and not any(fnmatch.fnmatch(name, p) for p in NOT_ELEMENTWISE)
    ]
    assert not unknown, "add a line to a table in nested_fad_tf/ops, or a reason to NOT_ELEMENTWISE"


def test_the_search_finds_what_it_should() -> None:
    # Their inputs differ in shape, or have to be told it.
    missed = set(elementwise.TABLE) - set(LOOK_ELEMENTWISE)
    assert missed == {"AccumulateNV2", "BiasAdd", "BiasAddV1", "FakeQuantWithMinMaxVarsPerChannel"}


@pytest.mark.parametrize("pattern", NOT_ELEMENTWISE)
def test_no_reason_is_superfluous(pattern: str) -> None:
    assert fnmatch.filter(LOOK_ELEMENTWISE, pattern)


@pytest.mark.parametrize("table", [*TABLES, "views.SHAPE_ONLY"])
def test_tables_name_registered_ops(table: str) -> None:
    names = TABLES.get(table, views.SHAPE_ONLY)
    assert [n for n in names if op_def_registry.get(n) is None] == []


@pytest.mark.parametrize("pair", list(itertools.combinations(TABLES, 2)), ids=" and ".join)
def test_no_op_is_in_two_tables(pair: tuple[str, str]) -> None:
    first, second = pair
    assert not set(TABLES[first]) & set(TABLES[second])


def test_stateful_ops_are_only_where_they_may_be() -> None:
    stateful = {d.name for d in registered() if d.is_stateful}
    tables = set().union(*(names for name, names in TABLES.items() if name != "random.STATEFUL"))
    # These only raise an error: as views they may stand where they are, but not be copied.
    assert tables & stateful == {"CheckNumerics", "CheckNumericsV2"}
    assert stateful >= random.STATEFUL
