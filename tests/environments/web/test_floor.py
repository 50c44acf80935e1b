import pytest

from agentgym.environments.web.benchmark import TASKS, page_seed
from agentgym.environments.web.floor import RawCdp

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(("task", "images"), [*((task, False) for task in TASKS), (TASKS[0], True)])
def test_the_moves_solve_the_page(task: str, images: bool) -> None:
    player = RawCdp(task, images=images)
    try:
        for seed in (1, 2):
            goal = player.begin(page_seed(seed))
            assert goal
            reward, over = 0.0, False
            while not over:
                reward, over = player.step(player.choose())
            assert reward == 1.0
    finally:
        player.close()
