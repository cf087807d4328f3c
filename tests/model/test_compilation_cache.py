import os
import subprocess
import sys

import keras
import pytest

from automl_cxr.data.cache_listing import clear_cache, list_cache_entries
from automl_cxr.model.compilation_cache import _remove_oldest, use_compilation_cache

COMPILE = """
import keras, numpy as np
from automl_cxr.model.devices import has_gpu
has_gpu()
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
model.compile("sgd", "mse", jit_compile=True)
if keras.backend.backend() == "jax":
    import jax
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
model.train_on_batch(np.ones((2, 4), np.float32), np.ones((2, 3), np.float32))
"""


@pytest.mark.long
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch compiles with a C++ compiler")
def test_a_compiled_step_is_stored_in_the_cache_folder(tmp_path):
    cache = tmp_path / "a cache"
    environment = {**os.environ, "AUTOML_CXR_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TF_XLA_FLAGS", None)
    subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True, capture_output=True)
    (entry,) = list_cache_entries(cache)
    assert (entry.kind, entry.n_images) == ("compiled", 0)
    assert entry.n_bytes > 1000
    assert entry.what.startswith(f"functions of {keras.backend.backend()}-")
    assert clear_cache(cache) == entry.n_bytes
    assert list_cache_entries(cache) == []


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="a setting of TensorFlow")
def test_the_users_settings_of_tensorflow_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path))
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=1")
    use_compilation_cache()
    flags = os.environ["TF_XLA_FLAGS"]
    assert flags.startswith(f"--tf_xla_auto_jit=1 --tf_xla_persistent_cache_directory='{tmp_path}/compiled/tensorflow-")
    use_compilation_cache()
    assert os.environ["TF_XLA_FLAGS"] == flags


def test_a_folder_that_cannot_be_written_is_not_used(monkeypatch, tmp_path):
    (tmp_path / "compiled").write_text("a file")
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path))
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    use_compilation_cache()
    assert os.environ["TF_XLA_FLAGS"] == ""


def test_the_files_that_were_used_last_are_kept(tmp_path):
    for number in range(4):
        path = tmp_path / f"{number}.pb"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 + number, 1000 + number))
    os.utime(tmp_path / "0.pb", (2000, 1000))  # read again
    _remove_oldest(tmp_path, 250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.pb", "3.pb"]
