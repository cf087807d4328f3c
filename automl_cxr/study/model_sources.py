"""The sources of a study: model files and earlier studies from which it takes weights or configurations.

A model file belongs to a study by its place, <study>/trials/00007/model.keras or <study>/ensembles/NAME/members/00007.keras.
Beside it are the hashes of the images of its study, so that a copied trial folder can be checked too.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.architectures import NAMED_WEIGHTS, find_backbone, parse_backbone_layers
from automl_cxr.data.content_hashes import digest_of_files, hash_files
from automl_cxr.encoder_files import is_encoder
from automl_cxr.engine.parameters import Choice
from automl_cxr.engine.space import Space
from automl_cxr.errors import DataError, StudyError, TrialError
from automl_cxr.records import SplitRecord
from automl_cxr.study.image_hashes import HASHES_FILE, ImageHashes, hashes_file_of, short_hashes
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import read_record
from automl_cxr.weight_files import find_file

_SPEC_FILE, _SPLIT_FILE = "study.json", "split.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model file or an earlier study that a study starts from.

    Attributes:
        name: Description for messages, such as "study 'a'".
        images: The images of its study; None if they are unknown.
        gives_weights: Whether weights are taken from it; otherwise only configurations and scores.
    """

    name: str
    images: ImageHashes | None
    gives_weights: bool = True


def find_sources(spec: StudySpec, folder: Path, root: Path) -> list[Source]:
    """Find the sources of a study: the earlier study of its warm start, and the files of its initial weights.

    Args:
        spec: Specification of the study.
        folder: Folder of the study; the earlier study is beside it.
        root: Folder to which its image ids are relative.
    """
    sources = []
    if spec.warm_start is not None:
        images = _known_hashes(folder.with_name(spec.warm_start), root)
        sources.append(Source(name=f"study '{spec.warm_start}'", images=images, gives_weights=False))
    weights_folder = None if spec.weights_folder is None else Path(spec.weights_folder)
    for name in dict.fromkeys((*_values(spec.space, "weights"), *_values(spec.space, "second_weights"))):
        if name not in NAMED_WEIGHTS:
            with contextlib.suppress(TrialError):  # there is no such file; each trial fails with the reason
                sources.append(source_of_model(find_file(name, weights_folder), root))
    if spec.features is not None:
        sources.append(Source(name=f"the encoder of the features in {spec.features}", images=None))
    sources += [Source(name=f"the encoder {find_backbone(name).label}", images=None) for name in _encoders(spec.space)]
    for name in _values(spec.space, "heads"):
        study = Path(name).parent
        if name and study != folder:  # a splice search fits the heads of its own study on its training part
            sources.append(Source(name=f"the fitted heads in {name}", images=_known_hashes(study, root)))
    return sources


def _encoders(space: Space) -> list[str]:
    """List the encoders in ONNX files that the networks of a space may use."""
    probed = [layer.backbone for text in _values(space, "probe_layers") for layer in parse_backbone_layers(text)]
    named = [*_values(space, "backbone"), *_values(space, "second_backbone"), *probed]
    return [name for name in dict.fromkeys(named) if is_encoder(name)]


def _values(space: Space, name: str) -> tuple[str, ...]:
    """Return the values that a hyperparameter may have."""
    searched = next((one.values for one in space.parameters if one.name == name and isinstance(one, Choice)), ())
    return tuple(map(str, searched or ([space.constants[name]] if name in space.constants else [])))


def source_of_model(model: Path, root: Path | None = None, *, name: str = "") -> Source:
    """Return a model file as a source; its images are unknown if it was copied without the hashes beside it.

    Args:
        model: The file.
        root: Folder that may contain the images of the study of the model, besides the recorded folder.
        name: Description for messages; by default the path.
    """
    images = stored_hashes(model)
    if images is None:
        study = study_of_model(model)
        images = None if study is None else _known_hashes(study, root)
    return Source(name=name or f"the weights {model}", images=images)


def stored_hashes(model: Path) -> ImageHashes | None:
    """Return the content hashes beside a model or in its study; None if there are none.

    Raises:
        StudyError: The file is damaged.
    """
    study = study_of_model(model)
    files = [hashes_file_of(model), *([] if study is None else [study / HASHES_FILE])]
    return next((ImageHashes.load(file) for file in files if file.is_file()), None)


def study_of_model(model: Path) -> Path | None:
    """Return the folder of the study in which a model is placed, or None."""
    folders = model.absolute().parents
    for fixed, depth in (("trials", 1), ("ensembles", 2)):
        if len(folders) > depth + 1 and folders[depth].name == fixed:
            return folders[depth + 1]
    return None


def _known_hashes(study: Path, root: Path | None) -> ImageHashes | None:
    if (study / HASHES_FILE).is_file():  # a damaged file is an error, not an unknown source
        return ImageHashes.load(study / HASHES_FILE)
    try:
        return find_hashes(study, root=root)
    except (StudyError, DataError):
        return None


def find_hashes(study: Path, *, root: Path | None = None) -> ImageHashes:
    """Return the content hashes of the images of a study. They are computed and stored for a study of an earlier version.

    Args:
        study: Folder of the study.
        root: Folder that may contain its images, besides the recorded folder.

    Raises:
        StudyError: A file of the study is missing or damaged.
        DataError: The hashes are missing, and the images were moved or have changed.
    """
    file = study / HASHES_FILE
    if file.is_file():
        return ImageHashes.load(file)
    spec = read_record(study / _SPEC_FILE, StudySpec.from_json)
    hashes = _hash_images(spec, read_record(study / _SPLIT_FILE, SplitRecord.from_json), root)
    with contextlib.suppress(OSError):  # without write permission they are computed again
        hashes.save(file)
    return hashes


def _hash_images(spec: StudySpec, split: SplitRecord, root: Path | None) -> ImageHashes:
    """Hash the images of a study, and check that those of the training and validation parts have not changed."""
    data, n_train = Path(spec.data), len(split.train.images)
    recorded = data.parent if data.is_file() else data
    decoded = [*split.train.images, *split.valid.images]
    for folder in [recorded] if root is None else [root, recorded]:
        hashes = hash_files(folder, decoded)
        digest = digest_of_files({image: row.tobytes().hex() for image, row in zip(decoded, hashes, strict=True)})
        if digest == spec.pixels_digest:
            train, valid = short_hashes(hashes[:n_train]), short_hashes(hashes[n_train:])
            return ImageHashes(train=train, valid=valid, test=short_hashes(hash_files(folder, split.test)))
    raise DataError(
        f"Images of study '{spec.name}' are recognised by their content; an earlier version created this study without "
        f"content hashes, and its images are not at {recorded} or have changed. Run `automl-cxr evaluate {spec.name} --split "
        "valid --data DIR` once with their current folder."
    )
