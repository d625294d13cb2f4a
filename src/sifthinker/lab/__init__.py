"""The embedded world: scenes, questions about them, a scripted teacher, and the nano model."""
