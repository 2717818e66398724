"""Bytes of a picture to RGB, within bounds that hold before anything is decoded."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from llm_serving.errors import InvalidRequest, MissingExtra

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")


def decode(data: bytes, max_pixels: int, where: str) -> Image.Image:
    """The picture, of a GIF its first frame, upright and in RGB; what is transparent is white.

    Raises: InvalidRequest that names `where`: no picture, one that is damaged or too large, no Pillow.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        missing = MissingExtra("Pillow", "images")
        raise InvalidRequest(
            f"'{where}' is an image, and the server reads none yet. {missing}", where
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own bound is below it
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header only
            width, height = image.size
        except Exception:  # hostile bytes fail in as many ways as there are decoders
            raise InvalidRequest(
                f"'{where}' is no image that can be read. Send PNG, JPEG, WebP or GIF.", where
            ) from None
        if width * height > max_pixels:
            raise InvalidRequest(
                f"'{where}' has {width} x {height} pixels; up to {max_pixels} in all are read. "
                "Send it smaller, or raise --max-image-pixels.",
                where,
            )
        try:
            image.load()
            return _on_white(ImageOps.exif_transpose(image))
        except Exception:  # as above
            raise InvalidRequest(f"'{where}' is damaged or cut short; it cannot be decoded.", where) from None


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")
