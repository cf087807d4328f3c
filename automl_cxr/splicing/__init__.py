"""Splice search: closed-form scores of all networks that join two networks at a pair of cuts."""
