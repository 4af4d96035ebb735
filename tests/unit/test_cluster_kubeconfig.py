"""What may be wrong with a kubeconfig and the files that it names: bad input, with the file's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from containers.errors import BadInput
from infra.cluster import Cluster
from infra.settings import KubernetesSettings

if TYPE_CHECKING:
    from pathlib import Path


def config(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
    }


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in config().items() if name != key}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "is not a kubeconfig"),
        ("", "is not a kubeconfig"),
        ("a: [", "is not a kubeconfig"),
        ("\0", "is not a kubeconfig"),
        ("[]", "is not a kubeconfig"),
        (without("clusters"), "'clusters' is missing"),
        (without("users"), "no cluster or user of that name"),
        (without("current-context"), "No current context"),
        (config() | {"current-context": "other"}, "Context 'other' not found"),
        (config() | {"clusters": [{"name": "d", "cluster": {}}]}, "no cluster or user of that name"),
        (config() | {"clusters": [{"name": "c", "cluster": {"server": 1}}]}, "is not a kubeconfig"),
        (config({"certificate-authority": "gone.crt"}), "certificate-authority: there is no file {folder}/gone.crt"),
        (config({"certificate-authority": "config"}), "{folder}/config holds no certificate"),
        (config({"certificate-authority-data": "?"}), "a certificate in it cannot be used"),
        (config({"certificate-authority-data": "YQ=="}), "a certificate in it cannot be used"),
        (config(user={"client-certificate": "gone.crt"}), "client-certificate: there is no file {folder}/gone.crt"),
        (config(user={"client-certificate": "config", "client-key": "gone.key"}), "client-key: there is no file"),
        (config(user={"client-certificate": "config", "client-key": "config"}), "a certificate in it cannot be used"),
        (config(user={"tokenFile": "/gone/token"}), "tokenFile: there is no file /gone/token"),
        (config(user={"auth-provider": {"name": "gcp"}}), "auth-provider not supported"),
    ],
)
def test_what_is_wrong_with_it(tmp_path: Path, document: Any, words: str) -> None:
    path = tmp_path / "config"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    with pytest.raises(BadInput) as caught:
        Cluster.open(KubernetesSettings(kubeconfig=path))
    assert str(path) in caught.value.message
    assert words.format(folder=tmp_path) in caught.value.message


@pytest.mark.parametrize(
    "command", [["/no/such/program"], ["false"], ["echo", "no JSON"], ["echo", "{}"]], ids=lambda one: one[-1]
)
def test_a_program_that_should_fetch_the_login(tmp_path: Path, command: list[str]) -> None:
    """It is started with the first request."""
    program = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": command[0], "args": command[1:]}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config(user={"exec": program})))
    with Cluster.open(KubernetesSettings(kubeconfig=path)) as cluster, pytest.raises(BadInput) as caught:
        cluster.list("Pod", {})
    assert str(path) in str(caught.value)


def test_an_address_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config({"server": "127.0.0.1:6443"})))
    with (
        Cluster.open(KubernetesSettings(kubeconfig=path)) as cluster,
        pytest.raises(BadInput, match="is not the address"),
    ):
        cluster.list("Pod", {})


def test_a_context_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config()))
    with pytest.raises(BadInput, match="Context 'prod' not found"):
        Cluster.open(KubernetesSettings(kubeconfig=path, context="prod"))


def test_several_files_in_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl puts them together; here one is read, and that is said."""
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    with pytest.raises(BadInput, match="KUBECONFIG names 2 files") as caught:
        Cluster.open(KubernetesSettings())
    assert "CARWRIGHT_KUBERNETES__KUBECONFIG" in caught.value.remedy
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'a'}:")
    with pytest.raises(BadInput, match=f"no cluster to talk to: .*{tmp_path / 'a'}"):
        Cluster.open(KubernetesSettings())
