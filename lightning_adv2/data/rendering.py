"""Procedural pictures: one textured shape on a textured background, among distractors.

Everything is measured in image sides, so that a picture looks alike at every resolution. Shapes are signed distance
functions (negative inside), which give the anti-aliased picture and the exact mask at once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lightning_adv2.data.images import Mask, Pixels

Array: TypeAlias = NDArray[np.floating[Any]]

# What makes the pictures hard, tuned so that a three-block ResNet learns them in a few epochs and, like a network for
# photographs, comes to rely on fine texture, which a small perturbation can imitate.
CONTRAST = 0.35  # least distance between the colours of object and background, in RGB space
AMPLITUDE = 0.09  # of a texture: how far it moves the colour, to either side
RADIUS = (0.2, 0.28)  # of the object

# --- Shapes: distance at (u, v) from a shape of circumradius 1 around the origin -------------------------------------


def _planes(u: Array, v: Array, count: int) -> Array:
    """Distance along ``count`` evenly spread directions, ``(count, S, S)``."""
    angles = 2 * np.pi * np.arange(count, dtype=np.float32)[:, None, None] / count
    return np.cos(angles) * u + np.sin(angles) * v


def _disk(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v) - 1


def _ring(u: Array, v: Array) -> Array:
    return np.abs(np.sqrt(u * u + v * v) - 0.76) - 0.24


def _square(u: Array, v: Array) -> Array:
    return np.maximum(np.abs(u), np.abs(v)) - 0.707


def _triangle(u: Array, v: Array) -> Array:
    farthest: Array = _planes(u, v, 3).max(axis=0)
    return farthest - 0.5


def _star(u: Array, v: Array) -> Array:
    # A point of the pentagram lies beyond at most one of its five lines.
    second: Array = np.partition(_planes(u, v, 5), 3, axis=0)[3]
    return second - 0.309


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(a, b) - 0.95, np.minimum(a, b) - 0.27)


def _crescent(u: Array, v: Array) -> Array:
    return np.maximum(_disk(u, v), 0.85 - np.sqrt((u - 0.5) ** 2 + v * v))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "crescent": _crescent,
    "cross": _cross,
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}

# --- Textures: a pattern in [-1, 1] over the whole picture -----------------------------------------------------------


def _wave(x: Array, y: Array, frequency: float, angle: float, phase: float = 0.0) -> Array:
    """A plane wave of so many periods per side."""
    # The sum under the sine separates into a column and a row, each of them short.
    a, b = 2 * pi * frequency * cos(angle), 2 * pi * frequency * sin(angle)
    wave: Array = np.sin(a * x + (b * y + phase))
    return wave


def _stripes(x: Array, y: Array, angle: float, frequency: float) -> Array:
    return _wave(x, y, frequency, angle)


def _checks(x: Array, y: Array, angle: float, frequency: float) -> Array:
    product: Array = 2 * _wave(x, y, frequency, angle) * _wave(x, y, frequency, angle + pi / 2)
    return product


def _honeycomb(x: Array, y: Array, angle: float, frequency: float) -> Array:
    waves = np.stack([_wave(x, y, frequency, angle + k * pi / 3, pi / 2) for k in range(3)])
    honeycomb: Array = waves.sum(0, dtype=np.float32) / np.float32(1.5)
    return honeycomb


def _ripples(x: Array, y: Array, angle: float, frequency: float) -> Array:
    bend = 2.2 * _wave(x, y, frequency / 2, angle + pi / 2)
    a, b = 2 * pi * frequency * cos(angle), 2 * pi * frequency * sin(angle)
    rippled: Array = np.sin(a * x + b * y + bend)
    return rippled


# Each class has its surface as well as its outline.
SURFACES: dict[str, tuple[Callable[[Array, Array, float, float], Array], float]] = {
    "crescent": (_stripes, 7),
    "cross": (_stripes, 12),
    "disk": (_checks, 5),
    "ring": (_checks, 9),
    "square": (_honeycomb, 7),
    "star": (_honeycomb, 11),
    "triangle": (_ripples, 9),
}


def _surface(rng: Generator, shape: str, x: Array, y: Array) -> Array:
    pattern, frequency = SURFACES[shape]
    shift = rng.uniform(0, 1, 2).astype(np.float32)
    drawn: Array = pattern(x + shift[0], y + shift[1], rng.uniform(0, pi), frequency * rng.uniform(0.92, 1.08))
    return drawn


def _ground(rng: Generator, x: Array, y: Array) -> Array:
    """Irregular noise, as fine and as strong as the surfaces, so that busyness does not give the object away."""
    cells = int(rng.integers(14, 30))
    # Bilinear interpolation of a coarse random grid, as one matrix product per axis.
    weights = _clip(1 - np.abs(x.T * (cells - 1) - np.arange(cells, dtype=np.float32)))
    grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    pattern: Array = 1.4 * (weights @ grid @ weights.T)
    return pattern


def _shade(rng: Generator, x: Array, y: Array) -> Array:
    """A slow gradient of colour over the picture, ``(3, S, S)``: no single background colour."""
    angle = rng.uniform(0, 2 * pi)
    ramp = cos(angle) * (x - 0.5) + sin(angle) * (y - 0.5)
    slope = rng.uniform(-0.5, 0.5, 3).astype(np.float32)
    shade: Array = slope[:, None, None] * ramp
    return shade


def _paint(rng: Generator, color: Array, pattern: Array) -> Array:
    """A colour, moved to either side by a pattern, more in some channels than in others: ``(3, S, S)``."""
    direction = (AMPLITUDE * rng.choice((-1, 1)) * rng.uniform(0.5, 1, 3)).astype(np.float32)
    painted: Array = color[:, None, None] + direction[:, None, None] * pattern
    return painted


def _clip(values: Array) -> Array:
    clipped: Array = np.clip(values, 0, 1)
    return clipped


def _colors(rng: Generator) -> tuple[Array, Array]:
    """Two colours at least ``CONTRAST`` apart. Neither role is favoured, so neither is the brighter one as a rule."""
    while True:
        first, second = rng.uniform(0.15, 0.85, (2, 3)).astype(np.float32)
        if np.linalg.norm(first - second) >= CONTRAST:
            return first, second


# --- Distractors: polylines, whose strokes are as wide and as bright as the object's parts ---------------------------


def _polyline(rng: Generator) -> tuple[Array, float]:
    """The corners ``(n, 2)`` of a segment, blob, arc or scribble around the origin, and the stroke's half width."""
    kind = rng.integers(4)
    if kind == 0:
        angle, length = rng.uniform(0, pi), rng.uniform(0.08, 0.18)
        return np.array([[-cos(angle), -sin(angle)], [cos(angle), sin(angle)]], np.float32) * length, 0.016
    if kind == 1:
        return rng.uniform(-0.02, 0.02, (2, 2)).astype(np.float32), rng.uniform(0.025, 0.045)
    if kind == 2:
        angles = rng.uniform(0, 2 * pi) + np.linspace(0, rng.uniform(1.5, 3.5), 7)
        radius = rng.uniform(0.05, 0.12)
        return (np.stack([np.cos(angles), np.sin(angles)], 1) * radius).astype(np.float32), 0.014
    return np.cumsum(rng.uniform(-0.09, 0.09, (8, 2)), axis=0).astype(np.float32), 0.012


def _draw_distractor(rng: Generator, canvas: Array, color: Array) -> None:
    """Draw one polyline onto ``canvas`` ``(3, S, S)``, in the window that it needs."""
    side = canvas.shape[-1]
    corners, width = _polyline(rng)
    corners = (corners + rng.uniform(0.08, 0.92, 2).astype(np.float32)) * side
    margin = width * side + 1
    left, top = np.maximum(corners.min(0) - margin, 0).astype(int)
    right, bottom = np.minimum(corners.max(0) + margin + 1, side).astype(int)
    if left >= right or top >= bottom:
        return  # a scribble may walk off the picture
    # Distance from each pixel to each segment start + t * step, t in [0, 1].
    start, step = corners[:-1, :, None, None], np.diff(corners, axis=0)[:, :, None, None]
    dx = np.arange(left, right, dtype=np.float32) + 0.5 - start[:, 0]
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] + 0.5 - start[:, 1]
    length = (step * step).sum(1) + 1e-6
    t = _clip((dx * step[:, 0] + dy * step[:, 1]) / length)
    distance = np.sqrt(((dx - t * step[:, 0]) ** 2 + (dy - t * step[:, 1]) ** 2).min(0))
    alpha = _clip(0.5 + width * side - distance)
    window = canvas[:, top:bottom, left:right]
    window += alpha * (color[:, None, None] - window)


# --- The picture -----------------------------------------------------------------------------------------------------


def render(rng: Generator, shape: str, side: int) -> tuple[Pixels, Mask]:
    """Return a drawn picture ``(side, side, 3)`` uint8, and its shape's pixels ``(side, side)`` bool.

    A pixel belongs to the shape when at least half of it is covered.

    Args:
        rng: decides all but the shape.
        shape: a key of :data:`SHAPES`.
        side: height and width in pixels.

    Raises:
        KeyError: ``shape`` is no key of :data:`SHAPES`.
    """
    x = (np.arange(side, dtype=np.float32)[None] + 0.5) / side
    y = x.T
    background_color, object_color = _colors(rng)
    canvas = _paint(rng, background_color, _ground(rng, x, y)) + _shade(rng, x, y)
    for _ in range(rng.integers(2, 6)):
        # Half of them in the object's own colour, so that colour alone does not tell them apart.
        color = object_color if rng.random() < 0.5 else rng.random(3, dtype=np.float32)
        _draw_distractor(rng, canvas, color)

    radius = rng.uniform(*RADIUS)
    margin = radius + 1 / side
    center_x, center_y = rng.uniform(margin, 1 - margin), rng.uniform(margin, 1 - margin)
    angle = rng.uniform(0, 2 * pi)
    dx, dy = (x - center_x) / radius, (y - center_y) / radius
    u, v = cos(angle) * dx + sin(angle) * dy, cos(angle) * dy - sin(angle) * dx
    alpha = _clip(0.5 - SHAPES[shape](u, v) * (radius * side))
    canvas += alpha * (_paint(rng, object_color, _surface(rng, shape, x, y)) - canvas)

    grain = np.frombuffer(rng.bytes(canvas.size), np.uint8).reshape(canvas.shape)
    pixels = np.clip(canvas * 255 + (grain * np.float32(12 / 255) - 6) + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)), alpha >= 0.5
