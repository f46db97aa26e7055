"""AID: train an interpreter against the attack on it (paper section 6 and appendix A2, Eqn 16)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, Self, get_args

import torch
from torch import Generator, Tensor, nn

from lightning_adv2.attacks import ADV2, Preset, run_attack, steady
from lightning_adv2.functional.agreement import map_l1
from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.interpreters import TrainableInterpreter
from lightning_adv2.models import Classifier
from lightning_adv2.modules.objectives import InterpreterLoss
from lightning_adv2.modules.perturbations import Perturbations, in_levels
from lightning_adv2.modules.training import InterpreterTraining
from lightning_adv2.types import Batch

Schedule = Literal["weigh", "alternate"]


class AIDModule(InterpreterTraining):
    """Minimise L_int(theta) + w_aid L_aid(theta), L_aid = -||g(x; theta) - g(A(x); theta)||_1, A the attack on g now.

    L_aid alone rewards whatever changes the map, so two things hold it. On benign images the map must stay that of the
    *teacher*, the interpreter as it came: for the true class c and for the target class c_t, or g could tell c from
    c_t and leave the attack alone. And one half of L_aid compares maps for one class: attacked and benign image both
    explained for c, both for c_t. The other half is what people look at: the attacked one's map for c_t beside the
    benign one's for c.

    The attack sees the interpreter in eval mode, takes a fixed number of steps, and all that is drawn belongs to the
    image and the step, so that two processes train as one does with the whole batch. BatchNorm keeps the statistics
    that it came with, here and in the attack: g is one function, whatever else is in the batch.

    Args:
        classifier: f, explained and attacked; frozen.
        interpreter: g, trained already; its encoder should be trained as well (``train_encoder``), for a decoder alone
            does not resist.
        attack: A; None takes ADV2 in its ``fast`` schedule with 10 steps, or 3 where it is warm-started. Few steps from
            nothing make a defence that more steps undo.
        warm_start: the attack on an image goes on from where the last one on it ended, with steps of a constant size
            and towards the same target class, so that the steps of all epochs add up. Pays where images come back
            often: several epochs over some thousand images. Takes ``C * H * W`` bytes of memory per training image
            and a data module with ``dataset("train")``.
        step_size: of a warm-started attack, in units of the pixel range.
        interpreter_loss: L_int beside the agreement with the teacher, such as :class:`MaskLoss`; None for none.
        aid_weight: of L_aid.
        agreement_weight: of the mean L1 distance from the teacher's maps.
        schedule: ``weigh`` adds all losses up at every step; ``alternate`` takes L_int at even, L_aid at odd steps.
        learning_rate: Adam's; decays along a cosine.
        weight_decay: Adam's.
        seed: for target classes and whatever attack and losses draw.

    Raises:
        ValueError: nothing of the interpreter can be trained; an unknown ``schedule``; a negative weight.
    """

    def __init__(
        self,
        classifier: Classifier,
        interpreter: TrainableInterpreter,
        attack: Preset | None = None,
        interpreter_loss: InterpreterLoss | None = None,
        aid_weight: float = 1.0,
        agreement_weight: float = 1.0,
        schedule: Schedule = "weigh",
        warm_start: bool = False,
        step_size: float = 2 / 255,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, interpreter)
        if schedule not in get_args(Schedule):
            raise ValueError(f"schedule={schedule!r}: take one of {', '.join(get_args(Schedule))}")
        if min(aid_weight, agreement_weight) < 0:
            raise ValueError(f"aid_weight={aid_weight}, agreement_weight={agreement_weight}: give 0 or more")
        if not self.trained:
            raise ValueError("interpreter: nothing in it can be trained; is everything frozen?")
        self.save_hyperparameters(ignore=["classifier", "interpreter", "attack", "interpreter_loss"])
        self.teacher = deepcopy(interpreter).requires_grad_(False).eval()
        self.attack = (attack or ADV2(steps=3 if warm_start else 10)).against(interpreter)
        if warm_start:
            self.attack = steady(self.attack, step_size)
        self._perturbations: Perturbations | None = None
        self._restored: Tensor | None = None
        self.interpreter_loss = interpreter_loss
        self._seconds, self._since = 0.0, time.perf_counter()

    def description(self) -> dict[str, Any]:
        """What a training is compared by, beside its hyper-parameters."""
        return {"attack": self.attack, "interpreter_loss": self.interpreter_loss}

    def train(self, mode: bool = True) -> Self:
        """Everything stays in eval mode: nothing here has a train mode of its own but BatchNorm."""
        super().train(mode)
        self.interpreter.eval()
        self.teacher.eval()
        return self

    def on_fit_start(self) -> None:
        """Measure the attack's share of the time from here; make room for its perturbations.

        Raises:
            TypeError: ``warm_start`` without a data module that knows its training images.
        """
        self._seconds, self._since = 0.0, time.perf_counter()
        if not self.hparams["warm_start"]:
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "dataset"):
            raise TypeError("warm_start=True needs a data module with dataset('train'); give one, or leave it out")
        images = data.dataset("train")
        made = Perturbations([images.image_id(i) for i in range(len(images))], images[0]["images"].shape)
        if self._restored is not None:
            made.levels = self._restored
        self._perturbations, self._restored = made, None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained, and where the attacks are."""
        super().on_save_checkpoint(checkpoint)
        if self._perturbations is not None:
            checkpoint["perturbations"] = self._perturbations.levels

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Attacks go on from where they were."""
        self._restored = checkpoint.get("perturbations")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step; every term is logged by itself, and the share of the time that went into the attack."""
        h, images, label = self.hparams, batch["images"], batch["label"]
        generators = image_generators(h["seed"], batch["image_id"], f"aid {self.global_step}")
        # An attack that goes on from its last perturbation keeps its aim.
        aims = image_generators(h["seed"], batch["image_id"], "target_class") if h["warm_start"] else generators
        target_class = draw_target_class(label, self.classifier.num_classes, aims)
        reacts = h["schedule"] == "weigh" or self.global_step % 2 == 1
        keeps = h["schedule"] == "weigh" or not reacts
        terms: dict[str, Tensor] = {}
        with torch.set_grad_enabled(keeps):
            benign = self.interpreter.maps(images, label, target_class)
        if keeps:
            with torch.no_grad():
                wanted = self.teacher.maps(images, label, target_class)
            terms["agreement"] = h["agreement_weight"] * _mean_l1(benign, wanted)
            if self.interpreter_loss is not None:
                losses = self.interpreter_loss(self.classifier, images, label, benign[0], generators)
                terms |= {name: loss.mean() for name, loss in losses.items()}
        if reacts:
            kept = [shown.detach() for shown in benign]
            adv_images = self._attack(batch, target_class, kept[0], generators)
            attacked = self.interpreter.maps(adv_images, label, target_class)
            # Half of it where the attack fights it: the attacked image for c_t beside the benign one for c. By thirds,
            # c's own pixels would be pulled both ways, for the benign map for c_t is nearly empty there.
            seen = _mean_l1([attacked[1]], [kept[0]])
            terms["aid"] = -h["aid_weight"] * 0.5 * (_mean_l1(attacked, kept) + seen)
        total = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        # Touches every parameter: DDP waits for all gradients, and the encoder's own head has none here.
        return total + 0.0 * torch.stack([parameter.sum() for parameter in self.trained]).sum()

    def _attack(
        self, batch: Batch, target_class: Tensor, target_map: Tensor, generators: Sequence[Generator]
    ) -> Tensor:
        """A(x) ``(B, C, H, W)``; no gradient reaches a parameter, and no lower precision the attack."""
        begun, images, kept = time.perf_counter(), batch["images"], self._perturbations
        rows = None if kept is None else kept.rows(batch["image_id"])
        with frozen(self.interpreter), torch.autocast(images.device.type, enabled=False):
            result = run_attack(
                self.attack, self.classifier, self.interpreter, images, target_class, target_map,
                generators=generators, start=None if kept is None or rows is None else kept.get(rows, images),
            )  # fmt: skip
        if kept is not None and rows is not None:
            # All processes keep all perturbations: the next epoch deals the images out in another way.
            levels = in_levels(images, result.adv_images)
            shared: Any = self.all_gather((rows.to(images.device), levels))
            kept.put(shared[0].reshape(-1), shared[1].reshape(-1, *levels.shape[1:]))
        asr = float(result.success.float().mean())  # waits for the device, so the time is taken after it
        now = time.perf_counter()
        self._seconds += now - begun
        self.log_dict({"train/attack_share": self._seconds / (now - self._since), "train/asr": asr})
        return result.adv_images


def _mean_l1(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The mean over pairs of maps and images."""
    return torch.stack([map_l1(a, b).mean() for a, b in zip(first, second, strict=True)]).mean()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of a module gathers a gradient within: graphs through it reach the image alone, and cost less."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
