"""FLOPs of a forward pass against torch's own counter, on the architectures that students have."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

from cleave.lm.flops import ForwardCost, forward_cost

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "head_dim": 16,
    "attn_implementation": "eager",
}


@pytest.mark.parametrize(
    "config",
    [
        Qwen3Config(**SHAPE, num_key_value_heads=4, tie_word_embeddings=True),
        MistralConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=False),
        LlamaConfig(**SHAPE, num_key_value_heads=4, tie_word_embeddings=True),
    ],
    ids=lambda config: config.model_type,
)
def test_the_count_is_torchs_own(config: Any) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = 24
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    cost = forward_cost(model)
    whole = cost.per_token * tokens + cost.per_pair * tokens * tokens  # eager attention computes what the mask hides, too
    assert counter.get_total_flops() == pytest.approx(whole, rel=0.02)  # norms have weights and no matrix product


def test_a_prompt_and_its_continuation_cost_what_the_whole_costs() -> None:
    cost = ForwardCost(10.0, 2.0)
    assert cost.of(7) + cost.of(5, context=7) == cost.of(12)
    assert cost.of(0, context=9) == 0
