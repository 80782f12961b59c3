"""Each photo drawn anew some times, as another hand would have taken it, and seen by the lower half of the
network. The upper half then learns from what is kept here: the lower one would say the same each time."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import onnxruntime
from PIL import Image, ImageFilter
from tqdm import tqdm

from growbin.embedded_model.pictures import SIDE_PIXELS, WHOLE_VIEWS, upright_photo, views_of_whole
from growbin.embedded_model.train.architecture import TRUNK_SHAPE
from growbin.embedded_model.train.collections import TrainingPhoto

if TYPE_CHECKING:
    from growbin.embedded_model.train.architecture import Array

BATCH = 8


def trunk_views(
    photos: Sequence[TrainingPhoto], count: int, seed: int, trunk: Path, folder: Path, workers: int
) -> tuple[Array, Array]:
    """What the lower half makes of `count` drawn views of each photo, and of the views that the classifier
    looks at: [photos, views, 112, 14, 14], half precision, kept in `folder`. Photos that were done before are
    passed over, as long as photos, count and seed are the same."""
    shapes = {
        "drawn": (len(photos), count, *TRUNK_SHAPE),
        "plain": (len(photos), len(WHOLE_VIEWS), *TRUNK_SHAPE),
    }
    told = json.dumps([[photo.sha256 for photo in photos], count, seed, list(WHOLE_VIEWS)])
    state = folder / "views.json"
    if not state.exists() or state.read_text() != told:
        (folder / "views.done").unlink(missing_ok=True)
        for name, shape in shapes.items():
            numpy.lib.format.open_memmap(folder / f"{name}.npy", "w+", numpy.float16, shape).flush()
        state.write_text(told)
    done_file = folder / "views.done"
    done = set(map(int, done_file.read_text().split())) if done_file.exists() else set()
    waiting = [number for number in range(len(photos)) if number not in done]
    work = [(number, photos[number].photo.path, count, seed, trunk, folder) for number in waiting]
    with (
        ProcessPoolExecutor(workers) as pool,
        done_file.open("a") as finished,
        tqdm(total=len(photos), initial=len(done), desc="views", unit="photo") as bar,
    ):
        for number in pool.map(_see, work, chunksize=8):
            finished.write(f"{number}\n")
            finished.flush()
            bar.update()
    drawn, plain = (numpy.load(folder / f"{name}.npy", mmap_mode="r") for name in shapes)
    return drawn, plain


_session: onnxruntime.InferenceSession | None = None


def _see(work: tuple[int, Path, int, int, Path, Path]) -> int:
    global _session  # noqa: PLW0603  one for each worker process
    number, path, count, seed, trunk, folder = work
    if _session is None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        _session = onnxruntime.InferenceSession(trunk, options, providers=["CPUExecutionProvider"])
    photo = upright_photo(path.read_bytes())
    # By the photo's own bytes would be as good; by its place, a photo's views do not depend on the others.
    chance = random.Random(seed * 1_000_003 + number)
    drawn = [_as_another_hand_took_it(photo, chance) for _ in range(count)]
    for name, pixels in (("drawn", numpy.stack(drawn)), ("plain", views_of_whole(photo))):
        kept = numpy.load(folder / f"{name}.npy", mmap_mode="r+")
        for start in range(0, len(pixels), BATCH):
            seen = _session.run(["trunk"], {"photo": pixels[start : start + BATCH]})[0]
            kept[number, start : start + BATCH] = seen
    return number


def _as_another_hand_took_it(photo: Image.Image, chance: random.Random) -> Array:
    """[3, 224, 224], -1 to 1: nearer, turned, mirrored, in another light, out of focus, partly hidden."""
    view = photo.transform(
        (SIDE_PIXELS, SIDE_PIXELS),
        Image.Transform.AFFINE,
        _another_place(photo.width, photo.height, chance),
        Image.Resampling.BILINEAR,
        fillcolor=photo.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0)),
    )
    if chance.random() < 0.15:
        view = view.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 2)))
    pixels = numpy.asarray(view, dtype=numpy.float32) / 255
    if chance.random() < 0.8:
        pixels = _in_another_light(pixels, chance)
    if chance.random() < 0.08:
        pixels = numpy.repeat(pixels.mean(2, keepdims=True), 3, 2)
    pixels = numpy.clip(pixels, 0, 1)
    if chance.random() < 0.25:
        side = int(SIDE_PIXELS * chance.uniform(0.15, 0.45))
        top, left = (chance.randrange(SIDE_PIXELS - side) for _ in range(2))
        pixels[top : top + side, left : left + side] = [chance.random() for _ in range(3)]
    return pixels.transpose(2, 0, 1) * 2 - 1


def _another_place(width: int, height: int, chance: random.Random) -> tuple[float, ...]:
    """Where each pixel of the view comes from: x = a·x' + b·y' + c, y = d·x' + e·y' + f."""
    area, aspect = chance.uniform(0.3, 1.05), math.exp(chance.uniform(-0.25, 0.25))
    wide, high = min(1.1, math.sqrt(area * aspect)), min(1.1, math.sqrt(area / aspect))
    middle_x = 0.5 + (1 - wide) * chance.uniform(-0.5, 0.5)
    middle_y = 0.5 + (1 - high) * chance.uniform(-0.5, 0.5)
    kind = chance.random()
    if kind < 0.3:
        turn = chance.uniform(-math.pi, math.pi)
    elif kind < 0.5:
        turn = chance.choice([math.pi / 2, math.pi, -math.pi / 2])
    else:
        turn = chance.uniform(-0.15, 0.15)
    mirrored = chance.choice([-1, 1])
    step_x, step_y = wide * width / SIDE_PIXELS, high * height / SIDE_PIXELS
    a, b = mirrored * step_x * math.cos(turn), -step_x * math.sin(turn)
    d, e = mirrored * step_y * math.sin(turn), step_y * math.cos(turn)
    half = SIDE_PIXELS / 2
    return a, b, middle_x * width - (a + b) * half, d, e, middle_y * height - (d + e) * half


def _in_another_light(pixels: Array, chance: random.Random) -> Array:
    pixels = pixels * chance.uniform(0.6, 1.4)
    mean = pixels.mean()
    pixels = (pixels - mean) * chance.uniform(0.6, 1.4) + mean
    grey = pixels.mean(2, keepdims=True)
    pixels = grey + (pixels - grey) * chance.uniform(0.4, 1.6)
    tint = numpy.array([chance.uniform(0.88, 1.12) for _ in range(3)], dtype=numpy.float32)
    return pixels * tint
