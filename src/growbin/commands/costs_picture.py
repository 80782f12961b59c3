"""The picture of costs: a bar for each bill, in its kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

# All in pixels.
MARGIN, NAME_WIDTH, BAR_WIDTH, BAR_HEIGHT, GAP, SUM_WIDTH, LEGEND_HEIGHT = 24, 120, 560, 34, 16, 90, 40
TEXT, HEADING = 14, 18

INK, PAPER = (30, 34, 40), (255, 255, 255)
COLOURS = ((38, 132, 88), (64, 116, 196), (214, 160, 60))


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    usd: Mapping[str, float]  # by kind

    @property
    def total_usd(self) -> float:
        return sum(self.usd.values())


def draw(bars: Sequence[Bar], title: str) -> Image.Image:
    width = 2 * MARGIN + NAME_WIDTH + BAR_WIDTH + SUM_WIDTH
    height = 2 * MARGIN + LEGEND_HEIGHT * 2 + len(bars) * (BAR_HEIGHT + GAP)
    picture = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    pen.text((MARGIN, MARGIN), title, INK, ImageFont.load_default(HEADING))
    x = MARGIN
    for kind, colour in zip(bars[0].usd, COLOURS, strict=True):
        pen.rectangle((x, MARGIN + LEGEND_HEIGHT, x + TEXT, MARGIN + LEGEND_HEIGHT + TEXT), colour)
        pen.text((x + TEXT + 6, MARGIN + LEGEND_HEIGHT), kind, INK, font)
        x += NAME_WIDTH
    most = max(bar.total_usd for bar in bars)
    for number, bar in enumerate(bars):
        y = MARGIN + 2 * LEGEND_HEIGHT + number * (BAR_HEIGHT + GAP)
        pen.text((MARGIN, y + BAR_HEIGHT // 2), bar.name, INK, font, anchor="lm")
        left = float(MARGIN + NAME_WIDTH)
        for usd, colour in zip(bar.usd.values(), COLOURS, strict=True):
            right = left + usd / most * BAR_WIDTH
            pen.rectangle((left, y, right, y + BAR_HEIGHT), colour)
            left = right
        pen.text((left + 8, y + BAR_HEIGHT // 2), f"${bar.total_usd:,.2f}", INK, font, anchor="lm")
    return picture
