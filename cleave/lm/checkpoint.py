"""Reading a checkpoint: which folders are accepted, and weights, tokenizer and adapter through transformers and peft.

Only safetensors are read: a pickle can run code. No checkpoint's own Python code is run (`trust_remote_code` is off).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from cleave.errors import ConfigError
from cleave.lm.revision import folder_revision

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
NEW_HEAD = {"score.weight"}
"""What a language model lacks to be a classifier."""
_LONG_LOAD_BYTES = 2**30
"""Checkpoints below this load in a moment and need no progress bar."""
_DISPATCHED = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model in evaluation mode with its tokenizer. `eos_ids` end a reply; `max_len` bounds prompt plus reply.

    `revision` is the Hub's commit or the hash of a folder's content, with that of the adapter.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    eos_ids: frozenset[int]
    max_len: int
    revision: str = ""


def load_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: str | None = None,
    adapter: str | None = None,
    max_model_len: int | None = None,
    new_head: bool = False,
) -> Checkpoint:
    """Load a folder or Hub id as what it was saved as, a language model or a sequence classifier; `new_head` makes a language model a
    classifier with one output that is still random. Raises ConfigError, with the remedy, for anything that is not a safetensors checkpoint.
    """
    _refuse_bad_folder(name)
    if _loads_in_a_moment(name):
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if adapter is not None:
        _refuse_bad_adapter(adapter)
    device = device_map or ("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        loaded: Any = _model_class(config, new_head).from_pretrained(
            name,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            dtype=_dtype(dtype, device),
            device_map=device if device in _DISPATCHED else None,
            **options,
        )
        model: PreTrainedModel = loaded[0]
        if device not in _DISPATCHED:
            model.to(device)  # type: ignore[arg-type]  # wrapped by transformers without its signature
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, HFValidationError, SafetensorError) as error:
        raise ConfigError(_reason(name, revision, error)) from error
    if missing := sorted(set(loaded[1]["missing_keys"]) - (NEW_HEAD if new_head else set())):
        raise ConfigError(f"{name} lacks {len(missing)} of the model's tensors, such as {missing[0]}; save the whole model again.")
    if adapter is not None:
        model = _with_adapter(model, adapter)
    model.train(False)
    commit = None if Path(name).expanduser().is_dir() else getattr(config, "_commit_hash", None)
    return Checkpoint(model, tokenizer, _eos_ids(model, tokenizer), _max_len(name, model, max_model_len), _revision(name, commit, adapter))


def is_classifier(config: PretrainedConfig) -> bool:
    """Whether a checkpoint says that it is a sequence classifier."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def _model_class(config: PretrainedConfig, new_head: bool) -> Any:
    """The Auto class that loads a checkpoint; adjusts the config of what is to become a classifier. Raises ConfigError for a model with an
    encoder, of which the Auto class would take the decoder alone or nothing."""
    if config.is_encoder_decoder:
        raise ConfigError(f"{config.name_or_path or config.model_type} is an encoder–decoder model; give a decoder-only one.")
    if new_head and not is_classifier(config):
        config.num_labels = 1
    if not (new_head or is_classifier(config)):
        return AutoModelForCausalLM
    if config.num_labels != 1:
        raise ValueError(f"it is a classifier with {config.num_labels} outputs, and a verifier has one")
    return AutoModelForSequenceClassification


def load_skeleton(name: str, *, revision: str | None = None, new_head: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a folder or Hub id without its weights (on the meta device), and its tokenizer: what can be checked in a moment.

    Raises ConfigError like load_checkpoint.
    """
    _refuse_bad_folder(name)
    options: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **options)
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        with torch.device("meta"):
            model: PreTrainedModel = _model_class(config, new_head).from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, HFValidationError) as error:
        raise ConfigError(_reason(name, revision, error)) from error
    return model, tokenizer


def _revision(name: str, commit: str | None, adapter: str | None) -> str:
    if commit is None:
        return folder_revision(*filter(None, (name, adapter)))
    return commit if adapter is None else f"{commit}+{folder_revision(adapter)}"


def _loads_in_a_moment(name: str) -> bool:
    files = list(Path(name).expanduser().glob("*.safetensors"))
    return bool(files) and sum(file.stat().st_size for file in files) < _LONG_LOAD_BYTES


def _refuse_bad_folder(name: str) -> None:
    folder = Path(name).expanduser()
    if not folder.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ConfigError(f"there is no checkpoint folder {name}; check the path, or give a Hub id such as org/name.")
        return
    if not folder.is_dir():
        raise ConfigError(f"{name} is a file; give the checkpoint folder that holds config.json and *.safetensors.")
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{name} has no config.json; give a folder written by save_pretrained.")
    if any(folder.glob("*.safetensors")):
        return
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        raise ConfigError(
            f"{name} holds pickled weights only, and a pickle can run code; save the model again with save_pretrained (safetensors)."
        )
    raise ConfigError(f"{name} has no weights; it needs model.safetensors, as save_pretrained writes it.")


def _refuse_bad_adapter(adapter: str) -> None:
    folder = Path(adapter).expanduser()
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{adapter} is no adapter folder; it needs adapter_config.json, as peft's save_pretrained writes it.")
    if not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(f"{adapter} has no adapter_model.safetensors; save the adapter again with safe_serialization=True.")


def _with_adapter(model: PreTrainedModel, adapter: str) -> PreTrainedModel:
    try:
        from peft import PeftModel

        merged: PreTrainedModel = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except ImportError as error:
        raise ConfigError("an adapter needs the package peft; install it with `pip install peft`.") from error
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise ConfigError(f"the adapter {adapter} does not fit the model: {_one_line(error)}; give the base it was trained on.") from error
    return merged


def _dtype(name: str, device: str) -> torch.dtype | str:
    if name == "auto":
        return torch.float32 if device == "cpu" else "auto"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    generation = getattr(model, "generation_config", None)
    for eos in (getattr(generation, "eos_token_id", None), getattr(model.config, "eos_token_id", None), tokenizer.eos_token_id):
        if eos is not None:
            return frozenset([eos] if isinstance(eos, int) else eos)
    return frozenset()


def _max_len(name: str, model: PreTrainedModel, wanted: int | None) -> int:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return wanted or 2048
    if wanted is not None and wanted > limit:
        raise ConfigError(f"max_model_len {wanted} is above the {limit} positions of {name}; set it to {limit} or less.")
    return int(wanted or limit)


def _reason(name: str, revision: str | None, error: Exception) -> str:
    if Path(name).expanduser().is_dir():
        return f"cannot load the checkpoint {name}: {_one_line(error)}; it needs the files that save_pretrained writes."
    at = f" at revision {revision}" if revision else ""
    return (
        f"cannot load {name}{at} from the Hugging Face Hub: {_one_line(error)}; "
        "check the id, the network and HF_TOKEN, or give a local folder."
    )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else text[:200] + "…").rstrip(".")
