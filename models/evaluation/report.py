"""What an evaluation found, for people: a Markdown page with its sheets of pictures, and the numbers as JSON."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.scenes import Scene
from ..data.sentences import TINTS
from ..pictures import contact_sheet
from .questions import Row

ACROSS = 12  # pictures in a row of a sheet
SHOWN = 24  # pictures of each kind of caption
FIGURES = {"kid": "KID ↓", "sliced_wasserstein": "sliced Wasserstein ↓", "precision": "precision ↑", "recall": "recall ↑"}
COLUMNS = {"generated": "generated", "floor": "real, other training pictures (floor)", "held_out": "real, held out",
           "blurred": "real, blurred (known bad)"}  # fmt: skip
NONE = "–"


@dataclass
class Group:
    """Pictures uint8 [N,3,R,R], and for each its nearest training pictures [N,K,3,R,R]."""

    title: str
    pictures: Tensor
    features: Tensor
    neighbours: Tensor | None = None


def write_report(
    result: dict, out: Path, rows: list[Row], made: list, pictures: Tensor, diverse: list, groups: list[Group],
    composed: tuple[list[Scene], list[Tensor]], painted: tuple[list[Scene], list[Tensor]],
) -> None:  # fmt: skip
    """evaluation.json, evaluation.md and the sheets. `made` holds (pictures, features) of every row of captions, `composed`
    scenes and generated and real pictures of each, `painted` scenes with colours and generated ones of each."""
    out.mkdir(parents=True, exist_ok=True)
    sheets = []
    for number, (row, (drawn, _)) in enumerate(zip(rows, made)):
        shown = row.pairs[:SHOWN]
        real = pictures[[i for i, _ in shown]]
        lines = []
        for start in range(0, len(shown), ACROSS):
            part = slice(start, start + ACROSS)
            lines += [*_fill(drawn[:SHOWN][part], ACROSS), *_fill(real[part], ACROSS)]
        title = f"{row.title} ({row.script})" if row.script else row.title
        note = "Rows in pairs: generated, and below it the real picture that has this caption. " + _quote(t for _, t in shown)
        sheets.append((title[0].upper() + title[1:], _save(lines, ACROSS, out / f"captions-{number:02d}.png"), note))
    for title, (scenes, kinds), name, note in (
        ("Held-out compositions", composed, "compositions",
         "Rows in pairs: generated, and below it real pictures pasted as the prompt says."),
        ("Colours", painted, "colours", "Generated."),
    ):  # fmt: skip
        if scenes:
            starts = range(0, min(2 * SHOWN, len(scenes)), ACROSS)
            lines = [x for start in starts for shown in kinds for x in _fill(shown[start : start + ACROSS], ACROSS)]
            note += " " + _quote(scene.text for scene in scenes[: 2 * SHOWN])
            sheets.append((title, _save(lines, ACROSS, out / f"{name}.png"), note))
    if diverse:
        most = max(len(m) for _, m, _ in diverse)
        lines = [x for _, m, r in diverse[: SHOWN // 2] for x in (*_fill(m, most + 1), *_fill(r, most))]
        note = "In each row one plain caption from several z, then real pictures that share it. "
        note += _quote(text for text, _, _ in diverse[: SHOWN // 2])
        sheets.append(("Several z", _save(lines, 2 * most + 1, out / "diversity.png"), note))
    for number, group in enumerate(groups):
        lines, wide = [], group.neighbours.shape[1] + 2  # a picture, its neighbours, a gap
        for picture, neighbours in zip(group.pictures[:SHOWN], group.neighbours):
            lines += _fill(torch.cat([picture[None], neighbours]), wide)
        path = _save(lines, 3 * wide, out / f"nearest-{number}.png")
        sheets.append(
            (f"Nearest training pictures: {group.title}", path, "Each picture, then those nearest to it, nearest first.")
        )
    (out / "evaluation.json").write_text(json.dumps(_rounded(result), indent=1, ensure_ascii=False), encoding="utf-8")
    (out / "evaluation.md").write_text(_markdown(_rounded(result), sheets), encoding="utf-8")


def in_short(result: dict) -> dict[str, float]:
    """The figures of an evaluation that tell most of a model, by what they are called."""
    figures = {}
    if result["distribution"]:
        figures["KID"] = result["distribution"]["generated"]["kid"][0]
    for row in result["alignment"]:
        of, _, kind = _title(row).partition(", ")
        for figure, label in (("r@1", "R@1"), ("r_precision", "R-precision")):
            if of == "training" and figure in row["generated"]:
                figures[f"{label}, {kind}"] = row["generated"][figure]
                break  # the second says little beside the first
    return {name: round(value, 3) for name, value in figures.items()}


def _fill(pictures: Tensor, count: int) -> list[Tensor]:
    """The pictures, and white ones behind them up to `count`."""
    return [*pictures, *([torch.full_like(pictures[0], 255)] * (count - len(pictures)))]


def _save(pictures: list[Tensor], columns: int, path: Path) -> Path:
    contact_sheet(torch.stack(pictures).permute(0, 2, 3, 1).float().div(255), columns).save(path)
    return path


def _quote(texts) -> str:
    return "Captions in order: " + " · ".join(_cell(text) for text in texts)


def _cell(text: str) -> str:
    """A text of a stranger's folder, which may not become markup."""
    return " ".join(re.sub(r"([\\`*_\[\]<>|#!&])", r"\\\1", text).split())


def _rounded(value):
    """Six significant digits: what lies behind them is rounding, which threads may change."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


def _markdown(result: dict, sheets: list[tuple[str, Path, str]]) -> str:
    model, settings = result["model"], result["settings"]
    held_out = settings["held_out_pictures"]
    concepts = settings["concepts"]
    about = (
        f"{model['resolution']} px, {model['images_seen']} images seen in training, reads {_cell(model['language_model'])}. "
        f"Judged on {_cell(settings['data'])}: {settings['training_pictures']} training pictures, {held_out or 'no'} held-out "
        f"ones, {concepts or 'no'} concepts; {settings['skipped']} skipped. Seed {settings['seed']}, truncation 1. "
        f"Features are those of {settings['features']} at the model's resolution, four maps averaged in quadrants, "
        "every channel standardised on the training pictures."
    )
    parts = [f"# Evaluation of {_cell(model['name'])}", about]
    if not held_out:
        parts.append("**The folder has no held-out split: everything here is measured on training captions and pictures.**")
    parts += ["## Against the real distribution", _distribution(result["distribution"])]
    parts += ["## Does it show what was asked?", _alignment(result["alignment"], concepts)]
    if result["compositions"]:
        parts += ["## Compositions", _compositions(result["compositions"])]
    if result["colours"]:
        parts += ["## Colours", _colours(result["colours"])]
    parts += ["## Several z", _diversity(result["diversity"])]
    parts += ["## Memorisation", _table(
        ["pictures", "mean distance to the nearest training picture", "median", "n"],
        [[m["pictures"], f"{m['distance']:.3f}", f"{m['median']:.3f}", m["n"]] for m in result["memorisation"]],
    )]  # fmt: skip
    speed = result["speed"]
    parts += ["## Speed", _table(
        ["ms a picture, batch 1", "ms a picture, batch 16", "ms to encode a prompt", "on"],
        [[f"{speed['batch_1']:.1f}", f"{speed['batch_16']:.1f}", f"{speed['encode']:.1f}",
          f"{speed['device']}, {speed['dtype']}, threads: {speed['threads']}"]],
    )]  # fmt: skip
    for title, path, note in sheets:
        parts += [f"## {title}", f"![]({path.name})", note]
    return "\n\n".join(parts) + "\n"


def _distribution(figures: dict | None) -> str:
    if figures is None:
        return "Left out: too few pictures."
    columns = [name for name in COLUMNS if name in figures]

    def cell(name: str, figure: str) -> str:
        mean, deviation = figures[name][figure]
        return f"{mean:.3f} ± {deviation:.3f}"

    rows = [[label, *(cell(name, figure) for name in columns)] for figure, label in FIGURES.items()]
    rows.append(["n on each side", *(figures[name]["n"] for name in columns)])
    return _table(["", *(COLUMNS[name] for name in columns)], rows)


def _title(row: dict) -> str:
    return f"{row['captions']} ({row['script']})" if row["script"] else row["captions"]


def _alignment(rows: list[dict], concepts: int) -> str:
    def cells(row: dict, figure: str) -> list[str]:
        return [f"{row[kind][figure]:.3f}" if figure in row[kind] else NONE for kind in ("generated", "real", "shuffled")]

    table = []
    for row in rows:
        counts = " / ".join(str(row[kind].get("n", row[kind].get("n_concept", 0))) for kind in ("generated", "real"))
        table.append(
            [
                _title(row),
                *(" / ".join(cells(row, f)) for f in ("r_precision", "r@1", "r@10", "any@10")),
                counts,
                row["real_pictures"],
            ]
        )
    drawn = [row[kind]["distractors"] for row in rows for kind in ("generated", "real") if "distractors" in row[kind]]
    fewest = min(drawn, default=0)
    notes = ["Each cell: generated / real / shuffled captions."]
    if fewest:
        few = "" if fewest == 99 else f" (rows with fewer have at least {fewest})"
        notes.append(f"R-precision by the judge against 99 distractors{few}.")
    if any("r@1" in row["generated"] for row in rows):
        notes.append(
            f"R@1 and R@10: the concept found among {concepts} by features; *any*: or another one that the caption may mean."
        )
    most = max((row["generated"].get("n", 0) for row in rows), default=0)
    if most:
        notes.append(f"The standard error of a share at n = {most} is at most {0.5 / most**0.5:.3f}.")
    head = ["captions", "R-precision", "R@1", "R@10", "any R@10", "n generated / real", "real pictures"]
    return " ".join(notes) + "\n\n" + _table(head, table)


def _compositions(figures: dict) -> str:
    rows = []
    for script, own in figures["generated"].items():
        cells = [f"{own[f]:.3f} / {figures['real'][script][f]:.3f}" for f in ("both@1", "both@10", "relation")]
        rows.append([script, f"{figures['read'][script]:.3f}", *cells, own["n"]])
    note = (
        "Two things that never met in training. A sentence is read right if both things are, each in its place, and the "
        "colour behind them. Each other cell: generated / real pictures pasted as the prompt says. Each thing is cut out of "
        "its place and sought among all concepts; the relation is right where both fit their places better than exchanged."
    )
    head = ["script", "sentence read right", "both things right", "both among the ten nearest", "relation right", "n"]
    return note + "\n\n" + _table(head, rows)


def _colours(figures: dict) -> str:
    note = (
        "Two things that never met in training, given colours that they need not have. Generated / real pictures in "
        "their own colours: how often most of a thing is nearer to the colour it is given than to the "
        f"{len(TINTS) - 1} others."
    )
    rows = [
        [script, f"{own['right']:.3f} / {figures['real'][script]['right']:.3f}", own["n"]]
        for script, own in figures["generated"].items()
    ]
    return note + "\n\n" + _table(["script", "in the colour that was said", "n"], rows)


def _diversity(figures: dict | None) -> str:
    if figures is None:
        return "Left out: no plain captions."
    names = {
        "generated": "generated, one caption",
        "real": "real, one caption",
        "real_of_other_captions": "real, other captions",
    }
    rows = []
    for kind in ("pixels", "features"):
        row = [f"mean \\|Δ\\| in {kind}", *(f"{figures[n][kind]:.4f}" if n in figures else NONE for n in names)]
        share = f"{figures['generated'][kind] / figures['real'][kind]:.0%}" if figures.get("real", {}).get(kind) else NONE
        rows.append([*row, share])
    note = f"{figures['captions']} captions, {figures['latents']} z each."
    return note + "\n\n" + _table(["", *names.values(), "generated / real"], rows)


def _table(head: list, rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
