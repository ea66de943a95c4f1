"""Between the networks' pictures, [B,3,R,R] in -1..1, and everyone else's, [B,H,W,3] in 0..1."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # whatever the suffix says: other decoders start programs (EPS)
HIDDEN, FAINT = 1 / 128, 1 / 8  # opacity: below the one a pixel shows nothing, below the other little
FONTS = (  # that have Chinese characters
    "msyh.ttc", "simsun.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc", "STHeiti Light.ttc", "NotoSansCJK-Regular.ttc",
    "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc", "DroidSansFallbackFull.ttf",
)  # fmt: skip


def from_network(images: Tensor) -> Tensor:
    """[B,3,R,R] in about -1..1 -> [B,R,R,3] in 0..1, clamped."""
    return images.clamp(-1, 1).add(1).mul(0.5).permute(0, 2, 3, 1)


def to_network(images: Tensor, resolution: int | None = None) -> Tensor:
    """[B,H,W,3] in 0..1, any size -> [B,3,R,R] in -1..1, antialiased, those that are not square centred on white; not
    resampled where the size is right. As they are, [B,3,H,W], where no resolution is wanted."""
    x = (images if resolution is None else square(images)).permute(0, 3, 1, 2).float()
    if resolution is not None and x.shape[2:] != (resolution, resolution):
        size = (resolution, resolution)
        x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x.mul(2).sub(1)


def square(images: Tensor, around: float = 1.0) -> Tensor:
    """[B,H,W,C] -> [B,S,S,C], S being the longer side: centred on white, as what is trained on, or on what `around` says.
    Squares are as they were."""
    height, width = images.shape[1:3]
    if height == width:
        return images
    return F.pad(images, (0, 0, *margins(height, width, max(height, width))), value=around)


def margins(height: int, width: int, side: int) -> tuple[int, int, int, int]:
    """How many pixels a picture that is centred in a square has to its left and right, above and below it."""
    left, above = (side - width) // 2, (side - height) // 2
    return left, side - width - left, above, side - height - above


def read_picture(path: Path) -> Tensor:
    """The picture in a file, upright, with its opacity: [1,H,W,4] in 0..1. ValueError where it is none."""
    with _opened(path) as image:
        upright = rgba(ImageOps.exif_transpose(image))
        return torch.from_numpy(np.array(upright)).float().div(255)[None]


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of the picture in a file, which is not decoded for it. ValueError where it is none."""
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture in a file. ValueError, in one sentence, where it is none, or is found damaged by what reads it."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except (OSError, SyntaxError):  # the latter for a broken PNG
        raise ValueError(f"{path} is not a picture that can be read.") from None
    except (ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from None


def rgba(image: Image.Image) -> Image.Image:
    """A picture of any mode in 8 bits, with its opacity. ValueError for pixels in floating point, whose range nobody knows."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers")
    if image.mode.startswith("I"):  # 16 bits, which convert() would clip to 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGBA")


def save_new(image: Image.Image, path: Path, **settings) -> Path:
    """Write a picture, in the format that the path's suffix says, where no other is -> where that is: at `path`, or under the
    next number, as in name-2.png. One that is there already, byte for byte, is not written again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = BytesIO()
    image.save(file, Image.registered_extensions()[path.suffix.lower()], **settings)
    for number in count(1):
        place = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        try:
            with place.open("xb") as new:
                try:
                    new.write(file.getbuffer())
                    return place
                except OSError:  # half a picture is none
                    place.unlink()
                    raise
        except FileExistsError:
            if place.is_file() and place.read_bytes() == file.getbuffer():
                return place


def coloured(images: Tensor) -> Tensor:
    """[B,H,W,1], in grey, -> [B,H,W,3]; [B,H,W,3] and [B,H,W,4] as they are. ValueError, in one sentence, for anything else."""
    if images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        raise ValueError(f"Pictures of shape {list(images.shape)}: give [B,H,W,C], with 1, 3 or 4 channels.")
    return images.expand(-1, -1, -1, 3) if images.shape[3] == 1 else images


def on_white(images: Tensor) -> Tensor:
    """[B,H,W,3] or, in grey, [B,H,W,1] in 0..1, or [B,H,W,4] with opacity -> [B,H,W,3] in 0..1."""
    images = coloured(images)
    return images if images.shape[3] == 3 else torch.lerp(torch.ones_like(images[..., :3]), images[..., :3], images[..., 3:])


def masks(mask: Tensor) -> Tensor:
    """A mask as anyone may give it, [H,W], [M,H,W] or [M,1,H,W] -> [M,H,W]. ValueError, in one sentence, for anything else."""
    if mask.ndim not in (2, 3, 4) or mask.ndim == 4 and mask.shape[1] != 1:
        raise ValueError(f"A mask of shape {list(mask.shape)}: give [H,W], [M,H,W] or [M,1,H,W].")
    return mask.reshape(-1, *mask.shape[-2:])


def fitted(mask: Tensor, height: int, width: int) -> Tensor:
    """A mask as `masks` takes it, of any size, at that of the pictures that it is for: [M,1,H,W], 0 or 1.

    1 is every pixel of which any part is masked, for a hole that is too large by a pixel is filled all the same, while of one
    that is too small its rim stays. Masked is what is so by more than FAINT: of a soft edge nearly all, and neither the far end
    of a blur, which would take the whole picture, nor what JPEG leaves in the black of a mask.
    """
    held = (masks(mask) > FAINT).float()[:, None]
    return (F.interpolate(held, (height, width), mode="area") > 0).float()


def white_where_clear(images: Tensor) -> Tensor:
    """[B,H,W,4] in 0..1, colour and opacity -> the same with colours that turn white as opacity goes from FAINT to HIDDEN.

    Nobody sees those colours until a program drops the opacity, as ComfyUI's Load Image does. On any background a pixel
    changes by 4.3/255 at most, times how far its colour is from white, and where it is FAINT or more opaque not at all.
    """
    colours, opacity = images[..., :3], images[..., 3:]
    # By its logarithm: half precision errs by a share of the opacity, which so moves colours as little wherever they turn.
    share = ((opacity.clamp(min=HIDDEN) / HIDDEN).log2() / math.log2(FAINT / HIDDEN)).clamp(max=1)
    return torch.cat([torch.lerp(torch.ones_like(colours), colours, share), opacity], 3)


def to_uint8(images: Tensor) -> np.ndarray:
    """[B,H,W,C] in 0..1 -> the same as bytes."""
    return images.mul(255).round().byte().cpu().numpy()


def contact_sheet(images: Tensor, columns: int) -> Image.Image:
    """[B,H,W,3] in 0..1, or [B,H,W,4] with opacity -> one picture of that kind, `columns` wide, row by row on white."""
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * height, columns * width, channels), 255, np.uint8)
    for i, picture in enumerate(to_uint8(images)):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)


def _font(size: int, text: str) -> ImageFont.FreeTypeFont:
    """Pillow's own, which has Latin letters; for other text one that a system usually has, if this one does."""
    for name in () if text.isascii() else FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def labelled_sheet(images: Tensor, columns: list[str], rows: list[str]) -> Tensor:
    """[rows·columns,H,W,3] in 0..1, row by row -> one picture [1,H',W',3], with a name over each column and before each row."""
    height, width = images.shape[1:3]
    size = max(11, height // 9)
    font = _font(size, "".join([*columns, *rows]))
    left = 2 * size + int(max(font.getlength(name) for name in rows))
    sheet = Image.new("RGB", (left + len(columns) * width, 2 * size + len(rows) * height), "white")
    sheet.paste(contact_sheet(images, len(columns)), (left, 2 * size))
    pen = ImageDraw.Draw(sheet)
    for i, name in enumerate(columns):
        pen.text((left + (i + 0.5) * width, size), name, "black", font, anchor="mm")
    for i, name in enumerate(rows):
        pen.text((left // 2, 2 * size + (i + 0.5) * height), name, "black", font, anchor="mm")
    return torch.from_numpy(np.array(sheet)).float().div(255)[None]
