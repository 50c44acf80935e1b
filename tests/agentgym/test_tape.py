from agentgym.tape import Exchange, Frame, Tape, Taped


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
    written: list[Exchange | Frame] = []
    tape = Tape(written.append)
    assert tape.recording
    asked, said = Exchange("GET", "http://a/"), Frame("ws://a/", tape.connect(), "opened")
    tape.record(asked)
    tape.record(said)
    assert written == [asked, said]
    assert asked.key == ("GET", "http://a/", "")


def test_each_connection_is_played_once_in_its_episode() -> None:
    def said(number: int, url: str, text: str, episode: int = 1) -> Frame:
        return Frame(url, number, "came", text.encode(), episode=episode)

    tape = Tape(
        frames=(
            said(0, "ws://a", "1"),
            said(1, "ws://b", "2"),
            said(0, "ws://a", "3"),
            said(2, "ws://a", "4"),
            said(0, "ws://a", "5", episode=2),
        )
    )
    tape.begin()

    def play(url: str) -> list[bytes] | None:
        found = tape.socket(url)
        return None if found is None else [frame.data for frame in found]

    assert [play("ws://a") for _ in range(3)] == [[b"1", b"3"], [b"4"], None]
    assert play("ws://b") == [b"2"]
    tape.begin()
    assert [play("ws://a"), play("ws://b")] == [[b"5"], None]


def test_moments_pass_around_what_happens() -> None:
    tape, seen = Tape(), []
    tape.begin()

    def look() -> None:
        seen.append(tape.moment)

    tape.watch(look)
    with tape.happening():
        assert tape.moment == 1
    assert seen == [1, 2]
    tape.unwatch(look)
    tape.unwatch(look)
    with tape.happening():
        pass
    assert (seen, tape.moment) == ([1, 2], 4)
    tape.begin()
    assert (tape.moment, tape.episode, tape.connect(), tape.connect()) == (0, 2, 0, 1)


def test_what_is_missed_is_told_once() -> None:
    tape = Tape()
    for _ in range(3):
        tape.miss("connection to a:80")
    assert tape.unanswered == ["connection to a:80"]


def test_an_environment_with_a_place_for_a_tape_is_known() -> None:
    class Env:
        tape: Tape | None = None

    assert isinstance(Env(), Taped)
    assert not isinstance(object(), Taped)
