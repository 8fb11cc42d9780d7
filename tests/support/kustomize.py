"""Renders the Kustomize directories of conf/kubernetes without kubectl: as much of Kustomize as they use."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
_KEYS = {"apiVersion", "kind", "resources", "components", "configMapGenerator", "patches", "images"}
_MERGE_KEYS = {  # of Kubernetes' types: lists whose items a patch merges. Other lists are replaced.
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "env": "name",
}


def render(folder: Path) -> list[Document]:
    """The documents of a directory. ConfigMaps have no hash in their names."""
    documents: list[Document] = []
    _apply(folder, documents)
    return documents


def _apply(folder: Path, documents: list[Document]) -> None:
    settings = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert settings.keys() <= _KEYS, f"{folder}: {settings.keys() - _KEYS}"
    for resource in settings.get("resources", []):
        path = folder / resource
        if path.is_dir():
            documents += render(path)
        else:
            documents += yaml.safe_load_all(path.read_text())
    for component in settings.get("components", []):
        _apply(folder / component, documents)
    for generator in settings.get("configMapGenerator", []):
        _generate(folder, generator, documents)
    for patch in settings.get("patches", []):
        change = yaml.safe_load((folder / patch["path"]).read_text())
        _merge(_find(documents, change["kind"], change["metadata"]["name"]), change)
    for image in settings.get("images", []):
        for document in documents:
            _set_image(document, image["name"], f"{image['newName']}:{image['newTag']}")


def _find(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = (each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def _generate(folder: Path, generator: Document, documents: list[Document]) -> None:
    data = {name: (folder / name).read_text() for name in generator["files"]}
    if generator.get("behavior") == "replace":
        _find(documents, "ConfigMap", generator["name"])["data"] = data
        return
    metadata = {"name": generator["name"], "labels": generator["options"]["labels"]}
    documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _merge(target: Document, change: Document) -> None:
    for key, value in change.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        elif key in _MERGE_KEYS and all(isinstance(each, dict) and _MERGE_KEYS[key] in each for each in value):
            target[key] = _merge_list(target.get(key, []), value, _MERGE_KEYS[key])
        else:
            target[key] = copy.deepcopy(value)


def _merge_list(target: list[Document], change: list[Document], key: str) -> list[Document]:
    """The items of the patch come first."""
    left = {each[key]: each for each in target}
    merged = []
    for each in change:
        item = left.pop(each[key], {})
        _merge(item, each)
        merged.append(item)
    return [*merged, *left.values()]


def _set_image(value: Any, name: str, image: str) -> None:
    if isinstance(value, dict):
        if value.get("image") == name:
            value["image"] = image
        for each in value.values():
            _set_image(each, name, image)
    elif isinstance(value, list):
        for each in value:
            _set_image(each, name, image)
