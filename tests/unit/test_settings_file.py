"""carwright.toml of somebody else's folder decides neither who gets a person's credentials nor what runs with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from infra.settings import Settings
from infra.settings_file import NEVER, WITH

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "http://evil.example:9"
# What the file says, and the setting that the refusal names.
ATTACKS = [
    (f'hub_endpoint = "{EVIL}"', "hub_endpoint"),
    (f'HUB_ENDPOINT = "{EVIL}"', "hub_endpoint"),
    (f'"Hub_Endpoint" = "{EVIL}"', "hub_endpoint"),
    (f'[store]\nendpoint = "{EVIL}"', "store.endpoint"),
    (f'store.endpoint = "{EVIL}"', "store.endpoint"),
    (f'store = {{ endpoint = "{EVIL}" }}', "store.endpoint"),
    (f'[store]\nendpoint = "{EVIL}"\naccess_key_id = "k"', "store.endpoint"),
    (f'[store]\nendpoint = "{EVIL}"\nsecret_access_key = "k"', "store.endpoint"),
    (f'[store]\npublic_endpoint = "{EVIL}"', "store.public_endpoint"),
    (f'[source]\nendpoint = "{EVIL}"', "source.endpoint"),
    (f'[source]\nendpoint = "{EVIL}"\n[store]\naccess_key_id = "k"\nsecret_access_key = "k"', "source.endpoint"),
    (f'[evaluate]\napi_key_for = "{EVIL}"', "evaluate.api_key_for"),
    ('[registry]\nhost = "evil.example"', "registry.host"),
    ('[registry]\nhost = "evil.example"\nusername = "u"', "registry.host"),
    ('[registry]\nplain_http = ["quay.io"]', "registry.plain_http"),
    ('[registry]\nauth_file = "auth.json"', "registry.auth_file"),
    ('docker_config = "."', "docker_config"),
    ('cache = "."', "cache"),
    ('[docker]\nhost = "tcp://evil.example:2375"', "docker.host"),
    ('[docker]\nimage = "evil.example/{target}"', "docker.image"),
    ('[docker.extra_hosts]\n"huggingface.co" = "6.6.6.6"', "docker.extra_hosts"),
    ('docker.registry_aliases = { "quay.io" = "evil.example" }', "docker.registry_aliases"),
    ('[kubernetes]\nkubeconfig = "kubeconfig"', "kubernetes.kubeconfig"),
    ('[kubernetes]\nimage = "evil.example/{target}"', "kubernetes.image"),
    ('[quantize]\npython = "./python"', "quantize.python"),
    ('[serve]\npython = "./python"', "serve.python"),
    ('[evaluate]\nload_python = "./python"', "evaluate.load_python"),
    ('[sign]\ncommand = ["./sign"]', "sign.command"),
    ('[sign]\nclient = "AWS_PROFILE=theirs"', "sign.client"),
    ('[sign]\npkcs11_module = "./module.so"', "sign.pkcs11_module"),
    ('[sign]\nkeyless = "config.json"', "sign.keyless"),
    ('[sign]\nidentity_token_file = "/etc/passwd"', "sign.identity_token_file"),
]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(("text", "named"), ATTACKS)
def test_the_file_is_refused(text: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the person's credentials in the environment, which are not in the message."""
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("CARWRIGHT_STORE__ACCESS_KEY_ID", "canary")
    monkeypatch.setenv("CARWRIGHT_STORE__SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("CARWRIGHT_REGISTRY__PASSWORD", "canary")
    (tmp_path / "carwright.toml").write_text(f"{text}\n")
    with pytest.raises(BadInput, match=f"carwright.toml in this folder sets {named}") as caught:
        Settings()
    assert "set the variable CARWRIGHT_" in caught.value.remedy
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("name", [*WITH, *NEVER])
def test_a_variable_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"CARWRIGHT_DOCKER__EXTRA_HOSTS", "CARWRIGHT_DOCKER__REGISTRY_ALIASES"}
    value = (
        '{"a": "b"}'
        if name in tables
        else '["a"]'
        if name.endswith(("PLAIN_HTTP", "COMMAND"))
        else "https://ours.example"
    )
    monkeypatch.setenv(name, value)
    Settings()


def test_what_the_variable_sets_too_the_file_does_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But of a table it would add entries, whatever the variable says."""
    monkeypatch.setenv("CARWRIGHT_STORE__ENDPOINT", "https://ours.example")
    (tmp_path / "carwright.toml").write_text(f'store.endpoint = "{EVIL}"\n')
    assert Settings().store.endpoint == "https://ours.example"
    monkeypatch.setenv("CARWRIGHT_DOCKER__EXTRA_HOSTS", json.dumps({"ours": "10.0.0.1"}))
    (tmp_path / "carwright.toml").write_text('docker.extra_hosts = { "huggingface.co" = "6.6.6.6" }\n')
    with pytest.raises(BadInput, match=r"docker\.extra_hosts"):
        Settings()


def test_an_endpoint_with_its_own_credentials(tmp_path: Path) -> None:
    """Then those of the file go there, and nobody else's."""
    (tmp_path / "carwright.toml").write_text(
        'hub_endpoint = "https://hub.example"\nhub_token = "of-the-file"\n'
        '[store]\nendpoint = "https://store.example"\naccess_key_id = "a"\nsecret_access_key = "b"\n'
    )
    settings = Settings()
    assert (settings.hub_endpoint, settings.store.endpoint) == ("https://hub.example", "https://store.example")


@pytest.mark.parametrize(
    "url",
    ["https://user:hunter2@host", "https://hunter2@host/x", "http://u:hunter2@[::1]:9000", "https://:hunter2@h?a=@"],
)
@pytest.mark.parametrize(
    "name",
    ["HUB_ENDPOINT", "STORE__ENDPOINT", "STORE__PUBLIC_ENDPOINT", "SOURCE__ENDPOINT"],
)
def test_an_endpoint_holds_no_login(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored with requests and results."""
    monkeypatch.setenv(f"CARWRIGHT_{name}", url)
    with pytest.raises(BadInput, match="holds a login") as caught:
        Settings()
    assert "hunter2" not in str(caught.value)
