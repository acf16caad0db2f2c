from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from pipelines.clip import ClipScorer
from pipelines.mini import evaluate
from pipelines.mini.render import draw
from pipelines.mini.world import SCENES, World
from prompts.grammar import load_grammar
from prompts.sampling import prompt_at

MINI = Path(evaluate.__file__).parent


def test_the_shipped_models_are_small_and_hold_no_pickle() -> None:
    detectors = MINI.parent.parent / "detectors"
    weights = [*MINI.rglob("*.safetensors"), *detectors.glob("*.safetensors")]
    assert len(weights) == 7  # UNet, autoencoder, text encoder, CLIP, pose; mini-mm's person and pose
    assert sum(path.stat().st_size for path in weights if path.name.startswith("mini_mm")) < 15e6
    assert sum(path.stat().st_size for path in weights if not path.name.startswith("mini_mm")) < 25e6
    assert not [path for path in MINI.rglob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert not [path for path in MINI.rglob("*.json") if "_name_or_path" in path.read_text()]


def test_clip_tells_the_scenes_of_drawn_pictures() -> None:
    scorer = ClipScorer()
    prototypes = evaluate.scene_prototypes(scorer)
    pictures, names = [], []
    for scene in SCENES:
        for seed in range(4):
            pictures.append(draw(World(scene, 1 + seed % 3), np.random.default_rng(seed)).image)
            names.append(scene)
    told = [SCENES[i] for i in (scorer.images(pictures) @ prototypes.T).argmax(1)]
    assert np.mean([a == b for a, b in zip(told, names, strict=True)]) >= 0.9


def test_pictures_of_a_prompt_are_sampled_and_gridded(tmp_path: Path) -> None:
    asked = [prompt_at(load_grammar(), 1, index) for index in range(4)]
    images, seconds = evaluate.sample(asked)
    assert len(images) == 4
    assert all(image.shape == (64, 64, 3) for image in images)
    assert seconds > 0
    evaluate.write_grid(tmp_path / "grid.png", asked, images)
    assert (tmp_path / "grid.png").stat().st_size > 1000


def test_detectors_stand_beside_each_other_where_both_were_measured() -> None:
    scores = asdict(evaluate.judge_pose("mini-pose", 4, wide=False))
    figures = {"mini_pose": scores, "mini_pose_wide": scores}
    assert [name.split()[0] for name, _ in evaluate.pose_rows("mini-pose", figures)] == ["mini-pose"] * 5
    assert evaluate.pose_rows("mini-mm", figures) == []


def test_a_second_detector_is_asked_where_it_is_installed() -> None:
    drawings = [draw(World(scene, 1 + i), np.random.default_rng(i)) for i, scene in enumerate(SCENES[:3])]
    people, wanted = [drawing.people for drawing in drawings], np.array([1, 2, 3])
    assert evaluate.second_opinion({"mini-pose": people}, wanted) == {}
    same = evaluate.second_opinion({"mini-pose": people, "mini-mm": people}, wanted)
    assert same == {"right_number_mini_mm": 1.0, "joints_agree": pytest.approx(1.0)}
    blind = evaluate.second_opinion({"mini-pose": people, "mini-mm": [(), *people[1:]]}, wanted)
    assert blind["right_number_mini_mm"] == pytest.approx(2 / 3)
    assert blind["joints_agree"] < 1
    assert evaluate.opinion_rows({}) == []
    assert [value for _, value in evaluate.opinion_rows(same)] == ["100.0%", "1.000"]


@pytest.mark.slow
def test_the_miniature_models_reach_their_bars(tmp_path: Path) -> None:
    figures = evaluate.run(tmp_path)
    assert figures["right_number"] >= 0.85
    assert figures["right_number_mini_mm"] >= 0.85
    assert figures["right_scene"] >= 0.90
    assert figures["mini_pose"]["ap"] >= 0.75
    assert figures["mini_pose"]["false_people"] <= 0.03
    assert figures["mini_mm"]["ap"] >= 0.5
