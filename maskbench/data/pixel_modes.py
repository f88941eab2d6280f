"""What a file says about its pixels besides their values: depth, orientation, transparency, further frames."""

from PIL import Image

MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's modes by number of channels
BACKGROUND = (255, 255, 255, 255)  # white, as in browsers, for what lies behind transparent pixels
ORIENTATION = 0x0112  # EXIF tag
TRANSPOSITIONS = {  # value of the tag -> what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PNG_ORIENTATION = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")  # a PNG that has one contains one of these
BITS_PER_SAMPLE, WIDTH, HEIGHT = 258, 256, 257  # TIFF tags


def deep_mode(image: Image.Image) -> str | None:
    """Pillow's mode, or raw mode, of an image with more than 8 bits a channel; None for any other.

    Grey ones would be clipped at 255. Of colours Pillow would keep the highest 8 bits, which leaves 12-bit data black.
    """
    if image.mode[0] in "IF":
        return image.mode
    if image.format == "TIFF" and max(image.tag_v2.get(BITS_PER_SAMPLE, (8,))) > 8:  # type: ignore[attr-defined]
        return f"{image.mode};16"
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        for argument in arguments:
            if isinstance(argument, str) and ";16" in argument:
                return argument
            if image.format == "PPM" and isinstance(argument, int) and argument > 255:  # its largest value
                return f"{image.mode};16"
    return None


def read_orientation(image: Image.Image, encoded: bytes) -> int:
    """The EXIF orientation, 1 (upright) to 8. 1 where there is none, or where EXIF is broken.

    Args:
        image: Opened, not loaded.
        encoded: The file.
    """
    if image.format == "PNG" and not any(word in encoded for word in PNG_ORIENTATION):
        return 1  # without this, Pillow decodes the whole image in order to look
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # of SyntaxError, struct.error, KeyError and others, whatever the broken bytes happen to cause
        return 1
    return orientation if isinstance(orientation, int) and orientation in TRANSPOSITIONS else 1


def is_turned(orientation: int) -> bool:
    """Whether rows and columns change places."""
    return orientation >= 5


def upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Rows and columns of the upright image."""
    size = image.size
    if image.format == "TIFF":  # some versions of Pillow have exchanged the two already
        size = image.tag_v2[WIDTH], image.tag_v2[HEIGHT]  # type: ignore[attr-defined]
    return size if is_turned(orientation) else (size[1], size[0])


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as its orientation says that it should be seen."""
    return image if orientation == 1 else image.transpose(TRANSPOSITIONS[orientation])


def has_alpha(image: Image.Image) -> bool:
    """Whether some pixels may be transparent: by an alpha channel, a palette, or one colour that stands for it."""
    return image.mode[-1] in "Aa" or "transparency" in image.info


def has_more_frames(image: Image.Image) -> bool:
    """Whether an animation or a document of several pages follows the first image."""
    if image.format == "MPO":  # a photograph with its preview or its depth
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the first frame may be whole all the same; decoding tells
        return False


def convert_channels(image: Image.Image, channels: int) -> Image.Image:
    """The loaded image with 1, 3 or 4 channels. Without an alpha channel, it lies on BACKGROUND."""
    if channels < 4 and has_alpha(image):
        opaque = Image.new("RGBA", image.size, BACKGROUND)
        image = Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image if image.mode == MODES[channels] else image.convert(MODES[channels])  # convert copies
