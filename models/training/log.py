"""A run's figures: `log.csv`, their curves in `curves.png` where matplotlib is installed, and TensorBoard on request."""

import csv
import importlib.util
from collections.abc import Iterable
from pathlib import Path


class RunLog:
    """One row of figures at a time, by the number of images seen. A resumed run drops the rows of steps it makes again.

    Where a row cannot be written, OSError is raised, and the next one is written together with it.
    """

    def __init__(self, run: Path, images_seen: int, tensorboard: bool = False):
        self._csv, self._plot = run / "log.csv", run / "curves.png"
        self._rows = _whole_rows(self._csv) if self._csv.exists() else []
        self._written = True  # the file holds the rows, and nothing else
        self.forget_after(images_seen)
        self._tensorboard = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(run / "tensorboard", purge_step=images_seen + 1)

    def forget_after(self, images_seen: int) -> None:
        """Drop the rows of later steps, which are made again, and whatever in the file is no row."""
        self._rows = [row for row in self._rows if row["images"] <= images_seen]
        self._write_anew()

    def add(self, images: int, figures: dict[str, float]) -> None:
        row = {"images": images} | {key: round(value, 5) for key, value in figures.items()}
        begun = bool(self._rows) and list(self._rows[0]) == list(row)
        if not begun:  # or begun by another version
            self._rows = [{name: old.get(name, 0.0) for name in row} for old in self._rows]
        self._rows.append(row)
        if begun and self._written:
            self._written = False
            with self._csv.open("a") as file:
                file.write(_line(row.values()))
            self._written = True
        else:
            self._write_anew()
        if self._tensorboard is not None:
            for key, value in figures.items():
                self._tensorboard.add_scalar(key, value, images)

    def _write_anew(self) -> None:
        """The file, whole or not at all: a full disk leaves what was there."""
        self._written = False
        if self._rows:
            partial = self._csv.with_name("log.csv.partial")
            partial.write_text("".join(map(_line, [self._rows[0].keys(), *(row.values() for row in self._rows)])))
            partial.replace(self._csv)
        else:
            self._csv.unlink(missing_ok=True)
        self._written = True

    def plot(self) -> None:
        """Draw every column over the images seen. Does nothing without matplotlib, or before there are two rows."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            return
        if len(self._rows) < 2:
            return
        names = [name for name in self._rows[0] if name != "images"]
        height = -(-len(names) // 3)
        figure = Figure(figsize=(12, 2.2 * height), layout="constrained")
        for place, name in enumerate(names, 1):
            axes = figure.add_subplot(height, 3, place)
            axes.plot([row["images"] / 1000 for row in self._rows], [row[name] for row in self._rows], linewidth=1)
            axes.set_title(name)
            axes.grid(alpha=0.3)
        figure.supxlabel("thousand pictures shown")
        figure.savefig(self._plot, dpi=80)


def check_tensorboard() -> None:
    """ModuleNotFoundError unless it is installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ModuleNotFoundError("TensorBoard is not installed: pip install tensorboard, or train without it.")


def _line(cells: Iterable) -> str:
    return ",".join(map(str, cells)) + "\n"


def _whole_rows(path: Path) -> list[dict[str, float]]:
    """The rows of a log; where the disk was full, it may end in part of one, or of its header."""
    head, *lines = path.read_text().splitlines(keepends=True) or [""]
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == head.count(",")]
    rows = csv.DictReader([head, *whole] if head.endswith("\n") else [])
    return [{name: int(cell) if name == "images" else float(cell) for name, cell in row.items()} for row in rows]
