"""Checkpoints: tensors and plain values in one file with a checksum, never pickle."""

import hashlib
import json
import os
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from spatialkit.lab import atomic_write

__all__ = ["load_checkpoint", "save_checkpoint"]

_TENSOR = "$tensor"  # in the JSON: the name under which the file holds a tensor


def save_checkpoint(path: Path, state: dict) -> None:
    """Write dictionaries and lists of tensors and plain JSON values; whole or not at all. Tensors may share memory.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_apart(state, "", tensors))
    atomic_write(path, save(tensors, metadata={"state": text, "sha256": _digest(tensors, text)}))


def load_checkpoint(path: Path) -> dict | None:
    """What ``save_checkpoint`` wrote, keys as strings, tensors on the CPU; None where there is no file.

    A damaged file is set aside as ``<name>.damaged`` with a warning that names it, and counts as none: whoever asks
    begins anew.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            note = file.metadata() or {}
        if _digest(tensors, note["state"]) == note["sha256"]:
            return json.loads(note["state"], object_hook=lambda d: tensors[d[_TENSOR]] if _TENSOR in d else d)
    except (SafetensorError, KeyError, ValueError):
        pass
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    warnings.warn(f"{path} is damaged: set aside as {aside.name}, and begun anew", stacklevel=2)
    return None


def _apart(value, name: str, tensors: dict[str, Tensor]):
    """A state as JSON takes it, its tensors replaced by their names, under which they go to ``tensors``."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, dict):
        return {key: _apart(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_apart(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
