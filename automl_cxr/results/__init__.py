"""What people look at: leaderboards, figures, ensembles, evaluations."""
