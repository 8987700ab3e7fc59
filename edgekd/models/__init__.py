"""Teachers and students: the built-in zoo, and how a model is described, built and saved."""
