"""Every hyperparameter changes the parts of a training that its metadata names, and no others."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from automl_cxr.architectures import FAMILIES
from automl_cxr.config import EFFECTS, TrialConfig, used_by_of
from automl_cxr.data.decode import fit_square
from automl_cxr.errors import NotCacheableError
from automl_cxr.model import build, precision
from automl_cxr.model.build import blueprint
from automl_cxr.model.frozen_split import divide_network
from automl_cxr.model.head import pooled_vector
from automl_cxr.model.preprocessing import raw_pixels, scaled_channels
from automl_cxr.records import EpochRecord
from automl_cxr.tasks import UNCERTAIN, UNKNOWN
from automl_cxr.training.epoch_tracker import EpochTracker, Objective
from automl_cxr.training.frozen_base import base_config_of
from automl_cxr.training.losses import build_loss, build_optimizer
from automl_cxr.training.phase_inputs import PIXELS
from automl_cxr.training.sampling import epoch_order, image_weights
from automl_cxr.training.schedules import plan_phases, scheduled_learning_rate
from automl_cxr.training.stack_grouping import StackGroup
from automl_cxr.training.stacked_heads import StackedHeads
from automl_cxr.training.targets import training_targets

N_CLASSES = 3
LABELS = np.repeat([0, 1, 2], [12, 6, 3])
FINDING_LABELS = np.stack([LABELS > 0, LABELS > 1, LABELS % 2], axis=1).astype(int)
FINDING_LABELS[::5] = UNKNOWN, UNCERTAIN, UNCERTAIN
PICTURE = (np.arange(40 * 20).reshape(40, 20) % 251).astype(np.uint8)
BASE = {"image_size": 32, "n_blocks": 2, "filters": 4, "dense_units": 8, "schedule": "constant", "epochs": 4}
STACK = {**BASE, "family": "scratch"}
FUSED = {**BASE, "family": "fused", "image_size": 67}
TRANSFER = {**BASE, "family": "transfer", "backbone": "squeezenet"}
UNFROZEN = {**TRANSFER, "unfreeze": 3}
CONCAT = {**BASE, "family": "concat", "backbone": "squeezenet", "second_backbone": "scratch"}
AUGMENTED = {**STACK, "augmentation": 0.5, "shear": 5.0}
PROBE = {**BASE, "family": "probe", "probe_layers": "squeezenet@6"}
TABLE = {**BASE, "family": "transfer", "backbone": "features", "n_features": 4}
FINDINGS = {**STACK, "task": "multilabel"}
ASYMMETRIC = {**FINDINGS, "loss": "asymmetric"}

# For each hyperparameter: a configuration in which it has an effect, and another value.
CASES = {
    "family": ({**STACK, "image_size": 67}, "fused"),
    "task": (STACK, "multilabel"),
    "image_size": (STACK, 48),
    "fit": (STACK, "crop"),
    "n_features": (TABLE, 5),
    "input_channels": (STACK, 3),
    "scaling": (STACK, "unit"),
    "otsu": (STACK, True),
    "resizer": (STACK, 0.5),
    "downsample": (STACK, 2),
    "layers": (STACK, "conv8k3 pool2"),
    "n_blocks": (STACK, 3),
    "convs_per_block": (STACK, 2),
    "filters": (STACK, 5),
    "filter_growth": (STACK, 1.0),
    "kernel_size": (STACK, 5),
    "batch_norm": (STACK, False),
    "block_dropout": (STACK, 0.2),
    "taps": (FUSED, "5"),
    "backbone": (TRANSFER, "mobilenetv2"),
    "cut": (TRANSFER, "3"),
    "weights": (TRANSFER, "none"),
    "second_backbone": (CONCAT, "squeezenet"),
    "second_cut": (CONCAT, "1"),
    "second_weights": ({**CONCAT, "second_backbone": "squeezenet"}, "none"),
    "heads": ({**CONCAT, "n_dense": 0}, "folder"),
    "projection": (CONCAT, 8),
    "probe_layers": (PROBE, "squeezenet@4+squeezenet@6"),
    "probe_pooling": (PROBE, "average+deviation"),
    "probe_kernel": (PROBE, "rbf"),
    "probe_mirrored": (PROBE, True),
    "logistic_c": (PROBE, 0.1),
    "unfreeze": (UNFROZEN, 4),
    "unfreeze_from": (UNFROZEN, "fire5_squeeze1x1"),
    "frozen_share": ({**UNFROZEN, "learning_rate": 0.1, "fine_tune_rate": 0.1}, 0.5),
    "fine_tune_rate": ({**UNFROZEN, "frozen_share": 0.5}, 0.1),
    "freeze_norm": ({**UNFROZEN, "backbone": "mobilenetv2"}, True),
    "pooling": (STACK, "flatten"),
    "normalise": (STACK, True),
    "n_dense": (STACK, 2),
    "dense_units": (STACK, 9),
    "dense_growth": ({**STACK, "n_dense": 2}, 2.0),
    "dropout": (STACK, 0.1),
    "loss": (STACK, "focal"),
    "focal_gamma": ({**STACK, "loss": "focal"}, 1.0),
    "focal_alpha": ({**STACK, "loss": "focal"}, "0.2,0.3,0.5"),
    "asymmetric_gamma_positive": (ASYMMETRIC, 1.0),
    "asymmetric_gamma_negative": (ASYMMETRIC, 1.0),
    "asymmetric_margin": (ASYMMETRIC, 0.1),
    "label_smoothing": (STACK, 0.1),
    "optimizer": (STACK, "sgd"),
    "learning_rate": (STACK, 0.1),
    "scaled_rate": ({**STACK, "optimizer": "sgd"}, True),
    "warmup": (STACK, 0.2),
    "schedule": (STACK, "cosine"),
    "plateau_factor": ({**STACK, "schedule": "plateau", "patience": 1}, 0.3),
    "plateau_share": ({**STACK, "schedule": "plateau", "patience": 3}, 0.1),
    "weight_decay": (STACK, 0.1),
    "gradient_clip": (STACK, 1.0),
    "weight_average": (STACK, 0.5),
    "batch_size": (STACK, 7),
    "gradient_accumulation": (STACK, 2),
    "epochs": (STACK, 5),
    "patience": (STACK, 2),
    "monitor": (STACK, "loss"),
    "imbalance": (STACK, "oversample"),
    "undersample_ratio": ({**STACK, "imbalance": "undersample"}, 2.0),
    "uncertain_targets": (FINDINGS, "ones"),
    "precision": (STACK, "mixed"),
    "features": (TRANSFER, "float16"),
    "augmentation": (STACK, 0.5),
    "views": ({**TRANSFER, "augmentation": 0.5}, 2),
    "flip": (AUGMENTED, False),
    "rotation_low": (AUGMENTED, -9.0),
    "rotation_high": (AUGMENTED, 9.0),
    "shear": (AUGMENTED, 8.0),
    "shift": (AUGMENTED, 0.2),
    "zoom": (AUGMENTED, 0.2),
    "brightness": (AUGMENTED, 0.4),
    "brightening": (AUGMENTED, "multiply"),
    "contrast": (AUGMENTED, 0.1),
    "fill": (AUGMENTED, "wrap"),
    "seed": (STACK, 1),
}


@pytest.fixture(autouse=True)
def pretend_gpu(monkeypatch):
    """Mixed precision has an effect on a GPU only."""
    monkeypatch.setattr(precision, "has_gpu", lambda: True)
    yield
    keras.config.set_dtype_policy("float32")


def without_seeds(value):
    """Remove seeds, and initializers that contain them, from the configuration of a layer."""
    if isinstance(value, dict):
        return {
            name: without_seeds(item) for name, item in value.items() if name != "seed" and not name.endswith("initializer")
        }
    return [without_seeds(item) for item in value] if isinstance(value, list | tuple) else value


def describe_layers(model):
    return [
        (layer.name, type(layer).__name__, describe_layers(layer))
        if isinstance(layer, keras.Model)
        else (layer.name, type(layer).__name__, getattr(layer, "trainable", None), without_seeds(layer.get_config()))
        for layer in model.layers
    ]


def is_of_head(name):
    return name.startswith(("dense_", "dropout", "probabilities"))


def architecture_and_head(config):
    with blueprint(dataclasses.replace(config, augmentation=0.0), N_CLASSES) as model:
        described = describe_layers(model)
    below = [row for row in described if not is_of_head(row[0])]
    head = [row for row in described if is_of_head(row[0])]
    weights = [branch.weights for branch in config.branches if branch.backbone != "scratch"]
    return (below, weights), (head, str(config.head_file))


def augmentation(config):
    plain = dataclasses.replace(config, otsu=False, image_size=32, n_features=4)
    described = describe_layers(keras.Model(*raw_pixels(plain)))
    with blueprint(dataclasses.replace(config, otsu=False), N_CLASSES) as model:
        try:
            divide_network(model, with_views=config.views > 0)
        except NotCacheableError as reason:
            return described, str(reason) if "augmentation" in str(reason) else ""
    return described, ""


def optimizer(config):
    phases = [dataclasses.replace(phase, n_epochs=4) for phase in plan_phases(config)]
    settings = [build_optimizer(config, phase, n_steps=10).get_config() for phase in phases]
    rates = [scheduled_learning_rate(config, phase, [0.0] * epoch) for phase in phases for epoch in range(4)]
    return settings[0], rates[:4], rates[-4:]


def record(**values):
    rest = dict.fromkeys(("learning_rate", "macro_f1", "loss", "seconds"), 0.0)
    return EpochRecord(phase=1, n_parameters=1, valid_accuracy=0.5, valid_loss=1.0, score=0.5, **{**rest, **values})


def labels_and_targets(config):
    """Return labels for the task of a configuration, and their targets and weights as lists."""
    labels = FINDING_LABELS if config.is_multilabel else LABELS
    targets = training_targets(labels, N_CLASSES, config)
    return labels, [targets.values.tolist(), targets.weights.tolist()]


def training(config):
    tracker = EpochTracker(config, Objective())
    tracker.history = [record(epoch=epoch, image_size=config.image_size) for epoch in (1, 2, 3)]
    long_phase = dataclasses.replace(plan_phases(config)[0], n_epochs=100)
    scored = dataclasses.replace(tracker.history[0], score=0.9, valid_loss=3.0)
    labels, targets = labels_and_targets(config)
    epochs = [epoch_order(labels, N_CLASSES, config, epoch=epoch).tolist() for epoch in (1, 2)]
    square = fit_square(PICTURE, 16, config.fit).tolist()
    return (
        [epochs, targets, config.batch_size, config.images_at_once],
        [phase.n_epochs for phase in plan_phases(config)],
        [tracker.has_more_epochs(1, long_phase), Objective().monitored(scored, config.monitor)],
        [square, config.features if config.branches and config.features != PIXELS else PIXELS],
    )


def parts_of(config):
    """Describe every part of the training of a configuration, by the names of EFFECTS."""
    architecture, head = architecture_and_head(config)
    if not FAMILIES[config.family].has_gradient_steps:
        fit = [labels_and_targets(config)[1], fit_square(PICTURE, 16, config.fit).tolist()]
        sections = (architecture, [head, config.logistic_c], "", "", "", fit)
        return {name: json.dumps(section, sort_keys=True, default=str) for name, section in zip(EFFECTS, sections, strict=True)}
    loss = build_loss(config, N_CLASSES).get_config()
    sections = (architecture, head, loss, optimizer(config), augmentation(config), training(config))
    return {name: json.dumps(section, sort_keys=True, default=str) for name, section in zip(EFFECTS, sections, strict=True)}


def test_there_is_a_case_for_every_hyperparameter():
    assert tuple(CASES) == TrialConfig.names()


@pytest.mark.parametrize("name", CASES)
def test_a_hyperparameter_changes_the_parts_that_it_is_declared_to_affect(name):
    base, value = CASES[name]
    config = TrialConfig.from_values(base)
    changed = dataclasses.replace(config, **{name: value})
    assert config.reads(name) or changed.reads(name)
    before, after = parts_of(config), parts_of(changed)
    declared = {effect for effect in EFFECTS if name in TrialConfig.names_affecting(effect)}
    assert {effect for effect in EFFECTS if before[effect] != after[effect]} == declared


@pytest.mark.parametrize("base", [STACK, FUSED, TRANSFER, CONCAT, PROBE], ids=lambda base: base["family"])
def test_a_hyperparameter_that_a_family_does_not_read_changes_nothing(base):
    config = TrialConfig.from_values(base)
    unread = [name for name in CASES if config.family not in used_by_of(name).families]
    changed = dataclasses.replace(config, **{name: CASES[name][1] for name in unread})
    assert unread
    before, after = parts_of(config), parts_of(changed)
    assert {effect for effect in EFFECTS if before[effect] != after[effect]} == set()


def test_hyperparameters_of_the_head_do_not_change_the_frozen_layers():
    config = TrialConfig.from_values({**TRANSFER, "weights": "imagenet"})
    assert config.trains_head_only
    other = dataclasses.replace(config, n_dense=2, loss="focal", optimizer="sgd", batch_size=5, seed=3, taps="5", views=2)
    assert base_config_of(config) == base_config_of(other)
    for name, value in {"features": "float16", "cut": "3", "otsu": True, "pooling": "max"}.items():
        assert base_config_of(config) != base_config_of(dataclasses.replace(config, **{name: value}))


def with_value(name, value, **values):
    """Return a configuration with an invalid value, as if the value had been added to the rule only."""
    config = TrialConfig.from_values({**STACK, **values})
    object.__setattr__(config, name, value)
    return config


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("loss", lambda config: build_loss(config, N_CLASSES)),
        ("optimizer", lambda config: build_optimizer(config, plan_phases(config)[0], n_steps=1)),
        ("schedule", lambda config: scheduled_learning_rate(config, plan_phases(config)[0], [])),
        ("imbalance", lambda config: epoch_order(LABELS, N_CLASSES, config, epoch=1)),
        ("imbalance", lambda config: image_weights(LABELS, N_CLASSES, config)),
        ("imbalance", lambda config: labels_and_targets(with_value("imbalance", config.imbalance, task="multilabel"))),
        ("monitor", lambda config: Objective().monitored(record(epoch=1, image_size=32), config.monitor)),
        ("scaling", lambda config: scaled_channels(keras.Input((32, 32, 1)), config)),
        ("brightening", lambda config: raw_pixels(with_value("brightening", config.brightening, **AUGMENTED))),
        ("pooling", lambda config: pooled_vector(keras.Input((4, 4, 2)), config)),
        ("precision", precision.resolved_precision),
        ("family", lambda config: build.build_model(config, N_CLASSES, steps_per_epoch=1)),
        ("loss", lambda config: StackedHeads([config], [], StackGroup(4, 3, "adam", 32, 10, 0))),
        ("optimizer", lambda config: StackedHeads([config], [], StackGroup(4, 3, "adam", 32, 10, 0))),
    ],
)
def test_a_value_that_is_not_implemented_is_refused(name, use):
    with pytest.raises((KeyError, NotImplementedError)):
        use(with_value(name, "unknown"))
