"""A lab of one's own beside the LeNet-5 lab: a model and a data set."""
