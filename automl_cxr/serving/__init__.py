"""An HTTP server that classifies uploaded radiographs with one classifier, and DICOM structured reports of predictions."""
