import numpy as np

from automl_cxr.data.audit.hashes import MAX_DISTANCE, N_BITS, find_candidates, hash_images, mirror_hashes


def draw_hashes(n, seed=0):
    return np.random.default_rng(seed).random((n, N_BITS)) < 0.5


def with_flips(bits, n_flips, seed=1):
    flipped = bits.copy()
    rng = np.random.default_rng(seed)
    for row in flipped:
        row[rng.choice(N_BITS, n_flips, replace=False)] ^= True
    return flipped


def found_in(bits):
    return {tuple(pair) for portion in find_candidates(bits) for pair in portion.tolist()}


def test_the_hash_of_a_mirrored_picture_is_computed_from_the_original_hash():
    images = np.random.default_rng(0).integers(0, 256, (20, 64, 64), dtype=np.uint8)
    assert (hash_images(images[:, :, ::-1]) == mirror_hashes(hash_images(images))).all()
    assert (mirror_hashes(hash_images(images)) != hash_images(images)).any(axis=1).all()


def test_close_hashes_are_found_among_thousands_without_false_positives():
    bits = draw_hashes(6_000)
    near = with_flips(bits[:300], 25)
    turned = mirror_hashes(with_flips(bits[300:600], 25))
    found = found_in(np.concatenate([bits, near, turned]))
    planted = {(row, 6_000 + row, int(row >= 300)) for row in range(600)}
    assert found <= planted, "random hashes are half of their bits apart"
    assert len(found) >= 0.98 * len(planted)


def test_a_pair_beyond_the_largest_distance_is_not_found():
    bits = draw_hashes(1)
    assert found_in(np.concatenate([bits, with_flips(bits, MAX_DISTANCE + 1)])) == set()


def test_few_or_no_pictures_are_accepted():
    assert found_in(draw_hashes(0)) == set()
    assert found_in(draw_hashes(1)) == set()
    assert found_in(np.repeat(draw_hashes(1), 3, axis=0)) == {(0, 1, 0), (0, 2, 0), (1, 2, 0)}
