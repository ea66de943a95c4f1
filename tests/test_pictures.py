"""Pictures on their way to and from the networks: squares, and what transparent ones hold where nothing shows."""

import pytest
import torch
from PIL import Image

from llm_gan.models.data.folder import read_folder, read_pictures
from llm_gan.models.pictures import (
    FAINT,
    HIDDEN,
    fitted,
    masks,
    on_white,
    read_picture,
    square,
    to_network,
    white_where_clear,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_does_not_show_is_white_and_the_rest_looks_as_it_did(dtype):
    random = torch.Generator().manual_seed(0)
    colours, opacity = torch.rand(2, 60, 60, 3, generator=random), torch.linspace(0, 1, 7200).reshape(2, 60, 60, 1)
    images = torch.cat([colours, opacity], 3).to(dtype)
    white = white_where_clear(images)
    assert white.dtype == dtype and torch.equal(white[..., 3], images[..., 3])
    hidden, plain = images[..., 3] <= HIDDEN, images[..., 3] >= FAINT
    assert hidden.any() and (white[hidden][:, :3] == 1).all() and torch.equal(white[plain], images[plain])
    assert (white >= images).all()
    for background in (0.0, 0.5, 1.0):
        one, other = (torch.lerp(torch.tensor(background), x[..., :3].float(), x[..., 3:].float()) for x in (images, white))
        assert (one - other).abs().max() < 4.3 / 255


@pytest.mark.parametrize("height, width, left, above", [(3, 8, 0, 2), (8, 3, 2, 0), (5, 5, 0, 0)])
def test_a_square_has_the_picture_in_its_midst(height, width, left, above):
    images = torch.rand(2, height, width, 3)
    for around in (0.0, 1.0):
        padded = square(images, around)
        side = max(height, width)
        assert padded.shape == (2, side, side, 3)
        assert torch.equal(padded[:, above : above + height, left : left + width], images)
        assert padded.sum() == pytest.approx((images.sum() + around * 6 * (side**2 - height * width)).item(), rel=1e-5)


def test_grey_is_a_colour_and_other_channels_are_refused():
    grey = torch.rand(2, 5, 4, 1)
    assert torch.equal(on_white(grey), grey.repeat(1, 1, 1, 3))
    for shape in ([2, 5, 4, 2], [5, 4, 3]):
        with pytest.raises(ValueError, match="give .B,H,W,C., with 1, 3 or 4 channels"):
            on_white(torch.rand(shape))


def test_masks_come_in_three_shapes():
    mask = (torch.rand(2, 6, 9) > 0.5).float()
    assert torch.equal(masks(mask), mask) and torch.equal(masks(mask[:, None]), mask) and torch.equal(masks(mask[0]), mask[:1])
    for shape in ([9], [2, 6, 9, 1], [1, 2, 1, 6, 9]):
        with pytest.raises(ValueError, match="A mask of shape"):
            masks(torch.zeros(shape))


@pytest.mark.parametrize("height, width", [(16, 32), (50, 37), (128, 128), (300, 200), (512, 1024)])
def test_no_stroke_is_too_thin_for_a_mask_of_another_size(height, width):
    mask = torch.zeros(1, 128, 128)
    mask[0, 77] = 1
    lost = fitted(mask, height, width)
    assert lost.shape == (1, 1, height, width) and set(lost.unique().tolist()) == {0, 1}
    rows = lost[0, 0].bool().all(1).nonzero()[:, 0]
    top, bottom = 77 * height / 128, 78 * height / 128
    assert rows[0] <= top < bottom <= rows[-1] + 1 and len(rows) < bottom - top + 2
    assert lost.sum() == len(rows) * width


def test_of_a_soft_edge_a_mask_holds_what_shows():
    soft = torch.linspace(0, 1, 81).expand(1, 4, -1)
    assert fitted(soft, 4, 81)[0, 0, 0].nonzero()[0] == 11  # 0.1375
    assert not fitted(torch.full((1, 8, 8), 20 / 255), 8, 8).any()  # what JPEG leaves of black
    assert fitted(torch.ones(1, 8, 8, dtype=torch.bool), 3, 3).all()


@pytest.mark.parametrize("size", [(32, 17), (17, 32), (32, 32)])
def test_a_picture_is_seen_as_it_would_be_trained_on(size, tmp_path):
    picture = Image.effect_noise(size, 100).convert("RGBA")
    picture.putalpha(Image.effect_noise(size, 100))
    picture.save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("noise")
    trained_on = read_pictures(read_folder(tmp_path)[0], 32).pixels
    seen = to_network(on_white(read_picture(tmp_path / "a.png")), 32)
    assert (seen - (trained_on / 127.5 - 1)).abs().max() < 1.1 / 127.5


def test_no_picture_starts_a_program(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", pytest.fail)
    Image.new("RGB", (20, 20)).save(tmp_path / "drawing.eps")
    (tmp_path / "drawing.eps").rename(tmp_path / "drawing.png")
    with pytest.raises(ValueError, match="is not a picture that can be read"):
        read_picture(tmp_path / "drawing.png")
