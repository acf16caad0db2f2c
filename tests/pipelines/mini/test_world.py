import re

import numpy as np
import pytest

from pipelines.mini.world import (
    COLORS,
    PLACES,
    POSES,
    SCENES,
    color_word,
    poses_of_actions,
    random_world,
    world_from_prompt,
)
from prompts.grammar import load_grammar
from prompts.sampling import prompt_at

GRAMMAR = load_grammar()
POSE_OF = poses_of_actions({action.phrase: action.tags for action in GRAMMAR.actions})


def test_every_action_has_a_pose_and_every_pose_an_action() -> None:
    assert set(POSE_OF) == {action.phrase for action in GRAMMAR.actions}
    assert set(POSE_OF.values()) == set(POSES)


def test_prompts_decide_what_is_drawn() -> None:
    seen: dict[str, set[object]] = {"top": set(), "place": set(), "time": set(), "garment": set()}
    for index in range(3000):
        prompt = prompt_at(GRAMMAR, 3, index)
        world = world_from_prompt(prompt, POSE_OF)
        assert world.scene == prompt.scene in SCENES
        assert world.num_people == prompt.num_people
        assert world.pose == POSE_OF[prompt.action]
        if world.top is not None and world.top not in ("grey", "yellow", "red", "blue"):
            assert re.search(rf"\b{world.top}\b", prompt.text)
        for name, values in seen.items():
            values.add(getattr(world, name))
    assert seen["top"] == {*COLORS, None}
    assert seen["place"] == {*PLACES, None}
    assert seen["time"] == {"day", "night", "sunset"}
    assert seen["garment"] >= {"trousers", "skirt"}


@pytest.mark.parametrize(
    ("text", "color"),
    [("a red shirt", "red"), ("gray coats", "grey"), ("a redwood mask", None), ("", None), ("golden robes", "yellow")],
)
def test_color_words(text: str, color: str | None) -> None:
    assert color_word(text) == color


def test_random_worlds_show_nobody_now_and_then() -> None:
    rng = np.random.default_rng(0)
    numbers = [random_world(rng).num_people for _ in range(600)]
    assert {0, 1, 2, 3} == set(numbers)
    assert 20 < numbers.count(0) < 90
