"""What is asked of a generator: captions of every kind, and the real pictures beside which the answers are judged."""

import unicodedata
from collections import Counter
from dataclasses import dataclass, field

import torch

from ..data.folder import Example

DISTRIBUTION = 4  # times as many captions for the figures that compare distributions, which need more samples
SCRIPT_SHARE = 0.1  # of the pictures that must have captions in a script to give it a row
KINDS = {"styled": "captions naming a style", "captions": "plain captions", "keywords": "keywords"}
SPLITS = {"train": "training", "test_pair": "held-out (concept, style) pairs", "test_concept": "held-out concepts"}


@dataclass
class Row:
    """One kind of caption: (example, text) pairs to draw, and the real pictures beside which they are judged."""

    split: str
    kind: str
    script: str
    pairs: list[tuple[int, str]]
    real: list[tuple[int, str]] = field(default_factory=list)
    unseen: bool = False  # whether those real pictures were held out from training

    @property
    def title(self) -> str:
        kind = "" if self.split != "train" and self.kind == "styled" else f", {KINDS[self.kind]}"
        return SPLITS.get(self.split, f"held-out split {self.split}") + kind


def script_of(text: str) -> str:
    """The writing system of a text, which is as much of its language as can be told: Latin, Chinese, Japanese …"""
    names = [unicodedata.name(c, "?").split()[0].rstrip("-") for c in text if c.isalpha()]
    if {"HIRAGANA", "KATAKANA"} & set(names):
        return "Japanese"
    if "CJK" in names:
        return "Chinese"
    return names[0].capitalize() if names else ""


def questions(examples: list[Example], count: int, seed: int) -> list[Row]:
    """The rows of the alignment table; at most `count` pictures each, the same ones for every script."""
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(examples), generator=random).tolist()
    which = torch.rand(len(examples), generator=random).tolist()
    held_out = sorted({example.split for example in examples} - {"train"}, key=lambda s: (s not in SPLITS, s != "test_pair", s))
    splits = ["train", *held_out]
    members = {split: [i for i in order if examples[i].split == split] for split in splits}
    known = {e.concept or e.captions for e in examples if e.split == "train"}
    unseen = [i for split in held_out for i in members[split] if (examples[i].concept or examples[i].captions) in known]

    def ask(indices: list[int], kind: str, script: str, most: int) -> list[tuple[int, str]]:
        pairs = []
        for i in indices:
            options = [text for text in getattr(examples[i], kind) if script_of(text) == script]
            if options and len(pairs) < most:
                pairs.append((i, options[int(which[i] * len(options))]))
        return pairs

    rows = []
    for split in splits:
        kinds = [kind for kind in KINDS if any(getattr(examples[i], kind) for i in members[split])]
        for kind in kinds if split == "train" else kinds[:1]:
            scripts = Counter(s for i in members[split] for s in {script_of(text) for text in getattr(examples[i], kind)})
            fewest = min(SCRIPT_SHARE * len(members[split]), max(scripts.values()))
            for script in sorted((s for s in scripts if scripts[s] >= fewest), key=lambda s: (s != "Latin", s)):
                most = DISTRIBUTION * count if not rows else count
                row = Row(split, kind, script, ask(members[split], kind, script, most), unseen=split != "train")
                row.real = row.pairs[:count]
                if split == "train" and (others := ask(unseen, kind, script, count)):
                    row.real, row.unseen = others, True
                rows.append(row)
    return rows
