"""How large a bundle may be: the operator's ``registry.bundle_bytes`` and ``registry.bundle_files``.

They are this process's, as the declared hooks are: whatever reads bundles sets them once from its configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apex_exec.config import Settings

BYTES, FILES = 8 * 1024 * 1024, 2000
ENTRY_BYTES = 1024
"""What one file costs an ``.apx`` beside its content: its path in the list, in its own header and in the zip's."""


class Bounds:
    """The bounds in force in this process."""

    bytes_max = BYTES
    """The size of all files together."""
    files_max = FILES

    @classmethod
    def use(cls, settings: Settings) -> None:
        """Takes the bounds of the configuration."""
        cls.bytes_max, cls.files_max = settings.registry.bundle_bytes, settings.registry.bundle_files

    @classmethod
    def apx_bytes_max(cls) -> int:
        """The size of an ``.apx`` itself, with the list, the signatures and the zip's own overhead."""
        return cls.bytes_max + ENTRY_BYTES * cls.files_max + 65_536

    @classmethod
    def fit(cls, files: int, size: int) -> bool:
        """Whether a bundle of ``files`` files and ``size`` bytes is within both bounds."""
        return files <= cls.files_max and size <= cls.bytes_max

    @classmethod
    def words(cls, files: int, size: int) -> str:
        """What a refusal says: both sizes, both bounds, and where they are set."""
        return (f"it has {files:,} files and {size:,} bytes; at most {cls.files_max:,} files (registry.bundle_files) "
                f"and {cls.bytes_max:,} bytes (registry.bundle_bytes) are accepted")
