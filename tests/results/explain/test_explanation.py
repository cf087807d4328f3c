"""Explanations of small networks trained on phantoms with known opacities and markers."""

import csv
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFilter

from automl_cxr import api, cli
from automl_cxr.config import TrialConfig
from automl_cxr.data.decode import decode_image, square_on_picture
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.ensemble.combiners import CalibratedCombiner, Stacking, WeightedAverage
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.model.build import build_model
from automl_cxr.model.fold_average import average_networks
from automl_cxr.results.classifier import Classifier, LoadedClassifier, Member
from automl_cxr.results.explain.classifier_gradcam import ClassifierGradCam, Heatmap, heatmap_on_image
from automl_cxr.results.explain.explanation import ExplanationOptions, explain, write_explanations
from automl_cxr.results.explain.image_batches import predicted_columns
from automl_cxr.results.explain.off_lung_evidence import (
    REGIONS,
    evidence_by_region,
    measure_off_lung_evidence,
    off_lung_warnings,
    summarise_evidence,
)
from automl_cxr.results.explain.overlays import SHOWN_SIDE
from automl_cxr.results.explain.shap_values import TimeIsUpError, shap_values

SIDE = 32
# The last feature maps have 16 positions per side and a receptive field of 18 pixels: an opacity and its surroundings.
LEARNER = TrialConfig(
    family="scratch", image_size=SIDE, layers="conv12k5l bn relu pool2 conv16k5l bn relu conv16k3l bn relu", n_dense=0,
    dropout=0.0, pooling="average", seed=1,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Learned:
    """A network trained on phantoms, and the phantoms of other patients."""

    classifier: Classifier
    held_out: pd.DataFrame


def learn(folder, table, n_epochs):
    """Train on three of four patients, and hold out the fourth."""
    held_out = table["patient_id"].str[-5:].astype(int) % 4 == 0
    pixels = np.stack([decode_image(file) for file in table.loc[~held_out, "file"]])[..., np.newaxis].astype(np.float32)
    columns = (table.loc[~held_out, "label"] == "opacity").to_numpy(np.int32)
    n_steps = -(-len(pixels) // 32)
    network = build_model(LEARNER, 2, steps_per_epoch=n_steps)
    learning_rate = keras.optimizers.schedules.CosineDecay(0.01, n_epochs * n_steps)
    network.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy")
    network.fit(pixels, columns, epochs=n_epochs, verbose=0)
    network.save(folder / "learned.keras")
    member = Member(folder / "learned.keras", SIDE, "stretch", "learned")
    rule, classes = WeightedAverage(np.ones(1)), ("normal", "opacity")
    return Learned(Classifier("learned", "none", "", (member,), rule, classes, folder / "none.npz"), table[held_out])


@pytest.fixture(scope="module")
def opacities(tmp_path_factory):
    """Draw phantoms with and without an opacity; return their table."""
    folder = tmp_path_factory.mktemp("opacities") / "data"
    draw_phantoms(folder, n_images=1200, image_size=SIDE, seed=1, classes=("normal", "opacity"))
    table = pd.read_csv(folder / "metadata.csv")
    return table.assign(file=[folder / image for image in table["image"]])


@pytest.fixture(scope="module")
def unbiased(tmp_path_factory, opacities):
    return learn(tmp_path_factory.mktemp("unbiased"), opacities, n_epochs=8)


@pytest.fixture(scope="module")
def biased(tmp_path_factory, opacities):
    """Train a network on the same phantoms after drawing a letter into a corner of the normal ones."""
    folder = tmp_path_factory.mktemp("biased")
    table = opacities.assign(file=[folder / Path(image).name for image in opacities["image"]])
    for source, file, label in zip(opacities["file"], table["file"], table["label"], strict=True):
        image = Image.open(source)
        if label == "normal":
            ImageDraw.Draw(image).line([(26, 1), (26, 5), (29, 5)], fill=255, width=1)
        image.save(file)
    return learn(folder, table, n_epochs=3)


def test_the_evidence_for_an_opacity_is_at_its_position(unbiased):
    """Measure the energy-based pointing game (Wang et al. 2020, https://arxiv.org/abs/1910.01279): the share of the heat inside
    the opacity, on held-out patients whose opacity is classified correctly.

    Measured ratios of this share to the share of the area: three convolutions with average pooling 4.5, 5.2, 5.1 and 5.5 with
    four seeds, 5.8 with 2000 phantoms; with max pooling, which uses only the hottest position, 1.2, 4.7, 2.5 and 2.5. Two
    blocks of one convolution and a pooling layer: 2.9 (average) and 3.0 (max) with 2000 phantoms, about 2 with 400.
    """
    with_opacity = unbiased.held_out[unbiased.held_out["label"] == "opacity"]
    loaded = LoadedClassifier(unbiased.classifier)
    squares = loaded.squares([decode_image(file) for file in with_opacity["file"]])
    is_found = loaded.predict_squares(squares).argmax(axis=1) == 1
    assert is_found.mean() > 0.7
    squares, found = [square[is_found] for square in squares], with_opacity[is_found]
    heatmaps = ClassifierGradCam(loaded).compute(squares, [np.zeros((SIDE, SIDE))] * len(found), np.ones(len(found), int))
    energies, areas = [], []
    for heatmap, box in zip(heatmaps, found.itertuples(), strict=True):
        x0, y0, x1, y1 = (int(edge) for edge in (box.lesion_x0, box.lesion_y0, box.lesion_x1, box.lesion_y1))
        energy = heatmap_on_image(heatmap.networks, SIDE, SIDE)
        energies.append(energy[y0:y1, x0:x1].sum() / energy.sum())
        areas.append((x1 - x0) * (y1 - y0) / SIDE**2)
    assert np.mean(energies) > 3 * np.mean(areas)


def test_a_marker_in_a_corner_of_one_class_gives_a_warning(unbiased, biased):
    unbiased_table, biased_table = (
        measure_off_lung_evidence(learned.classifier, learned.held_out["file"].tolist()) for learned in (unbiased, biased)
    )
    assert sorted(unbiased_table["class"]) == ["all", "normal", "opacity"]
    assert off_lung_warnings(unbiased_table) == []
    (warning,) = (warning for warning in off_lung_warnings(biased_table) if warning.startswith("Class 'normal': "))
    assert "the top right corner" in warning
    marked = biased_table.set_index("class").loc["normal"]
    assert marked["worst"] == "top_right"
    assert marked["outside"] == pytest.approx(marked[list(REGIONS)].sum())


# Classifiers of untrained networks


NETWORK = TrialConfig(
    family="scratch", image_size=32, layers="conv4k3 pool2 conv6k3", n_dense=0, dropout=0.0, pooling="average"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    concat = dataclasses.replace(
        NETWORK, family="concat", backbone="squeezenet", weights="none", cut="2", second_backbone="scratch", projection=0
    )
    networks = [
        build_model(dataclasses.replace(config, seed=seed), 3, steps_per_epoch=2)
        for config, seed in ((NETWORK, 1), (NETWORK, 2), (concat, 3))
    ]
    folds = average_networks(networks[:2])
    for name, network in {"one": networks[0], "two": networks[1], "concat": networks[2], "folds": folds}.items():
        network.save(folder / f"{name}.keras")
    return folder


def classifier_of(models, *names, rule=None, fit="stretch"):
    members = tuple(Member(models / f"{name}.keras", 32, fit, name) for name in names)
    rule = rule or WeightedAverage(np.ones(len(names)))
    return Classifier("untrained", "none", "", members, rule, ("a", "b", "c"), models / "none.npz")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, shape in {"square": (40, 40), "wide": (40, 80), "tall": (96, 32)}.items():
        smooth = Image.fromarray(rng.integers(0, 256, (6, 6)).astype(np.uint8)).resize(shape[::-1], Image.Resampling.BICUBIC)
        smooth.save(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in ("square", "wide", "tall")]


def heat_of(classifier, file, column=0):
    loaded = LoadedClassifier(classifier)
    picture = decode_image(file)
    (heat,) = ClassifierGradCam(loaded).compute(loaded.squares([picture]), [picture], np.array([column]))
    return heat


def test_members_of_an_ensemble_have_their_weights_in_the_rule(models, pictures):
    def explain_rule(rule, column=0):
        heats = heat_of(classifier_of(models, "one", "two", rule=rule), pictures[0], column).networks
        return [heat.share for heat in heats], heatmap_on_image(heats, 40, 40)

    _, first = explain_rule(WeightedAverage(np.array([1.0, 0.0])))
    _, second = explain_rule(WeightedAverage(np.array([0.0, 1.0])))
    assert not np.allclose(first, second, atol=0.05)
    shares, averaged = explain_rule(WeightedAverage(np.array([3.0, 1.0])))
    assert shares == pytest.approx([0.75, 0.25])
    densities = [heat.density for heat in heat_of(classifier_of(models, "one", "two"), pictures[0]).networks]
    mixed = 0.75 * densities[0] + 0.25 * densities[1]
    assert averaged == pytest.approx(heatmap_on_image([Heatmap("", 1.0, mixed, square_on_picture((40, 40)))], 40, 40), abs=1e-5)
    by_class = CalibratedCombiner(WeightedAverage(np.array([[1.0, 1.0, 3.0], [0.0, 1.0, 1.0]])), 2.0)
    assert [explain_rule(by_class, column)[0] for column in range(3)] == [[1, 0], [0.5, 0.5], [0.75, 0.25]]
    coefficients = np.zeros((3, 2, 3))
    coefficients[1, 0], coefficients[1, 1] = 1, -3
    assert explain_rule(Stacking(coefficients, np.zeros(3)), 1)[0] == pytest.approx([0.25, 0.75])


def test_networks_of_folds_share_the_weight_of_their_member(models, pictures):
    folds = heat_of(classifier_of(models, "folds", "one", rule=WeightedAverage(np.array([2.0, 2.0]))), pictures[0])
    assert [heat.share for heat in folds.networks] == pytest.approx([0.25, 0.25, 0.5])
    assert folds.networks[0].density == pytest.approx(folds.networks[2].density, abs=1e-4)


def test_heat_maps_are_mapped_to_the_original_image():
    heat = np.zeros((56, 56), np.float32)
    heat[:, :28] = 2.0
    wide = (40, 80)
    cropped = heatmap_on_image([Heatmap("", 1.0, heat, square_on_picture(wide, "crop"))], *wide)
    assert cropped[:, 22:38].min() > 0.9
    assert cropped[:, :19].max() == 0  # outside the crop
    assert cropped[:, 43:].max() == 0
    padded = heatmap_on_image([Heatmap("", 1.0, heat.T, square_on_picture(wide, "pad"))], *wide)
    assert padded[:18].min() > 0.9
    assert padded[22:].max() == 0


def test_evenly_distributed_evidence_is_proportional_to_the_area():
    uniform = np.ones((200, 200), np.float32)
    shares = evidence_by_region([Heatmap("", 1.0, uniform, square_on_picture((50, 50)))])
    assert [shares[region] for region in REGIONS[:4]] == pytest.approx([0.2**2] * 4, abs=0.01)
    assert shares["borders"] == pytest.approx(1 - 0.84**2 - 4 * (0.2**2 - 0.12**2), abs=0.01)
    assert shares["top_left"] == pytest.approx(shares["top_left_area"])
    padded = evidence_by_region([Heatmap("", 1.0, uniform, square_on_picture((50, 100), "pad"))])
    assert padded["borders"] > 0.5, "the padding is outside the lungs"
    without_heat = evidence_by_region([Heatmap("", 1.0, 0 * uniform, square_on_picture((50, 50)))])
    assert np.isnan(without_heat["top_left"])
    assert without_heat["top_left_area"] == pytest.approx(shares["top_left_area"])
    corner = np.zeros((100, 100), np.float32)
    corner[80:, :20] = 25.0
    corner_shares = evidence_by_region([Heatmap("", 1.0, corner, square_on_picture((50, 50)))])
    assert corner_shares["bottom_left"] == pytest.approx(1)
    table = summarise_evidence(
        pd.DataFrame([{"class": "a", **corner_shares}, {"class": "b", **shares}, {"class": "b", **without_heat}])
    )
    assert list(table["class"]) == ["a", "b", "all"]
    assert list(table["images"]) == [1, 1, 2]
    assert table["worst"][0] == "bottom_left"
    assert list(table["times"])[:2] == pytest.approx([25, 1], rel=0.01)


def test_each_branch_has_a_map(models, pictures):
    (overlay,) = explain(classifier_of(models, "concat"), pictures[:1])
    assert list(overlay.parts) == ["backbone/fire3_concat", "second_backbone_scratch_branch/block2_conv1"]
    assert overlay.detail == "backbone/fire3_concat + second_backbone_scratch_branch/block2_conv1"
    (overlay,) = explain(classifier_of(models, "concat", "one"), pictures[:1])
    assert list(overlay.parts) == ["1: concat (weight 0.50)", "2: one (weight 0.50)"]


def test_an_overlay_has_the_prediction(models, pictures):
    classifier = classifier_of(models, "one")
    overlays = explain(classifier, pictures, labels={str(pictures[1]): "b"})
    table, _ = api.predict(classifier, pictures)
    assert [overlay.predicted for overlay in overlays] == list(table["class"])
    assert [overlay.explained for overlay in overlays] == list(table["class"])
    assert overlays[0].probability == pytest.approx(table.loc[0, f"probability_{overlays[0].predicted}"], abs=1e-5)
    assert [overlay.label for overlay in overlays] == [None, "b", None]
    assert [overlay.pixels.shape for overlay in overlays] == [
        (SHOWN_SIDE, SHOWN_SIDE, 3), (SHOWN_SIDE // 2, SHOWN_SIDE, 3), (SHOWN_SIDE, round(SHOWN_SIDE / 3), 3)
    ]  # fmt: skip
    assert overlays[0].pixels.dtype == np.uint8
    named = explain(classifier, pictures, class_name="c")
    assert {overlay.explained for overlay in named} == {"c"}
    assert named[0].explained_probability == pytest.approx(table.loc[0, "probability_c"], abs=1e-5)


@pytest.mark.long
def test_shap_values_add_up_to_the_change_of_the_probability(models, pictures):
    loaded = LoadedClassifier(classifier_of(models, "one", "two"))
    picture = decode_image(pictures[0])
    progress = []
    result = shap_values(loaded.predict, picture, 1, n_evaluations=40, on_evaluations=progress.append)
    assert (result.values.shape, result.n_evaluations) == (picture.shape, 40)
    assert progress == sorted(progress)
    assert 30 < progress[-1] <= 40
    hidden = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(40 / 8)))
    probability, hidden_probability = loaded.predict([picture, hidden])[:, 1]
    assert result.values.sum() == pytest.approx(probability - hidden_probability, abs=1e-4)
    (overlay,) = explain(loaded.classifier, pictures[:1], method="shap", n_evaluations=40)
    assert overlay.detail == "40 evaluations"
    assert explain(loaded.classifier, pictures, method="shap", n_evaluations=40, seconds=1e-9) == []


@pytest.mark.long
def test_shap_returns_the_last_finished_round_at_the_deadline(models, pictures, monkeypatch):
    loaded = LoadedClassifier(classifier_of(models, "one"))
    predicted = []

    def predict(images):
        predicted.extend(images)
        return loaded.predict(images)

    clock = SimpleNamespace(monotonic=lambda: len(predicted))  # one evaluation per second
    monkeypatch.setattr("automl_cxr.results.explain.shap_values.time", clock)
    result = shap_values(predict, decode_image(pictures[0]), 0, n_evaluations=1000, deadline=100)
    assert result.n_evaluations == 64
    assert len({image.tobytes() for image in predicted}) == len(predicted), "rounds reuse the predictions of the previous ones"
    with pytest.raises(TimeIsUpError):
        shap_values(predict, decode_image(pictures[1]), 0, deadline=0)


def test_a_time_limit_returns_the_finished_batch(models, pictures):
    overlays = explain(classifier_of(models, "one"), pictures * 20, seconds=1e-9)
    assert len(overlays) == 16  # one batch


def test_files_and_index(models, pictures, tmp_path):
    (tmp_path / "=broken.png").write_bytes(b"no picture")
    images = [tmp_path / "=broken.png", *pictures]
    problems, steps = [], []
    index = write_explanations(
        classifier_of(models, "one"), images, ExplanationOptions(method="activations"), tmp_path / "out",
        on_problem=lambda *problem: problems.append(problem), on_progress=lambda *step: steps.append(step),
    )  # fmt: skip
    assert problems == [
        (str(images[0]), "not an image in a known format (PNG, JPEG, BMP, TIFF, WEBP, GIF, JPEG2000, PPM, DICOM)")
    ]
    assert steps[-1] == (3, 4)
    assert list(index["detail"][:3]) == ["block1_conv1", "block1_pool", "block2_conv1"]
    assert index["file"][0] == "0002_square_block1_conv1.png"
    rows = list(csv.DictReader((tmp_path / "out" / "index.csv").open()))
    assert [row["file"] for row in rows] == list(index["file"])
    assert all((tmp_path / "out" / row["file"]).is_file() for row in rows)


def test_invalid_options_are_refused(models, pictures):
    with pytest.raises(UnknownNameError, match="Did you mean 'gradcam'"):
        ExplanationOptions(method="grad-cam")
    with pytest.raises(UsageError, match="Only gradcam supports a layer"):
        ExplanationOptions(method="shap", layer="x")
    with pytest.raises(UnknownNameError, match="Did you mean 'block2_conv1'"):
        explain(classifier_of(models, "one"), pictures, layer="block2_conv")
    with pytest.raises(UnknownNameError, match="class 'd'"):
        explain(classifier_of(models, "one"), pictures, class_name="d")
    with pytest.raises(UsageError, match="a single network; received an ensemble of 2"):
        explain(classifier_of(models, "one", "two"), pictures, method="activations")
    with pytest.raises(UsageError, match="needs readable images"):
        measure_off_lung_evidence(classifier_of(models, "one"), [])


@pytest.mark.slow
def test_the_command_line_explains(finished, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    runs = str(finished.folder.parent)

    def run(*arguments):
        code = cli._run(["explain", "done", "--runs", runs, *map(str, arguments)])
        return code, *capfd.readouterr()

    code, out, _ = run("--per-class", 1, "--json")
    assert code == 0
    result = json.loads(out)
    assert result["images"] == 3
    assert sorted(row["label"] for row in result["pictures"]) == ["effusion", "normal", "opacity"]
    assert len(list(Path("explanations").glob("*_gradcam.png"))) == 3
    code, out, _ = run("--corners", "--json")
    assert json.loads(out)["regions"][-1]["class"] == "all"
    assert json.loads(out)["regions"][-1]["outside"] == pytest.approx(finished.corner_evidence()["outside"].iloc[-1], abs=1e-4)
    code, out, err = run("--corners")
    assert (code, "worst" in out) == (0, True)
    assert run("--corners", "--out", "x")[0] == 2
    code, _, err = run("--layer", "block1_con1")
    assert code == 2
    assert "Did you mean 'block1_conv1'" in err
    code, _, err = run("missing.png")
    assert code == 1
    assert "not explained: missing.png: missing" in err


def test_the_index_of_the_pictures_does_not_replace_another_file(tmp_path, models):
    index = tmp_path / "index.csv"
    index.write_text("image,label\na.png,covid\n")
    classifier, options = classifier_of(models, "one"), ExplanationOptions(method="activations")
    with pytest.raises(UsageError, match="which is another file"):
        write_explanations(classifier, [], options, tmp_path)
    assert index.read_text() == "image,label\na.png,covid\n"
    for _ in range(2):
        write_explanations(classifier, [], options, tmp_path / "out")
    assert (tmp_path / "out" / "index.csv").exists()


@pytest.mark.parametrize(
    ("probabilities", "thresholds", "columns"),
    [
        ([0.2, 0.7, 0.1], None, [1]),
        ([0.2, 0.7, 0.1], (0.1, 0.6, 0.2), [0, 1]),
        ([0.2, 0.3, 0.1], (0.5, 0.9, 0.2), [2]),  # none is reported; the third is the closest to its threshold
    ],
)
def test_predicted_columns(probabilities, thresholds, columns):
    assert predicted_columns(np.array(probabilities, np.float32), thresholds) == columns


def test_each_finding_of_an_image_is_explained(models, pictures, tmp_path):
    names = ("Nodule/Mass", "nodule, mass", "Edema")
    of_findings = dataclasses.replace(classifier_of(models, "one"), thresholds=(0.001, 0.001, 0.001), classes=names)
    index = write_explanations(of_findings, pictures[:2], ExplanationOptions(), tmp_path)
    assert list(index["explained"]) == [*names, *names]
    assert set(index["predicted"]) == {"|".join(names)}
    assert list(index["file"].str.casefold().drop_duplicates()[:3]) == [
        f"0001_square_{part}_gradcam.png" for part in ("nodule-mass-1", "nodule-mass-2", "edema")
    ]
    with pytest.raises(UnknownNameError, match=r"finding 'Oedema'.*Did you mean 'Edema'"):
        explain(of_findings, pictures[:1], class_name="Oedema")
    chosen = explain(of_findings, pictures[:2], explained={str(pictures[0]): names[1:]}, class_name=names[0])
    assert [overlay.explained for overlay in chosen] == [names[1], names[2], names[0]]
    sheets = explain(of_findings, pictures[:1], method="activations")
    assert len({sheet.detail for sheet in sheets}) == len(sheets)  # once, not for each finding
