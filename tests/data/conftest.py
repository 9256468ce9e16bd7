"""Small MovieLens folders in each layout, written on demand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """`write(name, content)` makes a file in the test's folder; bytes as they are, text as UTF-8."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture
def ml_100k(write: Writer) -> Path:
    write("u.data", "1\t10\t5\t881250949\n2\t10\t3\t881250940\n1\t11\t4\t881250949\n")
    write("u.genre", "unknown|0\nComedy|1\nDrama|2\n\n")
    write(
        "u.item",
        "10|Caf\xe9 Society (1990)|01-Jan-1990||http://x|0|1|1\n11|Unseen (1991) (V)|||http://y|0|0|0\n"
        "12|unknown||||1|0|0\n".encode("latin-1"),
    )
    return write("u.user", "1|24|M|writer|85711\n2|53|F|other|94043\n3|30|F|artist|94043\n").parent


@pytest.fixture
def ml_1m(write: Writer) -> Path:
    write("ratings.dat", "1::10::5::978300760\n2::11::3::978300750\n")
    write("movies.dat", "10::L\xe9on: The Professional (1994)::Action|Drama\n11::B (2000)::Comedy\n".encode("latin-1"))
    return write("users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n").parent


@pytest.fixture
def ml_csv(write: Writer) -> Path:
    write("ratings.csv", "userId,movieId,rating,timestamp\n1,10,3.5,1260759144\n1,11,4.0,1260759140\n")
    return write(
        "movies.csv",
        'movieId,title,genres\n10,"Misérables, Les (1995) ",Drama|War\n11,Fawlty Towers (1975-1979),Comedy\n'
        "12,Hyena Road,(no genres listed)\n",
    ).parent


@pytest.fixture
def ml_1m_order(write: Writer) -> Path:
    path = write("movies.dat", "movieId::title::genres\n1::A (1990)::Comedy\n2::B (1991)::Drama\n3::C (1992)::War\n")
    write("users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n")
    rows = {"user_id": [2, 2, 1, 1], "item_id": [1, 2, 2, 1], "position": [0, 1, 0, 1]}
    pl.DataFrame(rows).write_parquet(path.with_name("interactions.parquet"))
    return path.parent
