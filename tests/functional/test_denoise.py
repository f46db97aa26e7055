from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_adv2.functional.denoise import _from_lab, _to_lab, non_local_means


def pixels(image: Tensor) -> np.ndarray:
    """``(C, H, W)`` -> ``(H, W, C)`` uint8."""
    return np.ascontiguousarray((image * 255).round().byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("search", "patch", "strength"), [(11, 3, 4.0), (13, 3, 2.0), (7, 5, 10.0)])
def test_grey_is_opencvs(search: int, patch: int, strength: float, make_images: Callable[..., Tensor]) -> None:
    cv2 = pytest.importorskip("cv2")
    images = make_images(4, side=24)[:, :1]
    smooth = non_local_means(images, search, patch, strength)[:, 0].numpy() * 255
    expected = np.stack([cv2.fastNlMeansDenoising(pixels(i), None, strength, patch, search) for i in images])
    # OpenCV rounds its result and the weights it looks up.
    assert np.abs(smooth - expected).max() < 1
    assert np.abs(smooth - expected).mean() < 0.3


def test_colour_is_opencvs(make_images: Callable[..., Tensor]) -> None:
    cv2 = pytest.importorskip("cv2")
    smooth_images = F.avg_pool2d(make_images(4, side=36), 5, stride=1)  # or there would be little that looks alike
    images = (smooth_images * 255).round() / 255
    options = {"h": 4, "hColor": 4, "templateWindowSize": 3, "searchWindowSize": 11}
    moved, apart, rounding = [], [], []
    for image, smooth in zip(images, non_local_means(images), strict=True):
        bgr = np.ascontiguousarray(pixels(image)[..., ::-1])
        expected = cv2.fastNlMeansDenoisingColored(bgr, None, **options)[..., ::-1].astype(float)
        there_and_back = cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_LBGR2Lab), cv2.COLOR_Lab2LBGR).astype(float)
        moved.append(np.abs(expected - pixels(image)).mean())
        apart.append(np.abs(smooth.permute(1, 2, 0).numpy() * 255 - expected).mean())
        rounding.append(np.abs(there_and_back - bgr).mean())
    # OpenCV works on Lab rounded to 8 bits, which alone moves pixels this far.
    assert np.mean(apart) < 1.5 * np.mean(rounding)
    assert np.mean(apart) < 0.6 * np.mean(moved)


def test_by_the_formula() -> None:
    """One pixel, written out."""
    images = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 20
    h, total, weights = 4 / 255, 0.0, 0.0
    x = images[0, 0].numpy()
    for i in range(2, 7):
        for j in range(2, 7):
            d = ((x[i - 1 : i + 2, j - 1 : j + 2] - x[3:6, 3:6]) ** 2).mean()
            weights += np.exp(-d / h**2)
            total += np.exp(-d / h**2) * x[i, j]
    assert float(non_local_means(images, search=5)[0, 0, 4, 4]) == pytest.approx(total / weights, rel=1e-12)


def test_lab_is_opencvs() -> None:
    cv2 = pytest.importorskip("cv2")
    colours = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    colours[..., 0, :] *= 0.01  # the linear part near black
    expected = cv2.cvtColor(colours[0].permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_LRGB2Lab)
    scale = torch.tensor([100.0, 255.0, 255.0]).view(1, 3, 1, 1)
    np.testing.assert_allclose((_to_lab(colours) * scale)[0].permute(1, 2, 0), expected, atol=0.05)
    torch.testing.assert_close(_from_lab(_to_lab(colours.double())), colours.double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_images_stay(channels: int) -> None:
    flat = torch.full((1, channels, 8, 8), 100 / 255)
    torch.testing.assert_close(non_local_means(flat), flat)


def test_arguments(make_images: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="search=10: the side of a window"):
        non_local_means(make_images(1), search=10)
    with pytest.raises(ValueError, match="patch=0: the side of a window"):
        non_local_means(make_images(1), patch=0)
    with pytest.raises(ValueError, match="strength=0: must be above 0"):
        non_local_means(make_images(1), strength=0)
    with pytest.raises(ValueError, match=r"\(6, 6\) is too small"):
        non_local_means(make_images(1, side=6))
    assert non_local_means(make_images(1, side=7)).shape == (1, 3, 7, 7)
