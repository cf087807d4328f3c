"""What a classifier could learn from a data set besides anatomy, and what its parts share that they should not."""
