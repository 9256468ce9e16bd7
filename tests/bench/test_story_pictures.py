"""Pictures of the board's minute: small files in which the colours that carry a meaning stay."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from recsys.bench import story_pictures
from recsys.bench.film import HOTTEST


def test_a_picture_is_scaled_and_keeps_the_colours_of_its_heat_maps(tmp_path: Path) -> None:
    shot = Image.radial_gradient("L").resize((1280, 860)).convert("RGB")
    for n, colour in enumerate(HOTTEST):
        shot.paste(colour, (20 + 40 * n, 20, 44 + 40 * n, 44))
    png = BytesIO()
    shot.save(png, "PNG")
    story_pictures._small(png.getvalue(), tmp_path / "story_1_calm.png")
    with Image.open(tmp_path / "story_1_calm.png") as small:
        assert (small.size, small.mode) == ((960, 645), "P")
        kept = small.convert("RGB")
    for n, colour in enumerate(HOTTEST):
        assert kept.getpixel((24 + 30 * n, 24)) == pytest.approx(ImageColor.getrgb(colour), abs=16)
