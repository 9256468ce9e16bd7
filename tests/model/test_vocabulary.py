from __future__ import annotations

import json

import pytest

from recsys.model.vocabulary import Vocabulary

VOCABULARY = Vocabulary(items=("a", "b"), categories=("Comedy", "Drama"), year_starts=(1990, 2000))


def test_features_of_known_and_new_items() -> None:
    features = VOCABULARY.item_features(
        ["b", "new", "a"], [["Drama"], ["Comedy", "Drama", "Opera"], []], [1995, None, 1950]
    )
    assert features.ids_I.tolist() == [2, 0, 1]
    assert features.categories_IC.tolist() == [[0, 1], [0.5, 0.5], [0, 0]]
    assert features.years_I.tolist() == [1, 0, 1]


def test_padding_is_a_row_of_nothing() -> None:
    features = VOCABULARY.item_features(["a"], [["Drama"]], [2004]).with_padding()
    assert features.ids_I.tolist() == [0, 1]
    assert features.categories_IC.tolist() == [[0, 0], [0, 1]]
    assert features.years_I.tolist() == [0, 2]


def test_no_items_no_categories() -> None:
    features = Vocabulary(items=()).item_features([], [], [])
    assert features.ids_I.shape == (0,)
    assert features.categories_IC.shape == (0, 0)


def test_json_and_back_is_equal() -> None:
    assert Vocabulary.from_json(json.loads(json.dumps(VOCABULARY.to_json()))) == VOCABULARY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": ["a", "a"]}, "items: contains a name twice"),
        ({"items": [1]}, "items: not a list of str"),
        ({"year_starts": [2000, 1990]}, "year_starts: not ascending"),
        ({"year_starts": ["x"]}, "year_starts: not a list of int"),
        ({"colours": []}, "colours: not a field"),
    ],
)
def test_wrong_content_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_json(VOCABULARY.to_json() | change)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ValueError, match="kinds: missing"):
        Vocabulary.from_json({name: value for name, value in VOCABULARY.to_json().items() if name != "kinds"})
