"""A client of a Prefect API as a script without Prefect makes it: with the login, and with a token against CSRF."""

from __future__ import annotations

import uuid

import httpx


def logged_in(api: str, login: str, timeout: float = 30) -> httpx.Client:
    """`api` is the base of its paths, `login` user:password; raises what httpx raises when the login is refused."""
    user, _, password = login.partition(":")
    auth, name = (user, password), str(uuid.uuid4())
    told = httpx.get(f"{api}/csrf-token", params={"client": name}, auth=auth, timeout=timeout).raise_for_status().json()
    headers = {"Prefect-Csrf-Client": name, "Prefect-Csrf-Token": told["token"]}
    return httpx.Client(base_url=api, auth=auth, headers=headers, timeout=timeout)
