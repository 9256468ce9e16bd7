"""The film of the board: shots become one animation; the load is as long as what is filmed."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from dashboard.charts import STEP_COLOURS
from recsys.bench import film
from recsys.bench.film import FilmOptions


def shot(colour: str) -> bytes:
    out = BytesIO()
    Image.new("RGB", (400, 200), colour).save(out, "PNG")
    return out.getvalue()


def test_shots_of_two_policies_become_frames_one_above_the_other(tmp_path: Path) -> None:
    strips = [
        [film._captioned(shot(colour), caption, 200) for colour in colours]
        for caption, colours in (("above", ("red", "white")), ("below", ("blue", "black")))
    ]
    frames = [film._stacked(parts) for parts in zip(*strips, strict=True)]
    film._save(frames, tmp_path / "deep" / "film.gif")
    with Image.open(tmp_path / "deep" / "film.gif") as told:
        assert (told.n_frames, told.size) == (2, (200, 2 * (100 + film.CAPTION_PX)))
        assert told.info["duration"] == film.FRAME_MS
        first = told.convert("RGB")
        red, blue = (first.getpixel((100, film.CAPTION_PX + y)) for y in (50, 100 + film.CAPTION_PX + 50))
        told.seek(1)
        assert told.info["duration"] == film.LAST_FRAME_MS
    assert red == pytest.approx((255, 0, 0), abs=12)
    assert blue == pytest.approx((0, 0, 255), abs=12)


def test_a_small_mark_keeps_the_colour_that_tells_its_meaning(tmp_path: Path) -> None:
    frame = Image.radial_gradient("L").resize((300, 300)).convert("RGB")
    marks = {(10 + 20 * n, 10): colour for n, colour in enumerate((*STEP_COLOURS, *film.HOTTEST))}
    for (x, y), colour in marks.items():
        frame.paste(colour, (x, y, x + 8, y + 8))
    film._save([frame] * 3, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as told:
        kept = told.convert("RGB")
    for (x, y), colour in marks.items():
        assert kept.getpixel((x + 4, y + 4)) == pytest.approx(ImageColor.getrgb(colour), abs=16)


def test_the_load_has_its_crowd_where_it_is_filmed() -> None:
    options = FilmOptions(before_s=10, calm_s=4, crowd_s=20, after_s=8, rate=3.5, category="Spy")
    told = film._load_command("http://127.0.0.1:1", Path("tastes.json"), options)
    assert "--duration=48" in told, "calm before and after the crowd are equally long"
    assert {"--rate=3.5", "--crowd-seconds=20", "--category=Spy"} <= set(told)
