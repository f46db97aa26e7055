"""Networks: classifiers behind one contract, smooth surrogates for ReLU, networks that predict maps."""

from lightning_adv2.models.classifier import Classifier, TorchvisionClassifier
from lightning_adv2.models.compiled import compiled_part
from lightning_adv2.models.folding import fold_batchnorm
from lightning_adv2.models.map_network import MapNetwork
from lightning_adv2.models.residual import CifarResNet, ResidualClassifier
from lightning_adv2.models.rts import RTSNetwork
from lightning_adv2.models.student import StudentNetwork
from lightning_adv2.models.surrogate import PaperReLU, PlainReLU, Softplus, Surrogate
from lightning_adv2.models.vit import ViTClassifier
from lightning_adv2.models.weights import load_weights, read_weights, save_weights, weights_hash

__all__ = [
    "CifarResNet",
    "Classifier",
    "MapNetwork",
    "PaperReLU",
    "PlainReLU",
    "RTSNetwork",
    "ResidualClassifier",
    "Softplus",
    "StudentNetwork",
    "Surrogate",
    "TorchvisionClassifier",
    "ViTClassifier",
    "compiled_part",
    "fold_batchnorm",
    "load_weights",
    "read_weights",
    "save_weights",
    "weights_hash",
]
