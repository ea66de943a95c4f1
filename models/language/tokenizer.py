"""The tokenizer of a converted folder, as far as reading takes it: texts into ids, as the `tokenizers` library gives them.

That library keeps every pair of SentencePiece's pieces that may join, of Gemma's 262 144 pieces half a million: most of the
time that a language model takes to be ready, and 300 MB. Two pieces may join if what they make is a piece, so that the
pieces alone are enough, in a tenth of both.
"""

from __future__ import annotations

import json
from heapq import heapify, heappop, heappush
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Iterator

PIECES = "pieces.json"  # what SentencePieces is made of, in the folder of a model that has them


class Tokenizer:
    """As much of the interface of transformers' tokenizers as reading takes."""

    def __init__(self, folder: Path):
        """Raises whatever damaged files bring about."""
        if (folder / PIECES).is_file():
            model: Any = SentencePieces(**json.loads((folder / PIECES).read_text("utf-8")))
        else:
            import tokenizers

            model = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        self._model = model
        self.bos_token, self.unk_token = settings.get("bos_token"), settings.get("unk_token")
        self.bos_token_id, self.unk_token_id = map(self.convert_tokens_to_ids, (self.bos_token, self.unk_token))
        self.added_tokens_decoder = model.get_added_tokens_decoder()

    def __call__(self, text: str, add_special_tokens: bool = False) -> Any:
        return SimpleNamespace(input_ids=self._model.encode(text, add_special_tokens=add_special_tokens).ids)

    def convert_tokens_to_ids(self, token: str | None) -> int | None:
        return None if token is None else self._model.token_to_id(token)


class SentencePieces:
    """Byte-pair encoding with SentencePiece's pieces (Sennrich et al. 2016, arXiv 1508.07909; Kudo & Richardson 2018,
    arXiv 1808.06226), in the interface of `tokenizers.Tokenizer`.

    tokens: all tokens, by id. order: the ids of the pieces that others are joined to, those first that join first. added:
    the id, and whether it is special, of every token that is found in a text before anything else is looked at. prefix: what
    is put in front of a text. A character that is no token is written as the tokens <0x00> to <0xFF> of its bytes.
    """

    def __init__(self, tokens: list[str], order: list[int], added: list[tuple[int, bool]], prefix: str):
        self._tokens, self._prefix = tokens, prefix
        self._ids = dict(zip(tokens, range(len(tokens))))
        self._bytes = [self._ids[f"<0x{byte:02X}>"] for byte in range(256)]
        self._ranks: list[int | None] = [None] * len(tokens)
        for rank, i in enumerate(order):
            self._ranks[i] = rank
        self._special = {i: special for i, special in added}
        self._added = {tokens[i]: i for i in self._special}
        self._lengths: dict[str, list[int]] = {}  # by the first character, of the added tokens, the longest first
        for first, length in sorted({(token[:1], len(token)) for token in self._added}, reverse=True):
            self._lengths.setdefault(first, []).append(length)

    def token_to_id(self, token: str) -> int | None:
        return self._ids.get(token)

    def get_added_tokens_decoder(self) -> dict[int, Any]:
        return {i: SimpleNamespace(content=self._tokens[i], special=special) for i, special in self._special.items()}

    def encode(self, text: str, add_special_tokens: bool = False) -> Any:
        """The ids of a text; there is nothing that `add_special_tokens` would add."""
        ids, start = [], 0
        for at, token in self._found(text):
            ids += [*self._joined(text[start:at]), self._ids[token]]
            start = at + len(token)
        return SimpleNamespace(ids=ids + self._joined(text[start:]))

    def _found(self, text: str) -> Iterator[tuple[int, str]]:
        """The added tokens in a text and where they stand: from the left, of several the longest."""
        at = 0
        while at < len(text):
            token = next((text[at:at + n] for n in self._lengths.get(text[at], ()) if text[at:at + n] in self._added), "")
            if token:
                yield at, token
            at += len(token) or 1

    def _joined(self, text: str) -> list[int]:
        """Single characters, of which again and again those two neighbours are joined that come first in the order."""
        if not text:
            return []
        ids: list[int] = []
        for character in self._prefix + text.replace(" ", "▁"):
            known = self._ids.get(character)
            ids += [self._bytes[byte] for byte in character.encode()] if known is None else [known]
        end = len(ids)
        before, after = list(range(-1, end - 1)), list(range(1, end + 1))

        def join(at: int) -> tuple[int, int, int, int, int] | None:
            """Of the piece at `at` and the next one: rank, both ids, place and joined id; equal ranks join from lower ids."""
            if after[at] == end:
                return None
            left, right = ids[at], ids[after[at]]
            if self._ranks[left] is None or self._ranks[right] is None:
                return None
            piece = self._ids.get(self._tokens[left] + self._tokens[right])
            rank = None if piece is None else self._ranks[piece]
            return None if rank is None else (rank, left, right, at, piece)

        waiting = [found for at in range(end) if (found := join(at))]
        heapify(waiting)
        while waiting:
            *_, at, piece = heappop(waiting)
            if ids[at] < 0 or (now := join(at)) is None or now[-1] != piece:  # its neighbours were joined otherwise
                continue
            ids[at], ids[after[at]] = piece, -1
            after[at] = after[after[at]]
            if after[at] < end:
                before[after[at]] = at
            for place in (before[at], at):
                if place >= 0 and (found := join(place)):
                    heappush(waiting, found)
        return [i for i in ids if i >= 0]
