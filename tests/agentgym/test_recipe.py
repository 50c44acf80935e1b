"""Recipes: what they hold, and what they refuse."""

from pathlib import Path
from typing import Any

import pytest

from agentgym import config
from agentgym.errors import ConfigError, UnknownNameError
from agentgym.recipe import Recipe, before_online, load_recipe, recipe_names

BASE: dict[str, Any] = {"tasks": {"env_ids": ["a-v0", "b-v0"]}, "demonstrations": 2}


def made(**values: Any) -> Recipe:
    return config.load(Recipe, {**BASE, **values})


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_comes_along_loads_and_round_trips(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    (tmp_path / "again.toml").write_text(config.dump(recipe))
    assert load_recipe(str(tmp_path / "again.toml")) == recipe


def test_seeds_are_never_used_twice() -> None:
    recipe = made(iterations=2, episodes_per_task=4, group_size=2)
    demonstrations = {t.seed for t in recipe.demonstration_tasks()}
    first = {t.seed for t in recipe.iteration_tasks(1)}
    second = {t.seed for t in recipe.iteration_tasks(2)}
    evaluated = {t.seed for t in recipe.eval_tasks()}
    groups = [demonstrations, first, second, evaluated]
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert len(recipe.iteration_tasks(1)) == 2 * 4  # environments x episodes
    assert [t.id for t in recipe.iteration_tasks(1)[:3]] == ["a-v0#1000002"] * 2 + ["b-v0#1000002"]


def test_recipes_that_part_later_are_alike_before() -> None:
    common = made(iterations=3, trainer="rloo", train={"learning_rate": 0.1}, group_size=2)
    assert before_online(common) == before_online(made())
    assert before_online(made(seed=1)) != before_online(made())
    assert before_online(made(demonstrations=3)) != before_online(made())


def test_evaluation_seeds_that_meet_training_seeds_are_refused() -> None:
    with pytest.raises(ConfigError, match="meet training seeds"):
        made(tasks={"env_ids": ["a-v0"], "train_seed": 5, "eval_seed": 0})
    made(tasks={"env_ids": ["a-v0"], "train_seed": 0, "eval_seed": 1_000})


@pytest.mark.parametrize(
    "wrong",
    [
        {"tasks": {"env_ids": []}},
        {"demonstration_noise": 1.5},
        {"demonstrations": 0, "model": {"name": "new"}},
        {"demonstrations": -1},
        {"episodes_per_task": 3, "group_size": 2},
    ],
)
def test_impossible_recipes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        made(**wrong)


def test_overrides_and_unknown_names() -> None:
    assert load_recipe("demo", ["seed=7", "model.name=tiny"]).model.name == "tiny"
    with pytest.raises(UnknownNameError, match="Did you mean 'demo'"):
        load_recipe("dem")
