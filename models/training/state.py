"""What a run keeps in its folder to be gone on from: every tensor that its next step depends on."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn


def check_run(run: Path, resume: bool, data: Path | None = None) -> None:
    """FileNotFoundError where there is nothing to resume, FileExistsError where a new run would overwrite another, ValueError
    where its samples would lie among the pictures in `data`."""
    if data is not None and run.resolve().is_relative_to(data.resolve()):
        raise ValueError(f"{run}, where the run would be kept, lies among the pictures in {data}: keep one of them elsewhere.")
    exists = (run / "state.safetensors").exists()
    if resume and not exists:
        raise FileNotFoundError(f"There is nothing to resume in {run}: start it anew.")
    if exists and not resume:
        raise FileExistsError(f"{run} already holds a run: resume it, or choose another name.")


def is_finished(run: Path, asked: dict[str, Any]) -> bool:
    """Whether the run was asked for exactly this, came to its end, and was not gone on with: then the same again would make the
    same GAN."""
    try:
        return (run / "finished.json").read_text() == _finished(run, asked)
    except (OSError, ValueError, SafetensorError):
        return False


def note_finished(run: Path, asked: dict[str, Any]) -> None:
    """Keep what a run that came to its end was asked for, in values that JSON has."""
    (run / "finished.json").write_text(_finished(run, asked))


def _finished(run: Path, asked: dict[str, Any]) -> str:
    with safe_open(run / "state.safetensors", "pt") as state:
        return json.dumps(asked | {"shown": int(state.get_tensor("count.images"))}, indent=2) + "\n"


def read_state(run: Path) -> dict[str, Tensor]:
    """The tensors that `Trainer.load` takes, as the run last saved them. ValueError where the file is damaged."""
    try:
        # Copied out of the file, which Windows could not replace by the next state for as long as one of them lies in it.
        return {name: tensor.clone() for name, tensor in load_file(run / "state.safetensors").items()}
    except SafetensorError as error:
        raise ValueError(
            f"The state in {run} is damaged ({error}): start a run anew from the model.safetensors there."
        ) from None


def write_settings(config: Any, run: Path) -> None:
    """Keep the settings, a dataclass, that a run is begun or gone on with."""
    (run / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")


def read_settings(run: Path, kind: type) -> dict[str, Any]:
    """What `write_settings` kept. ValueError where they are not there, or not those of this kind of training, a dataclass."""
    try:
        settings = dict(json.loads((run / "config.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise ValueError(
            f"The config.json in {run} is missing or damaged: start a run anew from the model.safetensors there."
        ) from None
    if unknown := settings.keys() - {field.name for field in fields(kind)}:
        raise ValueError(f"The run in {run} is of another kind, with a setting {min(unknown)}: give the right run's folder.")
    return settings


def optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of each parameter, by name."""
    states = optimizer.state_dict()["state"]
    return {f"{prefix}{index}.{field}": value for index, state in states.items() for field, value in state.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`, with an empty prefix."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, field = key.partition(".")
        state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, own in optimizer.state.items():  # a fused optimiser wants them in memory as the parameter is
        for field, value in own.items():
            if value.shape == parameter.shape:
                own[field] = torch.empty_like(parameter).copy_(value)


def learner_tensors(learner: Any, prefix: str, network: nn.Module) -> dict[str, Tensor]:
    """Of a learner of one network, with `optimizer`, `step_number` and `images_seen`,
    every tensor that its next step depends on."""
    tensors = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= optimizer_tensors("optimizer.", learner.optimizer)
    tensors |= {"count.step": torch.tensor(learner.step_number), "count.images": torch.tensor(learner.images_seen)}
    return {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}


def load_learner(learner: Any, prefix: str, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of `learner_tensors`."""
    network.load_state_dict(under(prefix, tensors))
    load_optimizer(learner.optimizer, under("optimizer.", tensors))
    learner.step_number, learner.images_seen = int(tensors["count.step"]), int(tensors["count.images"])


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
