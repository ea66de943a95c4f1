"""One `.safetensors` file holds a GAN: tensors under `condition_norm.`, `generator.`, `discriminator.`, and JSON beside them.

The metadata keys are `llm_gan` (the format's version), `generator`, `discriminator` (their configs), `recipe` (how its
conditions are made), `card` (data, licences, images seen, metrics) and `preview` (a small PNG, base64). Format 2 may hold a
matrix or convolution W as int8, with a scale for each of its rows in `NAME.scale`: W = scale · int8. Format 3 is a published
GAN (`published/checkpoint.py`). A file is data from a
stranger: nothing is unpickled, every number is checked against a bound before a network is built from it, and every
tensor against the network before one is loaded.

An encoder of pictures, which is trained for a GAN that can already draw, lies beside it in a file of its own,
NAME.encoder.safetensors, and is loaded with it where it was trained for just these weights.
"""

import base64
import hashlib
import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .condition import Recipe
from .discriminator import DiscriminatorConfig
from .encoder import Encoder, EncoderConfig
from .gan import GAN, OTHERS, AnyGAN, Card, check_ours
from .generator import GeneratorConfig
from .layout import READER_HEADS
from .tensors import save_tensors

log = logging.getLogger(__name__)

# The newest that is read. A file says 2 only where it holds int8, and 3 where it is a published GAN:
# older versions read others.
FORMAT_VERSION = 3
ENCODER = ".encoder.safetensors"  # instead of .safetensors: what was trained later for a GAN, in a file beside it
ENCODER_VERSION = "1"
DEFAULT_GAN = Path(__file__).parent / "weights" / "icons-128.safetensors"  # the bundled model
# Kept in fp32: they are small, and fp16 cannot hold the range of raw language-model states.
FULL_PRECISION = "condition_norm."
# Never int8: what they round moves things about, or picks another concept or look.
DECISIVE = (
    FULL_PRECISION,
    "generator.layout.",
    "generator.memory.query.",
    "generator.memory.keys",
    "generator.look_from_text.",
)
# Run in the precision asked for, but for the styles within: they work on pixels, or hold them. The others work once a
# picture, so that fp32 costs next to nothing there; what they round, every pixel would show.
ON_PIXELS = (
    "generator.scales.",
    "generator.to_opacity.",
    "generator.memory.shared",
    "generator.memory.looks",
    "discriminator.",
)
PUBLISHED = "published"  # of a published GAN, the key of its architecture's name
SCALE = ".scale"  # added to the name of an int8 tensor, names that of its scales
NUMBERS = ("F64", "F32", "F16", "BF16", "I8")  # of which tensors are made, as safetensors calls them
SHORTEST_ROW = 16  # numbers: of a shorter row the scale would cost what int8 saves
BOUNDS = {
    "channels": (4, 4096),
    "chooses": (0, 1),
    "shown": (0, 1),
    "z_dim": (1, 1024),
    "w_dim": (1, 1024),
    "text_dim": (8, 4096),
    "token_dim": (1, 16384),
    "pooled_dim": (1, 16384),
    "memory": (1, 16384),
    "attention": (4, 64),
    "heads": (1, 64),
    "concepts": (0, 65536),
    "looks": (1, 64),
    "sketch_resolution": (8, 16),
    "sketch_channels": (1, 64),
    "look_channels": (1, 64),
    "things": (0, 8),
    "tints": (0, 256),
    "mixed": (1, 2048),
    "hidden": (1, 2048),
    "embed": (1, 2048),
    "pixel_channels": (1, 2048),
    "encoder_channels": (8, 2048),
    "refiner_channels": (1, 2048),
}
# Not in the first checkpoints, which had none of it.
LATER = {"concepts", "chooses", "looks", "shown", "sketch_resolution", "sketch_channels", "look_channels", "things", "tints"}
LISTS = ("channels", "attention", "mixed", "pixel_channels", "refiner_channels")
RESOLUTIONS = (16, 32, 64, 128, 256, 512)


def save_gan(
    gan: AnyGAN,
    path: Path,
    dtype: torch.dtype = torch.float16,
    preview: bytes | None = None,
    include_discriminator: bool = True,
) -> Path:
    """Write `gan` to `path`, weights as `dtype`; `preview` is a PNG. Complete or not at all: an old file stays until then.

    int8 holds for matrices and convolutions; small tensors and what decides are then fp16. ValueError for a published GAN,
    which lies in a file as it is.
    """
    check_ours(gan)
    judged = include_discriminator and gan.discriminator is not None
    kept = torch.float16 if dtype == torch.int8 else dtype
    tensors = {}
    for name, tensor in gan.state_dict().items():
        if name.startswith("encoder.") or name.startswith("discriminator.") and not judged:
            continue
        if dtype == torch.int8 and _quantisable(name, tensor):
            tensors[name], tensors[name + SCALE] = quantise(tensor.detach().cpu())
        else:
            tensors[name] = tensor.detach().to("cpu", torch.float32 if name.startswith(FULL_PRECISION) else kept).contiguous()
    encoder = _encoder_tensors(gan, path, kept) if gan.encoder is not None and judged else None
    save_tensors(tensors, path, metadata_of(gan, "2" if dtype == torch.int8 else "1", judged, preview))
    if encoder is not None:
        _write_encoder(gan, path, encoder, tensors["generator.canvas.bias"])
    return path


def metadata_of(gan: AnyGAN, version: str, judged: bool, preview: bytes | None) -> dict[str, str]:
    """The metadata of a file of this format version that holds `gan`, and where `judged` its discriminator."""
    metadata = {
        "llm_gan": version,
        "generator": json.dumps(asdict(gan.generator.config)),
        "recipe": json.dumps(gan.recipe.to_dict()),
        "card": json.dumps(asdict(gan.card), ensure_ascii=False),
    }
    if judged:
        metadata["discriminator"] = json.dumps(asdict(gan.discriminator.config))
    if preview is not None:
        metadata["preview"] = base64.b64encode(preview).decode()
    return metadata


def note_metrics(path: Path, metrics: dict[str, float]) -> None:
    """Write `metrics` into the card of the checkpoint `path`; all else in it stays as it is. ValueError, FileNotFoundError or
    OSError, in one sentence, where that cannot be."""
    metadata = read_metadata(path)
    card = json_object(metadata.get("card", "{}"), "card", path) | {"metrics": metrics}
    with safe_open(path, "pt") as file:
        # Copies: some systems replace no file of which a part is still in use.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    save_tensors(tensors, path, metadata | {"card": json.dumps(card, ensure_ascii=False)})


def save_encoder(gan: GAN, path: Path, dtype: torch.dtype = torch.float16) -> Path:
    """Write the encoder of `gan` beside the checkpoint `path` of the same GAN; returns where. ValueError where its numbers are
    not finite: an old file stays."""
    return _write_encoder(gan, path, _encoder_tensors(gan, path, dtype), gan.generator.canvas.bias)


def _encoder_tensors(gan: GAN, path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the file of the encoder beside `path` is to hold; ValueError where that is not finite."""
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in gan.encoder.state_dict().items()}
    check_finite(tensors, encoder_path(path))
    return tensors


def _write_encoder(gan: GAN, path: Path, tensors: dict[str, Tensor], bias: Tensor) -> Path:
    """Write them, for a GAN whose canvas has this `bias` in the checkpoint: rounded there, it makes another mark."""
    place = encoder_path(path)
    metadata = {
        "llm_gan_encoder": ENCODER_VERSION,
        "encoder": json.dumps(asdict(gan.encoder.config)),
        "gan": _mark(bias),
    }
    save_tensors(tensors, place, metadata)
    return place


def encoder_path(path: Path) -> Path:
    """Where the encoder of the checkpoint `path` lies, if it has one."""
    return path.with_name(path.name.removesuffix(".safetensors") + ENCODER)


def _mark(bias: Tensor) -> str:
    """Tells trained generators apart, by the bias of their canvas, which every training moves."""
    return hashlib.sha256(bias.detach().to("cpu", torch.float16).numpy().tobytes()).hexdigest()[:16]


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [rows,...] -> int8 [rows,...] and scale [rows], fp32: weight ≈ scale · int8, to half a step of its row's largest
    entry / 127 (symmetric, per channel: Krishnamoorthi 2018, arXiv 1806.08342, §2.2)."""
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(1).clamp(min=torch.finfo(torch.float16).tiny) / 127
    return (rows / scale[:, None]).round().to(torch.int8).view(weight.shape), scale


def dequantise(weight: Tensor, scale: Tensor) -> Tensor:
    """The inverse of `quantise`, fp32."""
    return (weight.flatten(1).float() * scale[:, None]).view(weight.shape)


def _quantisable(name: str, tensor: Tensor) -> bool:
    return tensor.ndim > 1 and tensor[0].numel() >= SHORTEST_ROW and not name.startswith(DECISIVE)


def file_metadata(path: Path, advice: str = "fetch it again") -> dict[str, str]:
    """The metadata of any safetensors file. ValueError, with what to do, if it is none."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path.name} is damaged or not a safetensors file ({error}): {advice}.") from None


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a GAN checkpoint, not its tensors. ValueError or FileNotFoundError, one sentence, if it is not one."""
    if path.suffix != ".safetensors":
        raise ValueError(f"{path.name} is not a .safetensors file: only those are read, since other formats can run code.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    metadata = file_metadata(path)
    version = metadata.get("llm_gan")
    if version is None:
        raise ValueError(f"{path.name} is a safetensors file, but not a GAN saved by LLM-GAN.")
    if not version.isdigit() or int(version) > FORMAT_VERSION:
        raise ValueError(f"{path.name} has format {version[:20]}, this version reads up to {FORMAT_VERSION}: update LLM-GAN.")
    return metadata


def load_gan(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> GAN:
    """The GAN in `path`, in eval mode. ValueError or FileNotFoundError, in one sentence, for anything that is not one."""
    metadata = read_metadata(path)
    if PUBLISHED in metadata:
        raise ValueError(f"{path.name} was converted from {metadata[PUBLISHED]:.20}: {OTHERS}")
    generator = _config(GeneratorConfig, metadata.get("generator"), path)
    _check_generator(generator, path)
    discriminator = None
    if "discriminator" in metadata:
        discriminator = _config(DiscriminatorConfig, metadata["discriminator"], path)
        _check_discriminator(discriminator, generator, path)
    recipe = Recipe.from_dict(json_object(metadata.get("recipe"), "recipe", path))
    if recipe.width != generator.token_dim:
        raise ValueError(f"{path.name}: the recipe is {recipe.width} wide, but its generator reads {generator.token_dim}.")
    with unfilled():
        gan = GAN(generator, discriminator, recipe, read_card(metadata, path))
    mark = None

    def loaded(name: str, tensor: Tensor) -> Tensor:
        nonlocal mark
        if name == "generator.canvas.bias":
            mark = _mark(tensor)
        return as_it_runs(name, tensor, dtype)

    fill(gan, path, device, loaded)
    if gan.discriminator is not None and encoder_path(path).is_file():
        gan.encoder = _load_encoder(encoder_path(path), generator, mark, device, dtype)
    return gan.requires_grad_(False).eval()


def as_it_runs(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor `name` of a GAN whose convolutions run in `dtype`, as it is computed with."""
    on_pixels = name.startswith(ON_PIXELS) and ".style." not in name
    return laid_out(name, tensor, dtype if on_pixels else torch.float32)


def laid_out(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor `name` of a network in `dtype`, those of convolutions in memory as the activations are: or small ones would
    turn their weights round for every picture, and depthwise ones take twice the time."""
    convolves = name.endswith("weight") and tensor.ndim == 4
    return tensor.to(dtype, memory_format=torch.channels_last if convolves else torch.preserve_format)


def _load_encoder(
    path: Path, generator: GeneratorConfig, mark: str, device: torch.device | str, dtype: torch.dtype
) -> Encoder | None:
    """The encoder in `path`; None, with a warning, where it was trained for another GAN."""
    metadata = file_metadata(path, "delete it, or fetch it again")
    if metadata.get("llm_gan_encoder") != ENCODER_VERSION:
        raise ValueError(f"{path.name} is no encoder that this version of LLM-GAN can read: delete it, or update LLM-GAN.")
    if metadata.get("gan") != mark:
        log.warning("%s was trained for other weights and is left out: llm-gan train-encoder makes a new one.", path.name)
        return None
    config = _config(EncoderConfig, metadata.get("encoder"), path)
    if config.encoder_channels % 8:
        raise ValueError(f"{path.name}: encoder_channels {config.encoder_channels} does not divide into 8 groups.")
    with unfilled():
        encoder = Encoder(config, generator)
    fill(encoder, path, device, lambda _, tensor: tensor.to(dtype))
    return encoder


def fill(network: nn.Module, path: Path, device: torch.device | str, convert: Callable[[str, Tensor], Tensor]) -> None:
    """Give `network` the tensors in `path`, each as `convert(name, tensor)`; ValueError where they do not fit it."""
    expected, tensors = network.state_dict(), {}
    with safe_open(path, "pt", device=str(device)) as file:
        names = set(file.keys())
        small = {name for name in names & expected.keys() if file.get_slice(name).get_dtype() == "I8"}
        wanted = expected.keys() | {name + SCALE for name in small}
        if names != wanted:
            missing, extra = sorted(wanted - names), sorted(names - wanted)
            what = f"{missing[0]} is missing" if missing else f"{extra[0]} is unknown"
            raise ValueError(f"{path.name}: its tensors do not fit its config ({what}).")
        for name, like in expected.items():
            _check_shape(file, name, list(like.shape), path)
            if (kind := file.get_slice(name).get_dtype()) not in NUMBERS:
                raise ValueError(f"{path.name}: {name} holds {kind} numbers, of which no GAN is made: fetch the file again.")
            tensor = file.get_tensor(name)
            tensors[name] = convert(name, _whole(file, name, tensor, path) if name in small else tensor)
            if tensors[name].data_ptr() == tensor.data_ptr() and tensor.device.type == "cpu":
                tensors[name] = tensor.clone()  # out of the file, which Windows could not replace while a GAN lies in it
            if not is_finite(tensors[name]):
                raise ValueError(f"{path.name}: {name} holds values that are not finite, so the file is damaged or diverged.")
    network.load_state_dict(tensors, assign=True)


def check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """ValueError, before `path` is written, where a number that it is to hold is not finite: no such file is ever loaded."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(f"{path.name} is not written: {name} holds values that are not finite, so its training diverged.")


def is_finite(tensor: Tensor) -> bool:
    """Whether all its numbers are."""
    # A NaN is its tensor's least and greatest number; to find both takes a thirtieth of asking every number.
    return not tensor.numel() or all(map(torch.isfinite, torch.aminmax(tensor)))


def _whole(file, name: str, weight: Tensor, path: Path) -> Tensor:
    """The int8 `weight` by its scales in `file`, which are one for each row, positive."""
    if not _quantisable(name, weight):
        raise ValueError(f"{path.name}: {name} is int8, which holds for large matrices only: fetch the file again.")
    _check_shape(file, name + SCALE, [len(weight)], path)
    scale = file.get_tensor(name + SCALE)
    if not scale.is_floating_point() or not (scale > 0).all():
        raise ValueError(f"{path.name}: {name + SCALE} holds scales that are not above zero, so the file is damaged.")
    return dequantise(weight, scale)


def _check_shape(file, name: str, expected: list[int], path: Path) -> None:
    shape = list(file.get_slice(name).get_shape())
    if shape != expected:
        raise ValueError(f"{path.name}: {name} has shape {shape}, its config says {expected}.")


@contextmanager
def unfilled() -> Iterator[None]:
    """Networks built within have no weights yet, nor take any memory: `fill` gives them those of a file."""
    with torch.device("meta"), _Uninitialised():
        yield


class _Uninitialised(TorchFunctionMode):
    """Draws no initial weights: the file's take their place, and on the meta device torch imports its compiler to draw."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init" or function in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def load_card(path: Path) -> tuple[Card, Recipe, int]:
    """What a checkpoint says of itself, its recipe and its resolution in pixels, without reading a tensor."""
    metadata = read_metadata(path)
    recipe = Recipe.from_dict(json_object(metadata.get("recipe"), "recipe", path))
    if PUBLISHED in metadata:
        resolution = json_object(metadata.get("generator"), "generator", path).get("resolution")
        if type(resolution) is not int:
            raise ValueError(f"{path.name}: its generator has no resolution, so the file is damaged.")
    else:
        resolution = _config(GeneratorConfig, metadata.get("generator"), path).resolution
    return read_card(metadata, path), recipe, resolution


def preview(metadata: dict[str, str]) -> bytes | None:
    """The PNG in a checkpoint's metadata, if it holds one."""
    try:
        png = base64.b64decode(metadata.get("preview", ""), validate=True)
    except ValueError:
        return None
    return png if png.startswith(b"\x89PNG") else None


def json_object(text: str | None, key: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(text or "")
        json.dumps(value, ensure_ascii=False).encode()  # JSON can name halves of characters, which no one can print
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name}: its {key} cannot be read, so the file is damaged.")
    return value


def _config(kind, text: str | None, path: Path):
    """A config dataclass from JSON, each number an integer within its bound."""
    values = json_object(text, kind.__name__, path)
    known = {f.name for f in fields(kind)}
    odd = sorted((values.keys() ^ known) - (LATER & known - values.keys()))
    if odd:
        raise ValueError(f"{path.name}: its {kind.__name__} does not have the fields of this version ({str(odd[0])[:40]}).")
    for name, value in values.items():
        is_list = isinstance(value, list) and 0 < len(value) <= 8
        numbers = value if is_list else [value]
        low, high = BOUNDS.get(name, (1, max(RESOLUTIONS)))
        if is_list != (name in LISTS) or not all(
            type(n) is int and low <= n <= high for n in numbers
        ):
            raise ValueError(f"{path.name}: {name} = {str(value)[:60]} is not within {low} to {high}.")
        values[name] = tuple(value) if is_list else value
    return kind(**values)


def _check_generator(config: GeneratorConfig, path: Path) -> None:
    scales = config.resolution.bit_length() - 3
    if config.resolution not in RESOLUTIONS or len(config.channels) != scales:
        raise ValueError(f"{path.name}: {config.resolution} px with {len(config.channels)} scales is not a generator.")
    if config.concepts and (config.looks > config.z_dim or config.sketch_resolution * 2 > config.resolution):
        raise ValueError(f"{path.name}: its memory of {config.looks} looks does not fit its generator.")
    if config.things and not (config.concepts and 4 * config.sketch_resolution <= config.resolution):
        raise ValueError(f"{path.name}: {config.things} things on one canvas do not fit its generator.")
    if config.tints and not config.things:
        raise ValueError(f"{path.name}: it gives colours to things, but has no layout of things.")
    heads = math.lcm(2 * config.heads, READER_HEADS if config.things else 1)
    if config.text_dim % heads:
        raise ValueError(f"{path.name}: text_dim {config.text_dim} does not divide among its heads, by {heads}.")


def _check_discriminator(config: DiscriminatorConfig, generator: GeneratorConfig, path: Path) -> None:
    if (config.resolution, config.pooled_dim) != (generator.resolution, generator.pooled_dim) or len(config.mixed) != 4:
        raise ValueError(f"{path.name}: its discriminator does not fit its generator.")


def _is_figure(value: Any) -> bool:
    """Whether it is a number that can be shown; JSON's may be longer than any float."""
    return isinstance(value, float) or isinstance(value, int) and abs(value) <= sys.float_info.max


def read_card(metadata: dict[str, str], path: Path) -> Card:
    values = json_object(metadata.get("card", "{}"), "card", path)
    known = {f.name: type(getattr(Card(), f.name)) for f in fields(Card)}
    card = Card(**{k: v for k, v in values.items() if k in known and isinstance(v, known[k])})
    card.licenses, card.prompts = ([text for text in texts if isinstance(text, str)] for texts in (card.licenses, card.prompts))
    card.metrics = {name: value for name, value in card.metrics.items() if _is_figure(value)}
    return card
