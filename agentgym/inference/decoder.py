"""The forward pass over pages: any transformers decoder, and a fused one for the Llama family."""

import contextlib
import importlib.util
import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from agentgym.errors import ConfigError
from agentgym.inference.attention import Plan, Span
from agentgym.inference.linear import FusedLinear, can_fuse
from agentgym.inference.pages import PAGE, PagePool
from agentgym.inference.sights import Overlay, Sights, close, example, overlay
from agentgym.models.modes import in_eval

if TYPE_CHECKING:
    from agentgym.inference.paged import Graphs, PagedPlan

log = logging.getLogger(__name__)

_FUSED = frozenset({"llama", "mistral", "qwen2", "qwen2_5_vl_text", "qwen2_vl_text", "qwen3"})
_STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
_NAME = "agentgym_pages"
_PROBE = (5, 3, 7, 11, 2, 13)
"""Token ids (below any vocabulary) on which a model is compared with its own forward pass."""

_now = threading.local()


class Decoder(ABC):
    """A causal language model that keeps its keys and values in pages.

    Attributes:
        model: the transformers model without adapters around it.
        layers: how many layers have keys and values.
        heads: key heads.
        group: query heads that share a key head.
        width: of a head.
        tables: kernels are used that find pages by tables, wherever they are.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config.get_text_config()
        self.model = model
        self.layers = int(config.num_hidden_layers)
        queries = int(config.num_attention_heads)
        self.heads = int(getattr(config, "num_key_value_heads", None) or queries)
        self.group = queries // self.heads
        self.width = int(getattr(config, "head_dim", None) or config.hidden_size // queries)
        self.tables = kernels_work(model.device)

    def plan(self, spans: Sequence[Span], pool: PagePool) -> "Plan | PagedPlan":
        """Prepare a step of rows in the order of `attention.in_order`."""
        if not self.tables:
            return Plan(spans, pool)
        from agentgym.inference.paged import PagedPlan

        return PagedPlan.of(spans, pool, self.group)

    def graphs(self, pool: PagePool) -> "Graphs | None":
        """Steps of single tokens as CUDA graphs, where they can be had."""
        return None

    @abstractmethod
    def hidden(
        self,
        ids: torch.Tensor,
        plan: "Plan | PagedPlan",
        *,
        adapted: bool = True,
        layers: Collection[int] = (),
        seen: Overlay | None = None,
    ) -> tuple[torch.Tensor, Mapping[int, torch.Tensor]]:
        """Hidden states of packed tokens.

        Args:
            ids: (T,) of all rows, in the plan's order.
            plan: where the tokens are and what they see.
            adapted: with the adapters of a LoRA model.
            layers: whose outputs to return too, numbered as in transformers: 0 is the embedding,
                the last one is normalised.
            seen: what pictures among the tokens change.

        Returns:
            (T, d) after the last norm, and (T, d) for each of `layers`.
        """

    @abstractmethod
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R, V) of (R, d) final hidden states."""

    @abstractmethod
    def refresh(self) -> None:
        """The model's weights have changed in place."""

    def pool(self, pages: int) -> PagePool:
        """Memory for this model."""
        return PagePool(
            layers=self.layers,
            heads=self.heads,
            width=self.width,
            pages=pages,
            dtype=self.model.dtype,
            device=self.model.device,
            tables=self.tables,
        )


@cache
def kernels_work(device: torch.device) -> bool:
    """True on a GPU with a Triton that works; elsewhere plain torch does the same, slower."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    from agentgym.inference.paged import probe

    try:
        with torch.cuda.device(device):
            probe(device)
    except Exception:  # a compiler is missing, or the GPU is unknown to it: many kinds
        log.warning("Triton does not work here; the engine goes on without it", exc_info=True)
        return False
    return True


def make_decoder(model: Any, *, fused: bool | None = None) -> Decoder:
    """The fastest decoder that is exact for a model.

    Args:
        model: a transformers model, or a `peft.PeftModel` around one.
        fused: insist on `FusedDecoder` or on `TransformersDecoder`.

    Raises:
        ConfigError: neither can serve it, or not the one that was asked for.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if reason := _needs_more(base):
        raise ConfigError(f"Engine cannot serve this model: {reason}; use HFBackend")
    reason = _not_fused(base)
    if fused and reason:
        raise ConfigError(f"this model has no fused path: {reason}; leave fused at None")
    if fused is not False and not reason:
        return FusedDecoder(base)
    return TransformersDecoder(model, base)


def _needs_more(base: Any) -> str:
    """Why pages and causal attention over everything before do not describe a model."""
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if kinds != {"full_attention"} or (
        window is not None and getattr(config, "use_sliding_window", True)
    ):
        return f"its layers are {', '.join(sorted(kinds))} (sliding window {window})"
    if getattr(config, "is_encoder_decoder", False):
        return "it has an encoder"
    if getattr(base, "_is_stateful", False) or not getattr(config, "num_attention_heads", 0):
        return "it is recurrent"
    if not getattr(base, "_supports_attention_backend", False):
        return f"attention of {config.model_type!r} cannot be exchanged in transformers"
    return ""


def _not_fused(base: Any) -> str:
    """Why the fused path does not describe a model; empty if it does."""
    config = base.config.get_text_config()
    if config.model_type not in _FUSED:
        return f"{config.model_type!r} is not among {', '.join(sorted(_FUSED))}"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"its activation is {config.hidden_act!r}"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in _STATIC_ROPE:
        return f"its positions are {rope!r}"
    decoder = base.get_decoder()
    if "vl" in config.model_type and not hasattr(decoder.rotary_emb, "recomposition_frequencies"):
        return "its three axes are mixed within attention"
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    linears = [m for n, m in decoder.named_modules() if n.rpartition(".")[2] in names]
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    if type(embedding) is not torch.nn.Embedding or not all(map(can_fuse, [*linears, head])):
        return "a layer is neither linear nor has a plain LoRA adapter"
    return ""


class FusedDecoder(Decoder):
    """Llama, Mistral, Qwen2 and Qwen3 with few, large operations.

    Queries, keys and values are one product, gate and up another, residuals are added within
    products, and nothing is padded. The weights are copies (see `FusedLinear`); norms and the
    embedding are the model's own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Copy the weights of a model that `make_decoder` has checked."""
        super().__init__(model)
        untyped: Any = model
        self._trunk: Any = untyped.get_decoder()
        self._layers = [_FusedLayer(layer) for layer in self._trunk.layers[: self.layers]]
        self._head = FusedLinear([untyped.get_output_embeddings()])
        self._eps = float(self._trunk.config.rms_norm_eps)
        self._graphs: Graphs | None = None
        self._addresses = self._where()

    def hidden(
        self,
        ids: torch.Tensor,
        plan: "Plan | PagedPlan",
        *,
        adapted: bool = True,
        layers: Collection[int] = (),
        seen: Overlay | None = None,
    ) -> tuple[torch.Tensor, Mapping[int, torch.Tensor]]:
        """Hidden states of packed tokens; see `Decoder.hidden`."""
        if not isinstance(plan, Plan):
            return self._by_kernels(ids, plan, adapted, layers, seen)
        x, cos, sin = self._begin(ids, plan, seen)
        cos, sin = cos[:, None], sin[:, None]
        # x rotated by half a head, instead of halves negated and put together.
        sin = torch.cat([-sin[..., : self.width // 2], sin[..., self.width // 2 :]], dim=-1)
        kept: dict[int, torch.Tensor] = {}
        for index, layer in enumerate(self._layers):
            if index in layers:
                kept[index] = x.clone() if x.is_cuda else x  # where it goes on in place
            y = F.rms_norm(x, x.shape[-1:], layer.norm_before.weight, self._eps)
            y = layer.qkv(y, adapted=adapted).view(len(x), -1, self.width)
            heads, values = y[:, : -self.heads], y[:, -self.heads :]
            if layer.norm_heads is not None:
                heads = layer.normed(heads, self.heads, self._eps)
            heads = torch.addcmul(heads * cos, heads.roll(self.width // 2, -1), sin)
            y = plan.attend(
                index, heads[:, : -self.heads], heads[:, -self.heads :], values, layer.scale
            )
            x = layer.out(y, x, adapted=adapted)
            y = F.rms_norm(x, x.shape[-1:], layer.norm_after.weight, self._eps)
            gate, up = layer.gate_up(y, adapted=adapted).chunk(2, dim=-1)
            x = layer.down(F.silu(gate).mul_(up), x, adapted=adapted)
            if seen is not None:
                x = seen.deepen(x, index)
        x = F.rms_norm(x, x.shape[-1:], self._trunk.norm.weight, self._eps)
        if self.layers in layers:
            kept[self.layers] = x
        return x, kept

    def _begin(
        self, ids: torch.Tensor, plan: "Plan | PagedPlan", seen: Overlay | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(T, d) embeddings, and (T, D) cosines and sines of the positions."""
        x = F.embedding(ids, self._trunk.embed_tokens.weight)
        positions = plan.positions[None]
        if seen is not None:
            x = seen.onto(x)
            positions = positions if seen.positions is None else seen.positions[:, None]
        cos, sin = self._trunk.rotary_emb(x[None], position_ids=positions)
        return x, cos[0].contiguous(), sin[0].contiguous()

    def _by_kernels(
        self,
        ids: torch.Tensor,
        plan: "PagedPlan",
        adapted: bool,
        layers: Collection[int],
        seen: Overlay | None,
    ) -> tuple[torch.Tensor, Mapping[int, torch.Tensor]]:
        """The same on a GPU, where what lies between products is one kernel each."""
        from agentgym.inference import kernels

        x, cos, sin = self._begin(ids, plan, seen)
        kept: dict[int, torch.Tensor] = {}
        for index, layer in enumerate(self._layers):
            if index in layers:
                kept[index] = x.clone()  # x goes on in place
            y = kernels.rms_norm(x, layer.norm_before.weight, self._eps)
            heads = layer.qkv(y, adapted=adapted).view(len(x), -1, self.width)
            if layer.norm_heads is not None:
                turned = heads[:, : -self.heads]
                turned.copy_(layer.normed(turned, self.heads, self._eps))
            y = plan.attend_rotated(index, heads, cos, sin, layer.scale)
            x = layer.out(y, x, adapted=adapted)
            y = kernels.rms_norm(x, layer.norm_after.weight, self._eps)
            y = kernels.gate(layer.gate_up(y, adapted=adapted))
            x = layer.down(y, x, adapted=adapted)
            if seen is not None:
                x = seen.deepen(x, index)
        x = kernels.rms_norm(x, self._trunk.norm.weight, self._eps)
        if self.layers in layers:
            kept[self.layers] = x
        return x, kept

    def graphs(self, pool: PagePool) -> "Graphs | None":
        """Steps of single tokens as CUDA graphs; see `Decoder.graphs`."""
        if not self.tables:
            return None
        from agentgym.inference.paged import Graphs

        def forward(ids: torch.Tensor, plan: "PagedPlan", adapted: bool) -> torch.Tensor:
            return self.logits(self.hidden(ids, plan, adapted=adapted)[0])

        self._graphs = Graphs(forward, pool)
        return self._graphs

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R, V) of (R, d) final hidden states."""
        return self._head(hidden)

    def refresh(self) -> None:
        """Copy the weights again."""
        for layer in self._layers:
            for part in layer.products:
                part.refresh()
        self._head.refresh()
        addresses = self._where()
        if self._graphs is not None and addresses != self._addresses:
            self._graphs.drop()
        self._addresses = addresses

    def _where(self) -> list[int]:
        """Addresses of all tensors that graphs have captured."""
        if not self.tables:
            return []
        parts = [self._head, *(part for layer in self._layers for part in layer.products)]
        tensors = [tensor for part in parts for tensor in part.tensors]
        own = [self._trunk.embed_tokens.weight, self._trunk.norm.weight]
        own += [weight for layer in self._layers for weight in layer.norm_weights]
        return [tensor.data_ptr() for tensor in (*tensors, *own)]


class _FusedLayer:
    """One layer's products and norms."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = FusedLinear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = FusedLinear([attention.o_proj])
        self.gate_up = FusedLinear([mlp.gate_proj, mlp.up_proj])
        self.down = FusedLinear([mlp.down_proj])
        self.norm_before = layer.input_layernorm
        self.norm_after = layer.post_attention_layernorm
        self.scale = float(attention.scaling)
        queries, keys = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
        self.norm_heads = None if queries is None else (queries, keys)
        self.products = (self.qkv, self.out, self.gate_up, self.down)

    @property
    def norm_weights(self) -> list[torch.Tensor]:
        """Of all norms, which are the model's own."""
        norms = [self.norm_before, self.norm_after, *(self.norm_heads or ())]
        return [norm.weight for norm in norms]

    def normed(self, heads: torch.Tensor, key_heads: int, eps: float) -> torch.Tensor:
        """(T, Hq + H, D) with every head normalised, as Qwen3 does."""
        assert self.norm_heads is not None
        parts = (heads[:, :-key_heads], heads[:, -key_heads:])
        return torch.cat(
            [
                F.rms_norm(part, part.shape[-1:], norm.weight, eps)
                for part, norm in zip(parts, self.norm_heads, strict=True)
            ],
            dim=1,
        )


class TransformersDecoder(Decoder):
    """Any transformers decoder whose attention function can be exchanged for ours.

    Its own forward pass runs on the packed tokens of all rows, as one text with positions of each
    row's own; only attention knows the rows.
    """

    def __init__(self, model: Any, base: PreTrainedModel) -> None:
        """Check the model on a few tokens against its own attention.

        Raises:
            ConfigError: the two differ.
        """
        super().__init__(base)
        self._outer = model if model is not base else None
        untyped: Any = base
        self._decoder: Any = untyped.get_decoder()
        self._head: Any = untyped.get_output_embeddings()
        AttentionInterface.register(_NAME, _attend)
        AttentionMaskInterface.register(_NAME, _no_mask)
        try:
            same = self._probe()
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise ConfigError(
                f"Engine cannot serve {base.config.model_type!r}: {error}; use HFBackend"
            ) from error
        if not same:
            raise ConfigError(
                f"Engine cannot serve {base.config.model_type!r}: over pages its logits differ "
                "from its own forward pass; use HFBackend"
            )

    def hidden(
        self,
        ids: torch.Tensor,
        plan: "Plan | PagedPlan",
        *,
        adapted: bool = True,
        layers: Collection[int] = (),
        seen: Overlay | None = None,
    ) -> tuple[torch.Tensor, Mapping[int, torch.Tensor]]:
        """Hidden states of packed tokens; see `Decoder.hidden`."""
        switch = (
            contextlib.nullcontext()
            if adapted or self._outer is None
            else self._outer.disable_adapter()
        )
        with switch, in_eval(self.model), _paged(self._decoder, plan):
            out = self._decoder(
                **self._inputs(ids, plan, seen),
                use_cache=False,
                output_hidden_states=bool(layers),
            )
        kept = {index: out.hidden_states[index][0] for index in layers}
        last: torch.Tensor = out.last_hidden_state[0]
        return last, kept

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(R, V) of (R, d) final hidden states."""
        logits: torch.Tensor = self._head(hidden)
        return logits

    def refresh(self) -> None:
        """Nothing is copied."""

    def _inputs(
        self, ids: torch.Tensor, plan: "Plan | PagedPlan", seen: Overlay | None
    ) -> dict[str, Any]:
        """The decoder's own arguments for packed tokens."""
        if seen is None:
            return {"input_ids": ids[None], "position_ids": plan.positions[None]}
        untyped: Any = self.model
        positions = plan.positions[None] if seen.positions is None else seen.positions[:, None]
        arguments: dict[str, Any] = {
            "inputs_embeds": seen.onto(untyped.get_input_embeddings()(ids))[None],
            "position_ids": positions,
        }
        if seen.features is not None and seen.features.deep:
            marks = torch.zeros(1, len(ids), dtype=torch.bool, device=ids.device)
            marks[0, seen.where] = True
            deep = list(seen.features.deep)
            arguments |= {"visual_pos_masks": marks, "deepstack_visual_embeds": deep}
        return arguments

    def _probe(self) -> bool:
        """True if a text in two steps gives the logits that it gives as a whole."""
        untyped: Any = self.model
        ids = torch.tensor(_PROBE, device=untyped.device)
        ids = ids.clamp_max(untyped.get_input_embeddings().weight.shape[0] - 1)
        pool, half = self.pool(2), len(ids) // 2
        with torch.inference_mode(), in_eval(untyped):
            whole = untyped(input_ids=ids[None], use_cache=False).logits[0, -1].float()
            self.hidden(ids[:half], self.plan([Span(0, half, (), (1,))], pool))
            plan = self.plan([Span(half, len(ids) - half, (), (1,))], pool)
            last = self.logits(self.hidden(ids[half:], plan)[0][-1:])[0].float()
        return close(last, whole, untyped.dtype)


def check_pictures(decoder: Decoder, sights: Sights) -> None:
    """Compare a model with its own forward pass on a text with a picture.

    Raises:
        ConfigError: they differ: the model does more with pictures than put their features in the
            place of embeddings (attention in both directions among them, say).
    """
    model: Any = decoder.model
    ids, image = example(sights.vision)
    try:
        with torch.inference_mode(), in_eval(model):
            sight = sights.see(ids, (image,))
            inputs = sights.vision.whole([ids], [sight.pictures], model.device)
            whole = model(**inputs, use_cache=False).logits[0, -1].float()
            pool = decoder.pool(-(-len(ids) // PAGE))
            plan = decoder.plan([Span(0, len(ids), (), tuple(range(pool.pages)))], pool)
            seen = overlay([(sight, 0, len(ids), "policy")], model.device)
            tokens = torch.as_tensor(ids, dtype=torch.long, device=model.device)
            last = decoder.logits(decoder.hidden(tokens, plan, seen=seen)[0][-1:])[0].float()
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"Engine cannot show pictures to {model.config.model_type!r}: {error}; use HFBackend"
        ) from error
    if not close(last, whole, model.dtype):
        raise ConfigError(
            f"Engine cannot show pictures to {model.config.model_type!r}: its logits differ from "
            "its own forward pass; use HFBackend"
        )


@contextlib.contextmanager
def _paged(model: PreTrainedModel, plan: "Plan | PagedPlan") -> Iterator[None]:
    """With a model's attention over the pages of a plan, in this thread."""
    config: Any = model.config
    before = config._attn_implementation
    _now.plan = plan
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        del _now.plan


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' form: (1, H, T, D) in, (1, T, H, D) out."""
    special = [n for n in ("softcap", "s_aux", "sliding_window") if options.get(n) is not None]
    if special:
        raise ConfigError(f"Engine cannot serve attention with {special[0]}; use HFBackend")
    plan: Plan | PagedPlan = _now.plan
    queries, keys, values = (part[0].transpose(0, 1) for part in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = plan.attend(module.layer_idx, queries, keys, values, scale)
    return out.view(1, *queries.shape), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The plan knows what each token sees."""
