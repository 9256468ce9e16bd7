"""Counted work: floors and predictions that the documentation quotes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed here")

from kernels.gpu import roofline
from kernels.gpu.shapes import SHAPES, Shape

README = Path(__file__).parents[2] / "kernels" / "README.md"


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_is_predicted_below_its_floor_and_the_table_quotes_both(name: str) -> None:
    shape = SHAPES[name]
    floor, predicted = roofline.floor_us(shape), roofline.predicted_us(shape)
    assert floor < predicted < roofline.balanced_us(shape)
    row = next(line for line in README.read_text().splitlines() if line.startswith(f"| {name} |")).split("|")
    assert row[2].strip() == f"{shape.tokens}, {shape.width}, {shape.hidden}, {shape.experts}"
    assert float(row[5]) == pytest.approx(floor, rel=0.03, abs=0.05)
    assert float(row[6].split()[0]) == pytest.approx(predicted, rel=0.03, abs=0.5)
    assert float(row[8]) == pytest.approx(roofline.balanced_us(shape), rel=0.03, abs=0.5)


def test_counts() -> None:
    shape = Shape(10, 4, 8, 2, 1)
    assert shape.slots == 10
    assert roofline.flops(shape) == 6 * 10 * 4 * 8 + 2 * 10 * 4 * 2
    assert roofline.least_bytes(shape) == 2 * 10 * 4 * 2 + 3 * 2 * 4 * 8 * 2 + 8 * 10
