"""Local checkpoints as language models: what is loaded and refused, replies, scores, streams, cost, cancellation."""

import asyncio
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cleave.decoding.draft import Drafting
from cleave.decoding.ngram_counts import build as build_ngrams
from cleave.decoding.ngram_counts import shards_of
from cleave.errors import ConfigError, GenerationError
from cleave.lm.checkpoint import load_checkpoint
from cleave.lm.huggingface import HuggingFaceModel
from cleave.lm.protocol import LanguageModel, require
from cleave.types import Completion, Message, Prompt, Sampling, Usage

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
TEXTS = ["Question: 2 + 3?", "a", "Été — ça va?"]


def make_model(folder: Path, **options: float) -> HuggingFaceModel:
    return HuggingFaceModel(load_checkpoint(str(folder)), name=f"hf:{folder}", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> HuggingFaceModel:
    return make_model(tiny_model_dir, prompt_price=1.0, completion_price=2.0)


def prompts(seed: int | None = 3) -> list[Prompt]:
    return [Prompt(text=text, seed=seed) for text in TEXTS]


async def test_a_reply_per_prompt_and_sample(model: HuggingFaceModel) -> None:
    assert isinstance(model, LanguageModel)
    sampling = Sampling(max_tokens=6, n=2, temperature=1.0, logprobs=2)
    replies = await model.generate(prompts(), sampling)
    assert [len(samples) for samples in replies] == [2, 2, 2]
    for reply in (reply for samples in replies for reply in samples):
        assert len(reply.token_ids) == len(reply.logprobs) == len(reply.top_logprobs) <= 6
        assert reply.text == model.tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)
    assert _contents(await model.generate(prompts()[1:2], sampling)) == _contents(replies[1:2])
    assert await model.generate([], sampling) == []


async def test_usage_counts_a_prompt_once(model: HuggingFaceModel) -> None:
    [replies] = await model.generate([Prompt(text="abcde", seed=1)], Sampling(max_tokens=4, n=3, temperature=1.0))
    total = sum((reply.usage for reply in replies), Usage())
    generated = sum(len(reply.token_ids) for reply in replies)
    assert (total.calls, total.prompt_tokens, total.completion_tokens) == (1, 5, generated)
    assert 2 * (model.info.parameters or 0) * (5 + generated) < total.flops < 3 * (model.info.parameters or 0) * (5 + generated)
    assert total.price == pytest.approx(5e-6 + 2e-6 * generated)
    assert total.seconds > 0
    [greedy] = await model.generate([Prompt(text="abcde")], Sampling(max_tokens=4, n=3))
    assert sum((reply.usage for reply in greedy), Usage()).completion_tokens == len(greedy[0].token_ids), "repeats cost nothing"


async def test_score_equals_the_logprobs_of_the_reply(model: HuggingFaceModel) -> None:
    asked = [Prompt(text=text) for text in ("ab", "Question: 17?")]
    # A byte tokenizer reads every ASCII text back as the tokens it came from.
    drawn = [Completion("x = 4\n"), Completion("yes")]
    scores = await model.score(asked, [reply.text for reply in drawn])
    for prompt, reply, score in zip(asked, drawn, scores, strict=True):
        ids = model.tokenizer((prompt.text or "") + reply.text)["input_ids"]
        with torch.inference_mode():
            logprobs = model._sampler.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        start = len(prompt.text or "")
        expected = [float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))]
        assert score.token_ids == tuple(ids[start:])
        assert score.logprobs == pytest.approx(expected, abs=1e-4)
    [empty] = await model.score([Prompt(text="ab")], [""])
    assert empty.logprobs == ()


async def test_drafts_of_each_prompt(model: HuggingFaceModel) -> None:
    require(model, "drafts", purpose="this test")
    drafting = Drafting(k=3, max_tokens=5, temperature=1.0, reset_every=2)
    drafts = await model.drafts(prompts(), drafting)
    assert [len(each) for each in drafts] == [3, 3, 3]
    for draft in (draft for each in drafts for draft in each):
        assert draft.text == model.tokenizer.decode(list(draft.token_ids), skip_special_tokens=True)
    [alone] = await model.drafts(prompts()[1:2], drafting)
    assert [draft.token_ids for draft in alone] == [draft.token_ids for draft in drafts[1]]
    with pytest.raises(ConfigError, match="prompt is empty"):
        await model.drafts([Prompt(text="")], drafting)


async def test_drafts_share_the_cost_of_one_reply(model: HuggingFaceModel) -> None:
    [[first, *others]] = await model.drafts([Prompt(text="abcde")], Drafting(k=3, max_tokens=4))
    [[reply]] = await model.generate([Prompt(text="abcde")], Sampling(max_tokens=4))
    assert (first.usage.calls, first.usage.prompt_tokens, first.usage.completion_tokens) == (1, 5, 4)
    assert first.usage.flops == reply.usage.flops
    assert [draft.usage for draft in others] == [Usage(), Usage()]


async def test_n_grams_belong_to_the_tokenizer(tiny_model_dir: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(tiny_model_dir))
    ids = [checkpoint.tokenizer(text)["input_ids"] for text in TEXTS]
    fitting = build_ngrams(tmp_path, shards_of(ids), checkpoint.tokenizer.get_vocab(), model="m", sources=[])
    smoothed = HuggingFaceModel(checkpoint, name="m", ngrams=fitting)
    [[draft]] = await smoothed.drafts([Prompt(text="Quest")], Drafting(k=1, max_tokens=3, kept_tokens=258))
    assert draft.text == "ion", "nothing else was ever seen after it"
    other = build_ngrams(tmp_path, shards_of(ids), {"a": 0}, model="other", sources=[])
    with pytest.raises(ConfigError, match="counted with the tokenizer of other"):
        HuggingFaceModel(checkpoint, name="m", ngrams=other)


async def test_stream_adds_up_to_the_reply(model: HuggingFaceModel) -> None:
    prompt, sampling = Prompt(text="ab", seed=5), Sampling(max_tokens=30, temperature=1.5)
    [[reply]] = await model.generate([prompt], sampling)
    pieces = [piece async for piece in model.stream(prompt, sampling)]
    assert "".join(pieces) == reply.text
    assert len(pieces) > 3


async def test_stream_reports_its_error(model: HuggingFaceModel) -> None:
    with pytest.raises(ConfigError, match="limit is 512"):
        [piece async for piece in model.stream(Prompt(text="a" * 600), Sampling())]


async def test_messages_need_a_chat_template(model: HuggingFaceModel, tiny_model_dir: Path, tmp_path: Path) -> None:
    chat = Prompt(messages=(Message("system", "s"), Message("user", "2 + 3?")))
    assert "chat" not in model.capabilities
    with pytest.raises(ConfigError, match=r"no chat template; use"):
        await model.generate([chat], Sampling())
    with pytest.raises(ConfigError, match="has no chat template; choose prompts"):
        require(model, "chat", purpose="this prompt set")
    shutil.copytree(tiny_model_dir, tmp_path / "chat")
    (tmp_path / "chat" / "chat_template.jinja").write_text(TEMPLATE)
    chatty = make_model(tmp_path / "chat")
    require(chatty, "chat", purpose="this prompt set")
    sampling = Sampling(max_tokens=5)
    expected = await model.generate([Prompt(text="<system>s<user>2 + 3?<assistant>")], sampling)
    assert _contents(await chatty.generate([chat], sampling)) == _contents(expected)


async def test_cancelled_call_frees_the_thread(model: HuggingFaceModel) -> None:
    long = Sampling(max_tokens=500, temperature=1.0, n=32)
    task = asyncio.create_task(model.generate(prompts(), long))
    waiting = asyncio.create_task(model.drafts(prompts(), Drafting(k=8, max_tokens=500)))
    await asyncio.sleep(0.05)
    task.cancel()
    waiting.cancel()
    assert [type(error) for error in await asyncio.gather(task, waiting, return_exceptions=True)] == [asyncio.CancelledError] * 2
    [[reply]] = await asyncio.wait_for(model.generate([Prompt(text="a")], Sampling(max_tokens=2)), timeout=60)
    assert len(reply.token_ids) <= 2


async def test_left_stream_frees_the_thread(model: HuggingFaceModel) -> None:
    stream = model.stream(Prompt(text="a", seed=0), Sampling(max_tokens=500, temperature=1.0))
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    [[reply]] = await asyncio.wait_for(model.generate([Prompt(text="a")], Sampling(max_tokens=2)), timeout=60)
    assert len(reply.token_ids) <= 2


async def test_closed_model_refuses(tiny_model_dir: Path) -> None:
    model = make_model(tiny_model_dir)
    calls = [asyncio.create_task(model.generate(prompts(), Sampling(max_tokens=500, temperature=1.0, n=32))) for _ in range(2)]
    await asyncio.sleep(0.05)
    await model.aclose()
    await model.aclose()
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [GenerationError] * 2
    with pytest.raises(GenerationError, match="closed"):
        await model.generate(prompts(), Sampling())


async def test_an_overlong_prompt_is_refused(model: HuggingFaceModel) -> None:
    with pytest.raises(ConfigError, match="limit is 512"):
        await model.generate([Prompt(text="a" * 600)], Sampling())
    with pytest.raises(ConfigError, match="limit is 512"):
        await model.drafts([Prompt(text="a" * 600)], Drafting())
    with pytest.raises(ConfigError, match="limit is 512"):
        await model.score([Prompt(text="a" * 400)], ["b" * 200])


def test_info(model: HuggingFaceModel, tiny_model_dir: Path) -> None:
    weights = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    assert model.info.parameters == sum(p.numel() for p in weights.parameters())
    assert model.info.dtype == "float32"
    assert make_model_dtype(tiny_model_dir, "bfloat16") == "bfloat16"


def make_model_dtype(folder: Path, dtype: str) -> str:
    return HuggingFaceModel(load_checkpoint(str(folder), dtype=dtype), name="x").info.dtype


def test_max_model_len(tiny_model_dir: Path) -> None:
    assert load_checkpoint(str(tiny_model_dir), max_model_len=100).max_len == 100
    with pytest.raises(ConfigError, match="512 positions"):
        load_checkpoint(str(tiny_model_dir), max_model_len=1000)


def test_end_tokens_come_from_the_generation_config(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "m")
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    assert load_checkpoint(str(folder)).eos_ids == {1, 7}


async def test_adapter(tiny_model_dir: Path, tmp_path: Path, model: HuggingFaceModel) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_checkpoint(str(tiny_model_dir), adapter=str(tmp_path / "adapter"))
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(loaded.model(ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(loaded.model(ids).logits, model._sampler.model(ids).logits, atol=1e-3)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has no adapter_model\.safetensors"):
        load_checkpoint(str(tiny_model_dir), adapter=str(tmp_path / "adapter"))
    with pytest.raises(ConfigError, match="no adapter folder"):
        load_checkpoint(str(tiny_model_dir), adapter=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "no config.json"),
        ({"config.json": None}, "has no weights"),
        ({"config.json": None, "pytorch_model.bin": "x"}, "pickled weights"),
        ({"config.json": None, "model.pt": "x"}, "pickled weights"),
        ({"config.json": "{", "model.safetensors": "x"}, "cannot load the checkpoint"),
        ({"config.json": None, "tokenizer.json": None, "model.safetensors": "garbage"}, "cannot load the checkpoint"),
    ],
    ids=["empty", "no weights", "bin", "pt", "broken config", "broken weights"],
)
def test_bad_folders(files: dict[str, str | None], sentence: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    for name, content in files.items():
        if content is None:
            shutil.copy(tiny_model_dir / name, tmp_path / name)
        else:
            (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_missing_tensors_are_not_replaced_by_random_ones(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks 1 .*model\.layers\.1\.mlp\.up_proj"):
        load_checkpoint(str(folder))


def test_checkpoint_code_is_not_run(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "m")
    config = (folder / "config.json").read_text().replace('"model_type": "qwen3"', '"model_type": "mine"')
    (folder / "config.json").write_text(config.replace("{", '{"auto_map": {"AutoConfig": "mine.Config"},', 1))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match="cannot load"):
        load_checkpoint(str(folder))
    assert not (tmp_path / "ran").exists()


def test_paths_and_hub_ids_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint folder"):
        load_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"Hub.*local folder"):
        load_checkpoint("no-such-org/no-such-model")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        load_checkpoint(str(tmp_path / "file"))


def _contents(replies: list[list[Completion]]) -> list[list[tuple[str, tuple[int, ...]]]]:
    return [[(reply.text, reply.token_ids) for reply in samples] for samples in replies]
