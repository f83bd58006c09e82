"""Finding super weights: spikes → candidates → verification → record (see docs/method.md)."""
