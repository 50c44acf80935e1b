import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgym.environments.web.difference import (
    UNCHANGED,
    difference,
    observation_text,
    patched,
)
from agentgym.errors import ConfigError

PAGE = '[1] textbox "User"\n[2] checkbox "Agree"\n[3] button "Ok"\ntext "Done?"'
TEXTS = st.lists(st.sampled_from(["a", "b", "-c", "+d", "@ 1", " ", ""])).map("\n".join)


@pytest.mark.parametrize(
    ("after", "change"),
    [
        (PAGE, UNCHANGED),
        (
            PAGE.replace('"Agree"', '"Agree" checked'),
            '@ 2-2\n-[2] checkbox "Agree"\n+[2] checkbox "Agree" checked',
        ),
        (PAGE.replace('[2] checkbox "Agree"\n', ""), '@ 2-2\n-[2] checkbox "Agree"'),
        (PAGE + '\n[4] link "x"', '@ 5\n+[4] link "x"'),
        ("text\n" + PAGE, "@ 1\n+text"),
        (
            PAGE.replace('"User"', '"User" value="a"').replace("Done?", "Done!"),
            '@ 1-1\n-[1] textbox "User"\n+[1] textbox "User" value="a"\n'
            '@ 4-4\n-text "Done?"\n+text "Done!"',
        ),
        ("", "@ 1-4\n" + "\n".join(f"-{line}" for line in PAGE.split("\n")) + "\n+"),
    ],
)
def test_changes(after: str, change: str) -> None:
    assert difference(PAGE, after) == change
    assert patched(PAGE, change) == after


def test_context() -> None:
    change = difference("a\nb\nc\nd", "a\nb\nC\nd", context=1)
    assert change == "@ 2-4\n b\n-c\n+C\n d"
    assert patched("a\nb\nc\nd", change) == "a\nb\nC\nd"


@given(TEXTS, TEXTS, st.integers(0, 3))
def test_the_second_text_is_exactly_recovered(before: str, after: str, context: int) -> None:
    assert patched(before, difference(before, after, context=context)) == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("-a", "begins with '@ '"),
        ("@ x\n-a", "names no line"),
        ("@ 0\n-a", "names no line"),
        ("@ 1-1\n-b", "is not a change of line 1"),
        ("@ 9\n-b", "is not a change"),
        ("@ 1\nb", "is not a change"),
    ],
)
def test_what_is_no_difference_from_a_text_is_refused(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        patched("a", change)


def test_an_observation_is_never_longer_than_the_page() -> None:
    assert observation_text("", PAGE) == PAGE
    assert observation_text(PAGE, PAGE) == UNCHANGED
    assert observation_text(PAGE, "new") == "new"
    changed = PAGE.replace('"Ok"', '"No"')
    assert observation_text(PAGE, changed) == '@ 3-3\n-[3] button "Ok"\n+[3] button "No"'
