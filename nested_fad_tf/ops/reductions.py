"""Ops that bring elements together: reductions, scans and normalisers.

Their results are small beside what they are computed from, so the planner keeps them.
"""

from __future__ import annotations

from typing import Final

from nested_fad_tf.ops.entry import Cost

REDUCTIONS: Final[dict[str, Cost]] = {
    "All": Cost.CHEAP,
    "Any": Cost.CHEAP,
    "ArgMax": Cost.MEDIUM,
    "ArgMin": Cost.MEDIUM,
    "BiasAddGrad": Cost.CHEAP,
    "Bincount": Cost.MEDIUM,
    "DenseBincount": Cost.MEDIUM,
    "EuclideanNorm": Cost.MEDIUM,
    "L2Loss": Cost.CHEAP,
    "Max": Cost.CHEAP,
    "Mean": Cost.CHEAP,
    "Min": Cost.CHEAP,
    "Prod": Cost.CHEAP,
    "SegmentMax": Cost.MEDIUM,
    "SegmentMaxV2": Cost.MEDIUM,
    "SegmentMean": Cost.MEDIUM,
    "SegmentMin": Cost.MEDIUM,
    "SegmentMinV2": Cost.MEDIUM,
    "SegmentProd": Cost.MEDIUM,
    "SegmentProdV2": Cost.MEDIUM,
    "SegmentSum": Cost.MEDIUM,
    "SegmentSumV2": Cost.MEDIUM,
    "Sum": Cost.CHEAP,
    "UnsortedSegmentMax": Cost.MEDIUM,
    "UnsortedSegmentMin": Cost.MEDIUM,
    "UnsortedSegmentProd": Cost.MEDIUM,
    "UnsortedSegmentSum": Cost.MEDIUM,
}

# The output is as large as the input, yet every element depends on a whole row.
NORMALISERS: Final[dict[str, Cost]] = {
    "LogSoftmax": Cost.DEAR,
    "Softmax": Cost.DEAR,
}

# Running reductions along an axis: as large as their input, too.
SCANS: Final[dict[str, Cost]] = {
    "CumulativeLogsumexp": Cost.DEAR,
    "Cumprod": Cost.CHEAP,
    "Cumsum": Cost.CHEAP,
}
