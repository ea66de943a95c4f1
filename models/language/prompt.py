"""What is read of a prompt that was written for other packs: its words, without what these tell a diffusion model."""

from __future__ import annotations

import re

# Tags (<lora:name:1>, embedding:name) go with the comma before them, at the beginning of a prompt with the one behind them.
_TAG = r"(?:<[a-z]\w*:[^<>]*>|(?<!\w)embedding:[^\s,()]+)"
_TAGS = re.compile(rf"^(?:{_TAG}[\s,]*)+|(?:,\s*)?{_TAG}", re.IGNORECASE)
# (text:1.2). A whole number behind a digit is no weight, but (16:9); parentheses behind a backslash belong to the text.
_WEIGHTED = re.compile(r"(?<!\\)\(((?:\\.|[^()\\])*?)(?:(?<!\d):\d+|:\d*\.\d+)\)")
_NESTED = 4  # weights in weights, as deep as they are looked for


def as_read(prompt: str) -> str:
    """The prompt without the tags and weights of other packs, its white space collapsed: what is the same to read is one text.

    Comments (// and /* */) stay: ComfyUI's window takes them out itself.
    """
    for _ in range(_NESTED):
        prompt = _WEIGHTED.sub(r"\1", prompt)
    return " ".join(_TAGS.sub("", prompt.strip()).split())
