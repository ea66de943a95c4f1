"""A run's figures: `log.csv`, their curves in `curves.png` where matplotlib is installed, and TensorBoard on request."""

import csv
from pathlib import Path


class RunLog:
    """One row of figures at a time, by the number of images seen. A resumed run drops the rows of steps it makes again."""

    def __init__(self, run: Path, images_seen: int, tensorboard: bool = False):
        self._csv, self._plot = run / "log.csv", run / "curves.png"
        if self._csv.exists():
            head, *rows = self._csv.read_text().splitlines(keepends=True)
            self._csv.write_text(head + "".join(row for row in rows if int(row.partition(",")[0]) <= images_seen))
        self._tensorboard = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(run / "tensorboard", purge_step=images_seen + 1)

    def add(self, images: int, figures: dict[str, float]) -> None:
        row = {"images": images} | {key: round(value, 5) for key, value in figures.items()}
        before = []
        if self._csv.exists():
            with self._csv.open(newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames != list(row):  # begun by another version
                    before = list(reader)
        new = before or not self._csv.exists()
        with self._csv.open("w" if new else "a", newline="") as file:
            writer = csv.DictWriter(file, row, restval=0.0, extrasaction="ignore")
            if new:
                writer.writeheader()
            writer.writerows([*before, row])
        if self._tensorboard is not None:
            for key, value in figures.items():
                self._tensorboard.add_scalar(key, value, images)

    def plot(self) -> None:
        """Draw every column over the images seen. Does nothing without matplotlib, or before there are two rows."""
        try:
            from matplotlib.figure import Figure
        except ModuleNotFoundError:
            return
        if not self._csv.exists():
            return
        with self._csv.open(newline="") as file:
            rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        if len(rows) < 2:
            return
        names = [name for name in rows[0] if name != "images"]
        height = -(-len(names) // 3)
        figure = Figure(figsize=(12, 2.2 * height), layout="constrained")
        for place, name in enumerate(names, 1):
            axes = figure.add_subplot(height, 3, place)
            axes.plot([row["images"] / 1000 for row in rows], [row[name] for row in rows], linewidth=1)
            axes.set_title(name)
            axes.grid(alpha=0.3)
        figure.supxlabel("thousand pictures shown")
        figure.savefig(self._plot, dpi=80)
