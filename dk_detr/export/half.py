"""An ONNX graph whose convolutions and matrix products are in half floats."""

from typing import Any

import numpy as np

HALVES = ("Conv", "Gemm", "MatMul")
"""Operators in half floats. All others stay in float32: sums, norms, sampled places, boxes, scores."""
HALF = "_half"  # ends the names of values in half floats


def nodes_of_words(graph: Any, words: tuple[str, ...]) -> set[str]:
    """Names of the nodes that compute with text embeddings, cosines over a temperature: in training, too, they are in
    full precision. To be asked before constants are folded, and with them the names of fixed words.

    Args:
        graph: of an ONNX ModelProto. words: names of the values that hold text embeddings.
    """
    return _downstream(graph.node, words)


def in_half_floats(model: Any, spared: set[str]) -> Any:
    """The model with weights in half floats; inputs and outputs stay as they are.

    Args:
        model: an ONNX ModelProto, which is changed. spared: names of nodes that stay in full precision.
    """
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    nodes: list[Any] = []
    made: set[str] = set()
    for node in graph.node:
        if node.op_type not in HALVES or node.name in spared:
            nodes.append(node)
            continue
        for name in filter(None, {*node.input} - made):
            made.add(name)
            if name in weights:
                graph.initializer.append(_half_of(weights[name]))
            else:
                nodes.append(_cast(name, f"{name}{HALF}", "FLOAT16"))
        output = node.output[0]
        node.input[:] = [name and f"{name}{HALF}" for name in node.input]
        node.output[:] = [f"{output}{HALF}"]
        nodes += [node, _cast(f"{output}{HALF}", output, "FLOAT")]
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)
    return model


def _half_of(weight: Any) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}{HALF}")


def _cast(name: str, result: str, kind: str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_node("Cast", [name], [result], f"cast_to_{result}", to=getattr(TensorProto, kind))


def _downstream(nodes: Any, sources: tuple[str, ...]) -> set[str]:
    """Names of the nodes that depend on the sources; nodes of an ONNX graph stand in the order of their data."""
    reached, found = set(sources), set()
    for node in nodes:
        if not reached.isdisjoint(node.input):
            reached.update(node.output)
            found.add(node.name)
    return found


def _drop_unused(graph: Any) -> None:
    """Weights that are there in half floats only, from now on."""
    used = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
    kept = [each for each in graph.initializer if each.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
