"""The picture of an evaluation: what was taken for what, and whether confidence means what it says."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from growbin.commands.evaluation_report import Report
from growbin.commands.terminal_text import clean, cut
from growbin.photo_labels import right_answers
from growbin.scores import CONFIDENCE_BINS, ConfidenceBin, Confusion

# All in pixels.
CELL, SIDE, MARGIN = 46, 400, 30
NAME_WIDTH, NAME_HEIGHT, TITLE_HEIGHT = 150, 120, 40
TEXT, HEADING = 14, 18
NAME_LETTERS = 18

INK, FAINT, PAPER = (30, 34, 40), (205, 209, 214), (255, 255, 255)
RIGHT, WRONG = (38, 132, 88), (196, 78, 60)


def draw(report: Report) -> Image.Image:
    """The matrix on the left (each row shaded by its shares, the right answers framed), the reliability
    diagram on the right."""
    matrix = report.matrix
    matrix_width = NAME_WIDTH + CELL * len(matrix.answers)
    height = TITLE_HEIGHT + NAME_HEIGHT + max(CELL * len(matrix.labels), SIDE) + 2 * MARGIN
    picture = Image.new("RGB", (matrix_width + NAME_WIDTH + SIDE + 3 * MARGIN, height), PAPER)
    pen = ImageDraw.Draw(picture)
    accuracy = f"{report.accuracy.hits} of {report.accuracy.total} right"
    title = f"{clean(report.model)}: {accuracy}"
    pen.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(HEADING))
    _draw_matrix(picture, matrix, MARGIN, MARGIN + TITLE_HEIGHT)
    _draw_reliability(pen, report.bins, matrix_width + NAME_WIDTH // 2 + 2 * MARGIN, MARGIN + TITLE_HEIGHT)
    return picture


def _draw_matrix(picture: Image.Image, matrix: Confusion, left: int, top: int) -> None:
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    first_column, first_row = left + NAME_WIDTH, top + NAME_HEIGHT
    for number, answer in enumerate(matrix.answers):
        name = Image.new("RGB", (NAME_HEIGHT, CELL), PAPER)
        ImageDraw.Draw(name).text((4, CELL // 2), answer, INK, font, anchor="lm")
        upright = name.transpose(Image.Transpose.ROTATE_90)
        picture.paste(upright, (first_column + number * CELL, top))
    for row, (label, counts) in enumerate(zip(matrix.labels, matrix.counts, strict=True)):
        y = first_row + row * CELL
        pen.text((first_column - 8, y + CELL // 2), cut(clean(label), NAME_LETTERS), INK, font, anchor="rm")
        right = {answer.name for answer in right_answers(label)}
        for column, (answer, count) in enumerate(zip(matrix.answers, counts, strict=True)):
            x = first_column + column * CELL
            share, colour = count / sum(counts), RIGHT if answer in right else WRONG
            box = (x, y, x + CELL - 2, y + CELL - 2)
            pen.rectangle(box, _mixed(colour, share), colour if answer in right else FAINT)
            if count:
                ink = PAPER if share > 0.5 else INK
                pen.text((x + CELL // 2, y + CELL // 2), str(count), ink, font, anchor="mm")


def _draw_reliability(pen: ImageDraw.ImageDraw, bins: list[ConfidenceBin], left: int, top: int) -> None:
    """A bar for each bin: the share that is right, with its interval. On the line, confidence is honest."""
    font = ImageFont.load_default(TEXT)
    base, bar_width = top + SIDE, SIDE // CONFIDENCE_BINS
    for step in range(0, CONFIDENCE_BINS + 1, 2):
        along, up = left + step * bar_width, base - step * bar_width
        pen.line((left, up, left + SIDE, up), FAINT)
        pen.text((left - 8, up), f"{step / CONFIDENCE_BINS:.0%}", INK, font, anchor="rm")
        pen.text((along, base + 8), f"{step / CONFIDENCE_BINS:.0%}", INK, font, anchor="mt")
    for one in bins:
        x = left + round(one.low * SIDE)
        height = round((one.right.value or 0) * SIDE)
        pen.rectangle((x + 2, base - height, x + bar_width - 2, base), _mixed(RIGHT, 0.6), RIGHT)
        low, high = one.right.interval or (0, 0)
        middle = x + bar_width // 2
        pen.line((middle, base - round(low * SIDE), middle, base - round(high * SIDE)), INK, 2)
        pen.text((middle, base + 28), str(one.right.total), INK, font, anchor="mt")
    pen.rectangle((left, top, left + SIDE, base), None, INK)
    pen.line((left, base, left + SIDE, top), INK)
    pen.text(
        (left + SIDE // 2, base + 50), "right by confidence, and how many answers", INK, font, anchor="mt"
    )


def _mixed(colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """From paper to the colour."""
    red, green, blue = (
        round(light + (deep - light) * share) for light, deep in zip(PAPER, colour, strict=True)
    )
    return red, green, blue
