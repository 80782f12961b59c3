"""What the whole classifier makes of photos that its network was not trained on: several things in one
picture, and the same picture saved, shrunk and turned in other ways."""

from __future__ import annotations

import io
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from PIL import Image
from tqdm import tqdm

from growbin.embedded_model.classifier import (
    PROBABLE_FROM,
    Card,
    Classifier,
    of_whole,
    opinions,
    second_items,
)
from growbin.embedded_model.pictures import upright_photo, views_of_crops, views_of_whole
from growbin.embedded_model.train.collections import TrainingPhoto, training_photos
from growbin.embedded_model.witnesses import SURE_FROM, answer_of
from growbin.photo_labels import matched_name
from growbin.scores import Share, share_of

EXTRA_ITEMS = 0.03  # of photos of one thing, at most, that are said to show another as well
SINGLE, COMPOSED, ALTERED = 300, 100, 200


@dataclass(frozen=True, slots=True)
class Trials:
    card: Card  # with the threshold that was found
    recall: Share  # of the things in composed photos, whose bin was said
    extra: Share  # of photos of one thing with another item; on other photos than the threshold is from
    same: Share  # of photos whose altered copies all go to the same bin
    same_by: dict[str, Share]

    def as_json(self) -> dict[str, Any]:
        shares = {"recall": self.recall, "extra": self.extra, "same": self.same, **self.same_by}
        return {name: {"share": share.value, "interval": share.interval} for name, share in shares.items()}


def tried(model: bytes, card: Card, photos: Sequence[TrainingPhoto], seed: int) -> Trials:
    """`photos` were left out of the training of `model`."""
    chance = numpy.random.default_rng(seed)
    order = [photos[number] for number in chance.permutation(len(photos))]
    card = replace_second_item(Classifier(model, card), card, order[:SINGLE])
    classifier = Classifier(model, card)
    singles = order[SINGLE : 2 * SINGLE]
    extra = [
        len(classifier.look(photo.photo.path.read_bytes()).seen) > 1 for photo in _bar(singles, "single")
    ]
    found: list[bool] = []
    for _ in _bar(range(min(COMPOSED, len(photos))), "composed"):
        count = int(chance.integers(2, 4))
        chosen = [order[number] for number in chance.choice(len(order), count, replace=False)]
        seen = classifier.look(_composed(chosen, chance)).seen
        places = [thing.place for thing in seen]
        found.extend(
            any(matched_name(photo.photo.label, place.category, place.material) for place in places)
            for photo in chosen
        )
    same, same_by = same_answers(classifier, order[:ALTERED])
    return Trials(card, share_of(found), share_of(extra), same, same_by)


def same_answers(classifier: Classifier, photos: Sequence[TrainingPhoto]) -> tuple[Share, dict[str, Share]]:
    """Of how many photos every altered copy goes to the same bin as the picture itself; and each kind of
    copy."""
    same: dict[str, list[bool]] = defaultdict(list)
    all_same = []
    for photo in _bar(photos, "altered"):
        picture = Image.open(photo.photo.path).convert("RGB")
        first = _answer(classifier, _saved(picture, "PNG"))
        agree = {name: _answer(classifier, data) == first for name, data in _altered(picture)}
        all_same.append(all(agree.values()))
        for name, is_same in agree.items():
            same[name].append(is_same)
    return share_of(all_same), {name: share_of(hits) for name, hits in same.items()}


def replace_second_item(classifier: Classifier, card: Card, singles: Sequence[TrainingPhoto]) -> Card:
    """The card with the least threshold at which so few photos of one thing show a second."""
    levels = []
    for photo in _bar(singles, "second items"):
        picture = upright_photo(photo.photo.path.read_bytes())
        (whole,) = opinions(*of_whole(*classifier.outputs(views_of_whole(picture), together=True)), card)
        if whole.confidence >= SURE_FROM:
            levels.append(0.0)
            continue
        others = second_items(whole, opinions(*classifier.outputs(views_of_crops(picture)), card), 0.0)
        levels.append(others[0].confidence if others else 0.0)
    level = float(numpy.quantile(levels, 1 - EXTRA_ITEMS)) if levels else 1.0
    return card.model_copy(update={"second_item": round(max(level, PROBABLE_FROM) + 0.0005, 3)})


def _composed(photos: Sequence[TrainingPhoto], chance: numpy.random.Generator) -> bytes:
    """Photos beside each other, or one above the others, as large as they come."""
    pictures = [Image.open(photo.photo.path).convert("RGB").resize((300, 300)) for photo in photos]
    is_row = bool(chance.integers(0, 2))
    size = (300 * len(pictures), 300) if is_row else (300, 300 * len(pictures))
    sheet = Image.new("RGB", size)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (300 * number, 0) if is_row else (0, 300 * number))
    return _saved(sheet, "JPEG", quality=90)


def _altered(picture: Image.Image) -> Iterator[tuple[str, bytes]]:
    for quality in (95, 75, 50):
        yield f"JPEG {quality}", _saved(picture, "JPEG", quality=quality)
    yield "WebP", _saved(picture, "WEBP", quality=80)
    yield "shrunk to a half", _saved(picture.resize((picture.width // 2, picture.height // 2)), "PNG")
    yield "turned by 90°", _saved(picture.transpose(Image.Transpose.ROTATE_90), "PNG")


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _answer(classifier: Classifier, photo: bytes) -> int:
    return answer_of(classifier.look(photo).seen[0].place)


def _bar(things: Any, title: str) -> Any:
    return tqdm(things, desc=title, leave=False)


def main() -> None:
    """The shipped file on altered copies of photos from a folder of collections."""
    photos = training_photos(Path(sys.argv[1]))
    order = numpy.random.default_rng(0).permutation(len(photos))[:ALTERED]
    same, same_by = same_answers(Classifier(), [photos[number] for number in order])
    for name, share in {**same_by, "all of them": same}.items():
        print(f"{name:16} {share.hits} of {share.total}")


if __name__ == "__main__":
    main()
