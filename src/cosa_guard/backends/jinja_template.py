"""Renders a model's chat template with Jinja, as transformers does. The only module that imports jinja2.

Templates come with model files, so they run in Jinja's sandbox, and contents never pass through them (`chat_template`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cosa_guard.backends.chat_template import Apply, TemplateRefused
from cosa_sdk.errors import MissingExtra, ModelFileError

__all__ = ["compile_template"]


def compile_template(text: str, *, bos: str, eos: str, where: str) -> Apply:
    """The renderer of a template.

    Args:
        text: Jinja.
        bos: What it writes as `bos_token`.
        eos: What it writes as `eos_token`.
        where: Which template it is, for the error.

    Raises:
        MissingExtra: jinja2 is not installed.
        ModelFileError: it is not Jinja.
    """
    try:
        import jinja2  # noqa: PLC0415  # optional
        import jinja2.ext  # noqa: PLC0415
        import jinja2.sandbox  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra("chat templates", "llama-cpp") from error

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.now().strftime(form))  # noqa: DTZ005  # the day that the user has
    environment.filters["tojson"] = _to_json
    try:
        template = environment.from_string(text)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ModelFileError(
            f"{where} is not a template: {error}. Pass one that is with the option chat_template."
        ) from error

    def apply(turns: Sequence[Mapping[str, str]]) -> str:
        try:
            rendered: str = template.render(
                messages=list(turns), add_generation_prompt=True, bos_token=bos, eos_token=eos
            )
        except Exception as error:  # what a template does is beyond us: any error in it is its refusal
            raise TemplateRefused(str(error) or repr(error)) from error
        return rendered

    return apply


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
