"""The comparison's table: means, spreads and verdicts as they are."""

from __future__ import annotations

from pipelines.mini.proof.report import as_text, spread


def run(ap: float, minutes: float | None = 10.0) -> dict[str, float | None]:
    return {"ap": ap, "pce": 0.5, "clipsim": 31.0, "seconds": 0.4, "minutes": minutes}


def test_each_kind_has_a_line_and_each_loss_a_verdict() -> None:
    groups = {
        "plain": [run(0.10)],
        "none": [run(0.28), run(0.30), run(0.32)],
        "detector": [run(0.31), run(0.29), run(0.33)],
        "t2i": [run(0.2, None)],
    }
    text = as_text(groups, 300)
    assert "| HumanSD, unweighted loss | 3 | 30.0 [28.0, 32.0] |" in text
    assert "the paper's): AP +21.0 against no skeleton (bar +20: reached)" in text
    unweighted = "AP ↑ +3.0, -1.0, +1.0; PCE ↓ +0.00, +0.00, +0.00; CLIPSIM ↑ +0.00, +0.00, +0.00"
    assert f"Seed by seed against the unweighted loss: {unweighted}." in text
    assert "Seed by seed against T2I-Adapter: AP ↑ +8.0, +10.0, +12.0; PCE" in text
    assert "| T2I-Adapter | 1 | 20.0 | 0.50 | 31.00 | 0.40 | - |" in text
    assert "keypoints" not in text


def test_a_gain_below_the_bar_is_called_missed() -> None:
    assert "bar +20: missed" in as_text({"plain": [run(0.10)], "none": [run(0.25)]}, 10)
    assert "bar +20: reached" in as_text({"plain": [run(0.10)], "none": [run(0.45)]}, 10)


def test_what_was_not_measured_has_a_dash() -> None:
    assert spread([{"ap": None}], "ap", 100, 1) == "-"
