"""Step after step, until enough pictures were shown."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from .log import RunLog

log = logging.getLogger(__name__)
LOGGED = 50  # steps of which one row tells

Figures = dict[str, float]


def means(rows: list[Figures], names: Iterable[str]) -> Figures:
    """Of each of these figures the mean over the rows; where a row has none, it is 0."""
    return {name: sum(row.get(name, 0.0) for row in rows) / len(rows) for name in names}


def rate(config: Any, step: int, progress: float) -> float:
    """Of the learning rate in this step, after this part of the run: it rises over the steps of `config.warmup`, and falls to a
    twentieth over the last part, `config.decay`."""
    return min(1.0, (step + 1) / config.warmup) * max(min(1.0, (1 - progress) / config.decay), 0.05)


def give_up(figures: Figures, run: Path) -> bool:
    """What `learn` asks of a step where there is no way back to an earlier state: False, or ArithmeticError where a figure is
    not finite, before anything of that step is saved in `run`."""
    if all(map(math.isfinite, figures.values())):
        return False
    saved = (run / "state.safetensors").exists()
    advice = f"resume from the last good state, in {run}, with another seed" if saved else "start again with another seed"
    raise ArithmeticError(f"Training diverges: its numbers are no longer finite; {advice}.")


class Learner(Protocol):
    config: Any  # with `images` to show in all, and the `batch_size` of a process
    images_seen: int
    step_number: int

    def step(self) -> Figures: ...


def learn(
    trainer: Learner,
    figures_log: RunLog | None,
    save: Callable[[], None],
    save_every: float,
    progress: Callable[[int, int, Figures], None] | None,
    summary: Callable[[list[Figures]], Figures] = lambda rows: means(rows, rows[0]),
    lost: Callable[[Figures], bool] = lambda figures: False,
) -> None:
    """Steps of `trainer` until its `config.images` have been shown, or `progress` raises.

    The process that has `figures_log` writes there what `summary` makes of the figures of some steps, and calls `save` every
    `save_every` seconds and at the end, whatever ends it, but never between the halves of a step, which could not be gone on
    from exactly. `lost` is asked of each step whether it diverged, and has then taken the trainer back to an earlier state, or
    raises. A disk that is full is reported, and what was saved before it was stays. MemoryError where a batch is too large for
    the device.
    """
    first, whole = figures_log is not None, True
    window: list[Figures] = []
    since, started = trainer.images_seen, time.monotonic()
    saved = started
    try:
        while trainer.images_seen < trainer.config.images:
            whole = False
            figures = trainer.step()
            diverged = lost(figures)
            whole = True
            if diverged:
                window, since, started = [], trainer.images_seen, time.monotonic()
                if first:
                    with _a_full_disk_reported():
                        figures_log.forget_after(trainer.images_seen)
                continue
            window.append(figures)
            if progress is not None:
                progress(trainer.images_seen, trainer.config.images, figures)
            if first and trainer.step_number % LOGGED == 0:
                speed = (trainer.images_seen - since) / (time.monotonic() - started)
                row = {"images_per_s": speed, **summary(window)}
                with _a_full_disk_reported():
                    figures_log.add(trainer.images_seen, row)
                window, since, started = [], trainer.images_seen, time.monotonic()
            if first and time.monotonic() - saved > save_every:
                with _a_full_disk_reported():
                    save()
                    figures_log.plot()
                saved = time.monotonic()
    except torch.cuda.OutOfMemoryError:
        raise MemoryError(
            f"A batch of {trainer.config.batch_size} pictures does not fit the device's memory: take a smaller batch size and"
            " resume."
        ) from None
    finally:
        if first and whole:
            save()
            figures_log.plot()


@contextmanager
def _a_full_disk_reported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.warning("not saved, training goes on and will try again: %s", error)
