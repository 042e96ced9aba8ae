"""Things of a user's own, named in a config as `package.module:Name`."""

import importlib

from secateur.runtime.errors import InputError


def is_dotted(name: str) -> bool:
    """Whether a value of a config names something to import, rather than one of ours.

    >>> is_dotted("my_package.rewards:SHORT"), is_dotted("hard_limit")
    (True, False)
    """
    return ":" in name


def import_named(path: str, key: str) -> object:
    """What `package.module:Name` stands for. Raises `InputError`, naming the config's `key`, for a module that cannot
    be imported and for a name that it does not have."""
    module_name, _, name = path.partition(":")
    where = f"key '{key}' has the value '{path}'"
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{where}: the module '{module_name}' cannot be imported ({error}); write package.module:Name, and "
            "install the package or put its folder on PYTHONPATH"
        ) from None
    if not hasattr(module, name):
        raise InputError(f"{where}: the module '{module_name}' has no '{name}'; write package.module:Name")
    return getattr(module, name)
