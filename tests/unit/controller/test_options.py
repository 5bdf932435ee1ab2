"""Flags, the environment, and which of them wins."""

import pytest

from kubetune.controller.options import Options, parse


def test_defaults():
    assert parse([]) == Options()


def test_the_environment_is_the_default_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBETUNE_TRAINER_IMAGE", "from/environment")
    monkeypatch.setenv("KUBETUNE_HTTP_PORT", "1234")
    assert (parse([]).trainer_image, parse([]).http_port) == ("from/environment", 1234)
    options = parse(["--trainer-image=from/flag", "--http-port", "4321"])
    assert (options.trainer_image, options.http_port) == ("from/flag", 4321)


@pytest.mark.parametrize("words", [["--workers=many"], ["--no-such-flag"], ["--workers=0"]])
def test_nonsense_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err


def test_help_says_what_each_flag_is(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--workers WORKERS Resources reconciled at a time" in said
