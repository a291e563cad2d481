"""Ops that move elements or look at shapes, and compute nothing.

Three tables, by what the planner may do with an op: an alias costs no memory, a layout op may be
recomputed for the price of a copy, and a shape-only op keeps no data alive.
"""

from __future__ import annotations

from typing import Final

from nested_fad_tf.ops.entry import Cost

# Output 0 is input 0's buffer: TensorFlow's CPU kernel forwards it whether or not the input is
# used elsewhere (tests/ops compares the addresses). Not here: Snapshot and the element-wise ops,
# which only take over a buffer nobody else needs, and Slice, Split, Unpack, Tile, Pad and
# others, which share it for some arguments but copy for most.
ALIASES: Final[frozenset[str]] = frozenset(
    {
        "Bitcast",
        "CheckNumerics",
        "CheckNumericsV2",
        "DebugGradientIdentity",
        "EnsureShape",
        "ExpandDims",
        "Identity",
        "PlaceholderWithDefault",
        "PreventGradient",
        "Reshape",
        "Squeeze",
        "StopGradient",
    }
)

# Output i is input i's buffer.
PAIRWISE_ALIASES: Final[frozenset[str]] = frozenset({"IdentityN", "XlaOptimizationBarrier"})

# Ops beside the element-wise ones whose kernel takes over the buffer of an input that nobody else
# reads, and the output that gets it.
IN_PLACE: Final[dict[str, int]] = {
    "LogSoftmax": 0,
    "Softmax": 0,
    "SoftmaxCrossEntropyWithLogits": 1,
    "SparseSoftmaxCrossEntropyWithLogits": 1,
}

# Ops that give back an operand when the other one is this number: op type -> (number, operands that
# may be it). TensorFlow's graph optimizer removes them, so that the result is the operand's buffer.
NEUTRAL: Final[dict[str, tuple[float, tuple[int, ...]]]] = {
    "AddV2": (0.0, (0, 1)),
    "Mul": (1.0, (0, 1)),
    "Pow": (1.0, (1,)),
    "RealDiv": (1.0, (1,)),
    "Sub": (0.0, (1,)),
}

# One pass over the elements at memory speed; dearer where each element's place is computed.
LAYOUT: Final[dict[str, Cost]] = {
    "BatchToSpace": Cost.MEDIUM,
    "BatchToSpaceND": Cost.MEDIUM,
    "BroadcastTo": Cost.CHEAP,
    "Concat": Cost.CHEAP,
    "ConcatV2": Cost.CHEAP,
    "ConjugateTranspose": Cost.MEDIUM,
    "DepthToSpace": Cost.MEDIUM,
    "Diag": Cost.CHEAP,
    "DiagPart": Cost.CHEAP,
    "ExtractImagePatches": Cost.MEDIUM,
    "ExtractVolumePatches": Cost.MEDIUM,
    "Fill": Cost.CHEAP,
    "Gather": Cost.MEDIUM,
    "GatherNd": Cost.MEDIUM,
    "GatherV2": Cost.MEDIUM,
    "InvertPermutation": Cost.CHEAP,
    "LinSpace": Cost.CHEAP,
    "MatrixBandPart": Cost.CHEAP,
    "MatrixDiag": Cost.CHEAP,
    "MatrixDiagPart": Cost.CHEAP,
    "MatrixDiagPartV2": Cost.CHEAP,
    "MatrixDiagPartV3": Cost.CHEAP,
    "MatrixDiagV2": Cost.CHEAP,
    "MatrixDiagV3": Cost.CHEAP,
    "MatrixSetDiag": Cost.CHEAP,
    "MatrixSetDiagV2": Cost.CHEAP,
    "MatrixSetDiagV3": Cost.CHEAP,
    "MirrorPad": Cost.CHEAP,
    "OneHot": Cost.CHEAP,
    "Pack": Cost.CHEAP,
    "Pad": Cost.CHEAP,
    "PadV2": Cost.CHEAP,
    "Range": Cost.CHEAP,
    "Reverse": Cost.CHEAP,
    "ReverseSequence": Cost.CHEAP,
    "ReverseV2": Cost.CHEAP,
    "Roll": Cost.CHEAP,
    "Slice": Cost.CHEAP,
    "Snapshot": Cost.CHEAP,
    "SpaceToBatch": Cost.MEDIUM,
    "SpaceToBatchND": Cost.MEDIUM,
    "SpaceToDepth": Cost.MEDIUM,
    "Split": Cost.CHEAP,
    "SplitV": Cost.CHEAP,
    "StridedSlice": Cost.CHEAP,
    "Tile": Cost.CHEAP,
    "Transpose": Cost.MEDIUM,
    "Unpack": Cost.CHEAP,
}

# Of these, those that give all elements of their first input, and those that give some of an input.
REARRANGED: Final[frozenset[str]] = frozenset(
    {
        "ConjugateTranspose",
        "DepthToSpace",
        "Reverse",
        "ReverseSequence",
        "ReverseV2",
        "Roll",
        "Snapshot",
        "SpaceToDepth",
        "Transpose",
    }
)
TAKEN: Final[frozenset[str]] = frozenset({"Slice", "Split", "SplitV", "StridedSlice", "Unpack"})

# They read the shape of their (first) input and not one of its elements.
SHAPE_ONLY: Final[frozenset[str]] = frozenset(
    {"OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike"}
)
