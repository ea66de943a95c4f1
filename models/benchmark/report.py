"""What a benchmark measured, for people: a page of tables, and a plot of time against batch."""

from pathlib import Path

from .measure import Spread

NONE = "–"


def write_report(result: dict, out: Path) -> None:
    """benchmark.md in `out`, and where matplotlib is installed benchmark.png."""
    drawn = plot(result["batches"], out / "benchmark.png") if result["batches"] else False
    (out / "benchmark.md").write_text(markdown(result, drawn), encoding="utf-8")


def markdown(result: dict, drawn: bool) -> str:
    """The page; `drawn` tells that there is a plot."""
    precision = result["precision"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        "# How fast is it?",
        f"{result['machine']}, {result['threads']} thread{'s' * (result['threads'] > 1)}; {versions}. The GAN "
        f"{result['gan']} in {precision['generator']}, its language model in {precision['language model']}. Medians, with "
        "quartiles in brackets; the sides of a comparison ran in turns in one process, so that the ratios hold even where the "
        "machine did other things as well. " + (
            "Times are those of the processor, which the one thread would take on a core of its own."
            if result["processor_time"] else "Times are those of the clock."
        ),
    ]
    if result["quick"]:
        parts.append("**A quick run, of few measurements: it shows that everything works, not how fast it is.**")
    if result["missing"]:
        absent = "; ".join(f"{title} (`pip install {' '.join(what)}`)" for title, what in result["missing"].items())
        parts.append(f"Left out, because not installed: {absent}.")
    parts += [*_pictures(result["pictures"]), *_batches(result["batches"], drawn), *_limit(result["limit"])]
    if "scoring" in result:
        found = result["scoring"]
        parts += [
            "## A score",
            f"{found['pictures']} pictures of {found['resolution']} px by one prompt: {_ms(found['score'])} ms.",
        ]
    parts += _reading(result["reading"])
    if "start" in result:
        parts += _start(result["start"])
    return "\n\n".join(parts) + "\n"


def _pictures(rows: list[dict]) -> list[str]:
    def cells(row: dict, kind: str) -> list[str]:
        return [_ms(row[kind]), _ratio(row[f"ratio_{kind}"]), _giga(row[f"flops_{kind}"])]

    header = ["px", "", "precision", "weights, MB", "new prompt, ms", "×", "GFLOP", "prompt known, ms", "×", "GFLOP"]
    table = [
        [str(row["resolution"]), row["title"], row["precision"], f"{row['weights'] / 2**20:.0f}", *cells(row, "new"),
         *cells(row, "known")]
        for row in rows
    ]  # fmt: skip
    return [
        "## From a prompt to a picture",
        "One picture; × is how many times as long as ours it takes. *New prompt*: read and drawn. *Prompt known*: what was "
        "read is kept, another picture of it is drawn; of generators that read no prompt, all that they do. The rivals are the "
        "published architectures with random weights in evaluation mode, channels last, each in the faster of its precisions, "
        "and need not tokenise. At other resolutions than that of its file ours is the same architecture, with random weights "
        "where it has none.",
        _table(header, table),
    ]


def _batches(batches: dict, drawn: bool) -> list[str]:
    titles = list(batches["seconds"])
    sizes = sorted({size for spreads in batches["seconds"].values() for size in spreads})
    table = [[str(size), *(_ms(batches["seconds"][title].get(size)) for title in titles)] for size in sizes]
    plot = ["![Time against batch](benchmark.png)"] if drawn else []
    return [
        f"## Many at once, {batches['resolution']} px",
        "Milliseconds a picture, the prompt known, by the number drawn at once; no larger batch where one took too long.",
        *plot,
        _table(["batch", *titles], table),
    ]


def _limit(limits: list[dict]) -> list[str]:
    table = [
        [str(at["resolution"]), str(at["batch"]), *(f"{at['rates'][name] / 1e9:.0f}" for name in at["rates"]),
         f"{100 * at['share']:.3g} %", f"{100 * at['rates']['generator'] / max(at['rates'].values()):.3g} %",
         _ms(at["seconds"]), _ratio(at["ratio_exact"])]
        for at in limits
    ]  # fmt: skip
    header = ["px", "batch", "generator, GFLOP/s", "matrix product", "convolution", "of the product", "of the fastest",
              "ms a batch", "× in fp32"]  # fmt: skip
    parts = [
        "## Against what the machine can do",
        "Operations a second of the generator, of a prompt that was read, on as many pictures as it draws at once, "
        f"of a product of two matrices of {limits[0]['side']} × {limits[0]['side']} and of a convolution of 256 channels, "
        "of the same precision and threads in the same run.",
        _table(header, table),
    ]
    if not limits[0]["layers"]:  # a GPU's, which one recording draws
        return parts
    slowest = max(limits, key=lambda at: at["resolution"])
    total = sum(layer.seconds for layer in slowest["layers"])
    best = max(slowest["rates"].values())
    rows = [
        [layer.name, f"{1000 * layer.seconds:.2f}", f"{100 * layer.seconds / total:.0f} %", f"{layer.flops / 1e9:.2f}",
         f"{layer.flops / max(layer.seconds, 1e-9) / 1e9:.0f}", f"{100 * layer.flops / best / total:.0f} %"]
        for layer in slowest["layers"]
    ]  # fmt: skip
    return [
        *parts,
        f"Where the time goes at {slowest['resolution']} px; the last column is the share that a layer would take at the "
        "fastest rate of the table above. *Between them* is what is no layer of its own: doubling, sketches, adding up.",
        _table(["layer", "ms a batch", "of the time", "GFLOP", "GFLOP/s", "at the fastest"], rows),
    ]


def _reading(found: dict) -> list[str]:
    return [
        "## A new prompt",
        f"“{found['prompt']}”, {found['tokens']} tokens: read up to layer {found['layers']} of {found['all_layers']}, after a "
        f"template whose beginning is kept, in {found['precisions'][0]}: {_ms(found['recipe'])} ms. All {found['all_tokens']} "
        f"tokens through all {found['all_layers']} layers, as transformers does it, in {found['precisions'][1]}: "
        f"{_ms(found['everything'])} ms, {_ratio(found['ratio'])} times as long.",
    ]


def _start(found: dict) -> list[str]:
    lines = [
        f"- From the start of a process until the default GAN and language model are ready, files in the cache: "
        f"{_seconds(found['ready'])} s of the processor, {_seconds(found['wall'])} s by the clock; until the first prompt is "
        f"read and drawn, {_seconds(found['first'])} s of the processor. Importing torch alone takes "
        f"{_seconds(found['imports'])} s of it.",
    ]
    if "demo_peak" in found:
        peak = found["demo_peak"] / 2**30
        lines.append(f"- Most memory that `llm-gan generate` holds for the demo's two prompts: {peak:.2f} GiB.")
    if "resident" in found:
        early, late = found["resident"]
        lines.append(
            f"- {found['generations']} pictures of new prompts in one process: {early / 2**20:.0f} MB held after a tenth of "
            f"them, {late / 2**20:.0f} MB at the end."
        )
    return ["## Start and memory", "\n".join(lines)]


def plot(batches: dict, path: Path) -> bool:
    """Milliseconds a picture against the batch, both logarithmic; False where there is no matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log", xlabel="pictures at once", ylabel="ms a picture")
    for number, (title, spreads) in enumerate(batches["seconds"].items()):
        sizes = sorted(spreads)
        middle, low, high = ([1000 * spreads[size][i] for size in sizes] for i in range(3))
        axes.plot(sizes, middle, "o-", label=title, color=f"C{number}", linewidth=2.5 if number == 0 else 1.5)
        axes.fill_between(sizes, low, high, color=f"C{number}", alpha=0.2)
    ticks = sorted({size for spreads in batches["seconds"].values() for size in spreads})
    axes.set_xticks(ticks, [str(size) for size in ticks], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(f"{batches['resolution']} px, the prompt known")
    axes.legend()
    figure.savefig(path, dpi=120)
    return True


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ms(spread: Spread | None) -> str:
    """Milliseconds with three digits."""
    if spread is None:
        return NONE
    median, low, high = (_digits(1000 * value) for value in spread[:3])
    return f"{median} [{low}–{high}]"


def _seconds(spread: Spread) -> str:
    return f"{_digits(spread.median)} [{_digits(spread.low)}–{_digits(spread.high)}]"


def _ratio(value: float | None) -> str:
    return NONE if value is None else _digits(value)


def _giga(value: int | None) -> str:
    return NONE if value is None else _digits(value / 1e9)


def _digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{float(f'{value:.3g}'):,.{max(0, 2 - len(str(int(abs(value)))) + 1)}f}".replace(",", " ")
