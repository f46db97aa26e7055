"""Train the RTS interpreter (Dabkowski and Gal 2017; Eqn 15 of the paper)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lightning_adv2.functional.losses import area, destruction, preservation, total_variation
from lightning_adv2.functional.masking import blend, uninformative
from lightning_adv2.interpreters import RTS
from lightning_adv2.metrics import MapQuality
from lightning_adv2.models import Classifier
from lightning_adv2.types import Batch


class RTSModule(pl.LightningModule):
    """L_int = w_tv r_tv(m) + w_area r_av(m) - w_keep log f_c(phi(x; m)) + w_drop f_c(phi(x; 1 - m))^power.

    Phase 1 trains the class selector alone: is the class that it is asked for in the image? Phase 2 trains the
    decoder as well; for a class that is not in the image the mask must be empty. At the end of ``fit`` selector and
    decoder lie in ``<default_root_dir>/rts.safetensors``; checkpoints hold them and not the frozen networks.

    Args:
        classifier: f, explained; frozen.
        interpreter: the RTS to train; its encoder is frozen.
        selector_steps: length of phase 1 in optimiser steps.
        selector_fake: share of absent classes in phase 1.
        decoder_fake: share of absent classes in phase 2.
        tv_weight: lambda_1.
        area_weight: lambda_2.
        area_power: exponent of the mean mask.
        preserve_weight: weight of the preserver.
        destroy_weight: lambda_3.
        destroy_power: lambda_4.
        blur_probability: share of the images that phi blends with their blurred selves, not with a random colour.
        learning_rate: Adam's; decays along a cosine.
        weight_decay: Adam's.
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
        super().__init__()
        if classifier.num_classes != interpreter.network.encoder.num_classes:
            raise ValueError(
                f"interpreter: its encoder has {interpreter.network.encoder.num_classes} classes, "
                f"the classifier {classifier.num_classes}; both must be trained on the same task"
            )
        self.save_hyperparameters(ignore=["classifier", "interpreter"])
        self.classifier = classifier.requires_grad_(False).eval()
        self.interpreter = interpreter
        self.quality = MapQuality()
        self.strict_loading = False  # the frozen networks are not in the checkpoints

    def train(self, mode: bool = True) -> RTSModule:
        """Set train mode for what is trained; the classifier stays in eval mode."""
        super().train(mode)
        self.classifier.eval()
        return self

    def on_fit_start(self) -> None:
        """Interpreters come in eval mode; here the decoder is trained."""
        self.interpreter.train()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step of either phase; every term is logged by itself."""
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
            # Touches every parameter, so that DDP does not wait for the decoder's gradients.
            total = losses["presence"] + 0.0 * mask.sum()
        else:
            losses |= self.mask_losses(images, label, mask, real)
            total = torch.stack(list(losses.values())).sum()
        self.log_dict({f"train/{name}": value for name, value in losses.items()})
        self.log("train/loss", total, prog_bar=True)
        return total

    def mask_losses(self, images: Tensor, label: Tensor, mask: Tensor, real: Tensor) -> dict[str, Tensor]:
        """The weighted terms of L_int, each a mean over the batch.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            label: ``(B,)``.
            mask: ``(B, 1, h, w)`` in [0, 1].
            real: ``(B,)`` bool; where the class asked for is absent only smoothness and area count.
        """
        h = self.hparams
        generator = Generator().manual_seed(int(torch.randint(2**62, ())))
        background = uninformative(images, [generator] * len(images), h["blur_probability"])
        weight = real.to(mask.dtype)
        keep = preservation(self.classifier(blend(images, background, mask)), label)
        drop = destruction(self.classifier(blend(images, background, 1 - mask)), label, h["destroy_power"])
        return {
            "tv": h["tv_weight"] * total_variation(mask).mean(),
            "area": h["area_weight"] * area(mask, h["area_power"]).mean(),
            "preserve": h["preserve_weight"] * (weight * keep).mean(),
            "destroy": h["destroy_weight"] * (weight * drop).mean(),
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure what the maps keep, remove and find."""
        images, label = batch["images"], batch["label"]
        if not len(label):
            return
        shown = self.interpreter.explain(self.classifier, images, label).attribution_map
        self.quality.update(self.classifier, images, label, batch["image_id"], shown, batch.get("mask"))

    def on_validation_epoch_end(self) -> None:
        """Log the means over all validation images."""
        values = self.quality.compute()
        self.log_dict({f"val/benign/{self.interpreter.name}/{name}": value for name, value in values.items()})
        self.quality.reset()

    def configure_optimizers(self) -> Any:
        """Adam under a cosine over all steps.

        Its weight decay is decoupled: the coupled one of the RTS authors would be blown up to full steps by Adam where
        the gradient is zero, and wear the decoder away during phase 1.
        """
        trained = [p for p in self.interpreter.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained, lr=self.hparams["learning_rate"], weight_decay=self.hparams["weight_decay"]
        )
        steps = int(self.trainer.estimated_stepping_batches)
        # The length is no part of the schedule's state: a run resumed with more steps follows the longer cosine.
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what is trained."""
        frozen = ("classifier.", "interpreter.network.encoder.")
        checkpoint["state_dict"] = {n: v for n, v in checkpoint["state_dict"].items() if not n.startswith(frozen)}

    def on_fit_end(self) -> None:
        """Write selector and decoder, without pickle; also when a run that is resumed has nothing left to train."""
        self.interpreter.eval()
        if self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            self.interpreter.save(Path(self.trainer.default_root_dir) / "rts.safetensors")
