"""Flags, the environment, and which of them wins."""

import pytest

from kubetune.controller.options import OperatorOptions, parse


def test_defaults():
    assert parse([]) == OperatorOptions()


def test_the_environment_is_the_default_and_a_flag_wins(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBETUNE_TRAINER_IMAGE", "from/environment")
    monkeypatch.setenv("KUBETUNE_HTTP_PORT", "1234")
    assert (parse([]).trainer_image, parse([]).http_port) == ("from/environment", 1234)
    options = parse(["--trainer-image=from/flag", "--http-port", "4321"])
    assert (options.trainer_image, options.http_port) == ("from/flag", 4321)


def test_namespaces_are_a_flag_each_or_a_list_in_the_environment(monkeypatch: pytest.MonkeyPatch):
    assert parse([]).watch_namespaces == ()
    assert parse(["--watch-namespace=a", "--watch-namespace", "b", "--watch-namespace=a"]) == OperatorOptions(
        watch_namespaces=("a", "b")
    )
    monkeypatch.setenv("KUBETUNE_WATCH_NAMESPACES", "c, d,")
    assert parse([]).watch_namespaces == ("c", "d")
    assert parse(["--watch-namespace=e"]).watch_namespaces == ("e",)
    monkeypatch.setenv("KUBETUNE_WATCH_NAMESPACES", "")
    assert parse([]).watch_namespaces == ()


def test_a_pattern_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("KUBETUNE_WATCH_NAMESPACES", "team-*")
    with pytest.raises(SystemExit):
        parse([])
    assert "KUBETUNE_WATCH_NAMESPACES: 'team-*' is not the name of a namespace" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--workers=many"], ["--no-such-flag"], ["--workers=0"], ["--watch-namespace=!a"]]
)
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
