"""Draw the shop's product pictures, the same bytes every time: ``python draw_pictures.py FOLDER NAME...``.

Stand-ins for photographs: like those they hardly compress. Run with the vendored Pillow on the path.
"""

from __future__ import annotations

import random
import sys
import zlib
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

SIDE = 1040  # pixels; about 800 KB a picture


def draw(name: str) -> Image.Image:
    grain = random.Random(zlib.crc32(name.encode())).randbytes(SIDE * SIDE)
    grey = Image.frombytes("L", (SIDE, SIDE), grain).filter(ImageFilter.GaussianBlur(0.6))
    colour = f"hsl({zlib.crc32(name.encode()) % 360}, 60%, 50%)"
    return ImageOps.colorize(grey, "black", "white", colour)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        draw(name).save(folder / name, "JPEG", quality=92)
