import pytest
import tensorflow as tf

from nested_fad_tf.report import tensorboard
from nested_fad_tf.report.summary import Report

_REPORT = Report("model", False, "no gradient", "auto")


def _graph():
    with tf.Graph().as_default() as graph:
        tf.constant(list(range(1000)), name="large")
        tf.constant([7], name="small")
    return graph.as_graph_def()


def _written(run):
    for file in run.iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            if event.graph_def:
                yield {n.name: n for n in tf.compat.v1.GraphDef.FromString(event.graph_def).node}


def test_large_constants_keep_dtype_and_shape_alone(tmp_path):
    graph = _graph()
    tensorboard.write(tmp_path, [tensorboard.Run("a", graph, 0, _REPORT, applied=False)])
    (nodes,) = _written(tmp_path / "a")
    large, small = nodes["large"].attr["value"].tensor, nodes["small"].attr["value"].tensor
    assert (large.dtype, large.tensor_shape.dim[0].size) == (tf.int32.as_datatype_enum, 1000)
    assert large.ByteSize() < 100
    assert tf.make_ndarray(small).tolist() == [7]
    assert graph == _graph()


def test_runs_are_added_to_what_is_there(tmp_path):
    run = tensorboard.Run("a", _graph(), 0, _REPORT, applied=False)
    tensorboard.write(tmp_path, [run])
    tensorboard.write(tmp_path, [run])
    assert len(list(_written(tmp_path / "a"))) == 2


def test_all_runs_are_written_or_none(tmp_path):
    good = tensorboard.Run("good", _graph(), 0, _REPORT, applied=False)
    bad = tensorboard.Run("bad", None, 0, _REPORT, applied=False)
    with pytest.raises(AttributeError):
        tensorboard.write(tmp_path, [good, bad])
    assert not list(tmp_path.iterdir())
