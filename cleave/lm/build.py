"""A ModelConfig into a LanguageModel. Each backend is imported only when it is asked for: endpoints and recordings need no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cleave.config.model import ModelConfig
from cleave.lm.protocol import LanguageModel

if TYPE_CHECKING:
    from cleave.decoding.ngrams import NgramTables
    from cleave.lm.checkpoint import Checkpoint


def build(config: ModelConfig, record: str | Path | None = None) -> LanguageModel:
    """Build the model that `config` names, behind its cache if it has one. With `record`, its calls are also appended to that file (or
    folder of files).

    Raises ConfigError with the remedy. Loading local weights blocks.
    """
    model = _BACKENDS[config.backend](config)
    if config.cache is not None:
        model = _cached(config, model, config.cache)
    if record is None:
        return model
    from cleave.lm.recorded import Recorder

    return Recorder(model, record)


def _cached(config: ModelConfig, model: LanguageModel, folder: str) -> LanguageModel:
    from cleave.lm.reply_cache import CachedModel

    # Local weights are known by their hash, wherever they lie; of an endpoint only the name is known.
    weights = model.info.revision or config.short
    options = config.model_dump(mode="json", include={"adapter", "max_model_len", "price", "logprobs"})
    return CachedModel(model, folder, {"weights": weights, "dtype": model.info.dtype, **options})


def _huggingface(config: ModelConfig) -> LanguageModel:
    return _local(config, config.model_name_or_path, config.revision)


def _reference(config: ModelConfig) -> LanguageModel:
    from cleave.lm.reference import resolve

    return _local(config, str(resolve(config.model_name_or_path)), None)


def host(checkpoint: Checkpoint, name: str, **options: Any) -> LanguageModel:
    """A loaded checkpoint as what it is, a language model or a classifier; `options` as HuggingFaceModel takes them."""
    from cleave.lm.checkpoint import is_classifier
    from cleave.lm.huggingface import HuggingFaceModel

    if not is_classifier(checkpoint.model.config):
        return HuggingFaceModel(checkpoint, name=name, **options)
    from cleave.lm.classifier import SequenceClassifier

    return SequenceClassifier(checkpoint, name=name, **options)


def _local(config: ModelConfig, path: str, revision: str | None) -> LanguageModel:
    from cleave.lm.checkpoint import load_checkpoint

    tables = _ngrams(config)
    checkpoint = load_checkpoint(
        path,
        revision=revision,
        dtype=config.dtype,
        device_map=config.device_map,
        adapter=config.adapter,
        max_model_len=config.max_model_len,
    )
    return host(
        checkpoint,
        config.short,
        max_batch_size=config.max_batch_size,
        prompt_price=config.price.prompt,
        completion_price=config.price.completion,
        ngrams=tables,
    )


def _ngrams(config: ModelConfig) -> NgramTables | None:
    if config.ngrams is None:
        return None
    from cleave.decoding.ngrams import NgramTables

    return NgramTables.open(config.ngrams)


def _openai(config: ModelConfig) -> LanguageModel:
    from cleave.lm.openai import OpenAIModel

    return OpenAIModel(
        model=config.model_name_or_path,
        base_url=config.base_url or "",
        api_key_env=config.api_key_env,
        max_concurrency=config.max_concurrency,
        connect_timeout_s=config.connect_timeout_s,
        read_timeout_s=config.read_timeout_s,
        max_retries=config.max_retries,
        logprobs=config.logprobs,
        prompt_price=config.price.prompt,
        completion_price=config.price.completion,
    )


def _recorded(config: ModelConfig) -> LanguageModel:
    from cleave.lm.recorded import RecordedModel

    return RecordedModel(config.model_name_or_path)


_BACKENDS = {"hf": _huggingface, "reference": _reference, "openai": _openai, "recorded": _recorded}
