"""Search spaces, proposers and executors, independent of chest X-rays."""
