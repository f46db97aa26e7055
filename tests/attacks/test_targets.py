from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import lattice_images, other_class, small_classifier
from jsonargparse import ArgumentParser
from PIL import Image

from lightning_adv2.attacks import targets
from lightning_adv2.attacks.targets import BenignMap, MapFile, RandomClass, RandomPatch, Target, TargetRequest
from lightning_adv2.functional.random import image_generators
from lightning_adv2.interpreters import Gradient
from lightning_adv2.runtime.describe import describe

IDS = ["val/cat/0.png", "val/cat/1.png", "val/dog/0.jpg", "4"]


def request(dtype: torch.dtype = torch.float64, partners: bool = True) -> TargetRequest:
    classifier, images = small_classifier(dtype=dtype), lattice_images(4, seed=3, dtype=dtype)
    interpreter, target_class = Gradient(pool=2), other_class(classifier, images)
    label = (target_class - 1) % 4
    return TargetRequest(
        classifier=classifier,
        interpreter=interpreter,
        images=images,
        label=label,
        target_class=target_class,
        benign_map=interpreter.explain(classifier, images, label).attribution_map,
        image_id=IDS,
        generators=image_generators(0, IDS, "target_map"),
        other_images=lattice_images(4, seed=5, dtype=dtype) if partners else None,
        other_label=(target_class + 2) % 4 if partners else None,
    )


def part(whole: TargetRequest, index: list[int]) -> TargetRequest:
    """The request for some of the images, with fresh generators."""
    assert whole.other_images is not None
    assert whole.other_label is not None
    names = [whole.image_id[i] for i in index]
    return replace(
        whole,
        images=whole.images[index],
        label=whole.label[index],
        target_class=whole.target_class[index],
        benign_map=whole.benign_map[index],
        image_id=names,
        generators=image_generators(0, names, "target_map"),
        other_images=whole.other_images[index],
        other_label=whole.other_label[index],
    )


def write_npy(folder: Path, seed: int = 0) -> Path:
    """A random map for each image, twice the map's size."""
    rng = np.random.default_rng(seed)
    for name in IDS:
        file = folder / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, rng.random((16, 16)))
    return folder


TARGETS: dict[str, Any] = {
    "benign": lambda folder: BenignMap(),
    "patch": lambda folder: RandomPatch(),
    "class": lambda folder: RandomClass(),
    "file": lambda folder: MapFile(write_npy(folder)),
}
each = pytest.mark.parametrize("name", TARGETS)


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_target_is_a_map_like_the_benign_one(name, dtype, tmp_path):
    target, asked = TARGETS[name](tmp_path), request(dtype)
    found = target(asked)
    assert target.name == name
    assert found.shape == asked.benign_map.shape
    assert found.dtype == dtype
    assert found.amin() >= 0
    assert found.amax() <= 1
    assert found.flatten(1).std(1).amin() > 0
    assert not found.requires_grad


@each
def test_a_target_depends_on_its_own_image_alone(name, tmp_path):
    target, asked = TARGETS[name](tmp_path), request()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    together = target(asked)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(target(part(asked, [0, 1, 2, 3])), together)
    for index in ([2], [0], [3, 1]):
        torch.testing.assert_close(target(part(asked, index)), together[index], rtol=0, atol=1e-12)
    assert target(part(asked, [])).shape == (0, 1, 8, 8)


@each
def test_a_target_is_named_by_its_class_path(name, tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--target", type=Target)
    path = f"{targets.__name__}.{type(TARGETS[name](tmp_path)).__name__}"
    arguments = [f"--target.path={tmp_path}"] if name == "file" else []
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # renamed in jsonargparse 4.49
    made = instantiate(parser.parse_args([f"--target={path}", *arguments])).target
    assert made.name == name
    asked = request()
    assert torch.equal(made(asked), TARGETS[name](tmp_path)(request()))


def test_the_benign_target_is_the_benign_map():
    asked = request()
    assert torch.equal(BenignMap()(asked), asked.benign_map)


def test_patches_differ_between_images_and_seeds():
    asked = request()
    first = RandomPatch()(asked)
    other = RandomPatch()(replace(asked, generators=image_generators(1, IDS, "target_map")))
    assert len({tuple(one.flatten().tolist()) for one in torch.cat([first, other])}) == 8
    assert ((first == 0) | (first == 1)).all()


def test_the_class_target_is_the_partners_map_for_its_own_class():
    asked = request()
    assert asked.other_images is not None
    assert asked.other_label is not None
    found = RandomClass()(asked)
    for i in range(4):
        pixels = asked.other_images[i : i + 1].clone().requires_grad_()
        asked.classifier(pixels)[0, asked.other_label[i]].backward()
        assert pixels.grad is not None
        strength = torch.nn.functional.avg_pool2d(pixels.grad.abs().amax(1, keepdim=True), 2)[0]
        expected = (strength - strength.min()) / (strength.max() - strength.min())
        torch.testing.assert_close(found[i], expected, rtol=1e-6, atol=1e-9)
    assert (found - asked.benign_map).abs().amax() > 0.1


def test_the_class_target_needs_partners_of_another_class():
    with pytest.raises(ValueError, match=r"other_images.*AttackDataModule\(partners=True\)"):
        RandomClass()(request(partners=False))
    asked = request()
    assert asked.other_label is not None
    asked.other_label[2] = asked.target_class[2]
    with pytest.raises(ValueError, match=r"other_label.*'val/dog/0.jpg'.*target class"):
        RandomClass()(asked)


def test_a_folder_holds_each_images_own_map(tmp_path):
    found = MapFile(write_npy(tmp_path))(request())
    for one, name in zip(found, IDS, strict=True):
        # Halved, bilinear interpolation hits the middle of four pixels.
        stored = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_allclose(one[0].numpy(), stored.reshape(8, 2, 8, 2).mean((1, 3)), rtol=0, atol=1e-12)


def test_one_file_serves_all_images_enlarged_like_pillow_does(tmp_path):
    small = np.random.default_rng(0).random((3, 5)).astype(np.float32)
    np.save(tmp_path / "map.npy", small[None])
    found = MapFile(str(tmp_path / "map.npy"))(request(torch.float32))
    expected = np.asarray(Image.fromarray(small).resize((8, 8), Image.Resampling.BILINEAR))
    for one in found:
        np.testing.assert_allclose(one[0].numpy(), expected, rtol=0, atol=1e-6)
    found[0] = 0  # no two images share memory
    assert found[1].any()


@pytest.mark.parametrize(("dtype", "levels"), [(np.uint8, 255), (np.uint16, 65535), (np.bool_, 1)])
def test_grey_images_are_maps(tmp_path, dtype, levels):
    pixels = (np.random.default_rng(0).random((8, 8)) * (levels + 0.99)).astype(dtype)
    pixels.flat[:2] = 0, levels
    Image.fromarray(pixels).save(tmp_path / "map.PNG")
    found = MapFile(tmp_path / "map.PNG")(request())
    np.testing.assert_allclose(found[0, 0].numpy(), pixels.astype(np.float64) / levels, rtol=0, atol=1e-12)
    (tmp_path / "4.png").write_bytes((tmp_path / "map.PNG").read_bytes())
    assert torch.equal(MapFile(tmp_path)(part(request(), [3])), found[:1])


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere' does not exist.*\.npy"):
        MapFile(tmp_path / "nowhere")
    (tmp_path / "map.txt").touch()
    with pytest.raises(ValueError, match=r"map\.txt.*\.png"):
        MapFile(tmp_path / "map.txt")
    write_npy(tmp_path)
    (tmp_path / "val/dog/0.jpg.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"'val/dog/0.jpg' has no map.*dog/0\.jpg\.npy"):
        MapFile(tmp_path)(request())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((8, 8), 1.01), r"lie in \[1.01, 1.01\].*255"),
        (np.full((8, 8), 200, np.uint8), r"lie in \[200, 200\].*255"),
        (np.full((8, 8), -0.01), r"lie in \[-0.01, -0.01\]"),
        (np.where(np.eye(8) > 0, np.nan, 0.5), "without NaN"),
        (np.where(np.eye(8) > 0, np.inf, 0.5), "lie in .*inf"),
        (np.zeros((2, 8, 8)), r"shape is \(2, 8, 8\)"),
        (np.zeros(8), r"shape is \(8,\)"),
        (np.zeros((0, 8)), r"shape is \(0, 8\)"),
        (np.zeros((8, 8), np.complex64), "no array of real numbers"),
        (np.array([["x"]]), "no array of real numbers"),
        (np.array([[{}]], object), r"cannot be read as a map.*allow_pickle"),
    ],
)
def test_a_file_without_a_map_is_refused(tmp_path, values, message):
    np.save(tmp_path / "map.npy", values)
    with pytest.raises(ValueError, match=rf"map\.npy: .*{message}"):
        MapFile(tmp_path / "map.npy")(request())


def test_a_damaged_or_coloured_file_is_refused(tmp_path):
    for name in ("empty.npy", "empty.png"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as a map"):
            MapFile(tmp_path / name)(request())
    np.savez(tmp_path / "several.npz", np.zeros((8, 8)))
    (tmp_path / "several.npz").rename(tmp_path / "several.npy")
    with pytest.raises(ValueError, match=r"several\.npy: .*no array"):
        MapFile(tmp_path / "several.npy")(request())
    Image.new("RGB", (8, 8)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match=r"colour\.png: .*'RGB'.*convert"):
        MapFile(tmp_path / "colour.png")(request())


def test_promise_5_maps_from_files_are_compared_by_what_is_in_them(tmp_path):
    folder = write_npy(tmp_path / "maps")
    before = describe(MapFile(folder))
    folder.rename(tmp_path / "moved")
    moved = MapFile(tmp_path / "moved")
    assert describe(moved) == before
    file = next((tmp_path / "moved").rglob("*.npy"))
    single = describe(MapFile(file))
    np.save(file, 1 - np.load(file))
    assert describe(moved) != before
    assert describe(MapFile(file)) != single
    np.save(file, 1 - np.load(file))
    file.rename(file.with_name("another.npy"))
    assert describe(moved) != before, "another image's map"
