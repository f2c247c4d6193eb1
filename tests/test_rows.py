"""tests/support/rows.py: no row is left out, and what fails is named."""

import inspect

import pytest

from tests.support.rows import each_row

seen: list[tuple[object, ...]] = []


@pytest.fixture
def fixture() -> str:
    return "made once"


@each_row("first", "ab")
@each_row(("second", "third"), [(1, 2), (3, 4)])
def test_every_row_is_tried_with_what_pytest_makes(
    first: str, second: int, third: int, fixture: str, tmp_path: object
) -> None:
    assert fixture == "made once"
    seen.append((first, second, third, tmp_path))


def test_all_of_them_were() -> None:
    test_every_row_is_tried_with_what_pytest_makes(fixture="made once", tmp_path=0)
    made = [row[:3] for row in seen if row[3] == 0]
    assert made == [("a", 1, 2), ("a", 3, 4), ("b", 1, 2), ("b", 3, 4)]
    found = inspect.signature(test_every_row_is_tried_with_what_pytest_makes)
    assert list(found.parameters) == ["fixture", "tmp_path"]


def test_what_fails_is_named_and_the_others_are_tried() -> None:
    tried = []

    @each_row("number", range(4), ids=lambda n: f"number {n}")
    def test(number: int) -> None:
        tried.append(number)
        if number == 1:
            pytest.fail("no exception")
        assert number != 3

    with pytest.raises(BaseExceptionGroup, match="2 rows of 4") as caught:
        test()
    first, second = caught.value.exceptions
    assert isinstance(first, pytest.fail.Exception)
    assert first.__notes__ == ["in the row number 1"]
    assert second.__notes__ == ["in the row number 3"]
    assert tried == [0, 1, 2, 3]


def test_one_that_fails_is_raised_as_it_is() -> None:
    @each_row("number", [0, 1])
    def test(number: int) -> None:
        assert number == 0, "not this one"

    with pytest.raises(AssertionError, match="not this one") as caught:
        test()
    assert caught.value.__notes__ == ["in the row 1"]


def test_an_empty_table_and_a_row_that_does_not_fit_are_noticed() -> None:
    with pytest.raises(AssertionError, match="empty"):
        each_row("number", [])

    @each_row(("a", "b"), [(1, 2, 3)])
    def test(a: int, b: int) -> None:
        pass

    with pytest.raises(ValueError, match="zip"):
        test()
