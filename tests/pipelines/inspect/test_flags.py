"""Flags, set on the pages of `humansd inspect --serve`."""

from __future__ import annotations

import html
import re
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pipelines import cli
from tests.pipelines.inspect.served import Client, served, write_indexed


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1", None])
def test_other_sites_cannot_flag(client: Client, out: Path, origin: str | None) -> None:
    key = client.get("/accepted").keys[0]
    if origin is None:
        answer = client.ask("POST", "/flag", urlencode({"key": key, "flagged": 1, "back": "/accepted"}))
    else:
        answer = client.flag(key, Origin=origin)
    assert answer.status == 403
    assert not (out / "flagged.txt").exists()


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:0", ""])
def test_a_flag_leads_back_to_pages_of_this_server_only(client: Client, out: Path, back: str) -> None:
    assert client.flag("key", back=back).status == 400
    assert not (out / "flagged.txt").exists()


def test_flags_become_a_list_that_takedown_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my out"
    keys = write_indexed(folder, 3)
    with served(str(folder)) as client:
        asked = client.get("/accepted?people=1")
        chosen = asked.keys[0]
        back = re.findall(r'name="back" value="([^"]*)"', asked.text)[0]
        assert client.flag(chosen, back=html.unescape(back)).headers["Location"] == "/accepted?people=1#row-1"
        for key in (keys[5], keys[7], chosen):
            client.flag(key)
        client.flag(keys[7], flagged=False)
    with served(str(folder)) as client:  # a restart later
        assert client.get("/accepted?flagged=1").keys == sorted({chosen, keys[5]}, key=keys.index)
        told = html.unescape(client.get("/accepted").text)
        (command,) = re.findall(r"<code>humansd (takedown [^<]*)</code>", told)
        assert "2 flagged" in told
        arguments = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", command)]
        assert cli.main([*arguments, "--dry-run", "--json"]) == 0
        assert capsys.readouterr().out.count('"key"') == 2
        place = client.get("/accepted?flagged=1").linked("/thumbnail?")[0]
        assert client.get(place).status == 200
        assert cli.main(arguments) == 0
        assert client.get(place).status == 404
        assert set(client.get("/accepted").keys) == set(keys) - {chosen, keys[5]}
        assert client.get("/accepted?flagged=1").keys == []


def test_an_edited_list_keeps_its_lines(tmp_path: Path) -> None:
    keys = write_indexed(tmp_path / "out", 1)
    flagged = tmp_path / "out" / "flagged.txt"
    flagged.write_text(f"# asked by mail\n\n  {keys[0]}  \nghi-elsewhere-1", encoding="utf-8")
    with served(str(tmp_path / "out")) as client:
        assert "2 flagged" in client.get("/accepted").text
        client.flag(keys[1])
        client.flag(keys[0], flagged=False)
        assert flagged.read_text(encoding="utf-8") == f"# asked by mail\n\nghi-elsewhere-1\n{keys[1]}\n"
        refused = client.flag("two\nlines")
        assert "cannot be listed" in refused.text
        flagged.write_bytes(b"\xff\xfe\x00")
        assert "not a text file" in client.get("/accepted").text
