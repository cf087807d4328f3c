"""Search spaces, proposers and executors. This wing knows no X-rays."""
