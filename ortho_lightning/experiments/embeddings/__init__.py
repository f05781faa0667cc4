"""Commands of ``ortho-whiten``: fit and apply from files, the STS experiment, retrieval and the benchmark of speed."""
