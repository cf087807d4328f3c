import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.training.batches import TrainingBatches
from automl_cxr.training.datasets import RowPart
from automl_cxr.training.sampling import epoch_order, fill_up

LABELS = np.arange(29) % 3


def batches(batch_size, **values):
    config = TrialConfig.from_values({"batch_size": batch_size, "imbalance": "none", **values})
    return TrainingBatches(RowPart(np.arange(29), LABELS), 3, config, epoch=2), epoch_order(LABELS, 3, config, epoch=2)


@pytest.mark.parametrize("batch_size", [1, 7, 28, 29, 32])
def test_all_batches_have_one_size_and_each_image_of_the_epoch_has_a_weight_once(batch_size):
    found, order = batches(batch_size)
    sizes = {len(rows) for rows, _, _ in (found[step] for step in range(len(found)))}
    assert sizes == {min(batch_size, 29)}
    weighted = np.concatenate([rows[weights > 0] for rows, _, weights in (found[step] for step in range(len(found)))])
    assert weighted.tolist() == order.tolist()


def test_the_last_batch_is_completed_with_the_first_images_of_the_epoch():
    found, order = batches(7)
    rows, targets, weights = found[4]
    assert rows.tolist() == [order[28], *order[:6]]
    assert targets.argmax(axis=1).tolist() == LABELS[rows].tolist()
    assert weights.tolist() == [7, 0, 0, 0, 0, 0, 0]
    assert len(set(rows)) == 7


def test_the_mean_loss_of_an_epoch_weights_each_image_equally():
    found, _ = batches(7)
    losses = np.random.default_rng(0).random(29)
    of_steps = []
    for step in range(len(found)):
        rows, _, weights = found[step]
        of_steps.append(np.mean(weights * losses[rows]))
    assert found.mean_loss(np.mean(of_steps[:-1]), np.mean(of_steps)) == pytest.approx(losses.mean())
    assert batches(32)[0].mean_loss(0.0, 0.25) == 0.25


@pytest.mark.parametrize("n_devices", [2, 3])
def test_a_batch_can_be_divided_among_devices(n_devices, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_GPUS", str(n_devices))
    found, order = batches(7)
    assert len(found) == 5
    weighted = []
    for step in range(len(found)):
        rows, _, weights = found[step]
        assert 0 <= len(rows) - 7 < n_devices
        assert len(rows) % n_devices == 0
        weighted += rows[weights > 0].tolist()
    assert weighted == order.tolist()


@pytest.mark.parametrize(("n", "n_images", "size"), [(1, 3, 3), (5, 3, 3), (6, 3, 4), (7, 7, 9)])
def test_filling_up_a_batch_keeps_its_mean_loss(n, n_images, size):
    rng = np.random.default_rng(n)
    order, weights, losses = rng.permutation(20)[:n], rng.random(20).astype(np.float32), rng.random(20)
    for step in range(-(-n // n_images)):
        own = order[step * n_images : (step + 1) * n_images]
        positions, filled = fill_up(order, weights, step=step, n_images=n_images, size=size)
        assert (len(positions), filled.dtype) == (size, np.float32)
        assert positions[: len(own)].tolist() == own.tolist()
        assert set(positions) <= set(order)
        assert np.mean(filled * losses[positions]) == pytest.approx(np.mean(weights[own] * losses[own]), rel=1e-6)
