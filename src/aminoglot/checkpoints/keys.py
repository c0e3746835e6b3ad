"""Key templates: one table a format, read in both directions. ``{}`` stands for a layer's number."""

from __future__ import annotations

import re
from collections.abc import Mapping


class KeyMap:
    """A one-to-one map between our module names and a format's.

    Args:
        modules: our module name to theirs. A key is a module name and, after the last dot, a parameter name, which
            stays as it is.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._theirs = dict(modules)
        self._ours = {theirs: ours for ours, theirs in modules.items()}

    def theirs(self, key: str) -> str | None:
        """Their key for one of ours."""
        return _translate(key, self._theirs)

    def ours(self, key: str) -> str | None:
        """Our key for one of theirs; None for a key the format's table does not hold."""
        return _translate(key, self._ours)


def _translate(key: str, table: Mapping[str, str]) -> str | None:
    module, _, parameter = key.rpartition(".")
    number = re.search(r"(?<=\.)\d+(?=\.)", module + ".")
    template = module if number is None else f"{module[: number.start()]}{{}}{module[number.end() :]}"
    found = table.get(template)
    return None if found is None else f"{found.format(number[0] if number else '')}.{parameter}"
