"""Training the encoder of a GAN that has learnt to draw: what `llm-gan train-encoder` runs.

The generator stays as it is. Pictures of the training set are damaged, or not; the encoder finds them in the generator, and
the refiner restores them; both are brought nearer to the picture as it was, in pixels and in the frozen features.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint import load_gan, save_encoder
from ..damage import KINDS, damage
from ..data.folder import read_pictures
from ..data.scenes import compose
from ..encoder import Encoder, EncoderConfig, find
from ..gan import GAN
from ..generator import Text
from ..pictures import contact_sheet, from_network
from ..tensors import save_tensors
from .dataset import Ahead, Batch, Dataset, build_dataset
from .log import RunLog
from .loop import give_up, learn, rate
from .losses import feature_distance
from .run import language_model_for, read_training, report_skipped
from .state import check_run, learner_tensors, load_learner, read_settings, read_state, under, write_settings
from .trainer import settings_of

log = logging.getLogger(__name__)
ALONE = 0.6  # share of the pictures with one kind of damage,
WHOLE = 0.15  # and without any; the others have several
GOING_ON = 2e-4  # learning rate of an encoder that begins with another's weights: faster, it would forget first
FEATURES = 0.25  # weight of the feature distance beside the mean pixel error: of one size at the end of a training


@dataclass(frozen=True)
class EncoderTraining:
    images: int = 60_000
    batch_size: int = 8
    lr: float = 1e-3
    warmup: int = 200  # steps
    decay: float = 0.3  # last part of the run over which the learning rate falls to a twentieth
    scenes: int = 2_000  # sentences over several pictures, where the generator draws scenes
    seed: int = 0


class EncoderTrainer:
    """Everything a step changes. `state`/`load` carry it all."""

    def __init__(self, gan: GAN, dataset: Dataset, config: EncoderTraining, device: torch.device | str = "cpu"):
        self.gan, self.dataset, self.config, self.device = gan.to(device).requires_grad_(False).eval(), dataset, config, device
        self.encoder = gan.encoder.to(device).requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.encoder.parameters(), config.lr, (0.9, 0.99), weight_decay=1e-4, fused=True)
        self._drawn = Ahead(self._draw, device)
        self.step_number = self.images_seen = 0

    def _draw(self, step: int) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """The batch of a step, the kinds of its damage, its pictures damaged, and where they are known."""
        size, random = self.config.batch_size, torch.Generator().manual_seed(self.config.seed * 1_000_003 + step)
        batch = self.dataset.draw(size, random)
        kinds = draw_kinds(size, random)
        damaged, known = damage(batch.images, kinds, random)
        return batch.to(self.device), *(x.to(self.device, torch.float32) for x in (kinds, damaged, known))

    def step(self) -> dict[str, float]:
        """One update; its figures. Depends on the state and the step's number only."""
        look = self.gan.discriminator.projected.look
        batch, kinds, damaged, known = self._drawn(self.step_number)

        with torch.no_grad():
            text = self.gan.generator.read(batch.tokens, batch.pooled, batch.mask, batch.layout)
            real = look(batch.images)
        drawn, restored = self.restore(damaged, known, kinds, text)
        both = look(torch.cat([drawn, restored]))
        found = [f[: len(drawn)] for f in both]
        mended = [f[len(drawn) :] for f in both]
        figures = {
            "found": feature_distance(found, real),
            "found_pixel": (drawn - batch.images).abs().mean(),
            "restored": feature_distance(mended, real),
            "restored_pixel": (restored - batch.images).abs().mean(),
        }
        loss = FEATURES * (figures["found"] + figures["restored"]) + figures["found_pixel"] + figures["restored_pixel"]
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * rate(self.config, self.step_number, self.images_seen / self.config.images)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.step_number += 1
        self.images_seen += self.config.batch_size
        return {name: (value + 0 * norm).item() for name, value in figures.items()}  # NaN where a gradient is not finite

    def restore(self, images: Tensor, known: Tensor, kinds: Tensor, text: Text) -> tuple[Tensor, Tensor]:
        """Damaged images [B,3,R,R], known [B,1,R,R], kinds [B,6] -> as they are drawn, and as they are restored from that. The
        refiner takes the drawing as it comes: no gradient passes from it to the picture's encoder."""
        generator = self.gan.generator
        look = self.gan.discriminator.projected.look
        z, styles, sketch, text = find(self.encoder.picture, generator, look, images, known, text)
        drawn = generator.synthesize(generator.code(z, text).shifted(styles, sketch), text)
        seen = drawn.detach().clamp(-1, 1)
        return drawn, self.encoder.refiner(torch.where(known > 0, images, seen), seen, known, kinds)

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        return learner_tensors(self, "encoder.", self.encoder)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        load_learner(self, "encoder.", self.encoder, tensors)


def draw_kinds(batch: int, generator: torch.Generator) -> Tensor:
    """Which damage each picture has, bool [B,6]: one kind mostly, at times none or several."""
    how, which = torch.rand(batch, generator=generator), torch.randint(0, len(KINDS), (batch,), generator=generator)
    several = torch.rand(batch, len(KINDS), generator=generator) < 0.4
    one = F.one_hot(which, len(KINDS)).bool()
    kinds = torch.where((how < WHOLE + ALONE)[:, None], one, several)
    return kinds & (how >= WHOLE)[:, None]


def train_encoder(
    gan: GAN,
    dataset: Dataset,
    config: EncoderTraining,
    run: Path,
    resume: bool = False,
    device: torch.device | str = "cpu",
    save_every: float = 240.0,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
) -> Encoder:
    """Train `gan.encoder` on `dataset` until `config.images` have been shown, or `progress` raises; returns it.

    `run` receives `log.csv` and its `curves.png`, `samples-*.png` and `state.safetensors`, every `save_every` seconds and at
    the end, whatever ends it; `resume` goes on from there, bit for bit as if it had not stopped. ArithmeticError where numbers
    are no longer finite; the last good state stays.
    """
    check_run(run, resume)
    run.mkdir(parents=True, exist_ok=True)
    trainer = EncoderTrainer(gan, dataset, config, device)
    if resume:
        trainer.load(read_state(run))
    write_settings(config, run)
    lost = partial(give_up, run=run)
    learn(trainer, RunLog(run, trainer.images_seen), lambda: _save(trainer, run), save_every, progress, lost=lost)
    return trainer.encoder.requires_grad_(False).eval()


@torch.no_grad()
def _save(trainer: EncoderTrainer, run: Path) -> None:
    """The state, and a sheet of each kind of damage: the picture, as damaged, as drawn, as restored."""
    save_tensors(trainer.state(), run / "state.safetensors")
    random, gan = torch.Generator().manual_seed(0), trainer.gan
    batch = trainer.dataset.draw(2 * len(KINDS), random)
    kinds = torch.eye(len(KINDS), dtype=torch.bool).repeat(2, 1)
    damaged, known = (x.to(trainer.device) for x in damage(batch.images, kinds, random))
    own = batch.to(trainer.device)
    text = gan.generator.read(own.tokens, own.pooled, own.mask, own.layout)
    drawn, restored = trainer.restore(damaged, known, kinds.to(known), text)
    rows = torch.stack([own.images, damaged, drawn, restored], 1).flatten(0, 1)
    contact_sheet(from_network(rows), 8).save(run / f"samples-{trainer.images_seen:08d}.png")  # after what was learnt is safe
    log.info("saved %s at %d images", run, trainer.images_seen)


def train_encoder_folder(
    checkpoint: Path,
    data: Path,
    run: Path,
    *,
    images: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    start_from: Path | None = None,
    llm: str | None = None,
    device: torch.device | str = "cpu",
    save_every: float = 240.0,
    progress: Callable[..., None] | None = None,
) -> Path:
    """Train an encoder for the GAN in `checkpoint` on the captioned pictures of `data`, and write it beside the checkpoint.

    `start_from` is a GAN of the same shape whose encoder a new run begins with, as when this one was trained on from it. Where
    `progress` raises, the encoder is written as it was then. An encoder that is there already is replaced by what has learnt.
    Raises FileNotFoundError, FileExistsError or ValueError, in one sentence, before any long work.
    """
    if resume and start_from is not None:
        raise ValueError("A run that is resumed goes on with its own encoder: leave --start-from out.")
    check_run(run, resume, data)
    gan = load_gan(checkpoint)
    if gan.discriminator is None:
        raise ValueError(
            f"{checkpoint.name} was saved without its discriminator, through which an encoder looks: take one with it."
        )
    settings = read_settings(run, EncoderTraining) if resume else {}
    if start_from is not None:
        settings.setdefault("lr", GOING_ON)
    settings |= {name: value for name, value in (("images", images), ("seed", seed)) if value is not None}
    config = settings_of(EncoderTraining, settings)
    if not config.images:
        raise ValueError("An encoder learns nothing from 0 pictures: give more.")
    torch.manual_seed(config.seed)
    gan.encoder = Encoder(EncoderConfig(), gan.generator.config)
    if start_from is not None:
        _begin_with(gan.encoder, load_gan(start_from).encoder, start_from)
    examples, skipped = read_training(data)
    if gan.generator.config.things:
        compose(examples, 1)  # refuses names it cannot make sentences of
    model = language_model_for(gan.recipe, llm, device)
    pictures = read_pictures(examples, gan.resolution, run / "cache", progress)
    report_skipped(run, skipped + pictures.skipped)
    scenes = compose(pictures.examples, config.scenes) if gan.generator.config.things else []
    dataset = build_dataset(pictures, gan, model, run / "cache", scenes, False, progress)
    del model
    if gan.generator.config.chooses:
        dataset.choose_by(gan.generator.memory)
    try:
        train_encoder(gan, dataset, config, run, resume, device, save_every, progress)
    except BaseException:
        if (run / "state.safetensors").exists():  # or one that is there already would be lost for one that learnt nothing
            gan.encoder.load_state_dict(under("encoder.", read_state(run)))
            save_encoder(gan, checkpoint)
        raise
    return save_encoder(gan, checkpoint)


def _begin_with(encoder: Encoder, other: Encoder | None, of: Path) -> None:
    """Give `encoder` the weights of `other`, that of the GAN in `of`; ValueError where they are not to be had,
    or do not fit."""
    if other is None:
        raise ValueError(f"{of.name} has no encoder to start from: leave --start-from out.")
    shapes, own = ({name: weight.shape for name, weight in kind.state_dict().items()} for kind in (other, encoder))
    if shapes != own:
        raise ValueError(f"The encoder of {of.name} is of another shape than this GAN's would be: leave --start-from out.")
    encoder.load_state_dict(other.state_dict())
