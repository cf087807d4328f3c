import numpy as np
import pytest
from sklearn.gaussian_process.kernels import RBF

from automl_cxr.training.rbf_features import RbfFeatures


@pytest.fixture
def features():
    rng = np.random.default_rng(0)
    return np.column_stack([rng.normal(3, 5, (40, 4)), np.full(40, 7.0)]).astype(np.float32)


def test_products_of_the_features_are_the_kernel_if_every_image_is_a_centre(features):
    mapped = RbfFeatures.fit(features, n_centres=100, seed=0).apply(features)
    varying = features[:, :4]
    standardised = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    # gamma = 1 / 5 is a length of sqrt(5 / 2); the constant feature adds no distance.
    assert mapped @ mapped.T == pytest.approx(RBF(np.sqrt(5 / 2))(standardised), abs=1e-4)


def test_fewer_centres_approximate_the_kernel(features):
    found = RbfFeatures.fit(features, n_centres=30, seed=0)
    assert len(found.centres) == 30
    mapped = found.apply(features)
    exact = RbfFeatures.fit(features, n_centres=40, seed=0).apply(features)
    assert np.abs(mapped @ mapped.T - exact @ exact.T).max() < 0.5
    assert found.apply(features[:3]) == pytest.approx(mapped[:3])


def test_the_choice_of_centres_follows_from_the_seed(features):
    first, again, other = (RbfFeatures.fit(features, n_centres=10, seed=seed).centres for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
