"""A classifier with its networks in memory, for questions about single pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from automl_cxr.data.decode import fit_square
from automl_cxr.errors import UnknownNameError
from automl_cxr.results.classifier import Classifier


class LoadedClassifier:
    """Predicts pictures, and tells what each member sees of them.

    Args:
        classifier: The classifier.

    Attributes:
        classifier: The same.
        models: The Keras model of each member.

    Raises:
        TrialError: A model file is damaged.
        DataError: A model is another than its record says.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self.models = classifier.load_networks()

    def squares(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Bring pictures, each uint8 (height, width) of its own, to what each member takes: uint8 (n, size, size)."""
        seen = {
            square: np.stack([fit_square(picture, *square) for picture in pictures])
            for square in {member.square for member in self.classifier.members}
        }
        return [seen[member.square] for member in self.classifier.members]

    def predict(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Predict pictures: float32 (n, n_classes)."""
        return self.predict_squares(self.squares(pictures))

    def predict_squares(self, squares: Sequence[np.ndarray]) -> np.ndarray:
        """Predict what ``squares`` gave: float32 (n, n_classes)."""
        from automl_cxr.model.inference import predict_images  # Keras, on first use

        said = [
            predict_images(model, images, batch_size=len(images)) for model, images in zip(self.models, squares, strict=True)
        ]
        return self.classifier.rule.combine(np.stack(said))

    def column(self, class_name: str) -> int:
        """Find a class.

        Raises:
            UnknownNameError: The classifier tells no such class.
        """
        if class_name not in self.classifier.classes:
            raise UnknownNameError("class", class_name, self.classifier.classes)
        return self.classifier.classes.index(class_name)
