"""The upper half learns materials, and keeps its object names.

    loss = materials + 0.3 · how far its object names are from those of the published network
The second term (Hinton et al., arXiv 1503.02531) is what keeps the names: without it they are forgotten.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch.nn import functional
from tqdm import tqdm

from growbin.embedded_model.train.architecture import FEATURES, UPPER, padding

if TYPE_CHECKING:
    from growbin.embedded_model.train.architecture import Array, Weights

Tensors = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the outcome, beside photos, weights and the version of PyTorch."""

    seed: int = 0
    epochs: int = 25
    views: int = 16
    batch: int = 128
    body_rate: float = 5e-4
    head_rate: float = 3e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05
    label_smoothing: float = 0.1
    names_kept: float = 0.3
    mixed: float = 0.7  # share of the batches in which two photos become one
    block_dropped: float = 0.1  # stochastic depth of the last block; the first has a part of it
    features_dropped: float = 0.2
    averaged: float = 0.998  # of the weights' moving average, which is what is kept


def tuned(
    published: Weights,
    views: Array,
    targets: Array,
    chosen: Sequence[int],
    recipe: Recipe,
    kept: Path,
    data: str,
) -> Weights:
    """The weights after learning from the photos `chosen`.

    `views` is [photos, views, 112, 14, 14]; `targets` [photos, classes] is 1 for each class that the label
    allows; `data` names them. Goes on after the last whole epoch that the file `kept` holds.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(mode=True)
    chance = numpy.random.default_rng(recipe.seed)
    learned = f"{data} {hashlib.sha256(repr(list(chosen)).encode()).hexdigest()}"
    run = _Run(published, targets[list(chosen)], recipe, device, learned)
    first = run.restore(kept, chance) if kept.exists() else 0
    order_of = numpy.asarray(chosen)
    steps = len(chosen) // recipe.batch or 1
    with tqdm(total=recipe.epochs * steps, initial=first * steps, desc=kept.stem, unit="batch") as bar:
        for epoch in range(first, recipe.epochs):
            order = chance.permutation(len(chosen))
            for step in range(steps):
                batch = order[step * recipe.batch : (step + 1) * recipe.batch]
                drawn = (epoch + chance.integers(0, views.shape[1], len(batch))) % views.shape[1]
                inputs = numpy.stack(
                    [views[order_of[one], view] for one, view in zip(batch, drawn, strict=True)]
                )
                progress = (epoch * steps + step) / (recipe.epochs * steps)
                loss = run.step(inputs, batch, progress, chance)
                bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
                bar.update()
            run.keep(kept, epoch + 1, chance)
    return run.weights()


def outputs(weights: Weights, inputs: Array) -> tuple[Array, Array]:
    """Materials and names for trunk outputs [photos, views, 112, 14, 14]: [photos, views, classes] and
    [photos, views, 1000]."""
    materials, names = [], []
    for features, tensors in _features(weights, inputs):
        materials.append(_linear(features, tensors, "materials").softmax(1).cpu().numpy())
        names.append(_linear(features, tensors, "names").softmax(1).cpu().numpy())
    return numpy.stack(materials), numpy.stack(names)


def features_of(weights: Weights, inputs: Array) -> Array:
    """[photos, views, 1280]."""
    return numpy.stack([features.cpu().numpy() for features, _ in _features(weights, inputs)])


def _features(weights: Weights, inputs: Array) -> Iterator[tuple[Any, dict[str, Any]]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tensors = {name: torch.tensor(value, device=device) for name, value in weights.items()}
    with torch.inference_mode():
        for one in tqdm(inputs, desc="looking", unit="photo", leave=False):
            yield _upper(torch.tensor(one, device=device).float(), tensors), tensors


class _Run:
    def __init__(self, published: Weights, targets: Array, recipe: Recipe, device: str, data: str) -> None:
        self._of = {"data": data, "recipe": asdict(recipe), "torch": str(torch.__version__)}
        self._recipe = recipe
        self._device = device
        shares = torch.tensor(targets, dtype=torch.float32, device=device)
        self._targets = shares / shares.sum(1, keepdim=True)  # a coarse label's share for each it allows
        counts = self._targets.sum(0)
        # A class that nothing teaches is never a target, not even of the smoothing.
        self._taught = (counts > 0).float()
        weight = self._taught * counts.clamp(min=1) ** -0.5
        self._class_weight = weight * counts.sum() / (weight * counts).sum()

        upper = {
            f"{c.name}.{part}" for block in UPPER for c in block.convolutions for part in ("kernel", "bias")
        }
        names = {"names.weight", "names.bias"}
        self._fixed = {
            name: torch.tensor(value, device=device)
            for name, value in published.items()
            if name in upper | names
        }
        self._live = {name: value.clone() for name, value in self._fixed.items()}
        self._live["materials.weight"] = torch.zeros(targets.shape[1], FEATURES, device=device)
        self._live["materials.bias"] = torch.zeros(targets.shape[1], device=device)
        for value in self._live.values():
            value.requires_grad_()
        self._average = {name: value.detach().clone() for name, value in self._live.items()}
        self._published = published
        self._steps = 0
        self._optimizer = torch.optim.AdamW(self._groups())
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    def _groups(self) -> list[dict[str, Any]]:
        recipe = self._recipe

        def group(names: list[str], rate: float, decay: float) -> dict[str, Any]:
            return {"params": [self._live[name] for name in names], "lr": rate, "weight_decay": decay}

        head = [name for name in self._live if name.startswith("materials")]
        kernels = [name for name in self._live if name.endswith("kernel")]
        others = [name for name in self._live if name not in {*head, *kernels}]
        return [
            group(kernels, recipe.body_rate, recipe.weight_decay),
            group(others, recipe.body_rate, 0.0),
            group(head, recipe.head_rate, recipe.weight_decay),
        ]

    def step(self, inputs: Array, batch: Array, progress: float, chance: numpy.random.Generator) -> float:
        recipe = self._recipe
        pace = min(1.0, progress / recipe.warm_up) * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * pace
        values = torch.tensor(inputs, device=self._device).float()
        values = values.contiguous(memory_format=torch.channels_last)
        targets = self._targets[torch.tensor(batch, device=self._device)]
        weight = (targets * self._class_weight).sum(1)
        values, targets, weight = self._mixed(values, targets, weight, chance)
        with torch.no_grad():
            kept_names = _linear(_upper(values, self._fixed), self._fixed, "names").softmax(1)

        features = _upper(values, self._live, recipe.block_dropped)
        scores = _linear(functional.dropout(features, recipe.features_dropped), self._live, "materials")
        smooth = self._taught / self._taught.sum()
        targets = targets * (1 - recipe.label_smoothing) + smooth * recipe.label_smoothing
        loss = -(weight * (targets * scores.log_softmax(1)).sum(1)).mean()
        names = _linear(features, self._live, "names").log_softmax(1)
        loss = loss + recipe.names_kept * functional.kl_div(names, kept_names, reduction="batchmean")
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self._live.values()), 5.0)
        self._optimizer.step()
        self._steps += 1
        share = min(recipe.averaged, (1 + self._steps) / (10 + self._steps))
        with torch.no_grad():
            for name, average in self._average.items():
                average.lerp_(self._live[name], 1 - share)
        return float(loss.detach())

    def _mixed(
        self, values: Any, targets: Any, weight: Any, chance: numpy.random.Generator
    ) -> tuple[Any, Any, Any]:
        """Half of the mixed batches are blended (mixup, arXiv 1710.09412), half have a square of another
        photo (CutMix, arXiv 1905.04899): here of what the lower half saw."""
        kind = chance.random()
        if kind >= self._recipe.mixed:
            return values, targets, weight
        others = torch.tensor(chance.permutation(len(values)), device=self._device)
        if kind < self._recipe.mixed / 2:
            share = float(chance.beta(0.4, 0.4))
            values = share * values + (1 - share) * values[others]
        else:
            side = values.shape[-1]
            cut = max(1, min(side - 1, round(side * math.sqrt(1 - float(chance.uniform())))))
            top, left = (int(chance.integers(0, side + 1 - cut)) for _ in range(2))
            values = values.clone()
            square = (..., slice(top, top + cut), slice(left, left + cut))
            values[square] = values[others][square]
            share = 1 - cut * cut / (side * side)
        return (
            values,
            share * targets + (1 - share) * targets[others],
            share * weight + (1 - share) * weight[others],
        )

    def weights(self) -> Weights:
        return self._published | {name: value.cpu().numpy() for name, value in self._average.items()}

    def keep(self, path: Path, epoch: int, chance: numpy.random.Generator) -> None:
        state = {
            "of": self._of,
            "epoch": epoch,
            "live": {name: value.detach() for name, value in self._live.items()},
            "average": self._average,
            "optimizer": self._optimizer.state_dict(),
            "steps": self._steps,
            "chance": chance.bit_generator.state,
            "dropped": _chance_of(self._device).get_rng_state(),
        }
        unfinished = path.with_suffix(".unfinished")
        torch.save(state, unfinished)
        unfinished.replace(path)

    def restore(self, path: Path, chance: numpy.random.Generator) -> int:
        """The epochs that are done; 0 when the file is of another training."""
        state = torch.load(path, weights_only=True, map_location=self._device)
        if state["of"] != self._of:
            return 0
        with torch.no_grad():
            for name, value in self._live.items():
                value.copy_(state["live"][name])
            for name, value in self._average.items():
                value.copy_(state["average"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]
        chance.bit_generator.state = state["chance"]
        _chance_of(self._device).set_rng_state(state["dropped"].cpu())
        return int(state["epoch"])


def _chance_of(device: str) -> Any:
    """What draws for dropout there."""
    return torch.cuda if device == "cuda" else torch.random


def _upper(values: Any, tensors: Mapping[str, Any], dropped: float = 0.0) -> Any:
    """[n, 112, 14, 14] -> [n, 1280]. While training, a residual block is left out for a part of the photos
    (stochastic depth, arXiv 1603.09382)."""
    for number, block in enumerate(UPPER, 1):
        entered = values
        for layer in block.convolutions:
            kernel, bias = tensors[f"{layer.name}.kernel"], tensors[f"{layer.name}.bias"]
            before, after = padding(values.shape[-1], layer.stride, kernel.shape[-1])
            groups = len(kernel) if layer.is_depthwise else 1
            if before != after:
                values, before = functional.pad(values, (before, after, before, after)), 0
            values = functional.conv2d(values, kernel, bias, layer.stride, before, 1, groups)
            if layer.is_clipped:
                values = functional.relu6(values)
        if block.is_residual:
            if dropped:
                left = 1 - dropped * number / len(UPPER)
                values = values * (torch.rand(len(values), 1, 1, 1, device=values.device) < left) / left
            values = values + entered
    return values.mean((2, 3))


def _linear(features: Any, tensors: Mapping[str, Any], name: str) -> Any:
    return functional.linear(features, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
