"""`make train DATA=folder`: from labelled photos to the file that ships, its card, its figures and
pictures."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from growbin.embedded_model.classifier import CARD_FILE, MODEL_FILE, Card, of_whole
from growbin.embedded_model.train.calibrate import HOME, LeftOut, fitted, left_out, measured
from growbin.embedded_model.train.collections import (
    MEASURED_FROM_PHOTOS,
    TAUGHT_FROM_PHOTOS,
    TrainingPhoto,
    counted,
    digest_of,
    training_photos,
)
from growbin.embedded_model.train.folds import folds, frozen_folds, origin_of
from growbin.embedded_model.train.graph import trunk_model, whole_model
from growbin.embedded_model.train.published_weights import (
    WEIGHTS_PACKAGE,
    WEIGHTS_SHA256,
    WeightsMissing,
    published_weights,
)
from growbin.embedded_model.train.report import as_json, draw, table
from growbin.embedded_model.train.trials import Trials, tried
from growbin.embedded_model.train.tune import Recipe, features_of, outputs, tuned
from growbin.embedded_model.train.views import trunk_views
from growbin.embedded_model.witnesses import HEAD, answers, candidates, judged
from growbin.labelled_photos import BadPhotos
from growbin.photo_labels import matched_name
from growbin.scores import confusion

if TYPE_CHECKING:
    from growbin.embedded_model.train.architecture import Array, Weights

FIGURES_FILE = "embedded-model.json"
ROOM = Path(__file__).parents[2] / "data"


def main() -> int:
    given = _arguments()
    recipe = replace(Recipe(), seed=given.seed, epochs=given.epochs, views=given.views)
    try:
        _Training(given.data, given.work, recipe).run(given.out)
    except (BadPhotos, WeightsMissing) as error:
        print(f"make train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"make train: stopped. Run it again to go on: what is done is in {given.work}.", file=sys.stderr
        )
        return 130
    if given.ship:
        for name in (MODEL_FILE, CARD_FILE):
            shutil.copyfile(given.out / name, ROOM / name)
    return 0


@dataclass(slots=True)
class _Inputs:
    """What every run of the training learns from."""

    photos: list[TrainingPhoto]
    digest: str
    published: Weights
    drawn: Array
    plain: Array
    targets: Array
    fold: Array


class _Training:
    def __init__(self, data: Path, work: Path, recipe: Recipe) -> None:
        self._data = data
        self._work = work
        self._recipe = recipe

    def run(self, out: Path) -> None:
        """Everything, into the folder `out`. Raises BadPhotos and WeightsMissing."""
        self._work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(os.cpu_count() or 1)
        inputs = self._inputs()
        sets = {name: self._left_out(inputs, name, mask) for name, mask in _masks(inputs).items()}
        figures = measured(sets)
        calibration = asdict(fitted(sets))
        trials = self._tried(inputs, calibration)
        model = whole_model(self._tuned(inputs, "nothing", numpy.zeros(len(inputs.photos), bool)), len(HEAD))
        card = _card(model, calibration).model_copy(update={"second_item": trials.card.second_item})
        (out / MODEL_FILE).write_bytes(model)
        _write(out / CARD_FILE, card.model_dump() | {"made": self._made(inputs)})
        frozen = frozen_folds(inputs.photos, inputs.fold, self._features(inputs))
        told = {"left_out": as_json(figures), "trials": trials.as_json(), "folds_of_a_frozen_body": frozen}
        _write(out / FIGURES_FILE, told)
        draw(figures, confusion(self._confused(inputs, sets[HOME], card)), out)
        print(table(figures))
        print(f"{MODEL_FILE}: {len(model):,} bytes, sha256 {card.sha256}")

    def _made(self, inputs: _Inputs) -> dict[str, Any]:
        """What the file was made of."""
        return {
            "recipe": asdict(self._recipe),
            "photos": {"sha256": inputs.digest, **counted(inputs.photos)},
            "licences": "NOTICE",
            "started_from": {"package": WEIGHTS_PACKAGE, "sha256": WEIGHTS_SHA256},
            "torch": str(torch.__version__),
            "device": "cuda" if torch.cuda.is_available() else "cpu",
        }

    def _tried(self, inputs: _Inputs, calibration: dict[str, Any]) -> Trials:
        """The classifier on the fold that its network was not trained on."""
        mask = _masks(inputs)[HOME]
        model = whole_model(self._tuned(inputs, HOME, mask), len(HEAD))
        photos = [photo for photo, is_out in zip(inputs.photos, mask, strict=True) if is_out]
        return tried(model, _card(model, calibration), photos, self._recipe.seed)

    def _inputs(self) -> _Inputs:
        photos = training_photos(self._data)
        digest = digest_of(photos)
        print(f"{len(photos)} photos, sha256 {digest}: {counted(photos)}", file=sys.stderr)
        published = published_weights()
        trunk = self._work / "trunk.onnx"
        trunk.write_bytes(trunk_model(published))
        recipe, workers = self._recipe, os.cpu_count() or 1
        drawn, plain = trunk_views(photos, recipe.views, recipe.seed, trunk, self._work, workers)
        targets = numpy.zeros((len(photos), len(HEAD)), numpy.float32)
        for number, photo in enumerate(photos):
            targets[number, list(photo.classes)] = 1
        inputs = _Inputs(photos, digest, published, drawn, plain, targets, numpy.zeros(len(photos), int))
        inputs.fold = folds(photos, self._features(inputs))
        return inputs

    def _features(self, inputs: _Inputs) -> Array:
        """[photos, 1280], of the published network, for the upright whole."""
        path = self._work / f"features {inputs.digest[:16]}.npy"
        if not path.exists():
            numpy.save(path, features_of(inputs.published, inputs.plain[:, :1])[:, 0])
        features: Array = numpy.load(path)
        return features

    def _tuned(self, inputs: _Inputs, name: str, mask: Array) -> Weights:
        teaches = inputs.targets.any(1)
        if not (mask & teaches).any():  # clothes and food teach the head nothing
            name = "nothing"
        return tuned(
            inputs.published,
            inputs.drawn,
            inputs.targets,
            numpy.flatnonzero(~mask & teaches).tolist(),
            self._recipe,
            self._work / f"without {name}.pt",
            inputs.digest,
        )

    def _left_out(self, inputs: _Inputs, name: str, mask: Array) -> LeftOut:
        """What a network says of photos that it was not trained on."""
        kept, of = self._work / f"without {name}.npz", f"{inputs.digest} {self._recipe} {mask.sum()}"
        if not kept.exists() or str(numpy.load(kept).get("of")) != of:
            materials, names = outputs(self._tuned(inputs, name, mask), inputs.plain[mask])
            numpy.savez(kept, materials=materials, names=names, of=numpy.array(of))
        said = numpy.load(kept)
        chosen = numpy.flatnonzero(mask)
        labels = [inputs.photos[number].photo.label for number in chosen]
        teaching = Counter(inputs.photos[number].classes for number in numpy.flatnonzero(~mask))
        # Only names know what no class of the head is; of a fold, the other folds teach every kind.
        is_taught = [
            name == HOME or not classes or teaching[classes] >= TAUGHT_FROM_PHOTOS
            for classes in (inputs.photos[number].classes for number in chosen)
        ]
        return left_out(*of_whole(said["materials"], said["names"]), labels, numpy.array(is_taught))

    def _confused(self, inputs: _Inputs, home: LeftOut, card: Card) -> list[tuple[str, str]]:
        """(label, answer) of the photos in the fold that was left out."""
        home_mask = _masks(inputs)[HOME]
        photos = [photo for photo, is_out in zip(inputs.photos, home_mask, strict=True) if is_out]
        best = judged(candidates(home.seen), card.weights).best
        places = [answers()[number] for number in best]
        return [
            (
                photo.photo.label,
                matched_name(photo.photo.label, place.category, place.material)
                or str(place.material or place.category),
            )
            for photo, place in zip(photos, places, strict=True)
        ]


def _card(model: bytes, calibration: dict[str, Any]) -> Card:
    return Card(sha256=hashlib.sha256(model).hexdigest(), **calibration)


def _masks(inputs: _Inputs) -> dict[str, Array]:
    """What each run leaves out: a fold of everything, then each origin of enough photos."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, photo in enumerate(inputs.photos):
        members[origin_of(photo)].append(number)
    teaches = inputs.targets.any(1)
    masks = {HOME: (inputs.fold == 0) & teaches}
    for origin, numbers in sorted(members.items()):
        if len(members) > 1 and len(numbers) >= MEASURED_FROM_PHOTOS:
            masks[origin] = numpy.isin(numpy.arange(len(inputs.photos)), numbers)
    return masks


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make train", description=__doc__)
    parser.add_argument("data", type=Path, help="a folder of collections of labelled photos")
    parser.add_argument("--work", type=Path, default=Path("var/train"), help="what is kept on the way")
    parser.add_argument(
        "--out", type=Path, default=Path("var/train/made"), help="file, card, figures, pictures"
    )
    parser.add_argument("--ship", action="store_true", help="put file and card into the package as well")
    recipe = Recipe()
    for name in ("seed", "epochs", "views"):
        parser.add_argument(f"--{name}", type=int, default=getattr(recipe, name))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
