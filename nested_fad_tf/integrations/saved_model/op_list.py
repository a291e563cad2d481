"""The list of ops that a SavedModel carries, for programs that lack some of them."""

from __future__ import annotations

from typing import Any

from nested_fad_tf.graph import versions


def list_new_ops(meta_graph: Any) -> None:
    """Adds the ops that a rewrite brought in.

    Args:
        meta_graph: A `MetaGraphDef`.
    """
    listed = meta_graph.meta_info_def.stripped_op_list
    known = {op.name for op in listed.op}
    if not known:
        return
    functions = meta_graph.graph_def.library.function
    used = {node.op for function in functions for node in function.node_def}
    for name in sorted(used - known):
        definition = versions.op_definition(name)
        if definition is not None:
            added = listed.op.add()
            added.CopyFrom(definition)
            added.ClearField("summary")
            added.ClearField("description")
