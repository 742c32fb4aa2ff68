"""Classifiers that learn from soft labels and pairs within sessions."""
