"""AID: train an interpreter against the attack on it (paper section 6 and appendix A2, Eqn 16)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, Self, get_args

import torch
from torch import Generator, Tensor, nn

from lightning_adv2.attacks import ADV2, AcceleratedCopy, AttackRecipe, PixelDelta, run_attack, with_constant_step
from lightning_adv2.functional.agreement import map_l1
from lightning_adv2.functional.losses import cross_entropy
from lightning_adv2.functional.random import draw_target_class, image_generators
from lightning_adv2.interpreters import TrainableInterpreter
from lightning_adv2.models import Classifier
from lightning_adv2.modules.objectives import InterpreterLoss
from lightning_adv2.modules.perturbations import Perturbations, in_levels
from lightning_adv2.modules.training import InterpreterTraining
from lightning_adv2.types import Batch

Schedule = Literal["weigh", "alternate"]


class AIDModule(InterpreterTraining):
    """Minimises L_int(theta) + w_aid L_aid(theta), L_aid = -||g(x; theta) - g(A(x); theta)||_1, A the attack on g.

    In L_aid only g(A(x)) has a gradient: L_int alone determines g(x) (paper section 6 and appendix A2, Eqn 16).

    L_aid alone rewards every change of the map, so two terms restrain it. On benign images the map must stay that of
    the *teacher*, the interpreter as it came: for the true class c and for the target class c_t, or g could tell c from
    c_t and ignore the attack. And one half of L_aid compares maps for one class: attacked and benign image both
    explained for c, both for c_t. The other half is the comparison that people see: the attacked image's map for c_t
    with the benign image's map for c.

    The attack sees the interpreter in eval mode and takes a fixed number of steps, and all random numbers are fixed by
    image and step, so that two processes train as one process does with the whole batch. BatchNorm keeps its
    statistics, in training and in the attack: g is one function, whatever else is in the batch.

    Args:
        classifier: f, explained and attacked; frozen.
        interpreter: g, trained already; its encoder should be trained as well (``train_encoder``), for a decoder alone
            does not resist.
        attack: A; None takes ADV2 in its ``fast`` schedule with 10 steps, or 3 where it is warm-started. A defence
            trained on few steps from zero does not withstand more steps.
        interpreter_loss: L_int beside the agreement with the teacher, such as :class:`MaskLoss`; None for none.
        aid_weight: of L_aid, >= 0.
        agreement_weight: of the mean L1 distance from the teacher's maps, >= 0.
        encoder_weight: of the cross entropy of the encoder's own decision with c, on benign and attacked images, >= 0:
            its decision must not follow the attack (the reverse of the attacker's l_enc, section 3.4).
        schedule: ``weigh`` adds all losses at every step; ``alternate`` takes L_int at even, L_aid at odd steps.
        warm_start: the attack on an image continues from the end of the last attack on it, with steps of a constant
            size and towards the same target class, so that a few steps in each epoch add up to a strong attack. Pays
            where images recur often: many epochs over some thousand images; see :class:`Perturbations` for the memory.
            Needs a pixel attack and a data module.
        step_size: of a warm-started attack, in units of the pixel range.
        learning_rate: Adam's; decays along a cosine.
        weight_decay: Adam's.
        seed: for target classes and all random numbers of attack and losses.

    Raises:
        TypeError: a warm start of an attack that does not change pixels within a radius of at most 127/255.
        ValueError: nothing of the interpreter can be trained, or its encoder is the classifier itself; an unknown
            ``schedule``; a negative weight.
    """

    def __init__(
        self,
        classifier: Classifier,
        interpreter: TrainableInterpreter,
        attack: AttackRecipe | None = None,
        interpreter_loss: InterpreterLoss | None = None,
        aid_weight: float = 1.0,
        agreement_weight: float = 1.0,
        encoder_weight: float = 0.0,
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
        if not (aid_weight >= 0 and agreement_weight >= 0 and encoder_weight >= 0):
            raise ValueError(
                f"aid_weight={aid_weight}, agreement_weight={agreement_weight}, encoder_weight={encoder_weight}: "
                "give 0 or more"
            )
        if not self.trained:
            raise ValueError("interpreter: nothing in it can be trained; is everything frozen?")
        self.save_hyperparameters(ignore=["classifier", "interpreter", "attack", "interpreter_loss"])
        self.teacher = deepcopy(interpreter).requires_grad_(False).eval()
        self.attack = (attack or ADV2(steps=3 if warm_start else 10)).against(interpreter)
        if warm_start:
            epsilon = getattr(self.attack.perturbation, "epsilon", None)
            if not isinstance(self.attack.perturbation, PixelDelta) or (epsilon or 0) > 127 / 255:
                raise TypeError(
                    f"warm_start=True, but attack {self.attack.name!r} makes a "
                    f"{type(self.attack.perturbation).__name__} with epsilon {epsilon}; only changed pixels within "
                    "127/255 are kept: take Pixels(), or leave warm_start out"
                )
            self.attack = with_constant_step(self.attack, step_size)
        self._perturbations: Perturbations | None = None
        self._restored: dict[str, Any] | None = None
        self.interpreter_loss = interpreter_loss
        self._seconds, self._attack_seconds, self._begun = 0.0, 0.0, 0.0

    def description(self) -> dict[str, Any]:
        """The objects by which trainings are compared, beside the hyper-parameters."""
        return {"attack": self.attack, "interpreter_loss": self.interpreter_loss}

    def train(self, mode: bool = True) -> Self:
        """Keep every part in eval mode: only BatchNorm would behave otherwise in train mode.

        Args:
            mode: of the module's own flag.
        """
        super().train(mode)
        self.interpreter.eval()
        self.teacher.eval()
        return self

    def on_fit_start(self) -> None:
        """Allocate the perturbations of a warm start, one for each training image.

        Raises:
            TypeError: ``warm_start`` without a data module that knows its training images.
            ValueError: the checkpoint's perturbations are of other images.
        """
        if not self.hparams["warm_start"]:
            return
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "dataset"):
            raise TypeError("warm_start=True needs a data module with dataset('train'); give one, or leave it out")
        images = data.dataset("train")
        shape = (self.classifier.mean.shape[1], *images.image_size)
        self._perturbations = Perturbations([images.image_id(i) for i in range(len(images))], shape)
        if self._restored is not None:
            self._perturbations.load_state_dict(self._restored)
            self._restored = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the trained weights and the warm start's perturbations to a checkpoint.

        Args:
            checkpoint: Lightning's.
        """
        super().on_save_checkpoint(checkpoint)
        if self._perturbations is not None:
            checkpoint["perturbations"] = self._perturbations.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the warm start's perturbations from a checkpoint.

        Args:
            checkpoint: Lightning's.
        """
        self._restored = checkpoint.get("perturbations")

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Start the clock of a training step, for the attack's share of the time.

        For the arguments see ``pytorch_lightning.LightningModule``.
        """
        self._begun = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log ``train/attack_share``, the attack's share of the steps' time since ``fit`` began, in [0, 1].

        For the arguments see ``pytorch_lightning.LightningModule``.
        """
        self._seconds += time.perf_counter() - self._begun
        self.log("train/attack_share", self._attack_seconds / self._seconds)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one step, ``()``; logs every term (Eqn 16).

        Args:
            batch: of B images; see :class:`~lightning_adv2.types.Batch`.
            batch_idx: its index in the epoch.
        """
        h, images, label = self.hparams, batch["images"], batch["label"]
        generators = image_generators(h["seed"], batch["image_id"], f"aid {self.global_step}")
        # An attack that continues from its last perturbation keeps its target class.
        aims = image_generators(h["seed"], batch["image_id"], "target_class") if h["warm_start"] else generators
        target_class = draw_target_class(label, self.classifier.num_classes, aims)
        reacts = h["schedule"] == "weigh" or self.global_step % 2 == 1
        keeps = h["schedule"] == "weigh" or not reacts
        terms: dict[str, Tensor] = {}
        with torch.set_grad_enabled(keeps):
            benign, logits = self.interpreter.maps(images, label, target_class)
        if keeps:
            with torch.no_grad():
                wanted, _ = self.teacher.maps(images, label, target_class)
            terms["agreement"] = h["agreement_weight"] * _mean_l1(benign, wanted)
            terms["encoder"] = h["encoder_weight"] * cross_entropy(logits, label).mean()
            if self.interpreter_loss is not None:
                losses = self.interpreter_loss(self.fast_classifier(images), images, label, benign[0], generators)
                terms |= {name: loss.mean() for name, loss in losses.items()}
        if reacts:
            kept = [shown.detach() for shown in benign]
            adv_images = self._attack(batch, target_class, kept[0].to(images.dtype), generators)  # bf16 under autocast
            attacked, logits = self.interpreter.maps(adv_images, label, target_class)
            terms["adv_encoder"] = h["encoder_weight"] * cross_entropy(logits, label).mean()
            # Half of it where the attack fights it: the attacked image for c_t beside the benign one for c. By thirds,
            # c's own pixels would be pulled both ways, for the benign map for c_t is nearly empty there.
            seen = _mean_l1([attacked[1]], [kept[0]])
            terms["aid"] = -h["aid_weight"] * 0.5 * (_mean_l1(attacked, kept) + seen)
        total = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("train/loss", total.detach(), prog_bar=True)
        return self.touching_all(total)

    def _attack(
        self, batch: Batch, target_class: Tensor, target_map: Tensor, generators: Sequence[Generator]
    ) -> Tensor:
        """A(x) ``(B, C, H, W)``; no gradient reaches a parameter, and no lower precision the attack."""
        images, kept = batch["images"], self._perturbations
        if images.is_cuda:
            torch.cuda.synchronize()  # work that began earlier does not count as the attack's
        begun = time.perf_counter()
        rows = None if kept is None else kept.rows(batch["image_id"])
        accelerated = AcceleratedCopy(self.fast_classifier(images), self.interpreter)
        with frozen(self.interpreter), torch.autocast(images.device.type, enabled=False):
            result = run_attack(
                self.attack, self.classifier, self.interpreter, images, target_class, target_map,
                generators=generators, start=None if kept is None or rows is None else kept.get(rows, images),
                accelerated=accelerated,
            )  # fmt: skip
        if kept is not None and rows is not None:
            # All processes keep all perturbations: the next epoch deals the images out in another way.
            # The last iterate, not the best: where that were the start, the attack would stay there for good.
            levels = in_levels(images, result.last_images)
            shared: Any = self.all_gather((rows.to(images.device), levels))
            kept.put(shared[0].reshape(-1), shared[1].reshape(-1, *levels.shape[1:]))
        self.log("train/asr", float(result.success.float().mean()))  # waits for the device
        self._attack_seconds += time.perf_counter() - begun
        return result.adv_images


def _mean_l1(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The mean over pairs of maps and images."""
    return torch.stack([map_l1(a, b).mean() for a, b in zip(first, second, strict=True)]).mean()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """A context in which no parameter of a module requires grad: graphs through it reach the image alone.

    Args:
        module: of any kind; its parameters require grad again afterwards.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
