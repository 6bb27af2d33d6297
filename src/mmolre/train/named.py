"""Recipes that come with the package, by name."""

from pathlib import Path

import mmolre
from mmolre.errors import UserError

_PACKAGE = Path(mmolre.__file__).parent
_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes")  # of an installed wheel; of the source tree


def recipe_names() -> dict[str, Path]:
    """The recipes that come with the package: name -> file."""
    folder = next((folder for folder in _FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))} if folder else {}


def find_recipe(name: str) -> Path:
    """The recipe file that ``name`` names: a file, or a recipe that comes with the package.

    Raises:
        UserError: neither; lists the package's recipes.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = recipe_names()
    if name in known:
        return known[name]
    raise UserError(f"no recipe {name}: give a YAML file, or one of the package's recipes: {', '.join(known)}")
