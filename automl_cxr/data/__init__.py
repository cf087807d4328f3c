"""From a folder on disk to decoded images, their patients and a split. Knows no search library and no Keras."""
