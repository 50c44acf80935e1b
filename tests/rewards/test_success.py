from agentgym.rewards.success import Success
from agentgym.types import EndReason, Task, Trajectory


def episode(end: EndReason, outcome: float | None, error: str = "") -> Trajectory:
    return Trajectory("e", Task("agentgym/none-v0", 0), (), end, outcome, error=error)


def test_the_score_is_the_outcome() -> None:
    won, half, lost = Success()(
        [
            episode(EndReason.SUCCESS, 1.0),
            episode(EndReason.TURN_LIMIT, 0.5),
            episode(EndReason.FAILURE, 0.0),
        ]
    )
    assert (won.score, half.score, lost.score) == (1.0, 0.5, 0.0)
    assert half.reason == "ended by turn_limit"


def test_no_outcome_is_no_score_and_says_what_broke() -> None:
    (verdict,) = Success()([episode(EndReason.ENV_ERROR, None, "the page crashed")])
    assert verdict.score is None
    assert verdict.reason == "the page crashed"
