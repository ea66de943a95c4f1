"""`llm-gan benchmark`: runs what the machine allows, and writes benchmark.md, benchmark.json and benchmark.png.

Every comparison is taken in one process with its sides interleaved, so that what else the machine does falls on all of them:
the ratios hold on a shared machine, where the milliseconds do not.
"""

import itertools
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint import as_it_runs
from ..condition import Condition, ConditionCache
from ..gan import GAN, check_ours
from ..generator import GeneratorConfig
from ..language.model import LanguageModel
from ..linear import without_tf32
from ..recorded import Recordings
from .measure import PRINT_PEAK, Spread, child, flops, interleaved, layers, machine, processor_time, seconds
from .report import write_report
from .rivals import RIVALS, Entry, Rival

OURS = "LLM-GAN"
PROMPTS = ("a red heart on white", "a green apple on blue", "a happy dog on grass", "a small house at night")
BATCHES = (1, 2, 4, 8, 16, 32, 64)
DEMO = ("一张包含猫和狗的图像", "a red heart")  # the prompts of `make demo`
SIDE, GPU_SIDE = 2048, 8192  # of the matrices whose product is the yardstick, on a CPU and on a GPU
SCORED = 64
VERSIONS = ("torch", "transformers", "diffusers", "pytorch-pretrained-biggan", "lightweight-gan")


def benchmark(
    gan: GAN,
    model: LanguageModel,
    whole: LanguageModel,
    out: Path,
    resolutions: tuple[int, ...] = (64, 128, 256, 512),
    rivals: tuple[str, ...] = tuple(RIVALS),
    quick: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> dict:
    """Measure `gan`, its architecture at other `resolutions`, and `rivals`; `progress` is told what is being done.

    `whole` is the language model with all its layers (write=True), as transformers reads with it: what that costs is measured
    too. `quick` takes each figure from few runs, to see that all of it works. Returns what benchmark.json holds. Raises
    ValueError, in one sentence, before any long work.
    """
    check_ours(gan)
    check_choice(resolutions, rivals)
    if not whole.write:
        raise ValueError(f"{whole.name} was loaded for reading only: load it with write=True to compare with all its layers.")
    sizes = {resolution: at_resolution(gan, resolution) for resolution in sorted(resolutions)}
    chosen = {name: RIVALS[name] for name in rivals}
    missing = {entry.title: entry.missing() for entry in chosen.values() if entry.missing()}
    entries = {name: entry for name, entry in chosen.items() if not entry.missing()}
    # Seconds for each comparison, and the rounds that it takes at the least and at most.
    budget = {"budget": 60.0, "least": 3, "most": 30}
    if gan.device.type == "cuda":  # each round of which takes every way a hundred times, and nobody else has the GPU
        budget = {"budget": 10.0, "least": 3, "most": 5}
    if quick:
        budget = {"budget": 5.0, "least": 1, "most": 1}
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": torch.cuda.get_device_name(gan.device) if gan.device.type == "cuda" else machine(),
        "threads": torch.get_num_threads(), "processor_time": processor_time(), "device": gan.device.type, "quick": quick,
        "versions": {name: version for name in VERSIONS if (version := _version(name))},
        "missing": missing, "gan": gan.card.name, "resolution": gan.resolution,
        "precision": {"generator": _name(gan.dtype), "language model": model.recipe().dtype},
    }  # fmt: skip

    def found(**parts) -> None:
        """Written as it is found: a rival that fails or a clock that runs out must not cost what was measured before."""
        result.update(parts)
        (out / "benchmark.json").write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")

    with torch.inference_mode():
        progress("reading a new prompt")
        found(reading=reading(model, whole, gan, budget))
        progress("the machine's limit")
        found(limit=[limit(size, model, budget) for size in sizes.values()])
        if gan.discriminator is not None:
            progress("scoring")
            found(scoring=scoring(gan, model, budget))
        pictures, batches = compare(sizes, model, entries, budget, progress)
        found(pictures=pictures, batches=batches)
    if gan.device.type == "cpu":
        progress("memory and start")
        found(start=start_and_memory(torch.get_num_threads(), 1 if quick else 3, 20 if quick else 1000))
    write_report(result, out)
    return result


def check_choice(resolutions: tuple[int, ...], rivals: tuple[str, ...]) -> None:
    """ValueError, in one sentence, where there is no such rival or no such resolution: before anything is loaded."""
    for name in rivals:
        if name not in RIVALS:
            raise ValueError(f"There is no rival {name}: choose from {', '.join(RIVALS)}.")
    if not resolutions:
        raise ValueError("There is no resolution to draw: give at least one, such as 256.")
    for resolution in resolutions:
        GeneratorConfig.at(resolution)


def at_resolution(gan: GAN, resolution: int, dtype: torch.dtype | None = None) -> GAN:
    """The architecture of `gan` for `resolution` px: its weights where they fit, random ones elsewhere, no discriminator; in
    its precision, or another."""
    shape = GeneratorConfig.at(resolution)
    grown = GAN(replace(gan.generator.config, resolution=resolution, channels=shape.channels), None, gan.recipe, gan.card)
    own = grown.state_dict()
    grown.load_state_dict({k: v for k, v in gan.state_dict().items() if k in own and v.shape == own[k].shape}, strict=False)
    grown.to(gan.device)
    for name, tensor in itertools.chain(grown.named_parameters(), grown.named_buffers()):
        tensor.data = as_it_runs(name, tensor.data, dtype or gan.dtype)
    return grown.requires_grad_(False).eval()


# --------------------------------------------------------------------------------------------------- against rivals


def compare(
    sizes: dict[int, GAN], model: LanguageModel, entries: dict[str, Entry], budget: dict, progress: Callable[[str], None]
) -> tuple[list[dict], dict]:
    """Of every resolution a row for each way to a picture, ours first; and of one resolution seconds against batch."""
    rows, batches, built = [], {}, {}
    plotted = max((size for size in sizes if size <= 256), default=min(sizes))
    for resolution, gan in sizes.items():
        ours = Ours(gan, model)
        sides: dict[tuple[str, str], Callable] = {(OURS, "new"): ours.new, (OURS, "known"): ours.known}
        ours.new(), ours.known()  # what is kept is kept
        precisions, counted = {OURS: _name(gan.dtype)}, {OURS: (flops(ours.new), flops(ours.known))}
        weights = {OURS: _bytes(gan) + _bytes(model)}
        for name, entry in entries.items():
            if resolution not in entry.resolutions:
                continue
            progress(f"{resolution} px: {entry.title}")
            rival = built[name] = _ready(entry, resolution, built.get(name), gan.device)
            if rival.reads:
                sides[entry.title, "read"] = rival.prompt
            sides[entry.title, "known"] = draw = _draw(rival)
            precisions[entry.title] = _name(next(rival.parameters()).dtype)
            weights[entry.title] = _bytes(rival)
            drawing = flops(draw)
            counted[entry.title] = (drawing + flops(rival.prompt) if rival.reads else None, drawing)
        progress(f"{resolution} px: all of them, one picture")
        times = interleaved(sides, **budget)
        for title in dict.fromkeys(title for title, _ in sides):
            new, known = times.get((title, "new")), times[title, "known"]
            if (title, "read") in times:
                new = times[title, "read"] + known
            rows.append({
                "resolution": resolution, "title": title, "precision": precisions[title], "weights": weights[title],
                "new": new, "known": known, "flops_new": counted[title][0], "flops_known": counted[title][1],
                "ratio_new": new and new.median / times[OURS, "new"].median,
                "ratio_known": known.median / times[OURS, "known"].median,
            })  # fmt: skip
        if resolution == plotted:
            progress(f"{resolution} px: batches")
            drawers = {OURS: ours.batch}
            for name, entry in entries.items():
                if resolution in entry.resolutions:
                    drawers[entry.title] = _draw(built[name])
            batches = {"resolution": resolution, "seconds": by_batch(drawers, **budget)}
    return rows, batches


class Ours:
    """The ways from a prompt to a picture of one GAN and its language model; every picture has a seed of its own."""

    def __init__(self, gan: GAN, model: LanguageModel):
        self.gan, self.model = gan, model
        self.seeds, self.prompts, self.cache = itertools.count(), itertools.cycle(PROMPTS), ConditionCache()

    def new(self) -> Tensor:
        """A prompt that was not read before, and a picture of it."""
        return self._draw(self.model.encode([next(self.prompts)], self.gan.recipe), 1)

    def known(self) -> Tensor:
        """A picture more of a prompt that was read before."""
        return self._draw(self.model.encode(PROMPTS[:1], self.gan.recipe, self.cache), 1)

    def batch(self, count: int) -> Tensor:
        return self._draw(self.model.encode(PROMPTS[:1], self.gan.recipe, self.cache).repeat(count), count)

    def _draw(self, condition: Condition, count: int) -> Tensor:
        return self.gan.generate(condition, self.gan.sample_z(next(self.seeds), count))[0]


def _ready(entry: Entry, resolution: int, before: Rival | None, device: torch.device) -> Rival:
    """The rival for `resolution` px at its best: evaluation mode, channels last, and the precision that is faster here."""
    if before is not None and before.reads:
        before.resolution = resolution
        return before
    torch.manual_seed(0)
    with device:  # a GPU draws a thousand million random weights in no time
        rival = entry.build(resolution)
    rival = rival.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    precisions = (torch.float16, torch.bfloat16) if device.type == "cuda" else (torch.float32, torch.bfloat16)
    if before is not None:  # at another resolution
        return rival.to(next(before.parameters()).dtype)
    taken = {}
    for dtype in precisions:
        rival.to(dtype)
        for _ in range(2):  # the first warms up
            taken[dtype] = seconds(lambda: rival(1, rival.prompt()))
    return rival.to(min(taken, key=taken.get))


def _draw(rival: Rival) -> Callable[[int], Tensor]:
    """So many pictures, on the CPU, of a prompt that is read now where it reads one."""
    read = rival.prompt()
    return lambda count=1: rival(count, read).float().cpu()


def by_batch(drawers: dict[str, Callable[[int], object]], budget: float, **rounds) -> dict[str, dict[int, Spread]]:
    """Seconds a picture against the batch; of each way as far as a batch takes a tenth of `budget`."""
    result = {title: {} for title in drawers}
    going = dict(drawers)
    for batch in BATCHES:
        times = interleaved({title: lambda draw=draw: draw(batch) for title, draw in going.items()}, budget / 3, **rounds)
        for title, spread in times.items():
            result[title][batch] = spread / batch
        going = {title: draw for title, draw in going.items() if times[title].median < budget / 20}
        if not going:
            break
    return result


# ------------------------------------------------------------------------------------------------ the machine's limit


def limit(gan: GAN, model: LanguageModel, budget: dict) -> dict:
    """Operations a second of the generator, the prompt read, of a large matrix product and of a large convolution; where the
    time goes on a CPU, and on a GPU how much longer fp32 takes."""
    on_gpu = gan.device.type == "cuda"
    count, side = gan.rows_at_once(None, drawing=True), GPU_SIDE if on_gpu else SIDE
    draw, replay = drawing(gan, model, count)
    a, b = (torch.randn(side, side, device=gan.device).to(gan.dtype) for _ in range(2))
    x = torch.randn(count, 256, 32, 32, device=gan.device).to(gan.dtype, memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3, device=gan.device).to(gan.dtype, memory_format=torch.channels_last)
    work = {"generator": draw, "matmul": lambda: a @ b, "convolution": lambda: torch.conv2d(x, w, padding=1)}
    sides = work | {"generator": replay}
    if on_gpu:
        sides["exact"] = drawing(at_resolution(gan, gan.resolution, torch.float32), model, count)[1]
    with without_tf32():
        times = interleaved(sides, **budget)
    rates = {name: flops(side) / times[name].median for name, side in work.items()}
    names = ["mapping", "canvas"]
    for i, scale in enumerate(gan.generator.scales):
        parts = (name for name in ("conv0", "attention", "conv1", "to_rgb") if getattr(scale, name) is not None)
        names += [f"scales.{i}.{name}" for name in parts]
    return {
        "resolution": gan.resolution, "batch": count, "side": side, "rates": rates,
        "share": rates["generator"] / rates["matmul"],
        "seconds": times["generator"], "ratio_exact": times["exact"].median / times["generator"].median if on_gpu else None,
        "layers": [] if on_gpu else layers(gan.generator, names, draw, budget["least"]),
    }  # fmt: skip


def drawing(gan: GAN, model: LanguageModel, count: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """`count` pictures of one prompt, read before, left on the device: as Python asks for them, and as they are recorded."""
    text = gan.read(model.encode(PROMPTS[:1], gan.recipe).repeat(count).to(gan.device))
    z, recordings = gan.sample_z(0, count).to(gan.device), Recordings()
    recordings.follow(gan.generator)

    def draw(z: Tensor) -> tuple[Tensor]:
        return (gan.generator.synthesize(gan.generator.code(z, text), text),)

    return lambda: draw(z)[0], lambda: recordings.run(draw, z)[0]


def scoring(gan: GAN, model: LanguageModel, budget: dict) -> dict:
    """Seconds that the discriminator takes to score pictures by one prompt."""
    pictures = torch.rand(SCORED, gan.resolution, gan.resolution, 3)
    condition = model.encode(PROMPTS[:1], gan.recipe)
    times = interleaved({"score": lambda: gan.score(pictures, condition)}, **budget)
    return {"pictures": SCORED, "resolution": gan.resolution, **times}


# ---------------------------------------------------------------------------------------------------- a new prompt


def reading(model: LanguageModel, whole: LanguageModel, gan: GAN, budget: dict) -> dict:
    """What a new prompt costs: the layers that the recipe reads, after what is kept of the template; and all of it anew, by
    transformers."""
    prompt = PROMPTS[0]
    ids = whole.tokenizer(gan.recipe.template.replace("{prompt}", prompt), add_special_tokens=False).input_ids
    if gan.recipe.bos and whole.bos is not None:
        ids = [whole.bos, *ids]
    decoder, text = whole.model.get_decoder(), torch.tensor([ids], device=gan.device)
    times = interleaved({
        "recipe": lambda: model.encode([prompt], gan.recipe),
        "everything": lambda: decoder(input_ids=text, use_cache=False).last_hidden_state.float().cpu(),
    }, **budget)  # fmt: skip
    return {
        "prompt": prompt, "tokens": len(whole.tokenizer(prompt, add_special_tokens=False).input_ids), "all_tokens": len(ids),
        "precisions": (model.recipe().dtype, whole.recipe().dtype),
        "layers": gan.recipe.layer, "all_layers": model.layers, **times,
        "ratio": times["everything"].median / times["recipe"].median,
    }  # fmt: skip


# ----------------------------------------------------------------------------------------------------- memory and start

_READY = """
from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.language.model import LanguageModel
gan = load_gan(DEFAULT_GAN)
model = LanguageModel.load(gan.recipe.model)
"""
_FIRST = _READY + """
gan.generate(model.encode(["a red heart"], gan.recipe), gan.sample_z(1, 1))
"""
_IMPORTS = "import torch\n"
_PROCESSOR = "import time; print(time.process_time())\n"
_DEMO = """
import sys
from llm_gan.models.cli import main
sys.exit(main(["generate", *sys.argv[2:], "-n", "8", "--seed", "1", "--out", sys.argv[1]]))
"""
_GROWTH = """
import sys
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
count = int(sys.argv[1])
for i in range(count):
    gan.generate(model.encode([f"a red heart, {i}"], gan.recipe), gan.sample_z(i, 1))
    if i in (count // 10, count - 1):
        print(resident())
"""


def start_and_memory(threads: int, rounds: int, generations: int) -> dict:
    """Of processes of their own: seconds until the default models are ready and have drawn, and the memory that they hold."""
    runs = []
    for _ in range(rounds + 1):
        walls, lines = zip(*(child(code + _PROCESSOR, threads=threads) for code in (_READY, _FIRST, _IMPORTS)))
        runs.append((walls[0], *(float(printed[-1]) for printed in lines)))
    wall, ready, first, imports = (Spread.of(list(column)) for column in zip(*runs[1:]))  # the first reads the files
    with tempfile.TemporaryDirectory() as folder:
        code = _DEMO.replace("sys.exit(", "code = (") + PRINT_PEAK
        peak = child(code, folder, *DEMO, threads=threads)[1][-1]
    result = {"wall": wall, "ready": ready, "first": first, "imports": imports, "generations": generations}
    if peak.startswith("peak "):
        result["demo_peak"] = int(peak.removeprefix("peak "))
    if Path("/proc/self/statm").exists():
        lines = child(_READY + _GROWTH, str(generations), threads=threads)[1]
        result["resident"] = [int(line) for line in lines[-2:]]
    return result


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in itertools.chain(module.parameters(), module.buffers()))
