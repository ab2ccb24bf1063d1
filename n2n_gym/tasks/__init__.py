"""Labelled images: data sets with three disjoint splits."""
