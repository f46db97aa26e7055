"""Monitoring of the benign maps while an interpreter learns to resist."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.metrics import MapAgreement, MapQuality, relative_losses, says_little
from lightning_adv2.report.benign_quality import write_benign_quality
from lightning_adv2.runtime.exchange import computed
from lightning_adv2.runtime.processes import highest, on_rank_zero

_NEEDED = ("classifier", "interpreter", "teacher")
_DISTANCES = ("agreement_l1", "agreement_l1_other_class")


class BenignQuality(pl.Callback):
    """Compares ``interpreter`` with its frozen ``teacher`` at validations of ``fit``; stops when its maps get worse.

    Logs ``val/benign/{interpreter}/{key}``: ``agreement_l1`` and ``agreement_iou`` with the teacher's maps for the true
    class, the same with ``_other_class`` for a fixed class drawn per image, and ``lost``, the largest loss of
    :func:`lightning_adv2.metrics.relative_losses`. Where a limit is exceeded ``patience`` times in a row, training
    stops. Where the last validation exceeds a limit, the weights of the last validation within the limits (those from
    before training, if there is none) are restored at the end of ``fit``; they are part of the checkpoints, so that a
    resumed run has them. Writes ``benign_quality.json`` and ``figures/benign_quality.png``.

    Args:
        max_agreement_l1: limit of ``agreement_l1`` and of ``agreement_l1_other_class``, in [0, 1].
        max_loss: limit of ``lost``, >= 0; 0.1 allows a tenth.
        patience: number of validations in a row, at least 1.
        order: also compare deletion and insertion (68 forward passes per image and validation).
        seed: for the backgrounds and the other class.

    Attributes:
        validations: one dictionary per validation: ``step``, ``held``, ``lost`` and the measure ``worst``, the
            agreement, and the interpreter's measures.
        teacher: the teacher's measures; empty before the first validation.
        stopped: whether training was stopped.
        kept_step: the step of the kept weights.

    Raises:
        ValueError: a limit below 0, or ``patience`` below 1.
    """

    def __init__(
        self,
        max_agreement_l1: float = 0.1,
        max_loss: float = 0.1,
        patience: int = 1,
        order: bool = True,
        seed: int = 0,
    ) -> None:
        for name, limit in (("max_agreement_l1", max_agreement_l1), ("max_loss", max_loss)):
            if not limit >= 0:
                raise ValueError(f"{name}={limit}: give a limit of 0 or more; 0.1 is the default")
        if patience < 1:
            raise ValueError(f"patience={patience}: give at least 1, the default")
        self.limits = dict.fromkeys(_DISTANCES, max_agreement_l1) | {"lost": max_loss}
        self.patience, self.order, self.seed = patience, order, seed
        self._reset()
        self._metrics: dict[str, Any] = {}

    def _reset(self) -> None:
        self.validations: list[dict[str, Any]] = []
        self.teacher: dict[str, float] = {}
        self.stopped, self.kept_step = False, 0
        self._kept: dict[str, Tensor] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Reset the callback for a fit; a checkpoint is read after this.

        For the arguments see ``pytorch_lightning.Callback``.

        Raises:
            TypeError: the module lacks a classifier, an interpreter or a teacher.
        """
        if stage != "fit":
            return
        missing = [name for name in _NEEDED if not isinstance(getattr(pl_module, name, None), nn.Module)]
        if missing:
            raise TypeError(
                f"{type(pl_module).__name__} has no {' and no '.join(missing)}, which BenignQuality compares; "
                "train with modules.AIDModule, or give your module all three"
            )
        self._reset()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights before training, unless a checkpoint holds others; a stopped training stays stopped.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if not self._kept:
            self._keep(pl_module, trainer.global_step)
        if self.stopped:
            trainer.should_stop = True

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the measures, on the module's device.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if _idle(trainer):
            return
        # The teacher is frozen and so are the images: it is measured once.
        names = ["interpreter"] if self.teacher else ["interpreter", "teacher"]
        self._metrics = {name: MapQuality(self.order, self.seed).to(pl_module.device) for name in names}
        self._metrics |= {suffix: MapAgreement().to(pl_module.device) for suffix in ("", "_other_class")}

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add one batch to the measures of interpreter and teacher.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if _idle(trainer) or not len(batch["images"]):
            return
        classifier, interpreter, teacher = (_part(pl_module, name) for name in _NEEDED)
        images, label, names = batch["images"], batch["label"], batch["image_id"]
        generators = image_generators(self.seed, names, "benign_quality")
        other = draw_target_class(label, classifier.num_classes, generators)
        for suffix, asked in (("", label), ("_other_class", other)):
            shown = interpreter.explain(classifier, images, asked).attribution_map
            taught = teacher.explain(classifier, images, asked).attribution_map
            self._metrics[suffix].update(shown, taught)
            if asked is label:
                for name, maps in (("interpreter", shown), ("teacher", taught)):
                    if name in self._metrics:
                        self._metrics[name].update(classifier, images, label, names, maps, batch.get("mask"))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare with the limits, equally on all processes; keep the weights within the limits, stop beyond them.

        For the arguments see ``pytorch_lightning.Callback``.

        Raises:
            ValueError: none of the teacher's maps is finite.
        """
        if _idle(trainer):
            return
        own = computed(trainer, self._metrics["interpreter"])
        if not self.teacher:
            self.teacher = computed(trainer, self._metrics["teacher"])
        agreement = {
            f"{name}{suffix}": value
            for suffix in ("", "_other_class")
            for name, value in computed(trainer, self._metrics[suffix]).items()
        }
        self._metrics = {}
        if not self.teacher:
            return  # no image at all
        if trainer.is_global_zero and not self.validations and (wrong := says_little(self.teacher.get("area", 0.5))):
            rank_zero_warn(
                f"teacher: its maps are {wrong}, so that there is nothing to keep and nothing to harden: train it anew "
                "with another area_weight, or longer"
            )
        losses = relative_losses(own, self.teacher)
        if not losses:
            raise ValueError(
                "teacher: none of its maps is finite, so there is nothing to compare with; check its weights"
            )
        worst = max(losses, key=lambda name: losses[name])
        measured = {name: agreement.get(name, 1.0) for name in _DISTANCES} | {"lost": losses[worst]}  # none finite: 1
        exceeded = [name for name, limit in self.limits.items() if not measured[name] <= limit]
        held = not highest(trainer, len(exceeded))
        entry = {"step": trainer.global_step, "held": held, **agreement, **measured, "worst": worst, **own}
        # An interrupted validation is repeated when the run continues.
        self.validations = [one for one in self.validations if one["step"] != trainer.global_step] + [entry]
        name = _part(pl_module, "interpreter").name
        pl_module.log_dict({f"val/benign/{name}/{key}": value for key, value in (agreement | measured).items()})
        compared = _compared(worst, own, self.teacher)
        reasons = {name: f"{name} {measured[name]:.3f} > {self.limits[name]:g}" for name in _DISTANCES}
        reasons["lost"] = f"lost {measured['lost']:.1%} > {self.limits['lost']:.1%} ({compared})"
        if trainer.is_global_zero:
            print(
                f"Step {trainer.global_step}: benign maps of {name} and its teacher: L1 {measured['agreement_l1']:.3f} "
                f"(another class {measured['agreement_l1_other_class']:.3f}), "
                f"IoU {agreement.get('agreement_iou', 0.0):.3f}, largest loss {measured['lost']:.1%} ({compared})",
                flush=True,
            )
        if held:
            self._keep(pl_module, trainer.global_step)
        elif self._failures() >= self.patience:
            self.stopped = trainer.should_stop = True
            rank_zero_warn(
                f"Training stops at step {trainer.global_step}: the benign maps of {name} are worse than the "
                f"teacher's: {'; '.join(reasons[one] for one in exceeded)}. The weights of step {self.kept_step} "
                "are given back; raise the weight of the benign loss, or the limits of BenignQuality"
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the kept weights where the last ones exceed a limit, and write the measures.

        For the arguments see ``pytorch_lightning.Callback``.
        """
        if not self.validations:
            rank_zero_warn(
                "BenignQuality: fit ran no validation, so that the quality of the benign maps is unknown; set "
                "val_check_interval"
            )
            return
        interpreter, given_back = _part(pl_module, "interpreter"), not self.validations[-1]["held"]
        if given_back:
            interpreter.load_state_dict(self._kept)
            rank_zero_warn(f"{interpreter.name} has got back its weights of step {self.kept_step}")
        elif (unjudged := trainer.global_step - self.validations[-1]["step"]) > 0:
            rank_zero_warn(
                f"BenignQuality: the benign maps of {interpreter.name} were not compared after the last {unjudged} of "
                f"{trainer.global_step} steps; let a validation fall on the last step (val_check_interval), or take "
                f"the checkpoint of step {self.validations[-1]['step']}"
            )
        if getattr(trainer, "fast_dev_run", False):
            return
        content = {
            "interpreter": interpreter.name,
            "limits": self.limits,
            "patience": self.patience,
            "teacher": self.teacher,
            "validations": self.validations,
            "stopped": self.stopped,
            "given_back": self.kept_step if given_back else None,
        }

        def write() -> bool:
            write_benign_quality(Path(trainer.default_root_dir), content)
            return True

        on_rank_zero(trainer, write)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors for a checkpoint, which load without running code."""
        names = ("validations", "teacher", "stopped", "kept_step", "_kept")
        return {name.removeprefix("_"): getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the measures and weights of a checkpoint.

        Args:
            state_dict: from :meth:`state_dict`.
        """
        self.validations, self.teacher = list(state_dict["validations"]), dict(state_dict["teacher"])
        self.stopped, self.kept_step = state_dict["stopped"], state_dict["kept_step"]
        self._kept = {name: value.cpu() for name, value in state_dict["kept"].items()}

    def _keep(self, pl_module: pl.LightningModule, step: int) -> None:
        state: dict[str, Tensor] = _part(pl_module, "interpreter").state_dict()
        self._kept, self.kept_step = {name: value.detach().cpu().clone() for name, value in state.items()}, step

    def _failures(self) -> int:
        """The number of validations in a row, up to the last, that exceeded a limit."""
        held = [one["held"] for one in reversed(self.validations)]
        return held.index(True) if True in held else len(held)


def _idle(trainer: pl.Trainer) -> bool:
    return bool(trainer.sanity_checking or trainer.state.fn != TrainerFn.FITTING)


def _part(pl_module: pl.LightningModule, name: str) -> Any:
    return getattr(pl_module, name)


def _compared(name: str, own: dict[str, float], teacher: dict[str, float]) -> str:
    values = [f"{means[name]:.3f}" if name in means else "-" for means in (own, teacher)]
    return f"{name} {values[0]}, teacher {values[1]}"
