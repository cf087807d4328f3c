"""Class names of external sites: the map, proposals for other spellings, and mistakes."""

import re
import shutil
from types import SimpleNamespace

import pytest

from automl_cxr.data.class_map import load_class_map
from automl_cxr.data.dataset import load_dataset
from automl_cxr.errors import DataError, UsageError
from automl_cxr.results.external_sites import open_sites
from automl_cxr.results.site_classes import match_classes

CLASSES = ("covid", "no_finding", "pneumonia")


@pytest.fixture
def match(tmp_path, phantoms):
    """Return a function that matches a site with the given classes, six images each, with the classes of a study."""
    image = next(phantoms.rglob("*.png"))

    def write(*names, class_map=None, study_map=None):
        for name in names:
            for number in range(6):
                (tmp_path / "site" / name).mkdir(parents=True, exist_ok=True)
                shutil.copy(image, tmp_path / "site" / name / f"{number}.png")
        entries = load_class_map(class_map)
        dataset = load_dataset(tmp_path / "site")
        return match_classes(dataset, entries, site="site", folder="a b", study="s", classes=CLASSES, study_map=study_map)

    return write


def test_a_map_names_the_classes_of_the_study_and_leaves_classes_out(match, tmp_path):
    names = ("COVID-19", "No finding", "Tuberculosis", "Viral, other")
    (tmp_path / "map.csv").write_text(
        'site,study\nCOVID-19,covid\nNo finding,no_finding\nTuberculosis,\n"Viral, other",pneumonia\n'
    )
    matched = match(*names, class_map=tmp_path / "map.csv")
    assert matched.dataset.classes == CLASSES
    assert matched.dataset.table["label"].value_counts().to_dict() == dict.fromkeys(CLASSES, 6)
    assert matched.notes == ("6 of 24 images of site (Tuberculosis) are not used (--class-map).",)


def test_equal_spellings_are_proposed_with_the_command(match):
    with pytest.raises(DataError) as caught:
        match("COVID-19", "NO FINDING", "Pneu-monia", class_map="COVID-19=covid")
    options = "--external 'a b' --class-map 'COVID-19=covid,NO FINDING=no_finding,Pneu-monia=pneumonia'"
    assert f"`automl-cxr leaderboard s {options}`" in str(caught.value)


def test_the_names_with_which_the_study_read_its_data_are_proposed(match):
    with pytest.raises(DataError, match=r"The names are known .* --class-map 0=no_finding,1=covid`"):
        match("0", "1", study_map={"0": "no_finding", "1": "covid"})


def test_two_names_of_the_class_without_a_finding_are_proposed(match):
    with pytest.raises(DataError, match="--class-map Normal=no_finding`"):
        match("covid", "Normal")


@pytest.mark.parametrize("name", ["COVID-19", "not pneumonia", "pneumonia_viral"])
def test_other_names_are_named_and_not_guessed(match, name):
    with pytest.raises(DataError, match=rf"site has '{name}' \(6 images\).* --class-map '?{name}=CLASS'?\.$"):
        match("no_finding", name)


def test_a_part_of_the_classes_is_noted(match):
    matched = match("covid", "no_finding")
    assert matched.dataset.classes == ("covid", "no_finding")
    assert "2 of 3 classes (covid, no_finding; none of pneumonia)" in matched.notes[0]


def test_one_class_is_not_scored(match):
    with pytest.raises(DataError, match=r"at least two classes of study 's'.*site has covid.*`automl-cxr predict s 'a b'`"):
        match("covid", "other", class_map="other=")


def test_an_unknown_class_of_the_study_is_refused(match):
    with pytest.raises(UsageError, match=r"class of study 's' in --class-map 'covd'\. Did you mean 'covid'"):
        match("covid", "no_finding", class_map="covid=covd")


@pytest.mark.parametrize(
    ("class_map", "message"),
    [
        ("covid", "'covid', which is neither"),
        ("a,b=c", "received 'a'"),
        ("normal=opacity,normal=effusion", "received 'normal' twice"),
        ("norml=normal", "Unknown class of a site in --class-map 'norml'. Did you mean 'normal'"),
    ],
)
def test_mistakes_in_a_map(phantoms, class_map, message):
    with pytest.raises(UsageError, match=message):
        open_sites([phantoms], class_map)


def test_a_table_of_classes_needs_its_columns(phantoms, tmp_path):
    (tmp_path / "map.csv").write_text("COVID-19,covid\n")
    with pytest.raises(DataError, match=r"must have the columns class .* has COVID-19, covid"):
        open_sites([phantoms], str(tmp_path / "map.csv"))


@pytest.mark.parametrize(
    ("projections", "n_images", "note"),
    [
        (
            ("PA", "AP"),
            9,
            r"3 of 12 images of data are not of the study's projections \(PA,AP\) and are not scored: 3 lateral\.",
        ),
        (None, 12, r"Not all images of data are frontal \(3 PA, 3 lateral, 6 unknown\); all of them are scored\."),
    ],
)
def test_a_site_is_scored_on_the_projections_of_the_study(tmp_path, phantoms, projections, n_images, note):
    image = next(phantoms.rglob("*.png"))
    for label in CLASSES:
        (tmp_path / "data" / label).mkdir(parents=True)
        for name in ("1_PA", "2_lateral", "3", "4"):
            shutil.copy(image, tmp_path / "data" / label / f"{name}.png")
    store = SimpleNamespace(name="s", spec=SimpleNamespace(classes=CLASSES, projections=projections, class_map=None))
    site = open_sites([tmp_path / "data"])[0].for_study(store)
    assert len(site.dataset.table) == n_images
    assert re.fullmatch(note, site.notes[0])


def test_a_site_that_needs_options_is_refused_with_the_way_to_read_it(tmp_path, phantoms):
    image = next(phantoms.rglob("*.png"))
    shutil.copytree(image.parent, tmp_path / "site" / "train_images")
    shutil.copytree(image.parent, tmp_path / "site" / "test_images")
    with pytest.raises(DataError, match=r"data inspect \S*site OPTIONS --save site.csv`, and name the table, --external"):
        open_sites([tmp_path / "site"])
    with pytest.raises(DataError, match=r"Check the path\.$"):
        open_sites([tmp_path / "missing"])


def test_a_map_without_a_site_is_refused():
    with pytest.raises(UsageError, match="received no site"):
        open_sites([], "a=b")
