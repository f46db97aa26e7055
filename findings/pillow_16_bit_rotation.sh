#!/usr/bin/env bash
# Pillow 13.0.0: rotating a 16-bit greyscale image with BILINEAR or BICUBIC returns wrong pixels.
#
# A good guess: Image.rotate and Image.transform handle mode I;16 (the mode of a 16-bit greyscale PNG or array)
# as they handle the same values in mode F, up to rounding; or they raise an error for an unsupported mode.
# Seen: NEAREST is exact and resize(BILINEAR) is right to one grey level, so that 16-bit support looks complete.
# rotate and transform with BILINEAR or BICUBIC interpolate single bytes of the two-byte pixels: an image with
# the constant value 1000 (0x03E8) comes back from rotate(10, BILINEAR) with 3 and 232 (0xE8) in alternation or
# mixtures of both, where 1000 is expected. No error, no warning; mode and size are as expected. (The manual says
# that support for I;16 is limited, not that an accepted operation returns other values.)
# Where it hurts: radiographs and CT slices are 16-bit greyscale. Augmentation by rotation or shear before the
# conversion to a tensor feeds a classifier with noise that has the outline of an image. Convert to mode F first.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pillow==13.0.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
from PIL import Image

VALUE = 1000
pixels = np.full((64, 64), VALUE, dtype=np.uint16)
image = Image.fromarray(pixels)
reference = Image.fromarray(pixels.astype(np.float32))
assert image.mode == "I;16", image.mode
centre = (slice(24, 40), slice(24, 40))  # far from the corners that rotation fills with zeros


def error(rotated, expected):
    return float(np.abs(np.asarray(rotated, dtype=np.float64)[centre] - np.asarray(expected)[centre]).max())


resampling = Image.Resampling
nearest = error(image.rotate(10, resampling.NEAREST), reference.rotate(10, resampling.NEAREST))
resized = error(image.resize((80, 80), resampling.BILINEAR), reference.resize((80, 80), resampling.BILINEAR))
wrong = {}
for filter_ in (resampling.BILINEAR, resampling.BICUBIC):
    wrong["rotate " + filter_.name] = error(image.rotate(10, filter_), reference.rotate(10, filter_))
    shear = (1.0, 0.1, 0.0, 0.0, 1.0, 0.0)
    moved = [x.transform(x.size, Image.Transform.AFFINE, shear, filter_) for x in (image, reference)]
    wrong["transform " + filter_.name] = error(*moved)
print(f"largest error at value {VALUE}: rotate NEAREST {nearest}, resize BILINEAR {resized}, {wrong}")
print("values after rotate BILINEAR:", np.asarray(image.rotate(10, resampling.BILINEAR))[32, 24:32])
if not (nearest == 0 and resized <= 1 and all(value > VALUE / 2 for value in wrong.values())):
    sys.exit("changed: 16-bit images no longer rotate to wrong values, or other operations became wrong")
PYTHON
