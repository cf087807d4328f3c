"""Results of studies: leaderboards, evaluations, ensembles, figures, explanations, reports and exports."""
