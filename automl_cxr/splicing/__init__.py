"""Which layers of two networks should a small one take? Every pair of cuts, scored in closed form."""
