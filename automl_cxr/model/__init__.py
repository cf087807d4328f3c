"""The only room with Keras. TensorFlow's start-up chatter is silenced before it loads; errors still show."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
