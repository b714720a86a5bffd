"""Prompts to token ids: chat templates, and the border between a prompt and what follows it."""

from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from cleave.errors import ConfigError
from cleave.types import Prompt


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """The text that the model reads. Raises ConfigError if a chat prompt meets a model without a usable chat template."""
    if prompt.text is not None:
        return prompt.text
    if not tokenizer.chat_template:
        raise ConfigError("the model has no chat template; use a prompt set of kind text for this role, or an instruction model.")
    messages: list[dict[str, Any]] = [{"role": message.role, "content": message.content} for message in prompt.messages]
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except TemplateError as error:
        raise ConfigError(f"the model's chat template refuses these messages: {error}; change the prompt set of this role.") from error


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str) -> list[int]:
    """Token ids of `text`; a chat template writes its special tokens itself, plain text gets the tokenizer's own."""
    ids: list[int] = tokenizer(text, add_special_tokens=prompt.text is not None)["input_ids"]
    return ids


def encode_pair(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, continuation: str) -> tuple[list[int], int]:
    """Token ids of prompt and continuation as one text, and the index of the first id that belongs to the continuation.

    Where a token spans the border, it and what follows count as continuation, so that no character is left unscored.
    """
    text = prompt_text(tokenizer, prompt)
    alone = _without_end(tokenizer, encode(tokenizer, prompt, text))
    joint = _without_end(tokenizer, encode(tokenizer, prompt, text + continuation))
    border = next((i for i, (a, b) in enumerate(zip(alone, joint, strict=False)) if a != b), min(len(alone), len(joint)))
    return joint, border


def _without_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
