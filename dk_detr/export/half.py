"""An ONNX graph whose convolutions and matrix products are in half floats."""

from typing import Any

HALVES = ("Conv", "Gemm", "MatMul")
"""Operators in half floats. All others stay in float32: sums, norms, sampled places, boxes, scores."""


def in_half_floats(model: Any, words: tuple[str, ...]) -> Any:
    """The model with weights in half floats; inputs and outputs stay as they are.

    Args:
        model: an ONNX ModelProto. words: names of the values that hold text embeddings. What is computed from them,
            cosines over a temperature, stays in full precision, as in training with half floats.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    whole = {node.op_type for node in model.graph.node} - {*HALVES}
    spared = [node.name for node in _downstream(model.graph.node, words) if node.op_type in HALVES]
    return convert_float_to_float16(model, op_block_list=sorted(whole), node_block_list=spared)


def _downstream(nodes: Any, sources: tuple[str, ...]) -> list[Any]:
    """The nodes that depend on the sources; nodes of an ONNX graph stand in the order of their data."""
    reached, found = set(sources), []
    for node in nodes:
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
            found.append(node)
    return found
