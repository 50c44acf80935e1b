"""Errors: one base, and messages that help."""

import inspect

import pytest

from agentgym import errors
from agentgym.errors import AgentGymError, UnknownNameError


def test_every_exception_has_the_one_base() -> None:
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__
    ]
    assert len(classes) > 5
    assert all(issubclass(c, AgentGymError) for c in classes)


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        ("llm_juge", ["llm_judge", "success"], "Did you mean 'llm_judge'?"),
        ("zzz", ["a", "b"], "Known: a, b"),
        ("zzz", [f"name{i:02}" for i in range(20)], "name11, ..."),
        ("zzz", [], "Nothing is registered"),
    ],
)
def test_unknown_names_get_a_suggestion(name: str, known: list[str], told: str) -> None:
    error = UnknownNameError("reward", name, known)
    assert str(error).startswith(f"reward '{name}' is not known. ")
    assert told in str(error)
    assert error.name == name


def test_python_s_own_classes_still_catch_them() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.MissingDependencyError, ImportError)
    assert issubclass(errors.UnknownNameError, LookupError)
    assert issubclass(errors.BrowserError, errors.EnvFailureError)
