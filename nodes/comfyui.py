"""All that this pack asks of ComfyUI: devices, precision, memory, progress, cancelling, folders, text on a node."""

import os
import time
from collections.abc import Callable, Hashable
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import comfy.model_management as mm
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..models.checkpoint import ENCODER
from ..models.enlarger import SUFFIX as ENLARGER
from ..models.latents import LATENT_FILE
from ..models.pictures import contact_sheet, on_white

T = TypeVar("T")
Progress = Callable[..., None]

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

SAMPLES = Path(__file__).parent.parent / "samples"

EXTENSIONS = {"gan": {".safetensors"}, "LLM": {".safetensors", ".gguf"}}  # of the model folders
_RESERVED = (ENCODER, ENLARGER, LATENT_FILE)  # ends of files that are no GANs

# Rows computed at a time: Cancel waits for one part, and more than this is not faster.
_PART_CPU, _PART_GPU = 16, 128


class LLMGAN(nn.Module):
    """What ComfyUI moves about and logs. It sets attributes on it, as `device`, that networks have of their own."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def get_dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype


class Patcher(ModelPatcher):
    """Leaves its device as a whole. Of a layer that left it alone a network's `Recordings` would not hear, and go on reading
    memory that is another's by then."""

    def partially_unload(self, *_: Any, **__: Any) -> int:
        """Frees nothing, whereupon ComfyUI unloads all of it."""
        return 0


def _size(network: nn.Module) -> int:
    """Bytes of its weights and buffers, each counted once: a language model reads and writes with the same."""
    return sum(x.nbytes for x in (*network.parameters(), *network.buffers()))


class Managed:
    """A network in ComfyUI's care: on its device while it runs, off it when ComfyUI wants the memory for another."""

    def __init__(self, network: nn.Module, load_device: torch.device, offload_device: torch.device):
        self.network = network
        self.patcher = Patcher(
            LLMGAN(network), load_device=load_device, offload_device=offload_device, size=_size(network)
        )

    def run(self, work: Callable[[int, Progress], T], count: int, bytes_each: int) -> T:
        """`work(batch_size, progress)` with the network on its device, for `count` rows of about `bytes_each` bytes."""
        device = self.patcher.load_device
        size = min(count, _PART_CPU if mm.is_device_cpu(device) else _PART_GPU)
        # Weights moved under the executor's inference mode could take no part in a gradient, as seeing a picture asks for.
        with torch.inference_mode(False):
            mm.load_models_gpu([self.patcher], memory_required=size * bytes_each, force_full_load=True)
        size = max(1, min(size, int(mm.get_free_memory(device) // bytes_each)))
        return work(size, progress(count))


def progress(total: int) -> Progress:
    """A callback `(done, total, pictures=None)` that moves the node's progress bar, shows the first of pictures [B,H,W,3] on
    the node, and raises once the user has cancelled."""
    bar = comfy.utils.ProgressBar(total)

    def report(done: int, total: int, pictures: Tensor | None = None) -> None:
        mm.throw_exception_if_processing_interrupted()
        bar.update_absolute(done, total, None if pictures is None else ("JPEG", contact_sheet(pictures[:1], 1), 512))

    return report


_shared: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()


def shared(key: Hashable, load: Callable[[], T]) -> T:
    """What `load` returns, or what a graph still holds that was loaded under this key: the executor is the cache."""
    value = _shared.get(key)
    if value is None:
        # Weights made under the executor's inference mode could neither be moved outside of it nor trained.
        with torch.inference_mode(False):
            value = _shared[key] = load()
    return value


def make_room() -> None:
    """Have every model leave the device: what follows needs all of its memory."""
    mm.unload_all_models()
    mm.soft_empty_cache()


def generator_devices() -> tuple[torch.device, torch.device]:
    """Where a GAN computes, and where it waits."""
    # With --novram ComfyUI leaves the weights of ordinary modules in memory, so that is where they compute.
    novram = mm.vram_state == mm.VRAMState.NO_VRAM
    return torch.device("cpu") if novram else mm.get_torch_device(), mm.unet_offload_device()


def generator_dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return PRECISIONS[precision]
    if mm.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if mm.should_use_bf16(device) else torch.float32


def language_devices() -> tuple[torch.device, torch.device]:
    """Where a language model computes, and where it waits."""
    return mm.text_encoder_device(), mm.text_encoder_offload_device()


def language_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The precision asked for by the node or on ComfyUI's command line, None where the model may choose."""
    if precision != "auto":
        return PRECISIONS[precision]
    on_gpu = not mm.is_device_cpu(device)
    if args.fp32_text_enc or args.force_fp32:
        return torch.float32
    if args.bf16_text_enc:
        return torch.bfloat16
    if args.fp16_text_enc or on_gpu and args.force_fp16:
        return torch.float16
    return torch.float32 if on_gpu and not (mm.should_use_fp16(device) or mm.should_use_bf16(device)) else None


def register_model_folders() -> None:
    """Adds models/gan and models/LLM to the folders that ComfyUI knows, and their kinds of files to those that it lists there,
    beside those of the user and of other packs."""
    known = folder_paths.folder_names_and_paths
    for name, extensions in EXTENSIONS.items():
        home = os.path.join(folder_paths.models_dir, name)
        if name not in known:
            known[name] = ([home], extensions)
        else:
            folder_paths.add_model_folder_path(name, home)
            homes, listed = known[name]
            if listed:  # none stands for all
                known[name] = (homes, {*listed, *extensions})
            folder_paths.filename_list_cache.pop(name, None)


def model_folders(name: str) -> list[Path]:
    return [Path(folder) for folder in folder_paths.get_folder_paths(name)]


def model_files(name: str, suffix: str) -> dict[str, Path]:
    """Name and path of every file that ends on `suffix` in the model folders of that name. A link to nowhere is none."""
    names = (file for file in folder_paths.get_filename_list(name) if file.lower().endswith(suffix))
    return {file: Path(path) for file in names if (path := folder_paths.get_full_path(name, file)) is not None}


def files_beside_models(name: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Name and path of every file of other kinds, by their suffixes, that lies in the model folders of that name."""
    found = ((path.relative_to(home), path) for home in model_folders(name) for path in sorted(home.rglob("*")))
    return {place.as_posix(): path for place, path in found if path.suffix in suffixes and path.is_file()}


def new_model_file(name: str, prefix: str, suffix: str) -> Path:
    """A path in the model folder that no file has yet: prefix_00001_suffix, and so on."""
    return _new_file(os.path.abspath(folder_paths.get_folder_paths(name)[0]), prefix, suffix)


def _new_file(home: str, prefix: str, suffix: str) -> Path:
    os.makedirs(home, exist_ok=True)
    folder, stem, counter, _, _ = folder_paths.get_save_image_path(prefix, home)
    while (path := Path(folder) / f"{stem}_{counter:05}_{suffix}").exists():
        counter += 1
    return path


def new_output_file(folder: str, prefix: str, suffix: str) -> Path:
    """A path in a folder of ComfyUI/output that no file has yet: prefix_00001_suffix, and so on."""
    return _new_file(os.path.join(folder_paths.get_output_directory(), folder), prefix, suffix)


def files_of_a_user(folder: str, suffix: str) -> dict[str, Path]:
    """Name and path of every file that ends on `suffix` in ComfyUI/input, and in a folder of ComfyUI/output or below it."""
    given = sorted(Path(folder_paths.get_input_directory()).glob(f"*{suffix}"))
    home = Path(folder_paths.get_output_directory(), folder)
    made = {path.relative_to(home).as_posix(): path for path in sorted(home.rglob(f"*{suffix}")) if path.is_file()}
    return {f"input/{path.name}" if path.name in made else path.name: path for path in given if path.is_file()} | made


def stamp(path: Path) -> tuple[str | int, ...]:
    """Changes whenever the file changes, or a file in the folder or below it."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    found = [(str(file.relative_to(path)), file.stat()) for file in files if file.is_file()]
    return tuple(value for name, stat in found for value in (name, stat.st_mtime_ns, stat.st_size))


def image(images: Tensor) -> Tensor:
    """images [N,H,W,3] as ComfyUI passes them from node to node."""
    dtype = mm.intermediate_dtype() if hasattr(mm, "intermediate_dtype") else torch.float32
    return images.to(mm.intermediate_device(), dtype)


def opacity(images: Tensor) -> Tensor:
    """What is drawn in images [N,H,W,3 or 4], as a MASK [N,H,W]: 1 everywhere in pictures without transparency."""
    if images.shape[3] == 4:
        return images[..., 3].contiguous()
    return images.new_ones(images.shape[:3])  # of its own memory: nodes of other packs write into a MASK


def thumbnail(images: Tensor, side: int = 256) -> bytes:
    """The first picture of images [N,H,W,3] in 0..1 as a PNG, at most `side` pixels wide and high."""
    from PIL import Image

    picture = Image.fromarray(on_white(images[:1])[0].float().clamp(0, 1).mul(255).round().byte().cpu().numpy())
    picture.thumbnail((side, side))
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def input_folder(name: str) -> Path:
    """A folder by its full path, by its name in ComfyUI/input, or one of the samples in the pack. ValueError for no name."""
    if not name.strip():
        raise ValueError("No folder is given: write its full path, or the name of a folder in ComfyUI/input.")
    name = Path(name.strip()).expanduser()
    place = Path(folder_paths.get_input_directory()) / name
    return SAMPLES.parent / name if not place.exists() and name.parts[0] == SAMPLES.name else place


def training_paths(name: str) -> tuple[Path, Path]:
    """Where a training writes its GAN, and where it keeps its log, samples and state. ValueError for a name that leads
    elsewhere, cannot be typed, or makes the file something else than a GAN."""
    name = name.strip().removesuffix(".safetensors")
    if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
        raise ValueError(f"{name!r} is no name for a GAN: give letters, digits and dashes, without a folder.")
    file = f"{name}.safetensors"
    if ends := [end for end in _RESERVED if file.lower().endswith(end)]:
        raise ValueError(f"{name!r} is no name for a GAN, since a file that ends in {ends[0]} is none: take another.")
    home = Path(folder_paths.get_folder_paths("gan")[0])
    return home / file, Path(folder_paths.get_output_directory()) / "llm-gan" / name


class TrainingReport:
    """Shows on the node how a training goes: bar, samples, loss and time left; and stops it once the user has cancelled."""

    def __init__(self, node: Any):
        self.node = node
        self.losses: list[float] = []
        self._bar = comfy.utils.ProgressBar(1)
        self._sheet = None
        self._shown = self._started = time.monotonic()
        self._first = 0

    def step(self, done: int, total: int, figures: dict[str, float] | None = None) -> None:
        """Pictures and captions read, sentences learnt, or with `figures` pictures shown to the GAN."""
        mm.throw_exception_if_processing_interrupted()
        now = time.monotonic()
        if figures is not None:
            if not self.losses:
                self._started, self._first = now, done
            self.losses.append(figures["pixel"])
        if self._sheet is None and now - self._shown < 1:
            return
        preview = None if self._sheet is None else ("JPEG", self._sheet, 512)
        self._bar.update_absolute(done, total, preview)
        self._sheet, self._shown = None, now
        if figures is None:
            show_text(self.node, f"getting ready: {done} of {total}")
        elif done > self._first:
            left = (total - done) * (now - self._started) / (done - self._first)
            recent = self.losses[-50:]
            off = sum(recent) / len(recent)
            show_text(self.node, f"{done} of {total} pictures, off by {off:.3f}, {left / 60:.0f} min left")

    def show(self, sheet: Any) -> None:
        """A picture to put on the node with its next step."""
        self._sheet = sheet


def nothing() -> Any:
    """An output without a value: what is connected to it is not run, the rest of the graph is."""
    from comfy_execution.graph_utils import ExecutionBlocker

    return ExecutionBlocker(None)


def show_text(node: Any, text: str) -> None:
    """Writes `text` on the node in the page; `node` is the class that executes, with the hidden input `unique_id`."""
    from server import PromptServer

    if node.hidden is not None and node.hidden.unique_id is not None:
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)
