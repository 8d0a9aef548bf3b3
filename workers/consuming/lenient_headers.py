"""Lets aiokafka read records whose header names are not UTF-8.

Kafka stores such records, and some clients (C, Go) can send them. aiokafka raises an error in the middle of the fetch,
at every attempt: one record blocks the whole consumer for good. Here the rest of such a batch is read again by
aiokafka's pure Python parser, with replacement characters in the name. No header that the worker uses has such a name.
All other batches are read as usual.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords, _MemoryRecordsPy
from typing_extensions import override


def install() -> None:
    """Make every aiokafka consumer of this process read leniently."""
    fetcher.MemoryRecords = LenientRecords


class LenientRecords:
    """The record batches of one fetch response; replaces aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._records = MemoryRecords(data)
        self._read = 0

    def has_next(self) -> bool:
        """Say whether there is another batch."""
        more: bool = self._records.has_next()
        return more

    def size_in_bytes(self) -> int:
        """Return the size of all batches."""
        size: int = self._records.size_in_bytes()
        return size

    def next_batch(self) -> Any:  # noqa: ANN401 - aiokafka's batch or one that behaves like it
        """Return the next batch, or None."""
        batch = self._records.next_batch()
        self._read += 1
        if batch is None or batch.is_control_batch:
            return batch
        return _LenientBatch(batch, self._data, self._read)


class _LenientBatch:
    """One record batch: the `number`th in `data`, from 1."""

    __slots__ = ("_batch", "_data", "_number")

    def __init__(self, batch: Any, data: bytes, number: int) -> None:  # noqa: ANN401 - as above
        self._batch = batch
        self._data = data
        self._number = number

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the batch
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        done = 0
        try:
            for record in self._batch:
                yield record
                done += 1
        except UnicodeDecodeError:
            yield from islice(self._leniently(), done, None)

    def _leniently(self) -> Iterator[Any]:
        records = _MemoryRecordsPy(self._data)
        for _ in range(self._number - 1):
            records.next_batch()
        batch = _DefaultRecordBatchPy(records._next_slice)  # noqa: SLF001 - the batch's bytes, not parsed yet
        batch._maybe_uncompress()  # noqa: SLF001 - this sets the buffer that is wrapped below
        batch._buffer = _LenientBytes(batch._buffer)  # noqa: SLF001 - header names are decoded from it
        return iter(batch)


class _LenientBytes(bytearray):
    """Bytes whose slices decode without errors."""

    @override
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _LenientBytes(found) if isinstance(index, slice) else found

    @override
    def decode(self, encoding: str = "utf-8", _errors: str = "") -> str:
        """Decode with replacement characters."""
        return super().decode(encoding, "replace")
