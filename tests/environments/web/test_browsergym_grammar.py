import pytest

from agentgym.environments.web.browsergym_grammar import parse_calls


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("click('12')", [("click", ["12"], {})]),
        ("fill(\"a1\", 'it\\'s\\n')", [("fill", ["a1", "it's\n"], {})]),
        ("I will\nclick ( 'a' ,\n 'b', ) now", [("click", ["a", "b"], {})]),
        ("f(1, -2.5, 1e3, True, None)", [("f", [1, -2.5, 1000.0, True, None], {})]),
        ("f([1, 'a'], (2,), {'k': [3]})", [("f", [[1, "a"], (2,), {"k": [3]}], {})]),
        ("f('1', button='left', n=[1])", [("f", ["1"], {"button": "left", "n": [1]})]),
        ("f('1' button='left')", [("f", ["1"], {"button": "left"})]),
        ("a() b()\tc()", [("a", [], {}), ("b", [], {}), ("c", [], {})]),
        ("# a()\nb() # c()\nd()", [("b", [], {}), ("d", [], {})]),
        ("f('#x') g()", [("f", ["#x"], {}), ("g", [], {})]),
        ("f(g('1'))", [("g", ["1"], {})]),
        ("page.click('1')", [("click", ["1"], {})]),
        ("f('''two\nlines''')", [("f", ["two\nlines"], {})]),
        ("f('\\d')", [("f", ["\\d"], {})]),
        ("é(1)", [("é", [1], {})]),
        ("f('two\nlines')", []),
        ("f('1'", []),
        ("f('1' '2')", []),
        ("f(a=1, 2)", []),
        ("f(a=1, a=2)", []),
        ("f(x)", []),
        ("f('\\x1')", []),
        ("", []),
    ],
)
def test_calls_are_found_with_their_literals(text: str, calls: list[object]) -> None:
    assert parse_calls(text) == calls


def test_strict_allows_only_calls_and_comments() -> None:
    assert len(parse_calls("a() # fine\n b()", strict=True)) == 2
    for text in ("I do a()", "a() then b()", "a() and"):
        with pytest.raises(ValueError, match="only calls"):
            parse_calls(text, strict=True)


@pytest.mark.parametrize("part", ["f(", "f([", "f('", "f(1,", "f(a=", '"""', "f({'a':", "#"])
def test_hostile_text_is_read_to_its_end(part: str) -> None:
    assert parse_calls(part * 20_000) == []


def test_there_are_not_too_many_calls() -> None:
    assert len(parse_calls("f()" * 20_000)) == 100
