"""Compares the model that was asked with the one that a server says has answered."""

import re

# a date or a build number, as `-2024-08-06`, `-20241022`, `-0613` and `-002`
_BUILD = re.compile(r"[-@_.:](?:20\d\d-?\d\d-?\d\d|\d{6}|\d{4}|\d{3})$")
_MOVING = re.compile(r"[-@:]latest$")


def is_same_model(asked: str, answered: str) -> bool:
    """Whether two names stand for one model, so that no warning is needed.

    Folders and namespaces before a name, the case of its letters, and a date or build number that
    only one of the two has make no difference. Two dates, another size or another name do.
    """
    one, other = _bare(asked), _bare(answered)
    if one == other:
        return True
    builds = (_BUILD.search(one), _BUILD.search(other))
    return not all(builds) and _BUILD.sub("", one) == _BUILD.sub("", other)


def _bare(name: str) -> str:
    last = name.strip().rstrip("/").replace("\\", "/").rpartition("/")[2].lower()
    return _MOVING.sub("", last.removesuffix(".gguf"))
