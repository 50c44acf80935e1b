from agentgym.tape import Exchange, Tape, Taped


def test_a_tape_answers_in_order_and_the_last_for_good() -> None:
    def got(body: bytes, episode: int = 1, method: str = "GET") -> Exchange:
        return Exchange(method, "http://a/", status=200, body=body, episode=episode)

    tape = Tape(exchanges=(got(b"1"), got(b"2"), got(b"x", 2), got(b"p", 1, "POST")))
    tape.episode = 1

    def answers(method: str) -> bytes | None:
        found = tape.answer(method, "http://a/")
        return None if found is None else found.body

    assert [answers("GET") for _ in range(3)] == [b"1", b"2", b"2"]
    assert answers("POST") == b"p"
    tape.episode = 2
    assert (answers("GET"), answers("POST")) == (b"x", None)
    assert tape.unanswered == ["POST http://a/"]
    assert not tape.recording


def test_what_is_recorded_is_handed_on() -> None:
    written: list[Exchange] = []
    tape = Tape(written.append)
    assert tape.recording
    tape.record(Exchange("GET", "http://a/"))
    assert [exchange.key for exchange in written] == [("GET", "http://a/", "")]


def test_an_environment_with_a_place_for_a_tape_is_known() -> None:
    class Env:
        tape: Tape | None = None

    assert isinstance(Env(), Taped)
    assert not isinstance(object(), Taped)
