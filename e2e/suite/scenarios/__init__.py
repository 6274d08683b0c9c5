"""One file per promise; every module here is loaded."""
