"""Optuna storages: URLs, retries, a proxy, a cache and a journal file."""
