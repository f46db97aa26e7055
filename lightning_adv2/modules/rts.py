"""Training of the RTS interpreter (Dabkowski and Gal 2017; Eqn 15 of the paper)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lightning_adv2.interpreters import RTS
from lightning_adv2.models import Classifier
from lightning_adv2.modules.objectives import MaskLoss
from lightning_adv2.modules.training import InterpreterTraining
from lightning_adv2.types import Batch


class RTSModule(InterpreterTraining):
    """L_int = w_tv r_tv(m) + w_area r_av(m) - w_keep log f_c(phi(x; m)) + w_drop f_c(phi(x; 1 - m))^power (Eqn 15).

    Phase 1 trains the class selector alone: is the class asked for in the image? Phase 2 trains the decoder as well;
    for a class that is not in the image the mask must be empty (Dabkowski and Gal 2017, section 4).

    Args:
        classifier: f, explained; frozen.
        interpreter: the RTS to train; its encoder is frozen, unless it came with ``train_encoder``.
        selector_steps: length of phase 1 in optimiser steps.
        selector_fake: share of absent classes in phase 1.
        decoder_fake: share of absent classes in phase 2.
        tv_weight: lambda_1.
        area_weight: lambda_2.
        area_power: exponent of the mean mask, in (0, 1].
        preserve_weight: weight of the preserver.
        destroy_weight: lambda_3.
        destroy_power: lambda_4, in (0, 1].
        blur_probability: share of the images that phi blends with their blurred copies, not with a random colour.
        learning_rate: Adam's; decays along a cosine.
        weight_decay: Adam's.

    Raises:
        ValueError: the encoder has other classes than the classifier, or is the classifier itself.
    """

    def __init__(
        self,
        classifier: Classifier,
        interpreter: RTS,
        selector_steps: int = 300,
        selector_fake: float = 0.5,
        decoder_fake: float = 0.3,
        tv_weight: float = 0.5,
        area_weight: float = 8.0,
        area_power: float = 0.3,
        preserve_weight: float = 0.3,
        destroy_weight: float = 1.0,
        destroy_power: float = 0.3,
        blur_probability: float = 0.5,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__(classifier, interpreter)
        self.save_hyperparameters(ignore=["classifier", "interpreter"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one step of either phase, ``()``; logs every term.

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        h, images, label = self.hparams, batch["images"], batch["label"]
        selecting = self.global_step < h["selector_steps"]
        fake_share = h["selector_fake"] if selecting else h["decoder_fake"]
        real = torch.rand(len(label), device=label.device) >= fake_share
        shift = torch.randint(1, self.classifier.num_classes, label.shape, device=label.device)
        asked = torch.where(real, label, (label + shift) % self.classifier.num_classes)
        mask: Tensor
        mask, presence, _ = self.interpreter.network(images, asked)
        losses: dict[str, Tensor] = {"presence": F.binary_cross_entropy_with_logits(presence, real.to(presence.dtype))}
        if selecting:
            total = losses["presence"]
        else:
            losses |= self.mask_losses(images, label, mask, real)
            total = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        self.log("train/loss", total, prog_bar=True)
        return self.touching_all(total)

    def mask_losses(self, images: Tensor, label: Tensor, mask: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The weighted terms of L_int, each a mean over the batch, ``()`` (Eqn 15).

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            label: ``(B,)`` in [0, K), the true classes.
            mask: ``(B, 1, h, w)`` in [0, 1].
            real: ``(B,)`` bool; where the class asked for is absent only smoothness and area count.
        """
        h = self.hparams
        loss = MaskLoss(
            h["tv_weight"], h["area_weight"], h["area_power"],
            h["preserve_weight"], h["destroy_weight"], h["destroy_power"], h["blur_probability"],
        )  # fmt: skip
        generator = Generator().manual_seed(int(torch.randint(2**62, ())))
        terms = loss(self.fast_classifier(images), images, label, mask, [generator] * len(images))
        weight = real.to(mask.dtype)
        return {n: (term if n in ("tv", "area") else weight * term).mean() for n, term in terms.items()}
