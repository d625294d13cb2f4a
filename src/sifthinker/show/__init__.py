"""Pages and images of chains, runs, evaluations and datasets."""
