"""EfficientNet-Lite0 as data: what both the training and the ONNX graph walk through.

Tan and Le, arXiv 1905.11946; the Lite variant has no squeeze-and-excitation and clips to 0..6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing

    Array = numpy.typing.NDArray[Any]
    Weights = dict[str, Array]

FEATURES = 1280
NAMES = 1000
# (blocks, stride of the first of them), stage by stage.
STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
# Blocks 0 to 10 stay as published: they see edges, textures and parts, and carry two thirds of the work.
TRUNK_BLOCKS = 11
TRUNK_SHAPE = (112, 14, 14)


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with its batch norm folded in, and a clip to 0..6 unless it ends a block."""

    name: str
    batch_norm: str
    stride: int = 1
    is_clipped: bool = True
    is_depthwise: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Convolutions one after the other; a residual block adds what went in to what comes out."""

    convolutions: tuple[Convolution, ...]
    is_residual: bool = False


def padding(side: int, stride: int, width: int) -> tuple[int, int]:
    """Before and after, as TensorFlow's "same" has it: the odd one comes last."""
    total = max((-(-side // stride) - 1) * stride + width - side, 0)
    return total // 2, total - total // 2


def _blocks() -> tuple[Block, ...]:
    blocks: list[Block] = []
    for stage, (repeats, first_stride) in enumerate(STAGES):
        for number in range(repeats):
            name = f"_blocks.{len(blocks)}"
            widened = (Convolution(f"{name}._expand_conv", f"{name}._bn0"),) if stage else ()
            stride = first_stride if number == 0 else 1
            blocks.append(
                Block(
                    (
                        *widened,
                        Convolution(f"{name}._depthwise_conv", f"{name}._bn1", stride, is_depthwise=True),
                        Convolution(f"{name}._project_conv", f"{name}._bn2", is_clipped=False),
                    ),
                    is_residual=number > 0,
                )
            )
    return tuple(blocks)


_ALL = _blocks()
TRUNK = (Block((Convolution("_conv_stem", "_bn0", stride=2),)), *_ALL[:TRUNK_BLOCKS])
UPPER = (*_ALL[TRUNK_BLOCKS:], Block((Convolution("_conv_head", "_bn1"),)))
