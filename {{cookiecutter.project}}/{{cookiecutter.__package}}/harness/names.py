"""The names of weights: what torch.compile or another class around a network changes in them."""

from torch import Tensor
from torch.nn.parameter import is_lazy

COMPILED = "_orig_mod."  # torch.compile(module) puts it into the names of the module's weights


def match_names(weights: dict[str, Tensor], mine: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `weights` in the same order, under the names that the model has for them.

    Two differences are understood: `_orig_mod.`, which torch.compile puts into names, on either side,
    and, if not all names are known, a prefix of up to three parts that names have or lack, if more of them
    are known with it. Other names stay as they are.
    """
    names = {}  # of the model, by themselves without `_orig_mod.`
    targets = {}
    for name, value in mine.items():
        short = name.replace(COMPILED, "")
        names[short] = name
        targets[short] = value
    sources = {}
    for name, value in weights.items():
        sources[name.replace(COMPILED, "")] = value
    removed, added = "", ""
    if not sources.keys() <= targets.keys():
        removed, added = prefixes(sources, targets)
    matched = {}
    for name, value in sources.items():
        known = name
        if name.startswith(removed):
            known = added + name.removeprefix(removed)
        matched[names.get(known, known)] = value
    return matched


def prefixes(weights: dict[str, Tensor], mine: dict[str, Tensor]) -> tuple[str, str]:
    """Return the prefix to remove from `weights` and the one to add so that most of them fit `mine`."""
    most = 0
    best = "", ""
    for removed in beginnings(weights):
        for added in beginnings(mine):
            fitting = 0
            for name, value in weights.items():
                known = added + name.removeprefix(removed)
                if name.startswith(removed) and known in mine and same_shape(value, mine[known]):
                    fitting += 1
            if fitting > most:
                most = fitting
                best = removed, added
    return best


def beginnings(names: dict[str, Tensor]) -> list[str]:
    """Return no prefix, and the first one to three parts of all names, each once."""
    found = {"": None}
    for name in names:
        parts = name.split(".")
        for length in range(1, min(4, len(parts))):
            found[".".join(parts[:length]) + "."] = None
    return list(found)


def same_shape(value: Tensor, mine: Tensor) -> bool:
    """Return whether a tensor fits; what is lazy takes any shape."""
    return is_lazy(mine) or value.shape == mine.shape
