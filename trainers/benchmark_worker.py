"""One side of the benchmark `train` in a process of its own, so that peak memory is its own.

The file is also run by an interpreter that has TRL and not this project (`python -P FILE`), hence
no import of ours outside `_Ours`. It reads its `settings` from the first line of standard input
as JSON, says ``{"ready": ...}``, and then makes one GRPO step for every line it reads, with one
line of JSON each. All sides sample `new_tokens` for each of `group_size` answers to every prompt
of the step, score them by `reward`, and make one AdamW step on float32 weights with the clipped
loss, every answer counting the same.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

LEARNING_RATE = 1e-6


def reward(text: str) -> float:
    """A number in [0, 1] that looks random, so that answers of a group differ in it."""
    return sum(map(ord, text)) % 101 / 100


def main() -> None:
    """Serve one side over standard input and output."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is not the protocol
    settings = json.loads(sys.stdin.readline())

    def say(message: Mapping[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    SIDES[settings["side"]](settings, say)


Say = Callable[[Mapping[str, Any]], None]


class _Meter:
    """Time and peak memory of steps."""

    def __init__(self, device: Any) -> None:
        self._cuda = device.type == "cuda"
        self._device = device

    def start(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        self._worked, self._started = process_time(), perf_counter()

    def stop(self) -> dict[str, Any]:
        if self._cuda:
            import torch

            torch.cuda.synchronize(self._device)
        seconds, worked = perf_counter() - self._started, process_time() - self._worked
        if self._cuda:
            peak = torch.cuda.max_memory_allocated(self._device) >> 10
        else:
            found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
            peak = int(found[1]) if found else 0
        return {"seconds": seconds, "cpu_ms": int(1000 * worked), "peak_mib": peak >> 10}


def _steps(settings: Mapping[str, Any]) -> Iterator[list[str]]:
    """The prompts of each step that is asked for."""
    for line in sys.stdin:
        begin = int(line) * settings["prompts_per_step"]
        yield settings["prompts"][begin : begin + settings["prompts_per_step"]]


# ---------------------------------------------------------------------------------------------
# This project
# ---------------------------------------------------------------------------------------------


def _ours(settings: Mapping[str, Any], say: Say) -> None:
    from agentgym.core import GenerationRequest, SamplingParams
    from agentgym.inference.engine import Engine
    from agentgym.models.load import load_model
    from agentgym.trainers.grpo import GRPOConfig, GRPOTrainer

    mixed = settings["compute"] == "bfloat16"
    loaded = load_model(settings["model"], dtype=settings["compute"], device=settings["device"])
    config = GRPOConfig(
        learning_rate=LEARNING_RATE,
        batch_size=settings["prompts_per_step"] * settings["group_size"],
        kl_coefficient=0.0,
        precision="bfloat16" if mixed else "float32",
    )
    trainer = GRPOTrainer(loaded.model, loaded.tokenizer, config)
    engine = Engine(
        loaded.model, loaded.tokenizer, eos_ids=(), memory=_cache_bytes(settings, loaded)
    )
    sampling = SamplingParams(max_tokens=settings["new_tokens"])
    meter = _Meter(trainer.device)
    say({"ready": True})
    for number, prompts in enumerate(_steps(settings)):
        meter.start()
        started = perf_counter()
        requests = [
            GenerationRequest(ids, sampling, seed=1000 * number + answer)
            for ids in (_ids(loaded.tokenizer, prompt) for prompt in prompts)
            for answer in range(settings["group_size"])
        ]
        completions = engine.generate(requests)
        generated = perf_counter() - started
        episodes = _episodes(requests, completions, settings["group_size"])
        metrics = trainer.update(episodes)
        engine.set_version(number + 1)
        say(
            {
                **meter.stop(),
                "generate_s": generated,
                "prompt_tokens": sum(len(r.prompt_ids) for r in requests),
                "action_tokens": int(metrics["action_tokens"]),
                "steps": int(metrics["steps"] - metrics["skipped_steps"]),
            }
        )
    engine.close()


def _cache_bytes(settings: Mapping[str, Any], loaded: Any) -> int:
    """Memory for keys and values that the step's answers need, were no prompt shared."""
    from agentgym.inference.pages import PAGE, bytes_per_page

    config = loaded.model.config
    queries = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // queries
    keys = getattr(config, "num_key_value_heads", None) or queries
    page = bytes_per_page(config.num_hidden_layers, keys, width, loaded.model.dtype)
    longest = max(len(_ids(loaded.tokenizer, prompt)) for prompt in settings["prompts"])
    answers = settings["prompts_per_step"] * settings["group_size"]
    return int(answers * page * ((longest + settings["new_tokens"]) // PAGE + 2))


def _ids(tokenizer: Any, text: str) -> Any:
    import numpy as np

    return np.array(tokenizer(text)["input_ids"], np.int32)


def _episodes(requests: Sequence[Any], completions: Sequence[Any], group_size: int) -> list[Any]:
    """One turn each; answers to the same prompt are a group."""
    from agentgym.types import EndReason, Task, Trajectory, Turn

    return [
        Trajectory(
            id=str(index),
            task=Task("agentgym/benchmark-v0", index // group_size),
            turns=(
                Turn(
                    observation="",
                    prompt_ids=request.prompt_ids,
                    extends=False,
                    action_ids=completion.token_ids,
                    text=completion.text,
                    logprobs=completion.logprobs,
                ),
            ),
            end=EndReason.SUCCESS,
            outcome=reward(completion.text),
            group_id=str(index // group_size),
        )
        for index, (request, completion) in enumerate(zip(requests, completions, strict=True))
    ]


# ---------------------------------------------------------------------------------------------
# A plain loop around transformers
# ---------------------------------------------------------------------------------------------


def _plain(settings: Mapping[str, Any], say: Say) -> None:
    """Batched `generate`, then one pass with all logits: what people write first."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = torch.device(settings["device"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"], padding_side="left")
    loaded: Any = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    model = loaded.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0, fused=True)
    new, mixed = settings["new_tokens"], settings["compute"] == "bfloat16"
    meter = _Meter(device)
    say({"ready": True})
    for prompts in _steps(settings):
        meter.start()
        started = perf_counter()
        repeated = [prompt for prompt in prompts for _ in range(settings["group_size"])]
        batch = tokenizer(repeated, return_tensors="pt", padding=True).to(device)
        model.eval()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            ids = model.generate(
                **batch,
                do_sample=True,
                top_k=0,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=tokenizer.pad_token_id,
            )
        generated = perf_counter() - started
        texts = tokenizer.batch_decode(ids[:, -new:])
        scores = torch.tensor([reward(text) for text in texts], device=device)
        groups = scores.view(-1, settings["group_size"])
        spread = groups.std(1, keepdim=True) + 1e-4
        advantages = ((groups - groups.mean(1, keepdim=True)) / spread).view(-1, 1)
        mask = torch.cat([batch["attention_mask"], torch.ones_like(ids[:, -new:])], dim=1)
        model.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logprobs = logits[:, -new - 1 : -1].float().log_softmax(-1)
        chosen = logprobs.gather(-1, ids[:, -new:, None])[..., 0]
        ratio = (chosen - chosen.detach()).exp()
        loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        del logits, logprobs, chosen, ratio, loss
        say(
            {
                **meter.stop(),
                "generate_s": generated,
                "prompt_tokens": int(batch["attention_mask"].sum()),
                "action_tokens": ids[:, -new:].numel(),
                "steps": 1,
            }
        )


# ---------------------------------------------------------------------------------------------
# TRL
# ---------------------------------------------------------------------------------------------


def _trl(settings: Mapping[str, Any], say: Say) -> None:
    """TRL's GRPOTrainer, held between steps by a callback until the next one is asked for."""
    import tempfile

    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    mixed, device = settings["compute"] == "bfloat16", torch.device(settings["device"])
    tokenizer = AutoTokenizer.from_pretrained(settings["model"])
    model: Any = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=settings["prompts_per_step"] * settings["group_size"],
        num_generations=settings["group_size"],
        max_completion_length=settings["new_tokens"],
        generation_kwargs={"min_new_tokens": settings["new_tokens"]},
        max_steps=len(settings["prompts"]) // settings["prompts_per_step"],
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        loss_type="grpo",
        beta=0.0,
        bf16=mixed,
        gradient_checkpointing=False,
        shuffle_dataset=False,
        use_cpu=device.type == "cpu",
        save_strategy="no",
        report_to="none",
        logging_steps=10**6,
        disable_tqdm=True,
    )
    seen: dict[str, int] = {}

    def score(completions: Sequence[str], completion_ids: Any, **_: Any) -> list[float]:
        seen["action_tokens"] = sum(len(ids) for ids in completion_ids)
        return [reward(text) for text in completions]

    class Held(TrainerCallback):
        """Waits before each step and reports after it."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.meter, self.started = _Meter(device), False
            say({"ready": True})

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not (line := sys.stdin.readline()):
                raise SystemExit
            begin = int(line) * settings["prompts_per_step"]
            prompts = settings["prompts"][begin : begin + settings["prompts_per_step"]]
            lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in prompts]
            seen["prompt_tokens"] = sum(lengths) * settings["group_size"]
            self.meter.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            say({**self.meter.stop(), **seen, "steps": 1})

    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": settings["prompts"]}),
        reward_funcs=score,
        callbacks=[Held()],
    )
    trainer.train()


SIDES: Mapping[str, Callable[[Mapping[str, Any], Say], None]] = {
    "agentgym": _ours,
    "plain": _plain,
    "trl": _trl,
}

if __name__ == "__main__":
    main()
