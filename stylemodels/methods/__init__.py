"""One method is one file; its `METHOD` at the end is how it is found."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from stylemodels.method import Method


def all_methods() -> dict[str, Method]:
    """Every method by its slug, in the order of the slugs."""
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    methods: list[Method] = [module.METHOD for module in modules]
    return {method.slug: method for method in sorted(methods, key=lambda method: method.slug)}


def find_task(name: str) -> tuple[Method, str]:
    """The method and the task's name that "metastyle/adapt" (or "metastyle": its first task) means.

    Raises ValueError that lists what there is.
    """
    methods = all_methods()
    slug, _, task = name.partition("/")
    if slug in methods:
        method = methods[slug]
        task = task or next(iter(method.tasks))
        if task in method.tasks:
            return method, task
    known = [f"{method.slug}/{task}" for method in methods.values() for task in method.tasks]
    raise ValueError(f"there is no task {name!r}; there are {', '.join(known)}")
