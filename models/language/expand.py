"""Expansion: the language model writes what a picture of the prompt shows, before the prompt is read.

`writing_prompt` and `accept` are plain text in, plain text out, and serve any text generator; `generate` is the
sampling loop for models loaded here.
"""

from __future__ import annotations

import inspect
import math
import re
from typing import Any, Callable

import torch
from torch import nn

INSTRUCTION = "Describe a picture of {prompt} in one short sentence:"
INSTRUCTION_ZH = "用一句简短的话描述一张{prompt}的图片："

# What a base model continues. Every description keeps the nouns of its prompt, and adds what can be drawn.
_EXAMPLES = {
    INSTRUCTION: [
        ("blue teapot", "A round blue teapot with a curved handle stands on a plain white background."),
        ("a fox and an owl", "An orange fox and a brown owl sit side by side on green grass."),
        ("lighthouse, 3D style", "A tall white lighthouse with a red roof stands on a rock by the blue sea."),
    ],
    INSTRUCTION_ZH: [
        ("蓝色茶壶", "一个圆圆的蓝色茶壶，带着弯弯的把手，放在白色背景上。"),
        ("狐狸和猫头鹰", "一只橙色的狐狸和一只棕色的猫头鹰并排坐在绿色的草地上。"),
        ("灯塔", "一座高高的白色灯塔，红色的屋顶，立在蓝色大海边的岩石上。"),
    ],
}

_CJK = r"\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")
_END = re.compile(r"(?<=[.!?])(?=\s|$)|(?<=[。！？])")
_THINKING = re.compile(r"<think>.*?(</think>|$)", re.DOTALL)
_NGRAM = 3

# Words that name no thing in the picture: grammar, and the manner of drawing.
_EMPTY_WORDS = frozenset("""
    a an the this that these those his her its their my your one two three four five some any no and or but of in on at
    by with without to from for as is are be was were being over under near beside behind above below between into onto
    out up down very more most picture image photo photograph drawing painting illustration icon sketch style emoji
    render view background closeup""".split())
_EMPTY_CJK = frozenset("的一个只张幅有含包和与及跟在了是着上下里中图像图片画照这那很")
_JOINTS = re.compile(r"[,;:.!?/|()\[\]\"]|\b(?:and|or|with|without|on|in|at|by|of|near|under|over|beside|behind|above"
                     r"|below|between|into|onto|from|for|wearing|holding|riding|sitting|standing)\b", re.IGNORECASE)


def writing_prompt(prompt: str, instruction: str | None = None, chat: Callable[[str], str] | None = None) -> str:
    """The text that a model continues with a description of `prompt`.

    instruction: a sentence containing `{prompt}`; by default English, or Chinese for a Chinese prompt. chat: puts the
    instruction into the turns of an instruct model; without it, three examples show a base model what is asked.
    Raises ValueError if the instruction does not contain `{prompt}`.
    """
    default = INSTRUCTION_ZH if _is_cjk(prompt) else INSTRUCTION
    instruction = (instruction or "").strip() or default
    if "{prompt}" not in instruction:
        raise ValueError("The instruction must contain {prompt}, where the prompt is put.")
    prompt = " ".join(prompt.split())
    if chat is not None:
        return chat(instruction.replace("{prompt}", prompt))
    examples = [f"{instruction.replace('{prompt}', subject)}\n{text}" for subject, text in _EXAMPLES[default]]
    return "\n\n".join([*examples, instruction.replace("{prompt}", prompt) + "\n"])


def accept(prompt: str, raw: str) -> str:
    """prompt + ". " + the first sentence of `raw`, or the prompt alone where `raw` is of no use.

    Of no use is what is empty, says again what the prompt, the instruction or an example says, or lost the prompt's nouns.
    Again says a sentence that adds no word to the prompt's, or has all of them and adds fewer than a quarter as many. Taken for
    nouns are the last words of phrases ("a red *apple* on a *table*"; not of a manner such as "flat style"), and in
    Chinese all characters but grammar: at least two of them, and half, must return. Text within <think> and </think>
    is dropped.
    """
    prompt = " ".join(prompt.split())
    sentence = first_sentence(raw)
    plain = _plain(sentence)
    known = {_plain(text) for examples in _EXAMPLES.values() for _, text in examples}
    if not prompt or len(plain) < 3 or plain in known or any(asked in plain for asked in _ASKED):
        return prompt
    if not _keeps_nouns(prompt, sentence) or _repeats(prompt, sentence):
        return prompt
    return f"{prompt.rstrip(' .。')}. {sentence}"


def first_sentence(raw: str) -> str:
    """The first sentence of a model's answer: no thoughts, no label before it, no quotes around it."""
    lines = _THINKING.sub("", raw).strip().splitlines()
    label = r"^(?:[*#\-\s]+|(?:answer|description|picture|image|sentence)\s*:\s*)+"
    line = re.sub(label, "", lines[0] if lines else "", flags=re.IGNORECASE)
    return _END.split(line.strip(" \"'“”*`"), maxsplit=1)[0].strip(" \"'“”*`,;:、，")


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.lower())


# What stands around the prompt in an instruction, but for what a description may say too.
_ASKED = [text for instruction in _EXAMPLES for part in instruction.split("{prompt}") if len(text := _plain(part)) > 3]


def _is_cjk(text: str) -> bool:
    return re.search(f"[{_CJK}]", text) is not None


def _keeps_nouns(prompt: str, sentence: str) -> bool:
    characters = set(re.findall(f"[{_CJK}]", prompt)) - _EMPTY_CJK
    if characters:
        nouns, kept = sorted(characters), len(characters & set(sentence))
    else:
        phrases = [re.findall(r"[^\W_]+", phrase) for phrase in _JOINTS.split(prompt.lower())]
        things = [[word for word in phrase if word not in _EMPTY_WORDS]
                  for phrase in phrases if phrase[-1:] != ["style"]]
        nouns = [words[-1] for words in things if words]
        words = re.findall(r"[^\W_]+", sentence.lower())
        kept = sum(any(_agree(noun, word) for word in words) for noun in nouns)
    return kept >= max(min(2, len(nouns)), math.ceil(len(nouns) / 2))


def _agree(known: str, word: str) -> bool:
    """Whether `word` begins as `known` does, without the last letters of long words: cats, cat's and cat agree."""
    return word.startswith(known[:max(3, len(known) - 2)])


def _repeats(prompt: str, sentence: str) -> bool:
    """Whether the sentence says the prompt again and little else, its words being those that are not empty."""
    known, words = (set(_WORD.findall(text.lower())) - _EMPTY_WORDS - _EMPTY_CJK for text in (prompt, sentence))
    new = sum(not any(_agree(old, word) for old in known) for word in words)
    return not new or 4 * new < len(known) and all(any(_agree(old, word) for word in words) for old in known)


def keeping(model: nn.Module, cache: Any) -> dict[str, Any]:
    """The arguments by which `model` reads on from the keys and values in `cache`, and adds to them; None is neither."""
    # Newer versions of transformers warn of the older name, which is to go.
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: cache, "use_cache": cache is not None}


@torch.no_grad()
def generate(model: nn.Module, tokenizer: Any, ids: list[int], *, seed: int = 0, temperature: float = 0.3,
             max_tokens: int = 48, on_token: Callable[[str], None] | None = None) -> str:
    """Continues the token ids with a causal language model of transformers, until a newline, the end, or max_tokens.

    No three tokens are written twice. temperature 0 takes the likeliest token, otherwise a generator of its own is
    seeded. on_token(text so far) may raise to cancel. Returns the text without the end.
    """
    from transformers import DynamicCache

    device = model.get_input_embeddings().weight.device
    ends = _ends(model, tokenizer)
    random = torch.Generator().manual_seed(seed)
    # The head's logits of all positions would take 1 MB each for a vocabulary of 262 144.
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    cache, written, text = DynamicCache(), [], ""
    step, reading = torch.tensor([ids], device=device), keeping(model, cache)
    for _ in range(max_tokens):
        seen = torch.ones(1, len(ids) + len(written), dtype=torch.long, device=device)
        logits = model(input_ids=step, attention_mask=seen, **reading, **last).logits[0, -1]
        logits = logits.float().cpu()
        logits[_repeating(written)] = -math.inf
        if temperature > 0:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=random))
        else:
            token = int(logits.argmax())
        if token in ends:
            break
        written.append(token)
        text = tokenizer.decode(written, skip_special_tokens=True)
        if on_token is not None:
            on_token(text)
        if "\n" in _THINKING.sub("", text).lstrip():
            break
        step = torch.tensor([[token]], device=device)
    return text


def _repeating(written: list[int]) -> list[int]:
    """The tokens that would write the same three tokens again."""
    tail = written[-(_NGRAM - 1):]
    return [written[i + _NGRAM - 1] for i in range(len(written) - _NGRAM + 1) if written[i:i + _NGRAM - 1] == tail]


def _ends(model: nn.Module, tokenizer: Any) -> set[int]:
    named = [tokenizer.eos_token_id, getattr(model.generation_config, "eos_token_id", None)]
    ends = {token for value in named for token in (value if isinstance(value, (list, tuple)) else [value])}
    ends |= {tokenizer.convert_tokens_to_ids(token) for token in ("<end_of_turn>", "<|im_end|>", "<|eot_id|>")}
    return ends - {None, tokenizer.unk_token_id}
