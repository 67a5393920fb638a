#!/usr/bin/env python3
"""Rows as pyarrow and datasets write them: tests/golden/rows/, which tests/parity/sft/rows.rs and tests/files/data.rs read.

    pip install datasets pyarrow
    tests/golden/rows.py

The same three conversations in Parquet under each compression and as a folder of Dataset.save_to_disk; rows of text in Parquet.
"""

import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent / "rows"
CHATS = [
    {
        "id": 7,
        "score": 0.5,
        "messages": [
            {"role": "user", "content": "What cools glass?", "weight": None},
            {"role": "assistant", "content": "A lehr.", "weight": 1},
        ],
        "tools": None,
    },
    {
        "id": 8,
        "score": None,
        "messages": [
            {"role": "user", "content": "Wie heißt er?\n", "weight": None},
            {"role": "assistant", "content": "Kühlofen. 🔥", "weight": 0},
            {"role": "user", "content": "", "weight": None},
            {"role": "assistant", "content": "Ja.", "weight": 1},
        ],
        "tools": '[{"type": "function", "function": {"name": "add"}}]',
    },
    {"id": 9, "score": float("nan"), "messages": [{"role": "user", "content": "x", "weight": None}, {"role": "assistant", "content": "y", "weight": None}], "tools": ""},
]
MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string()), ("weight", pa.int64())])
SCHEMA = pa.schema([("id", pa.int64()), ("score", pa.float64()), ("messages", pa.list_(MESSAGE)), ("tools", pa.string())])


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    table = pa.Table.from_pylist(CHATS, schema=SCHEMA)
    for compression in ["none", "snappy", "gzip", "zstd", "lz4"]:
        # Two row groups.
        pq.write_table(table, HERE / f"{compression}.parquet", compression=compression, row_group_size=2)
    table = table.cast(SCHEMA.set(3, pa.field("tools", pa.large_string())))
    datasets.DatasetDict(train=datasets.Dataset(table), test=datasets.Dataset(table)).save_to_disk(HERE / "saved")
    texts = {"url": ["a", "b", "c", "d"], "text": ["one é\n", "", None, " two"]}
    pq.write_table(pa.table(texts), HERE / "text.parquet", compression="zstd")


main()
