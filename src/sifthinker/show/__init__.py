"""What people look at: pages and pictures of chains, runs, evaluations and datasets."""
