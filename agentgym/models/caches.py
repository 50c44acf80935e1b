"""What transformers calls keys and values that a model has computed: the name has changed."""

from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast

NAME = "cache" if "cache" in BaseModelOutputWithPast.__annotations__ else "past_key_values"
"""Of the argument and of the output; the older name warns where there is a newer one."""


def given(cache: Any) -> dict[str, Any]:
    """Arguments by which a model continues a cache, and returns it."""
    return {NAME: cache, "use_cache": True}


def returned(output: Any) -> Any:
    """The cache in a model's output; `None` if it gives none."""
    return getattr(output, NAME, None)
