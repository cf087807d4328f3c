import numpy as np

from automl_cxr.data.audit.sample import sample_rows


def test_a_small_data_set_is_used_completely():
    assert sample_rows([np.ones(50, bool)], max_images=50).tolist() == list(range(50))


def test_a_sample_has_the_requested_size_and_contains_rare_classes():
    labels = np.repeat([0, 1], [9_980, 20])
    members = [labels == number for number in range(2)]
    rows = sample_rows(members, max_images=500, min_of_class=15)
    assert len(rows) == len(set(rows.tolist())) == 500
    assert (np.diff(rows) > 0).all()
    assert (labels[rows] == 1).sum() >= 15
    other_seed = sample_rows(members, max_images=500, min_of_class=15, seed=1)
    assert rows.tolist() == sample_rows(members, max_images=500, min_of_class=15).tolist() != other_seed.tolist()


def test_images_of_one_class_are_drawn_with_equal_probability():
    members = [np.ones(1000, bool)]
    counts = np.zeros(1000)
    for seed in range(200):
        counts[sample_rows(members, max_images=250, seed=seed)] += 1
    assert abs(counts[:500].sum() / counts.sum() - 0.5) < 0.02
    assert 20 < counts.min() < counts.max() < 85


def test_rare_findings_do_not_exceed_the_size():
    members = list(np.random.default_rng(0).random((30, 1000)) < 0.5)
    assert len(sample_rows(members, max_images=60)) == 60
