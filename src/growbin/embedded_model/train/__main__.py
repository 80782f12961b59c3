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
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch

from growbin.embedded_model.classifier import CARD_FILE, MODEL_FILE, Card, of_whole
from growbin.embedded_model.train.calibrate import (
    HOME,
    Figures,
    LeftOut,
    fitted,
    left_out,
    measured,
)
from growbin.embedded_model.train.collections import (
    MEASURED_FROM_PHOTOS,
    TAUGHT_FROM_PHOTOS,
    TrainingPhoto,
    counted,
    digest_of,
    training_photos,
)
from growbin.embedded_model.train.folds import FOLDS, folds, frozen_folds, origin_of
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
from growbin.embedded_model.witnesses import HEAD, Evidence, answers, evidence
from growbin.labelled_photos import BadPhotos
from growbin.photo_labels import matched_name
from growbin.scores import Share, confusion

if TYPE_CHECKING:
    from growbin.embedded_model.train.architecture import Array, Weights

FIGURES_FILE = "embedded-model.json"
HOME_FOLDS = tuple(f"{HOME} {number}" for number in range(FOLDS))
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
        masks = _masks(inputs)
        seen = {name: self._seen(inputs, name, mask) for name, mask in masks.items()}
        sets = {HOME: _home(inputs, seen)} | {
            name: self._left_out(inputs, masks[name], seen[name]) for name in masks if name not in HOME_FOLDS
        }
        figures = measured(sets)
        calibration = asdict(fitted(sets))
        trials = self._tried(inputs, calibration)
        model = whole_model(self._tuned(inputs, "nothing", numpy.zeros(len(inputs.photos), bool)), len(HEAD))
        card = _card(model, calibration).model_copy(update={"second_item": trials.card.second_item})
        (out / MODEL_FILE).write_bytes(model)
        _write(out / CARD_FILE, card.model_dump() | {"made": self._made(inputs)})
        told = {
            "left_out": as_json(figures),
            "home": _by_collection(inputs, sets[HOME], figures[HOME]),
            "trials": trials.as_json(),
            "folds_of_a_frozen_body": frozen_folds(inputs.photos, inputs.fold, self._features(inputs)),
        }
        _write(out / FIGURES_FILE, told)
        draw(figures, confusion(_confused(inputs, sets[HOME], figures[HOME])), out)
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
        mask = _masks(inputs)[HOME_FOLDS[0]]
        model = whole_model(self._tuned(inputs, HOME_FOLDS[0], mask), len(HEAD))
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

    def _seen(self, inputs: _Inputs, name: str, mask: Array) -> Evidence:
        """What a network says of photos that it was not trained on."""
        kept = self._work / f"without {name}.npz"
        of = f"{inputs.digest} {self._recipe} {mask.sum()} {_digest_of_names()}"
        if not kept.exists() or str(numpy.load(kept).get("of")) != of:
            said = of_whole(*outputs(self._tuned(inputs, name, mask), inputs.plain[mask]))
            arrays: dict[str, Any] = {"of": numpy.array(of), **evidence(*said).arrays()}
            numpy.savez(kept, **arrays)
        with numpy.load(kept) as stored:
            return Evidence(**{part: stored[part] for part in stored if part != "of"})

    def _left_out(self, inputs: _Inputs, mask: Array, seen: Evidence) -> LeftOut:
        photos = _where(inputs, mask)
        teaching = Counter(photo.classes for photo in _where(inputs, ~mask))
        # Only names know what no class of the head is.
        is_taught = [not photo.classes or teaching[photo.classes] >= TAUGHT_FROM_PHOTOS for photo in photos]
        labels = [photo.photo.label for photo in photos]
        return left_out(
            seen, labels, numpy.array(is_taught), numpy.flatnonzero(mask), numpy.zeros(len(labels), int)
        )


def _where(inputs: _Inputs, mask: Array) -> list[TrainingPhoto]:
    return [inputs.photos[number] for number in numpy.flatnonzero(mask)]


def _home(inputs: _Inputs, seen: Mapping[str, Evidence]) -> LeftOut:
    """All folds as one set; of each, the others teach every kind."""
    folds = [seen[name].arrays() for name in HOME_FOLDS if name in seen]
    together = Evidence(**{part: numpy.concatenate([one[part] for one in folds]) for part in folds[0]})
    masks = _masks(inputs)
    photo = numpy.concatenate([numpy.flatnonzero(masks[name]) for name in HOME_FOLDS if name in masks])
    labels = [inputs.photos[number].photo.label for number in photo]
    return left_out(together, labels, numpy.ones(len(labels), bool), photo, inputs.fold[photo])


def _by_collection(inputs: _Inputs, home: LeftOut, figures: Figures) -> dict[str, Any]:
    """Of the photos at home, how often the head and both are right, for each collection and its folds."""
    fold, rows = home.fold, numpy.arange(len(home.fold))
    collections = numpy.array([inputs.photos[number].collection for number in home.photo])
    hits = {"head": home.right[rows, home.seen.head.argmax(1)], "both": home.right[rows, figures.best]}
    found: dict[str, Any] = {}
    for collection in sorted(set(collections)):
        chosen = collections == collection
        found[collection] = {"photos": int(chosen.sum())}
        for name, right in hits.items():
            share = Share(int(right[chosen].sum()), int(chosen.sum()))
            folds = [
                float(right[chosen & (fold == one)].mean().round(4)) for one in sorted(set(fold[chosen]))
            ]
            found[collection][name] = {"share": share.value, "interval": share.interval, "folds": folds}
    return found


def _confused(inputs: _Inputs, home: LeftOut, figures: Figures) -> list[tuple[str, str]]:
    """(label, answer) of the photos at home."""
    labels = [inputs.photos[number].photo.label for number in home.photo]
    places = [answers()[number] for number in figures.best]
    return [
        (
            label,
            matched_name(label, place.category, place.material) or str(place.material or place.category),
        )
        for label, place in zip(labels, places, strict=True)
    ]


def _digest_of_names() -> str:
    """What the object names mean decides what is kept of the outputs."""
    return hashlib.sha256(files("growbin").joinpath("data", "labels.json").read_bytes()).hexdigest()[:16]


def _card(model: bytes, calibration: dict[str, Any]) -> Card:
    return Card(sha256=hashlib.sha256(model).hexdigest(), **calibration)


def _masks(inputs: _Inputs) -> dict[str, Array]:
    """What each run leaves out: each fold of everything, then each origin of enough photos."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, photo in enumerate(inputs.photos):
        members[origin_of(photo)].append(number)
    teaches = inputs.targets.any(1)
    at_home = {name: (inputs.fold == fold) & teaches for fold, name in enumerate(HOME_FOLDS)}
    masks = {name: mask for name, mask in at_home.items() if mask.any()}  # few photos may fill fewer folds
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
