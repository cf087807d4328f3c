"""Architectures, weights, graph surgery, export and Grad-CAM.

Importing the package loads Keras and discards the messages that TensorFlow prints at start-up.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def captured_native_stderr() -> Iterator[None]:
    """Discard what C++ libraries write to stderr, but print it if the block fails.

    TF_CPP_MIN_LOG_LEVEL, the documented setting, does not cover what TensorFlow 2.21 logs before its logging is set up.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured, contextlib.ExitStack() as stack:
        real = os.dup(2)
        stack.callback(os.close, real)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:
            captured.seek(0)
            os.write(real, captured.read())
            raise
        finally:
            os.dup2(real, 2)


logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of retracing, which many models in a process cause
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with captured_native_stderr():
    import keras  # noqa: F401 - loaded here with its messages discarded; the modules import its names themselves
