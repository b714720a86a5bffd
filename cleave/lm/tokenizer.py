"""The reference tokenizer: a unigram model over a given list of pieces, single digits, unknown characters as bytes.

Every piece has the same score, so that the segmentation with the fewest pieces wins. Round trip is exact for any text without U+2581.
"""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cleave.tasks.reference.vocabulary import SPACE

SPECIALS = ("<pad>", "<eos>", "<unk>")


def build_tokenizer(pieces: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return the tokenizer. The vocabulary is specials, 256 bytes, then `pieces`."""
    vocabulary = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    model = models.Unigram([(piece, -1.0) for piece in vocabulary], unk_id=2, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    # A word with its space; a digit with its space; any other character with its space; a lone space.
    pattern = Regex(f"{SPACE}?[A-Za-z]+|{SPACE}?[0-9]|{SPACE}?[^{SPACE}]|{SPACE}")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace(SPACE, " ")])
    built: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
        model_max_length=1024,
    )
    return built
