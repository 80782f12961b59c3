"""The network as an ONNX file. Nodes and weights stand in the order they are added: same weights, same
bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper

from growbin.embedded_model.pictures import SIDE_PIXELS
from growbin.embedded_model.train.architecture import (
    FEATURES,
    NAMES,
    TRUNK,
    TRUNK_SHAPE,
    UPPER,
    Block,
    Convolution,
    padding,
)

if TYPE_CHECKING:
    from growbin.embedded_model.train.architecture import Array, Weights

OPSET = 17
IR_VERSION = 8
# Below this many numbers a weight stays float32: halving it saves nothing.
HALVED_ABOVE_NUMBERS = 64


def whole_model(weights: Weights, classes: int) -> bytes:
    """Input `photo` [N, 3, 224, 224], -1 (black) to 1 (white); outputs `materials` [N, classes]
    and `names` [N, 1000], each summing to 1, and `features` [N, 1280] (not computed unless asked for).
    Large weights are stored in half precision and widened when the model loads."""
    graph = _Graph(weights)
    value, _ = graph.blocks("photo", SIDE_PIXELS, TRUNK + UPPER)
    features = graph.pooled(value)
    graph.softmax(features, "materials")
    graph.softmax(features, "names")
    photo = ("photo", ["n", 3, SIDE_PIXELS, SIDE_PIXELS])
    return graph.model(
        photo, [("materials", ["n", classes]), ("names", ["n", NAMES]), ("features", ["n", FEATURES])]
    )


def trunk_model(weights: Weights) -> bytes:
    """The lower half: `photo` as above, output `trunk` [N, 112, 14, 14]."""
    graph = _Graph(weights)
    value, _ = graph.blocks("photo", SIDE_PIXELS, TRUNK)
    graph.node("Identity", [value], "trunk")
    return graph.model(("photo", ["n", 3, SIDE_PIXELS, SIDE_PIXELS]), [("trunk", ["n", *TRUNK_SHAPE])])


Tensor = tuple[str, list[Any]]  # name and shape


@dataclass(slots=True)
class _Graph:
    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.constant("zero", numpy.array(0.0))
        self.constant("six", numpy.array(6.0))

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: Array) -> str:
        if values.size <= HALVED_ABOVE_NUMBERS:
            self.initializers.append(numpy_helper.from_array(values.astype(numpy.float32), name))
            return name
        halved = f"{name}.half"
        self.initializers.append(numpy_helper.from_array(values.astype(numpy.float16), halved))
        return self.node("Cast", [halved], name, to=TensorProto.FLOAT)

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def blocks(self, value: str, side: int, blocks: Sequence[Block]) -> tuple[str, int]:
        """The last output and its side."""
        for block in blocks:
            entered = value
            for convolution in block.convolutions:
                value, side = self.convolution(value, side, convolution)
            if block.is_residual:
                value = self.node("Add", [value, entered], f"{value}.sum")
        return value, side

    def convolution(self, source: str, side: int, layer: Convolution) -> tuple[str, int]:
        kernel = self.weights[f"{layer.name}.kernel"]
        before, after = padding(side, layer.stride, kernel.shape[-1])
        output = self.node(
            "Conv",
            [source, self.weight(f"{layer.name}.kernel"), self.weight(f"{layer.name}.bias")],
            f"{layer.name}.output",
            group=kernel.shape[0] if layer.is_depthwise else 1,
            pads=[before, before, after, after],
            strides=[layer.stride, layer.stride],
        )
        if layer.is_clipped:
            output = self.node("Clip", [output, "zero", "six"], f"{layer.name}.clipped")
        return output, -(-side // layer.stride)

    def pooled(self, value: str) -> str:
        return self.node("Flatten", [self.node("GlobalAveragePool", [value], "pooled")], "features")

    def softmax(self, features: str, output: str) -> None:
        layer = [self.weight(f"{output}.weight"), self.weight(f"{output}.bias")]
        scores = self.node("Gemm", [features, *layer], f"{output}.scores", transB=1)
        self.node("Softmax", [scores], output, axis=1)

    def model(self, given: Tensor, outputs: list[Tensor]) -> bytes:
        model = helper.make_model(
            helper.make_graph(
                self.nodes,
                "growbin",
                [helper.make_tensor_value_info(given[0], TensorProto.FLOAT, given[1])],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
                self.initializers,
            ),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="growbin",
        )
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))
