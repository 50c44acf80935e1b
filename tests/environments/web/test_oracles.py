"""Every oracle on its page, in the real browser: the oracles validate the tasks and each other."""

from collections.abc import Iterator

import pytest

from agentgym.environments.web.miniwob import MiniWobEnv
from agentgym.environments.web.miniwob_tasks import TASKS
from agentgym.environments.web.oracles import ORACLES, PRIVILEGED

ARIAL_WIDE = """(() => {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.font = "16px Arial";
  return canvas.measureText("The quick brown fox").width > 150;
})()"""
"""143 px in Arial and in Liberation Sans. With wider fonts the calendar's rows break in two, and it
draws events where its own mouse handlers do not look for them."""
SEEDS = (11, 12)
MAX_STEPS = 60


def test_tables() -> None:
    assert set(ORACLES) <= set(TASKS)
    assert set(ORACLES) > PRIVILEGED
    assert len(set(ORACLES) - PRIVILEGED) >= 90


def play(env: MiniWobEnv, seed: int) -> Iterator[tuple[str, bool, float]]:
    """(what the oracle wrote, whether the page is done, its raw reward) of each step."""
    env.reset(seed=seed)
    for _ in range(MAX_STEPS):
        action = env.oracle_action()
        _, _, terminated, _, info = env.step(action)
        assert info["parsed"], action
        yield action, terminated, info["raw_reward"]
        if terminated:
            return


def wide_fonts(env: MiniWobEnv) -> bool:
    """True if what stands in for Arial is wider than it."""
    page = env._page
    assert page is not None
    return bool(page.run(page.evaluate(ARIAL_WIDE)))


@pytest.mark.browser
@pytest.mark.parametrize("task", sorted(ORACLES))
def test_oracle_solves_its_task(task: str) -> None:
    env = MiniWobEnv(task)
    try:
        assert env.has_oracle
        for seed in SEEDS:
            steps = list(play(env, seed))
            if task == "daily-calendar" and wide_fonts(env):
                pytest.skip("no font here has Arial's widths; install fonts-liberation")
            actions = "\n".join(action for action, _, _ in steps)
            assert steps[-1][1:] == (True, 1.0), f"seed {seed}: {env.goal}\n{actions}"
    finally:
        env.close()


@pytest.mark.browser
def test_oracle_is_deterministic() -> None:
    first, second = MiniWobEnv("social-media-some"), MiniWobEnv("social-media-some")
    try:
        assert list(play(first, 5)) == list(play(second, 5)) == list(play(first, 5))
    finally:
        first.close()
        second.close()


@pytest.mark.browser
def test_thoughts_can_be_left_out() -> None:
    env = MiniWobEnv("click-test", oracle_thoughts=False)
    try:
        env.reset(seed=0)
        assert env.oracle_action().count("\n") == 0
    finally:
        env.close()


def test_task_without_oracle() -> None:
    assert "tic-tac-toe" not in ORACLES, "choose another task for this test"
    env = MiniWobEnv("tic-tac-toe")
    assert not env.has_oracle
    with pytest.raises(NotImplementedError, match="tic-tac-toe"):
        env.oracle_action()
