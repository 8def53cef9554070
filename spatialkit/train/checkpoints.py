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

from spatialkit.lab.store import atomic_write

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, tensors: dict[str, Tensor], plain: dict) -> None:
    """Write tensors and plain JSON values; whole or not at all. Tensors may share memory.

    Raises:
        OSError: If the file cannot be written.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    state = json.dumps(plain)
    atomic_write(path, save(tensors, metadata={"state": state, "sha256": _digest(tensors, state)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict] | None:
    """What ``save_checkpoint`` wrote; None where there is no file.

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
            return tensors, json.loads(note["state"])
    except (SafetensorError, KeyError, ValueError):
        pass
    aside = path.with_name(f"{path.name}.damaged")
    os.replace(path, aside)
    warnings.warn(f"{path} is damaged: set aside as {aside.name}, and begun anew", stacklevel=2)
    return None


def _digest(tensors: dict[str, Tensor], state: str) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        if value.numel():
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
