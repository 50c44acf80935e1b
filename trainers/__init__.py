"""Trainers: registered by name."""

if __name__ != "agentgym.trainers":
    raise ImportError("import agentgym.trainers, not the bare folder name 'trainers'")

_TRAINERS = {
    "archer": (
        "archer:ArcherTrainer",
        "online, off-policy: critic of turns, policy gradients on tokens",
    ),
    "archer_offline": (
        "archer_offline:OfflineArcherTrainer",
        "offline: IQL critic of turns, weighted cloning or policy gradients",
    ),
    "behaviour_cloning": (
        "behaviour_cloning:BehaviourCloningTrainer",
        "likelihood of the actions that were given",
    ),
    "empg": ("empg:EMPGTrainer", "online: clipped, sure turns weigh more than unsure ones"),
    "filtered_bc": (
        "filtered_bc:FilteredBCTrainer",
        "online: clones the policy's own best episodes",
    ),
    "dr_grpo": ("grpo:DrGRPOTrainer", "online: clipped, centred inside groups"),
    "gigpo": ("gigpo:GiGPOTrainer", "online: episodes compared in groups, turns at equal states"),
    "grpo": ("grpo:GRPOTrainer", "online: clipped, standardised inside groups"),
    "loop": ("loop:LOOPTrainer", "online: clipped, leave-one-out, several passes"),
    "ppo": ("ppo:PPOTrainer", "online: clipped, with a critic of turns or tokens"),
    "reinforce": ("reinforce:ReinforceTrainer", "online: the plain policy gradient"),
    "remax": ("remax:ReMaxTrainer", "online: policy gradient, greedy baseline"),
    "rloo": ("rloo:RLOOTrainer", "online: policy gradient, leave-one-out"),
}


def register() -> None:
    """Register every name; imports nothing."""
    from agentgym.registry import BENCHMARKS, TRAINERS

    for name, (target, doc) in _TRAINERS.items():
        TRAINERS.register(name, f"{__name__}.{target}", doc)
    BENCHMARKS.register("train", f"{__name__}.benchmark:train", "GRPO steps, against TRL's")
