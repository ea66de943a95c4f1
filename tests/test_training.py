"""Training: batches, augmentation, losses, a run that learns, and one that is stopped and resumed."""

import json

import pytest
import torch
from PIL import Image

from llm_gan.models.checkpoint import load_gan
from llm_gan.models.condition import Condition, Recipe
from llm_gan.models.data.folder import read_folder, read_pictures
from llm_gan.models.discriminator import DiscriminatorConfig
from llm_gan.models.gan import GAN
from llm_gan.models.generator import GeneratorConfig
from llm_gan.models.training.augment import Augmentation
from llm_gan.models.training.dataset import build_dataset
from llm_gan.models.training.losses import finite_difference_penalty, hinge_discriminator, relativistic
from llm_gan.models.training.trainer import Trainer, TrainingConfig, train

WIDTH, RESOLUTION = 24, 16
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 220)}


class Reader:
    """Stands in for a language model: a fixed random state for each text."""

    def recipe(self):
        return Recipe("reader", "0", WIDTH)

    def encode(self, texts, recipe, batch_size, progress):
        def state(text):
            return torch.randn(WIDTH, generator=torch.Generator().manual_seed(sum(text.encode()) * 7919 + len(text)))

        states = torch.stack([state(text) for text in texts])
        return Condition(states[:, None].repeat(1, 2, 1), states, torch.ones(len(texts), 2, dtype=torch.bool), recipe)


@pytest.fixture
def folder(tmp_path):
    """Squares of three colours on white, in two styles of darkness; one of them is held out."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = []
    for name, colour in COLOURS.items():
        for style, factor in (("light", 1.0), ("dark", 0.4)):
            image = Image.new("RGB", (24, 24), "white")
            image.paste(tuple(int(c * factor) for c in colour), (4, 4, 20, 20))
            image.save(folder / f"{name}-{style}.png")
            lines.append({
                "file_name": f"{name}-{style}.png",
                "captions": {"en": [f"{name} square"], "zh": []},
                "style": style,
                "style_captions": {"en": ["{caption}, " + style]},
                "split": "test" if (name, style) == ("blue", "dark") else "train",
            })  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def setup(folder, cache, seed=0):
    torch.manual_seed(seed)
    generator = GeneratorConfig(
        RESOLUTION, (32, 24), z_dim=8, w_dim=16, text_dim=32, token_dim=WIDTH, pooled_dim=16, concepts=3, sketch_resolution=8
    )
    discriminator = DiscriminatorConfig(RESOLUTION, 16, mixed=(8, 8, 8, 8), hidden=16, embed=8, pixel_channels=(16, 16))
    gan = GAN(generator, discriminator, Reader().recipe())
    dataset = build_dataset(read_folder(folder), generator, Reader(), gan.condition_norm, cache)
    gan.generator.memory.remember(dataset.pooled, dataset.concepts)
    return gan, dataset


def test_held_out_pictures_are_never_seen(folder, tmp_path):
    _, dataset = setup(folder, tmp_path)
    assert len(dataset.pictures) == 5
    assert "blue square, dark" not in dataset.texts and "blue square, light" in dataset.texts


def test_z_decides_which_picture_an_ambiguous_caption_means(folder, tmp_path):
    _, dataset = setup(folder, tmp_path)
    batch = dataset.draw(4000, torch.Generator().manual_seed(0))
    # White apart, a dark square's centre is darker than a light one's.
    centre = batch.images[:, :, RESOLUTION // 2, RESOLUTION // 2]
    red = dataset.texts.index("red square")
    asked = torch.tensor([torch.equal(p, dataset.pooled[red]) for p in batch.pooled])
    dark = centre.amax(1) < 0
    share = dark[asked].float().mean().item()
    assert asked.sum() > 200 and 0.3 < share < 0.7
    pictures = dataset.meant[red]
    nearest = (batch.z[asked] @ dataset.anchors[pictures].t()).argmax(1)
    assert torch.equal(nearest == 0, dark[asked])  # pictures are sorted by path: the dark one first
    named = torch.tensor([torch.equal(p, dataset.pooled[dataset.texts.index("red square, dark")]) for p in batch.pooled])
    assert named.any() and dark[named].all()


def test_augmentation_treats_real_and_fake_alike():
    augment = Augmentation.draw(6, 32, 1.0, torch.Generator().manual_seed(0))
    images = torch.rand(6, 3, 32, 32) * 2 - 1
    assert torch.equal(augment(images), augment(images.clone()))
    assert (augment(images) - images).abs().mean() > 0.05
    none = Augmentation.draw(6, 32, 0.0, torch.Generator().manual_seed(0))
    assert torch.allclose(none(images), images, atol=1e-6)
    leaf = images.clone().requires_grad_()
    augment(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_finite_difference_is_the_squared_gradient():
    slope = torch.randn(3, 8, 8)
    penalty = finite_difference_penalty(
        lambda x: (x * slope).sum((1, 2, 3)), torch.randn(4000, 3, 8, 8), torch.Generator().manual_seed(0)
    )
    assert penalty.item() == pytest.approx(slope.square().sum().item(), rel=0.1)


def test_losses_prefer_what_they_should():
    good, bad = torch.full((4,), 2.0), torch.full((4,), -2.0)
    assert hinge_discriminator(good, bad) == 0 < hinge_discriminator(bad, good)
    assert relativistic(good, bad) < relativistic(bad, good)


def test_a_short_run_learns_colours(folder, tmp_path):
    gan, dataset = setup(folder, tmp_path)
    config = TrainingConfig(images=8 * 250, batch_size=8, warmup=10, lr_generator=2e-3, augment=0.3)
    trained = train(gan, dataset, config, tmp_path / "run")
    texts = [f"{name} square, light" for name in COLOURS]
    condition = Reader().encode(texts, Reader().recipe(), 0, None)
    images, _ = trained.generate(condition, trained.sample_z(0, 3))
    centres = images[:, 6:10, 6:10].mean((1, 2))
    assert centres.argmax(1).tolist() == [0, 1, 2]
    assert images[:, 0, 0].min() > 0.7  # the corner stays white
    sheets = list((tmp_path / "run").glob("samples-*.png"))
    assert sheets and (tmp_path / "run" / "log.csv").read_text().startswith("images,")


def test_resume_is_bit_exact(folder, tmp_path):
    config = TrainingConfig(images=48, batch_size=8, warmup=2, adversarial_from=0.3)
    whole = Trainer(*setup(folder, tmp_path), config)
    for _ in range(6):
        whole.step()

    class Stop(Exception):
        pass

    def stop(done, total, figures):
        if done == 24:
            raise Stop

    with pytest.raises(Stop):
        train(*setup(folder, tmp_path), config, tmp_path / "run", progress=stop)
    losses = []
    train(*setup(folder, tmp_path, seed=99), config, tmp_path / "run", resume=True, progress=lambda *a: losses.append(a))
    assert len(losses) == 3
    resumed = Trainer(*setup(folder, tmp_path, seed=5), config)
    from safetensors.torch import load_file

    resumed.load(load_file(tmp_path / "run" / "state.safetensors"))
    ours, theirs = whole.state(), resumed.state()
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different


def test_export_draws_and_scores_as_the_trainer_does(folder, tmp_path):
    trainer = Trainer(*setup(folder, tmp_path), TrainingConfig(images=100, batch_size=8, warmup=2, adversarial_from=0.0))
    for _ in range(3):
        trainer.step()
    gan = trainer.export()
    trainer.discriminator.eval()
    images, text = torch.rand(2, 3, RESOLUTION, RESOLUTION), torch.randn(2, 16)
    for ours, theirs in zip(gan.discriminator(images, text), trainer.discriminator(images, text)):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert not any("parametrizations" in name for name in gan.state_dict())


def test_an_interrupted_run_leaves_a_checkpoint(folder, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    gan, dataset = setup(folder, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(gan, dataset, TrainingConfig(images=80, batch_size=8), tmp_path / "run", progress=interrupt)
    assert load_gan(tmp_path / "run" / "model.safetensors").card.images_seen == 8
    with pytest.raises(FileExistsError, match="--resume"):
        train(gan, dataset, TrainingConfig(images=80, batch_size=8), tmp_path / "run")


def test_a_run_may_start_from_a_checkpoint(folder, tmp_path, monkeypatch):
    from llm_gan.models.training import run

    class Model(Reader):
        width = WIDTH

    monkeypatch.setattr(run.LanguageModel, "load", lambda name: Model())
    monkeypatch.setattr(run.EfficientNetLite, "pretrained", lambda: run.EfficientNetLite())
    first = run.train_folder(folder, tmp_path / "a.safetensors", tmp_path / "a", resolution=16, images=16)
    second = run.train_folder(
        folder, tmp_path / "b.safetensors", tmp_path / "b", resolution=16, images=8, start_from=tmp_path / "a.safetensors"
    )
    other = run.train_folder(folder, tmp_path / "c.safetensors", tmp_path / "c", resolution=16, images=8, seed=1)
    condition = Reader().encode(["red square"], Reader().recipe(), 0, None)
    pictures = [gan.generate(condition, gan.sample_z(0, 1))[0] for gan in (first, second, other)]
    near, far = ((pictures[0] - picture).abs().mean().item() for picture in pictures[1:])
    assert near < far / 3
    assert torch.equal(first.condition_norm.whitening, second.condition_norm.whitening)
    with pytest.raises(ValueError, match="32 px"):
        run.train_folder(
            folder, tmp_path / "d.safetensors", tmp_path / "d", resolution=32, images=8, start_from=tmp_path / "a.safetensors"
        )


def test_nothing_to_resume(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        train(*setup(folder, tmp_path), TrainingConfig(), tmp_path / "run", resume=True)


def test_text_files_beside_pictures(tmp_path):
    Image.new("RGB", (10, 20), "black").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a black bar\n一根黑条\n", encoding="utf-8")
    Image.new("RGB", (10, 10)).save(tmp_path / "uncaptioned.png")
    (example,) = read_folder(tmp_path)
    assert example.captions == ("a black bar", "一根黑条")
    picture = read_pictures([example], 20)[0]
    assert picture[:, 10, 0].tolist() == [255] * 3 and picture[:, 10, 10].tolist() == [0] * 3


BAD_FOLDERS = {
    "missing": (None, "no folder"),
    "empty": ("", "no captioned pictures"),
    "not JSON": ("{", "line 1"),
    "no file_name": ('{"captions": ["x"]}', "line 1"),
    "outside": ('{"file_name": "../a.png", "captions": ["x"]}', "outside the folder"),
    "no such picture": ('{"file_name": "b.png", "captions": ["x"]}', "no picture b.png"),
}


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_bad_folders_say_so(tmp_path, kind):
    metadata, message = BAD_FOLDERS[kind]
    folder = tmp_path / "data"
    if metadata is not None:
        folder.mkdir()
        if metadata:
            (folder / "metadata.jsonl").write_text(metadata)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_folder(folder)
