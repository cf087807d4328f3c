"""The only room with Keras. It loads here, once, without the page of chatter that TensorFlow writes when it starts."""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def native_stderr_held_back() -> Iterator[None]:
    """Swallow what C++ libraries write to stderr, and show it after all if the block fails.

    TF_CPP_MIN_LOG_LEVEL, the documented way, no longer covers what TensorFlow 2.21 logs before its logging is set up.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held, contextlib.ExitStack() as stack:
        real = os.dup(2)
        stack.callback(os.close, real)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(real, held.read())
            raise
        finally:
            os.dup2(real, 2)


logging.getLogger("tensorflow").setLevel(logging.ERROR)  # warns of retracing, which many models in a process bring about
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with native_stderr_held_back():
    import keras  # noqa: F401 - loaded for its side effects; the room's files import it again for its names
