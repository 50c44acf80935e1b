"""Trainers: registered by name."""

if __name__ != "agentgym.trainers":
    raise ImportError("import agentgym.trainers, not the bare folder name 'trainers'")

_TRAINERS = {
    "behaviour_cloning": ("BehaviourCloningTrainer", "likelihood of the actions that were given"),
    "filtered_bc": ("FilteredBCTrainer", "online: clones the policy's own best episodes"),
}


def register() -> None:
    """Register every name; imports nothing."""
    from agentgym.registry import TRAINERS

    for name, (attribute, doc) in _TRAINERS.items():
        TRAINERS.register(name, f"{__name__}.{name}:{attribute}", doc)
