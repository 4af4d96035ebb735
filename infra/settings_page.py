"""docs/reference/settings.md, written from the settings' own descriptions: `python -m infra.settings_page > PAGE`."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr

from containers.setting_names import settings_of
from containers.step_variables import STEP_SETTINGS
from infra.settings import Settings
from infra.settings_file import NEVER, WITH

if TYPE_CHECKING:
    from containers.setting_names import Setting

_HEAD: Final = """# Settings

<!-- Written by `make docs`; change the descriptions in containers/settings.py and infra/settings.py instead. -->

Set a setting in one of these places; the first one wins:

1. as an environment variable, `CARWRIGHT_STORE__BUCKET=models`;
2. as a file of the variable's name under `/run/secrets`;
3. in `carwright.toml` in the working directory, `bucket = "models"` under `[store]`.

An unknown name is refused, with the nearest one as a suggestion (exit code 2). `carwright settings` prints the effective
values, with secrets masked. A step gets only the settings that it uses and that are set.

The working directory may be somebody else's, such as a cloned repository. So `carwright.toml` may not set what decides who
gets your credentials, or what runs with them (exit code 2):

| setting | in `carwright.toml` |
|---|---|
{rules}
| step | sections it gets |
|---|---|
"""


def page() -> str:
    """The whole page as Markdown."""
    rules = "".join(
        f"| `{name}` | only together with {', '.join(f'`{one}`' for one in beside)} |\n"
        for name, beside in WITH.items()
    )
    rules += "".join(f"| `{name}` | never: {why} |\n" for name, why in NEVER.items())
    text = _HEAD.format(rules=rules)
    for step, sections in STEP_SETTINGS.items():
        text += f"| {step} | {', '.join(f'`{one}`' for one in sections)} |\n"
    found = sorted(settings_of(Settings), key=lambda one: (len(one.path) > 1, one.path[0] if len(one.path) > 1 else ""))
    for section, settings in groupby(found, lambda one: one.path[0] if len(one.path) > 1 else ""):
        text += f"\n## {section or 'General'}\n\n| variable | meaning | default |\n|---|---|---|\n"
        text += "".join(_row(one) for one in settings)
    return text


def _row(setting: Setting) -> str:
    suffix = "__<NAME>" if setting.is_table else ""
    meaning = (setting.field.description or "").replace("|", "\\|")
    return f"| `{setting.variable}{suffix}` | {meaning} | {_default(setting.field.get_default(call_default_factory=True))} |\n"


def _default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", (), {}):
        return ""
    return f"`{json.dumps(value) if isinstance(value, (dict, tuple, bool)) else value}`"


if __name__ == "__main__":
    print(page(), end="")
