"""Configs as files: YAML, TOML and JSON in; a valid config, or findings with line and column, out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cosa_sdk.config import SCHEMA_VERSION, SafetyConfig
from cosa_sdk.errors import ConfigError, Finding, UnknownName, UsageError, nearest
from cosa_sdk.sources import LIMIT, READERS, Fault, Format, Marks, bounded, checked, decoded, line_column

__all__ = ["LIMIT", "Format", "dump", "load", "loads"]

_SUFFIXES: dict[str, Format] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}

_FIXES = {
    "string-type": "put text in quotes",
    "tuple-type": "write a list",
    "model-type": "write keys and values",
    "bool-type": "write true or false",
    "int-type": "write a whole number, without quotes",
}
"""Next steps in terms of a file, for faults that pydantic reports in terms of Python."""


def load(source: str | Path) -> SafetyConfig:
    """Read a config from a `.yaml`, `.yml`, `.toml` or `.json` file.

    Raises:
        ConfigError: the file cannot be read or is not a valid config; each finding has file, line and column.
    """
    path = Path(source)
    try:
        form = _form(path)
        text = decoded(_read(path))
    except Fault as fault:
        raise ConfigError([_finding(fault, "", str(path))]) from None
    return loads(text, format=form, name=str(path))


def loads(text: str, *, format: Format, name: str = "<text>") -> SafetyConfig:  # noqa: A002  # reads as `dump` does
    """Read a config from a text.

    Args:
        name: stands for the file in findings.

    Raises:
        ConfigError: the text is not a valid config.
        UnknownName: no such format.
    """
    if format not in READERS:
        raise UnknownName("format", format, tuple(READERS))
    try:
        text = bounded(text)
        tree, marks = READERS[format](text)
        _check_schema(checked(tree, marks), marks)
    except Fault as fault:
        raise ConfigError([_finding(fault, text, name)]) from None
    try:
        return SafetyConfig(**tree)
    except ConfigError as error:
        raise type(error)([_located(finding, text, marks, name) for finding in error.findings]) from None


def dump(config: SafetyConfig, path: str | Path | None = None, *, format: Format | None = None) -> str:  # noqa: A002
    """A config as text, without the keys that have their default; reading it back gives an equal config.

    Args:
        path: written when given, whole or not at all.
        format: that of the path's suffix when not given; YAML without a path.

    Raises:
        ConfigError: the file cannot be written, or could not be read again.
        UnknownName: no such format.
        UsageError: `format` contradicts the path's suffix.
    """
    if format is not None and format not in _WRITERS:
        raise UnknownName("format", format, tuple(_WRITERS))
    target = None if path is None else Path(path)
    try:
        form = format or (_form(target) if target else "yaml")
        if target and _SUFFIXES.get(target.suffix.lower(), form) != form:
            said = f"{str(target)!r} would be read as {_form(target)}, not as {form}"
            raise UsageError(f"{said}: change the suffix, or leave `format` out")
        text = bounded(_WRITERS[form](_tree(config)))
        if target:
            _write(target, text)
    except Fault as fault:
        raise ConfigError([_finding(fault, "", str(target or config.name))]) from None
    return text


def _form(path: Path) -> Format:
    if path.is_dir():
        raise Fault("file", "is a directory", fix="name a file in it")
    try:
        return _SUFFIXES[path.suffix.lower()]
    except KeyError:
        message = f"unknown suffix {path.suffix!r}; known: {', '.join(_SUFFIXES)}"
        raise Fault("suffix", message, fix="name the file after its format") from None


def _read(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would block, and a device need not end
            raise Fault("file", "is not a regular file")
        with path.open("rb") as file:
            return file.read(LIMIT + 1)
    except FileNotFoundError:
        raise _missing(path) from None
    except (OSError, ValueError) as error:
        raise Fault("file", f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _missing(path: Path) -> Fault:
    try:
        beside = [other.name for other in path.parent.iterdir() if other.suffix.lower() in _SUFFIXES]
    except OSError:
        return Fault("file", f"there is no folder {str(path.parent)!r}")
    meant = nearest(path.name, beside)
    return Fault("file", "there is no such file", fix=f"did you mean {meant!r}?" if meant else None)


def _write(path: Path, text: str) -> None:
    """Replace the file behind `path`, links followed, in one step: a reader sees the old text or the new one."""
    try:
        real = Path(os.path.realpath(path))
        import secrets  # noqa: PLC0415  # for writing only
        import shutil  # noqa: PLC0415

        scratch = real.with_name(f".{real.name}.{secrets.token_hex(4)}.tmp")
        try:
            with scratch.open("xb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            if real.exists():
                shutil.copymode(real, scratch)
            scratch.replace(real)
        finally:
            scratch.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise Fault("file", f"cannot be written: {getattr(error, 'strerror', None) or error}") from None


def _check_schema(tree: dict[str, Any], marks: Marks) -> None:
    """A newer schema is one finding by itself: its new keys would only look like mistakes."""
    schema = tree.get("cosa")
    if type(schema) is int and schema > SCHEMA_VERSION:
        message = f"written for a newer Cosa: schema {schema}, and this one reads up to {SCHEMA_VERSION}"
        at = marks["cosa"][1] if "cosa" in marks else None
        raise Fault("schema", message, at=at, fix="upgrade: pip install -U cosa", where="cosa")


def _finding(fault: Fault, text: str, name: str) -> Finding:
    line, column = line_column(text, fault.at)
    return Finding(
        code=fault.code, message=fault.message, where=fault.where, file=name, line=line, column=column, fix=fault.fix
    )


def _located(finding: Finding, text: str, marks: Marks, name: str) -> Finding:
    """The finding with the place of what it is about, or of the nearest thing around it that the file has."""
    place = finding.where
    while place and place not in marks:
        place = place[: max(place.rfind("."), place.rfind("["), 0)]
    key, value = marks.get(place, (None, None))
    line, column = line_column(text, key if finding.code == "unknown-key" else value)
    fix = finding.fix or _FIXES.get(finding.code)
    if finding.message.startswith("None:"):
        fix = "write a value, or leave the key out"
    return replace(finding, file=name, line=line, column=column, fix=fix)


def _tree(config: SafetyConfig) -> dict[str, Any]:
    """The config in plain values, in the order of the model, without defaults."""
    tree = {"cosa": config.cosa, **config.model_dump(mode="json", exclude_defaults=True)}
    # The default of `default` depends on the rest, which pydantic does not know when it leaves defaults out.
    assumed = "guideline" if config.guideline and not config.rules else "forbid"
    if config.default == assumed:
        tree.pop("default", None)
    else:
        tree["default"] = config.default
    for rule in tree.get("rules", ()):
        if "terms" in rule:
            rule["terms"] = [term.get("phrase", term) for term in rule["terms"]]
    fields = list(SafetyConfig.model_fields)
    return dict(sorted(tree.items(), key=lambda item: fields.index(item[0])))


def _yaml(tree: dict[str, Any]) -> str:
    import yaml  # noqa: PLC0415  # loaded with the first YAML file, not with cosa_sdk

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
            super().increase_indent(flow, indentless=False)  # lists stand below their key, not beside it

        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # our reader refuses them
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return str(yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110))


def _json(tree: dict[str, Any]) -> str:
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def _toml(tree: dict[str, Any]) -> str:
    return "\n".join(_toml_lines(tree, "")).strip() + "\n"


def _toml_lines(table: dict[str, Any], prefix: str) -> Iterator[str]:
    """Plain keys first, as TOML wants it; then a `[table]` for each mapping and `[[table]]` for each list of them."""
    for key, value in table.items():
        if not isinstance(value, dict) and not _is_tables(value):
            yield f"{key} = {_toml_value(value)}"
    for key, value in table.items():
        path = f"{prefix}{key}"
        for entry in value if _is_tables(value) else [value] if isinstance(value, dict) else []:
            yield ""
            yield f"[{path}]" if isinstance(value, dict) else f"[[{path}]]"
            yield from _toml_lines(entry, f"{path}.")


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)


def _toml_value(value: Any) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is.
        lines = [json.dumps(line, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f") for line in value.split("\n")]
        return f'"{lines[0]}"' if len(lines) == 1 else '"""\n' + "\n".join(lines) + '"""'
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(entry) for entry in value)}]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml_value(part)}" for key, part in value.items()) + " }"
    return json.dumps(value)


_WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {"yaml": _yaml, "toml": _toml, "json": _json}
