"""Data sets: layouts, decoded images, patients, splits and the audit. Independent of search libraries and Keras."""
