"""Operating points: spellings of aims, thresholds with and without a margin for chance, and their promise for new patients."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import confusion_matrix, roc_curve

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.results.operating_scores import score_operating_points
from automl_cxr.scoring.aims import Aim, Request, assign_aims
from automl_cxr.scoring.operating_points import OperatingPoint, choose_operating_points, point_from_record
from automl_cxr.scoring.predictions import Predictions
from tests.scoring.findings import draw_findings

CLASSES = ("covid", "normal", "pneumonia")


def draw(rng, n_patients, *, n_images=1, correlation=0.6) -> Predictions:
    """Draw images of two classes whose log-odds are normal with means -1 and 1, with a common error of each patient."""
    labels = np.repeat(rng.integers(0, 2, n_patients), n_images)
    noise = np.sqrt(correlation) * np.repeat(rng.normal(size=n_patients), n_images)
    log_odds = 2 * labels - 1 + noise + np.sqrt(1 - correlation) * rng.normal(size=len(labels))
    positive = 1 / (1 + np.exp(-log_odds))
    patients = tuple(f"p{number // n_images}" for number in range(len(labels)))
    ids = tuple(map(str, range(len(labels))))
    return Predictions(ids, labels, np.stack([1 - positive, positive], axis=1), ("absent", "present"), patients)


def choose(predictions, text, **settings) -> OperatingPoint:
    return choose_operating_points(predictions, [Request.parse(text)], **settings)[0]


@pytest.mark.parametrize(
    ("text", "aim", "names"),
    [
        ("sensitivity>=0.95", Aim("sensitivity", 0.95), ()),
        (" Specificity >= .9 ", Aim("specificity", 0.9), ()),
        ("covid: recall>=0.95", Aim("sensitivity", 0.95), ("covid",)),
        ("precision>=0.5", Aim("ppv", 0.5), ()),
        ("NPV>=0.99", Aim("npv", 0.99), ()),
        ("cost:FN/FP=10", Aim("cost", 10), ()),
        ("Mass, Edema: cost:FN/FP=0.5", Aim("cost", 0.5), ("Mass", "Edema")),
        ("grade: 2: sensitivity>=0.8", Aim("sensitivity", 0.8), ("grade: 2",)),
    ],
)
def test_aims_are_parsed(text, aim, names):
    assert Request.parse(text) == Request(aim, names)
    assert Request.parse(str(aim)).aim == aim


def test_youden_has_no_value():
    assert str(Request.parse("covid: Youden").aim) == "youden"


@pytest.mark.parametrize(
    "text",
    ["", "0.5", "accuracy>=0.9", "sensitivity<=0.9", "sensitivity>=1", "npv>=x", "cost:FN/FP=0", "cost:FN/FP=inf", "covid:"],
)
def test_other_texts_are_refused(text):
    with pytest.raises(UsageError, match=r"An operating point is sensitivity>=X.*received"):
        Request.parse(text)


def test_a_request_without_names_is_for_the_positive_class():
    aim = Aim("youden")

    def assigned(names, normal_class):
        return list(assign_aims([Request(aim)], names, is_multilabel=False, normal_class=normal_class))

    assert assigned(("a", "b"), None) == ["b"], "as in scikit-learn"
    assert assigned(("covid", "normal"), 1) == ["covid"]
    with pytest.raises(UsageError, match=r'needs the class that is decided against the others.*"covid: youden"'):
        assigned(CLASSES, 1)


def test_a_request_without_names_is_for_all_other_findings():
    requests = [Request(Aim("youden")), Request(Aim("sensitivity", 0.9), ("Mass",))]
    aims = assign_aims(requests, ("Edema", "Mass", "Hernia"), is_multilabel=True, normal_class=None)
    assert {name: str(aim) for name, aim in aims.items()} == {"Mass": "sensitivity>=0.9", "Edema": "youden", "Hernia": "youden"}


def test_contradictions_and_unknown_names_are_refused():
    with pytest.raises(UsageError, match=r"one operating point; received sensitivity>=0\.9 and youden for covid"):
        assign_aims(
            [Request.parse("covid: sensitivity>=0.9"), Request.parse("covid: youden")],
            CLASSES,
            is_multilabel=False,
            normal_class=1,
        )
    with pytest.raises(UnknownNameError, match="Did you mean 'covid'"):
        assign_aims([Request.parse("covd: youden")], CLASSES, is_multilabel=False, normal_class=1)


@pytest.mark.parametrize("kind", ["sensitivity", "specificity"])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95])
def test_the_threshold_is_the_last_one_whose_clopper_pearson_bound_reaches_the_aim(kind, confidence):
    predictions = draw(np.random.default_rng(0), 300)
    point = choose(predictions, f"{kind}>=0.8", confidence=confidence)
    is_counted = predictions.labels == (kind == "sensitivity")
    scores = np.sort(predictions.probabilities[:, 1])
    next_one = scores[scores > point.threshold][0] if kind == "sensitivity" else scores[scores < point.threshold][-1]
    step = 1e-7 if kind == "sensitivity" else 0.0  # the neighbouring threshold decides one more image wrongly

    def bound(threshold):
        decided = predictions.probabilities[is_counted, 1] >= threshold
        n_correct = int((decided == (kind == "sensitivity")).sum())
        return binomtest(n_correct, int(is_counted.sum())).proportion_ci(2 * confidence - 1, "exact").low

    assert bound(point.threshold) >= 0.8
    while bound(next_one + step) == bound(point.threshold):  # images of the other class do not matter
        following = scores[scores > next_one] if kind == "sensitivity" else scores[scores < next_one][::-1]
        next_one = following[0]
    assert bound(next_one + step) < 0.8


def test_without_a_margin_the_aim_is_reached_on_these_images():
    predictions = draw(np.random.default_rng(1), 200)
    point = choose(predictions, "sensitivity>=0.9", confidence=0)
    assert point.confidence == 0
    assert 0.9 <= point.sensitivity < 0.9 + 1 / point.n_positive
    assert choose(predictions, "sensitivity>=0.9").threshold < point.threshold


def test_copies_of_the_images_of_patients_give_no_certainty():
    one = draw(np.random.default_rng(2), 150)
    copies = draw(np.random.default_rng(2), 150, n_images=3, correlation=1.0)
    point, of_copies = (choose(which, "specificity>=0.85") for which in (one.take(slice(None)), copies))
    assert of_copies.n_negative == 3 * of_copies.n_negative_patients
    exact = binomtest(round(of_copies.specificity * of_copies.n_negative_patients), of_copies.n_negative_patients)
    assert exact.proportion_ci(0.9, "exact").low >= 0.85
    assert point.specificity >= 0.85


def test_too_few_patients_are_told():
    few = draw(np.random.default_rng(3), 100)
    n_positive = int(few.labels.sum())
    rule = rf"sensitivity>=0.95 with a confidence of 95% needs at least 59 patients .* received present \({n_positive}, enough"
    with pytest.raises(UsageError, match=rule):
        choose(few, "sensitivity>=0.95")
    assert 59 - 1 < np.log(0.05) / np.log(0.95) <= 59
    with pytest.raises(UsageError, match=r"ppv>=0\.999 must be reached by a threshold; received present \(at most 0\."):
        choose(few.with_probabilities(np.full((100, 2), 0.5, np.float32)), "ppv>=0.999")
    with pytest.raises(UsageError, match=r"images without it; received present \(all images\)"):
        choose(few.take(few.labels == 1), "youden")
    with pytest.raises(UsageError, match=r"at least 0\.5 and below 1; received 95"):
        choose(few, "youden", confidence=95)


def test_the_same_problem_of_several_findings_is_told_once():
    with pytest.raises(UsageError, match=r"received f0 \(\d+, enough for 0\.\d+\), f1 \(\d+, enough for 0\.\d+\)") as error:
        choose(draw_findings(100), "sensitivity>=0.99")
    assert str(error.value).count("needs at least 299 patients") == 1


def test_youden_is_the_best_point_of_the_roc_curve():
    predictions = draw(np.random.default_rng(4), 300)
    false_rate, true_rate, _ = roc_curve(predictions.labels, predictions.probabilities[:, 1])
    point = choose(predictions, "youden")
    assert point.sensitivity + point.specificity - 1 == pytest.approx((true_rate - false_rate).max())


@pytest.mark.parametrize("ratio", [0.2, 1, 10])
def test_a_cost_ratio_minimises_the_cost(ratio):
    predictions = draw(np.random.default_rng(5), 100)

    def cost(threshold):
        (_, false_positives), (false_negatives, _) = confusion_matrix(
            predictions.labels, predictions.probabilities[:, 1] >= threshold
        )
        return ratio * false_negatives + false_positives

    chosen = cost(choose(predictions, f"cost:FN/FP={ratio}").threshold)
    assert chosen == min(map(cost, predictions.probabilities[:, 1].tolist()))


@pytest.mark.parametrize(("kind", "counted"), [("ppv", 1), ("npv", 0)])
def test_predictive_values_are_reached_and_lose_as_little_as_possible(kind, counted):
    predictions = draw(np.random.default_rng(6), 300)
    point = choose(predictions, f"{kind}>=0.9")
    scores = predictions.probabilities[:, 1]

    def value(threshold):
        chosen = (scores >= threshold) == counted
        return (predictions.labels[chosen] == counted).mean()

    assert value(point.threshold) >= 0.9
    assert point.confidence == 0, "it depends on the prevalence, so nothing is promised"
    beyond = scores[scores < point.threshold] if kind == "ppv" else scores[scores > point.threshold] + 1e-7
    assert all(value(other) < 0.9 for other in beyond if ((scores >= other) != counted).any())


def test_findings_are_decided_over_their_known_labels():
    predictions = draw_findings(400)
    points = choose_operating_points(predictions, [Request.parse("f3, f2: sensitivity>=0.7")])
    assert [point.name for point in points] == ["f3", "f2"]
    is_known = predictions.labels[:, 3] >= 0
    decided = predictions.probabilities[is_known, 3] >= points[0].threshold
    assert decided[predictions.labels[is_known, 3] == 1].mean() == pytest.approx(points[0].sensitivity)
    assert points[0].n_positive + points[0].n_negative == is_known.sum()


def test_a_record_is_read_again_and_damage_is_told():
    point = choose(draw(np.random.default_rng(7), 200), "sensitivity>=0.8")
    assert point_from_record(point.to_record()) == point
    with pytest.raises(ValueError, match="threshold of present is 2"):
        point_from_record(point.to_record() | {"threshold": 2.0})


@pytest.mark.slow
@pytest.mark.parametrize("aim", ["sensitivity>=0.9", "specificity>=0.9"])
@pytest.mark.parametrize(("n_images", "correlation"), [(1, 0.0), (3, 0.6), (3, 1.0)])
def test_the_promise_holds_on_new_patients_and_the_interval_contains_the_truth(aim, n_images, correlation):
    rng, kind = np.random.default_rng(8), aim.split(">")[0]
    kept, kept_without_margin, covered = [], [], []
    for _ in range(100):
        predictions = draw(rng, 200, n_images=n_images, correlation=correlation)
        truths = []
        for confidence in (0.95, 0):
            point = choose(predictions, aim, confidence=confidence)
            log_odds = np.log(point.threshold / (1 - point.threshold))
            truths.append(norm.sf(log_odds - 1) if kind == "sensitivity" else norm.cdf(log_odds + 1))
        kept.append(truths[0] >= 0.9)
        kept_without_margin.append(truths[1] >= 0.9)
        new = draw(rng, 150, n_images=n_images, correlation=correlation)
        row = score_operating_points([point], new, place="test part").table.iloc[0]
        covered.append(row[f"{kind}_low"] <= truths[1] <= row[f"{kind}_high"])
    error = np.sqrt(0.95 * 0.05 / 100)
    assert np.mean(kept) >= 0.95 - 2 * error
    assert np.mean(covered) >= 0.95 - 2 * error
    assert 0.3 < np.mean(kept_without_margin) < 0.7, "a point estimate is as often too high as too low"


def test_a_missed_aim_is_told():
    rng = np.random.default_rng(9)
    point = choose(draw(rng, 300), "sensitivity>=0.9")
    other_site = draw(rng, 200)
    other_site = other_site.with_probabilities((other_site.probabilities * [[0.5, 0.5]] + [[0.5, 0]]).astype(np.float32))
    scores = score_operating_points([point], other_site, place="site a")
    assert len(scores.warnings) == 1
    assert "present misses its aim on the site a: sensitivity" in scores.warnings[0]
    assert scores.table["class"].tolist() == ["present"]
    assert not score_operating_points([point], draw(rng, 200), place="site a").warnings
