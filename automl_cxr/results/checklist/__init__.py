"""Reporting checklists of a study: CLAIM 2024 and TRIPOD+AI 2024, with a flow diagram and the characteristics of the parts."""
