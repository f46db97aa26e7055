from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_adv2.functional.symmetry import apply_dihedral


def test_eight_different_images_each_its_own_and_the_group_of_the_square() -> None:
    image = torch.arange(2 * 5 * 5).view(1, 2, 5, 5).float()
    found = apply_dihedral(image.repeat(8, 1, 1, 1), torch.arange(8))
    assert torch.equal(found[0], image[0])
    quarter_turns = [np.rot90(image[0].numpy(), k, (1, 2)) for k in range(4)]
    group = {one.tobytes() for one in quarter_turns} | {one[:, :, ::-1].tobytes() for one in quarter_turns}
    assert {one.numpy().tobytes() for one in found} == group
    assert len(group) == 8


def test_only_square_images() -> None:
    with pytest.raises(ValueError, match=r"images=\(1, 3, 4, 5\): only square"):
        apply_dihedral(torch.zeros(1, 3, 4, 5), torch.zeros(1, dtype=torch.int64))
