"""Prints a resolved configuration as YAML, each value with its origin."""

from typing import Any

import yaml

from egrc_mega.config.load import LoadedConfig


def render(loaded: LoadedConfig) -> str:
    """YAML that loads again, with a comment after every value."""
    return "\n".join(_lines(loaded.config.to_dict(), "", "", loaded.provenance))


def _lines(value: dict[str, Any], indent: str, prefix: str, provenance: dict[str, str]) -> list[str]:
    lines: list[str] = []
    for key, child in value.items():
        name = f"{prefix}{key}"
        if isinstance(child, dict) and child:
            lines += [f"{indent}{key}:", *_lines(child, indent + "  ", f"{name}.", provenance)]
        elif isinstance(child, list) and child and isinstance(child[0], dict):
            lines.append(f"{indent}{key}:")
            for i, item in enumerate(child):
                block = _lines(item, indent + "    ", f"{name}.{i}.", provenance)
                lines += [f"{indent}  - {block[0].strip()}", *block[1:]]
        else:
            text = yaml.safe_dump(child, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
            origin = next((o for n, o in provenance.items() if n == name or n.startswith(f"{name}.")), "default")
            lines.append(f"{indent}{key}: {text}  # {origin}")
    return lines
