"""What nodes are declared with: this pack's sockets, and fields that not every version of ComfyUI has."""

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

from comfy_api.latest import io

from ..models.gan import MOST_PSI

log = logging.getLogger(__name__)

CATEGORY = "LLM-GAN"  # itself for what turns a prompt into pictures and scores them
LATENTS, PICTURES, TRAINING = (f"{CATEGORY}/{name}" for name in ("latents", "pictures", "train"))
MOST_SEED = 2**64 - 1

LLM = io.Custom("LLMGAN_LLM")
GAN = io.Custom("LLMGAN_GAN")
LATENT = io.Custom("LLMGAN_LATENT")
DATASET = io.Custom("LLMGAN_DATASET")

# Since 0.10 and 0.11; an unknown field is a TypeError in every version.
_LATER = {"advanced", "search_aliases"}


def declare(kind: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    """`kind(*args, **fields)`, a schema or an input, without the fields that this version of ComfyUI does not know."""
    known = inspect.signature(kind).parameters
    return kind(*args, **{name: value for name, value in fields.items() if name in known or name not in _LATER})


def options(names: Callable[[], Iterable[str]], *otherwise: str) -> list[str]:
    """What a widget offers: the names that there are, or what is said otherwise. Never raises, for a schema that does takes all
    nodes with it."""
    try:
        return list(names()) or list(otherwise)
    except Exception as error:  # as many kinds as there are ways to spoil a folder
        log.warning("What there is to choose from cannot be listed: %s", error)
        return list(otherwise)


def seed_input(tooltip: str, kept: bool = False) -> io.Int.Input:
    """A seed with the control that draws another after each run, unless it is `kept`, where this version can begin so."""
    control = io.ControlAfterGenerate.fixed if kept and hasattr(io, "ControlAfterGenerate") else True
    return io.Int.Input("seed", default=0, min=0, max=MOST_SEED, control_after_generate=control, tooltip=tooltip)


def truncation_input(tooltip: str, **fields: Any) -> io.Float.Input:
    return io.Float.Input("truncation", default=1.0, min=0.0, max=MOST_PSI, step=0.05, tooltip=tooltip, **fields)


def precision_input() -> io.Combo.Input:
    return io.Combo.Input(
        "precision",
        options=["auto", "fp32", "bf16", "fp16"],
        default="auto",
        tooltip=(
            "Number format of the weights. auto asks ComfyUI what this device computes well in, so --force-fp32 and "
            "--force-fp16 hold; on a CPU it is fp32. In fp32 a seed gives the same picture on every machine."
        ),
    )
