"""The embedded world: scenes, questions about them, a scripted teacher, and a nano model that fits them."""
